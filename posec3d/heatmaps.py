"""Heatmaps: a clip of coordinates -> a volume of joints or limbs (paper, section 3.2).

Both functions draw all people of all clips of a batch at once, people merged by maximum, where the coordinates lie:
on the CPU and on NVIDIA's GPUs by kernels of their own (`heatmaps_cpu`, `heatmaps_cuda`), elsewhere, in float64, and
where Numba or Triton is not installed, by torch. A joint is a limb from itself to itself.
"""

import logging
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

Array = TypeVar("Array", np.ndarray, Tensor)

FAR = 1.0e9  # pixels; beyond any canvas, and still exact to a fraction of a pixel in float64


def joint_volumes(
    xy: Array,
    score: Array,
    size: tuple[int, int],
    *,
    sigma: float = 0.6,
    min_score: float = 1e-3,
    out: Array | None = None,
    threads: int = 1,
) -> Array:
    """Draw one Gaussian per joint, person and frame: score * exp(-d² / 2σ²) with pixel centres at whole coordinates.

    Drawn are the pixels from max(int(mu - 3σ), 0) to min(int(mu + 3σ) + 1, size), `int` truncating toward zero, on
    each axis (published behaviour). Scores under `min_score` and points that are not finite draw nothing; a point at
    (0, 0) with a score is drawn. No gradients.

    Args:
        xy: (..., M, T, V, 2) heatmap pixels, x then y, origin at the centre of the top left pixel.
        score: (..., M, T, V) in [0, 1], the Gaussian's peak.
        size: (h, w) of the volume in pixels.
        sigma: spread in heatmap pixels, > 0.
        min_score: scores under this draw nothing (1e-3 as in PYSKL, MMAction2 has 1e-4).
        out: (..., V, T, h, w) to draw into, of any memory format; its content is overwritten. Its type decides the
            precision: float32 is exact to 1e-6, float16 and bfloat16 as they round, uint8 holds round(255 * value),
            exact to 1 / 510.
        threads: CPU threads that share the work; on other devices without effect.

    Returns:
        (..., V, T, h, w) in [0, 1], of xy's kind and device; `out` if given, else float32, or float64 of float64 xy.

    Raises:
        ValueError: shapes that do not fit each other, sigma <= 0, an `out` of another kind, device or integer type.
    """
    joints = [(joint, joint) for joint in range(xy.shape[-2] if xy.ndim > 1 else 0)]
    return _volumes(xy, score, joints, size, sigma, min_score, out, threads)


def limb_volumes(
    xy: Array,
    score: Array,
    limbs: Sequence[tuple[int, int]],
    size: tuple[int, int],
    *,
    sigma: float = 0.6,
    min_score: float = 1e-3,
    out: Array | None = None,
    threads: int = 1,
) -> Array:
    """Draw one blurred segment per limb, person and frame: peak * exp(-d² / 2σ²), d the distance to the segment.

    The peak is the lower of the limb's two scores; a peak under `min_score` or an end that is not finite draws
    nothing. A limb with a squared length under 1 is drawn as its start joint, with the start's score (published
    behaviour). The window is that of `joint_volumes`, over both ends.

    Args:
        xy: (..., M, T, V, 2) heatmap pixels.
        score: (..., M, T, V) in [0, 1].
        limbs: L pairs (start, end) of joints.
        size: (h, w) of the volume in pixels.
        sigma: spread in heatmap pixels, > 0.
        min_score: peaks under this draw nothing.
        out: (..., L, T, h, w) to draw into, as for `joint_volumes`.
        threads: as for `joint_volumes`.

    Returns:
        (..., L, T, h, w) in [0, 1], as of `joint_volumes`.

    Raises:
        ValueError: as of `joint_volumes`, or a limb of a joint that is not there.
    """
    joints = xy.shape[-2] if xy.ndim > 1 else 0
    if any(not 0 <= joint < joints for limb in limbs for joint in limb):
        raise ValueError(f"limbs name joints up to {max(map(max, limbs))}, but xy has V={joints}")
    return _volumes(xy, score, limbs, size, sigma, min_score, out, threads)


