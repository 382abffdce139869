"""Heatmaps on a GPU: the Triton kernels behind `posec3d.heatmaps`; every pixel of the volume is written once.

One kernel works out where each limb of each person lies. The other makes one row of all channels of one frame a
program, so that both memory formats are written in whole lines; people whose windows miss the row cost no more than
a look. As on the CPU a joint is a limb from itself to itself.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

FAR = 1.0e9
"""Pixels from the canvas at which a point counts as not finite."""

_LIMBS = 128  # a program of the first kernel


@triton.jit
def _window(low, high, side):  # type: ignore[no-untyped-def]
    """First pixel and one past the last of what lies between; conversion truncates toward zero, as published."""
    low = tl.minimum(tl.maximum(low, -9.0), side + 9.0)  # what int32 holds
    high = tl.minimum(tl.maximum(high, -9.0), side + 9.0)
    return tl.maximum(low.to(tl.int32), 0), high.to(tl.int32) + 1


@triton.jit(do_not_specialize=["count"])
def _place(  # type: ignore[no-untyped-def]
    xy,
    score,
    limbs,
    places,
    peaks,
    windows,
    count,
    channels,
    joints,
    height,
    width,
    REACH: tl.constexpr,
    LEAST: tl.constexpr,
    FAR: tl.constexpr,
    LIMBS: tl.constexpr,
):
    """Limbs -> places (count, 5), peaks (count,), windows (count, 4); count = N * M * T * channels."""
    i = tl.program_id(0) * LIMBS + tl.arange(0, LIMBS)
    real = i < count
    frame, c = i // channels * joints, i % channels
    a = frame + tl.load(limbs + 2 * c, real, 0)
    b = frame + tl.load(limbs + 2 * c + 1, real, 0)
    start, end = tl.load(score + a, real, 0.0), tl.load(score + b, real, 0.0)
    ax, ay = tl.load(xy + 2 * a, real, 0.0), tl.load(xy + 2 * a + 1, real, 0.0)
    bx, by = tl.load(xy + 2 * b, real, 0.0), tl.load(xy + 2 * b + 1, real, 0.0)
    # Comparisons that are false for what is not a number.
    drawn = (start >= LEAST) & (end >= LEAST)
    drawn = drawn & (tl.abs(ax) < FAR) & (tl.abs(ay) < FAR) & (tl.abs(bx) < FAR) & (tl.abs(by) < FAR)
    length2 = (bx - ax) * (bx - ax) + (by - ay) * (by - ay)
    short = length2 < 1
    bx, by = tl.where(short, ax, bx), tl.where(short, ay, by)
    x0, x1 = _window(tl.minimum(ax, bx) - REACH, tl.maximum(ax, bx) + REACH, width)
    y0, y1 = _window(tl.minimum(ay, by) - REACH, tl.maximum(ay, by) + REACH, height)
    # Of a joint, "along" is across the page and "across" down it.
    length = tl.where(short, 0.0, tl.sqrt(length2))
    ux, uy = tl.where(short, 1.0, (bx - ax) / length), tl.where(short, 0.0, (by - ay) / length)
    tl.store(places + 5 * i, -ax * ux - ay * uy, real)  # along the limb, from its start to pixel (0, 0)
    tl.store(places + 5 * i + 1, ay * ux - ax * uy, real)  # across it
    tl.store(places + 5 * i + 2, ux, real)
    tl.store(places + 5 * i + 3, uy, real)
    tl.store(places + 5 * i + 4, length, real)
    tl.store(peaks + i, tl.where(short, start, tl.minimum(start, end)), real)
    tl.store(windows + 4 * i, x0, real)
    tl.store(windows + 4 * i + 1, x1, real)
    tl.store(windows + 4 * i + 2, y0, real)
    tl.store(windows + 4 * i + 3, tl.where(drawn, y1, 0), real)


@triton.jit(do_not_specialize=["people"])
def _row(  # type: ignore[no-untyped-def]
    places,
    peaks,
    windows,
    out,
    people,
    frames,
    channels,
    height,
    width,
    stride_n,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    SCALE: tl.constexpr,
    BYTES: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One row: max over people of peak * exp(SCALE * d²); CHANNELS and WIDTH are the next powers of two."""
    program = tl.program_id(0)
    h = program % height
    t = program // height % frames
    n = (program // (height * frames)).to(tl.int64)
    c, w = tl.arange(0, CHANNELS), tl.arange(0, WIDTH)
    real = c < channels
    column = w[None, :].to(tl.float32)
    row = tl.zeros((CHANNELS, WIDTH), tl.float32)
    for m in range(people):
        i = ((n * people + m) * frames + t) * channels + c
        y0, y1 = tl.load(windows + 4 * i + 2, real, 0), tl.load(windows + 4 * i + 3, real, 0)
        drawn = (y0 <= h) & (h < y1)
        if tl.max(drawn.to(tl.int32), 0) > 0:
            x0, x1 = tl.load(windows + 4 * i, drawn, 0), tl.load(windows + 4 * i + 1, drawn, 0)
            peak = tl.load(peaks + i, drawn, 0.0)
            ux, uy = tl.load(places + 5 * i + 2, drawn, 0.0), tl.load(places + 5 * i + 3, drawn, 0.0)
            # At the row's first pixel, and in float64, as a limb may begin far away.
            along = tl.load(places + 5 * i, drawn, 0.0) + h * uy
            beyond = (along - tl.load(places + 5 * i + 4, drawn, 0.0)).to(tl.float32)[:, None]
            across = (tl.load(places + 5 * i + 1, drawn, 0.0) - h * ux).to(tl.float32)[:, None]
            step_x, step_y = column * ux.to(tl.float32)[:, None], column * uy.to(tl.float32)[:, None]
            end = tl.maximum(tl.maximum(-along.to(tl.float32)[:, None] - step_x, beyond + step_x), 0.0)
            across = across + step_y
            value = peak[:, None] * tl.exp((across * across + end * end) * SCALE)
            row = tl.maximum(row, tl.where((x0[:, None] <= w[None, :]) & (w[None, :] < x1[:, None]), value, 0.0))
    if BYTES:
        row = tl.floor(row * 255 + 0.5)
    place = out + n * stride_n + c[:, None] * stride_c + t * stride_t + h * stride_h + w[None, :] * stride_w
    tl.store(place, row.to(out.dtype.element_ty), real[:, None] & (w < width)[None, :])


def draw(
    xy: Tensor, score: Tensor, limbs: Sequence[tuple[int, int]], sigma: float, min_score: float, out: Tensor
) -> None:
    """Draw limbs, of which joints are some, into a volume on the same GPU.

    Exact to 1e-5 for sigma >= 0.3 on canvases up to 128 pixels wide; float32 of wider ones is coarser.

    Args:
        xy: (N, M, T, V, 2) heatmap pixels.
        score: (N, M, T, V).
        limbs: L pairs of joints.
        sigma: spread in pixels.
        min_score: peaks under this draw nothing.
        out: (N, L, T, H, W), floating point or uint8, of any strides; overwritten.
    """
    clips, channels, frames, height, width = out.shape
    if not out.numel():
        return
    people, joints = score.shape[1], score.shape[3]
    count = clips * people * frames * channels
    places = torch.empty(count, 5, dtype=torch.float64, device=out.device)
    peaks = torch.empty(count, dtype=torch.float32, device=out.device)
    windows = torch.empty(count, 4, dtype=torch.int32, device=out.device)
    with torch.cuda.device_of(out):  # kernels start on the current device, whatever their tensors' is
        if count:
            _place[(triton.cdiv(count, _LIMBS),)](
                xy.double().contiguous(),
                score.float().contiguous(),
                torch.tensor(limbs, dtype=torch.int32).to(out.device, non_blocking=True),
                places,
                peaks,
                windows,
                count,
                channels,
                joints,
                height,
                width,
                # Constants, as numbers that are passed are rounded to float32.
                REACH=3 * sigma,
                LEAST=min_score,
                FAR=FAR,
                LIMBS=_LIMBS,
            )
        _row[(clips * frames * height,)](
            places,
            peaks,
            windows,
            out,
            people,
            frames,
            channels,
            height,
            width,
            *out.stride(),
            SCALE=-1 / (2 * sigma * sigma),
            BYTES=out.dtype == torch.uint8,
            CHANNELS=triton.next_power_of_2(channels),
            WIDTH=triton.next_power_of_2(width),
        )