def _volumes(
    xy: Array,
    score: Array,
    limbs: Sequence[tuple[int, int]],
    size: tuple[int, int],
    sigma: float,
    min_score: float,
    out: Array | None,
    threads: int,
) -> Array:
    """Check what is asked for, and have it drawn by whoever does it best."""
    if xy.shape[-1:] != (2,) or xy.ndim < 4 or tuple(xy.shape[:-1]) != tuple(score.shape):
        raise ValueError(
            f"wanted xy (..., M, T, V, 2) and score (..., M, T, V), got {tuple(xy.shape)} and {tuple(score.shape)}"
        )
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    volume = _target(xy, (*score.shape[:-3], len(limbs), score.shape[-2], *size), out)
    clips = math.prod(score.shape[:-3])
    target = volume.reshape(clips, *volume.shape[-4:])
    points, peak = xy.reshape(clips, *xy.shape[-4:]), score.reshape(clips, *score.shape[-3:])
    kernel = None if volume.dtype == torch.float64 else _kernel(volume.device.type)
    if kernel and volume.device.type == "cpu":
        _draw_on_cpu(kernel, points, peak, limbs, sigma, min_score, target, threads)
    elif kernel:
        kernel.draw(points, peak, limbs, float(sigma), float(min_score), target)
    else:
        _draw_by_torch(_tensor(points), _tensor(peak), limbs, sigma, min_score, target)
    if target.data_ptr() != volume.data_ptr():  # leading axes that no view could merge
        volume.copy_(target.view(volume.shape))
    if out is not None:
        return out
    return volume.numpy() if isinstance(xy, np.ndarray) else volume


def _target(xy: Array, shape: tuple[int, ...], out: Array | None) -> Tensor:
    """Where to draw: `out` as a tensor, or a new one."""
    if out is None:
        wide = xy.dtype in (np.float64, torch.float64)
        if isinstance(xy, np.ndarray) or xy.device.type == "cpu":
            # NumPy asks for huge pages, torch does not: a new volume's pages take several times what drawing it takes.
            return torch.from_numpy(np.empty(shape, np.float64 if wide else np.float32))
        return torch.empty(shape, dtype=torch.float64 if wide else torch.float32, device=xy.device)
    if tuple(out.shape) != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}, wanted {shape}")
    if isinstance(out, np.ndarray) and any(stride < 0 for stride in out.strides):
        raise ValueError(f"out has strides {out.strides}, wanted none below 0")
    volume = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
    if isinstance(xy, np.ndarray) != isinstance(out, np.ndarray) or (
        isinstance(xy, Tensor) and xy.device != volume.device
    ):
        raise ValueError(f"out is {_kind(out)}, xy is {_kind(xy)}; wanted the same")
    if not (volume.is_floating_point() or volume.dtype == torch.uint8):
        raise ValueError(f"out has dtype {out.dtype}, wanted float32, float16, bfloat16, float64 or uint8")
    return volume


def _kind(array: np.ndarray | Tensor) -> str:
    return "a NumPy array" if isinstance(array, np.ndarray) else f"a tensor on {array.device}"


def _tensor(array: np.ndarray | Tensor) -> Tensor:
    """A copy, as torch knows no negative strides and warns of read-only arrays."""
    return torch.from_numpy(np.array(array)) if isinstance(array, np.ndarray) else array


@cache
def _kernel(device: str) -> ModuleType | None:
    """What draws on a type of device, or None where there is no such thing."""
    try:
        if device == "cpu":
            from posec3d import heatmaps_cpu

            return heatmaps_cpu
        if device == "cuda":
            from posec3d import heatmaps_cuda

            return heatmaps_cuda if _draws(heatmaps_cuda, device) else None
    except ImportError:  # neither Numba nor Triton is a must
        log.info("no compiled heatmap kernel for %s: torch draws, slower", device)
    return None


def _draws(kernel: ModuleType, device: str) -> bool:
    """Whether Triton can compile here: it comes with torch, but a C compiler and Python's headers do not."""
    one = torch.zeros(1, 1, 1, 1, 2, device=device)
    try:
        kernel.draw(one, one[..., 0], [(0, 0)], 1.0, 0.0, torch.empty(1, 1, 1, 4, 4, device=device))
    except Exception as error:  # a missing compiler, its own errors, a driver that is not found: all of them differ
        one.cpu()  # raises what is wrong with the GPU itself, and not with Triton
        log.warning("Triton does not compile here (%s): torch draws the heatmaps, slower", str(error).strip()[:200])
        return False
    return True


def _draw_on_cpu(
    kernel: ModuleType,
    xy: np.ndarray | Tensor,
    score: np.ndarray | Tensor,
    limbs: Sequence[tuple[int, int]],
    sigma: float,
    min_score: float,
    target: Tensor,
    threads: int,
) -> None:
    if isinstance(xy, Tensor):  # NumPy knows no bfloat16
        xy, score = xy.detach().double().numpy(), score.detach().float().numpy()  # type: ignore[union-attr]
    # Writeable, as the kernel is compiled for arrays that are; Ray's are not.
    points, peak = (np.require(array, dtype, ("C", "W")) for array, dtype in ((xy, np.float64), (score, np.float32)))
    pairs = np.array(limbs, np.int64).reshape(-1, 2)
    clips, channels, frames, height, width = target.shape
    numbers = float(sigma), np.float32(min_score)
    settings = (points, peak, pairs, *numbers)
    planes: np.ndarray | None = None
    if target.dtype == torch.float32 and width >= kernel.LANES:
        planes = target.numpy()
        if not target.is_contiguous():
            planes.fill(0)

    def draw(first: int, last: int) -> None:
        """Channels first .. last - 1 of all clips."""
        if planes is not None:
            kernel.draw(*settings, planes, first, last)
            return
        # A channel at a time, converted while it is in the cache.
        scratch = np.empty((1, 1, frames, height, max(width, kernel.LANES)), np.float32)
        for channel in range(first, last):
            n, c = divmod(channel, channels)
            kernel.draw(points[n : n + 1], peak[n : n + 1], pairs[c : c + 1], *numbers, scratch, 0, 1)
            drawn = scratch[0, 0, :, :, :width]
            if target.dtype == torch.bfloat16:  # which NumPy does not know
                target[n, c] = torch.from_numpy(drawn)
                continue
            if target.dtype == torch.uint8:
                np.rint(np.multiply(drawn, 255, out=drawn), out=drawn)
            np.copyto(target[n, c].numpy(), drawn, casting="unsafe")

    total = clips * channels
    parts = min(threads, total)
    if parts <= 1:
        draw(0, total)
        return
    draw = torch.inference_mode(torch.is_inference_mode_enabled())(draw)  # which each thread has to be told
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda part: draw(total * part // parts, total * (part + 1) // parts), range(parts)))


@torch.no_grad()
def _draw_by_torch(
    points: Tensor,
    peak: Tensor,
    limbs: Sequence[tuple[int, int]],
    sigma: float,
    min_score: float,
    target: Tensor,
) -> None:
    """The same on any device, in the operations of torch."""
    wide = target.dtype == torch.float64
    volume = torch.zeros(target.shape, dtype=torch.float64 if wide else torch.float32, device=target.device)
    # In float32 a window's edge could fall on the other side of a pixel.
    points, peak = points.double(), peak.to(volume.dtype)
    starts, ends = [limb[0] for limb in limbs], [limb[1] for limb in limbs]
    a, b = points[..., starts, :], points[..., ends, :]
    value = torch.minimum(peak[..., starts], peak[..., ends])
    near = (torch.stack([a, b]).abs() < FAR).all(-1).all(0)  # false for what is not a number
    value = torch.where((value >= min_score) & near, value, 0)
    a, b = (torch.where(near[..., None], p, 0) for p in (a, b))
    short = (b - a).square().sum(-1) < 1
    size = (target.shape[-2], target.shape[-1])
    _draw_joints(a, torch.where(short & (value > 0), peak[..., starts], 0), size, sigma, volume)
    if starts != ends:
        value = torch.where(short, 0, value)
        for clip in range(len(volume)):  # one person of one clip at a time bounds the memory to one volume
            for person in range(value.shape[1]):
                limb = _draw_segments(a[clip, person], b[clip, person], value[clip, person], size, sigma)
                torch.maximum(volume[clip], limb, out=volume[clip])
    target.copy_((volume * 255).round_() if target.dtype == torch.uint8 else volume)


def _draw_joints(points: Tensor, peak: Tensor, size: tuple[int, int], sigma: float, target: Tensor) -> None:
    """Merge Gaussians into `target` (N, V, T, h, w) by maximum; points (N, M, T, V, 2), peak 0 draws nothing."""
    h, w = size
    pixels_x, gauss_x = _window(points[..., 0], w, sigma)
    pixels_y, gauss_y = _window(points[..., 1], h, sigma)
    value = peak[..., None, None] * gauss_y.to(peak.dtype)[..., :, None] * gauss_x.to(peak.dtype)[..., None, :]
    n, _, t, v = peak.shape
    device = points.device
    clip = torch.arange(n, device=device).view(n, 1, 1, 1)
    frame = torch.arange(t, device=device).view(1, 1, t, 1)
    joint = torch.arange(v, device=device).view(1, 1, 1, v)
    plane = (clip * v + joint) * t + frame
    index = (plane[..., None, None] * h + pixels_y[..., :, None]) * w + pixels_x[..., None, :]
    target.view(-1).scatter_reduce_(0, index.reshape(-1), value.reshape(-1), "amax")


def _window(mu: Tensor, side: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Pixels (..., K) of the window around mu (...) on one axis, and the Gaussian there.

    Pixels that the window or the canvas leaves out are moved onto pixel 0 with a value of 0, which a maximum ignores.
    """
    first = (mu - 3 * sigma).trunc().clamp(min=0)
    stop = ((mu + 3 * sigma).trunc() + 1).clamp(max=side)
    pixels = first[..., None] + torch.arange(min(int(6 * sigma) + 2, side), device=mu.device, dtype=mu.dtype)
    inside = pixels < stop[..., None]
    gauss = torch.exp((pixels - mu[..., None]).square() / (-2 * sigma**2))
    return torch.where(inside, pixels, 0).long(), torch.where(inside, gauss, 0)


def _draw_segments(a: Tensor, b: Tensor, peak: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Segments from a to b (T, L, 2), peak (T, L), as (L, T, h, w)."""
    a, b, peak = a.transpose(0, 1), b.transpose(0, 1), peak.transpose(0, 1)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    axes, inside = [], []
    for axis, side in ((0, size[1]), (1, size[0])):
        pixels = torch.arange(side, device=a.device, dtype=a.dtype)
        first = (low[..., axis] - 3 * sigma).trunc().clamp(min=0)[..., None]
        stop = ((high[..., axis] + 3 * sigma).trunc() + 1)[..., None]
        inside.append((pixels >= first) & (pixels < stop))
        axes.append(pixels - a[..., axis, None])
    dx, dy = axes[0][..., None, :], axes[1][..., :, None]
    ab = b - a
    ab_x, ab_y = ab[..., 0, None, None], ab[..., 1, None, None]
    along = ((dx * ab_x + dy * ab_y) / (ab_x.square() + ab_y.square()).clamp(min=1)).clamp(0, 1)
    distance2 = (dx - along * ab_x).square() + (dy - along * ab_y).square()
    value = torch.exp(distance2 / (-2 * sigma**2)).to(peak.dtype) * peak[..., None, None]
    return value * (inside[1][..., :, None] & inside[0][..., None, :])
