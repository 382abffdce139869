"""Heatmaps: a clip of coordinates -> a volume of joints or limbs (paper, section 3.2).

Both functions draw all people of all clips of a batch at once, people merged by maximum, on the device the
coordinates lie on; NumPy goes through the same code. Only the ±3σ windows are touched.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", np.ndarray, Tensor)

FAR = 1.0e6  # pixels; beyond any canvas, and exact in float32 and int64


def joint_volumes(
    xy: Array,
    score: Array,
    size: tuple[int, int],
    *,
    sigma: float = 0.6,
    min_score: float = 1e-3,
    out: Array | None = None,
) -> Array:
    """Draw one Gaussian per joint, person and frame: score * exp(-d² / 2σ²) with pixel centres at whole coordinates.

    Drawn are the pixels from max(int(mu - 3σ), 0) to min(int(mu + 3σ) + 1, size), `int` truncating toward zero, on
    each axis (published behaviour). Scores under `min_score` and points that are not finite draw nothing; a point at
    (0, 0) with a score is drawn.

    Args:
        xy: (..., M, T, V, 2) heatmap pixels, x then y, origin at the centre of the top left pixel.
        score: (..., M, T, V) in [0, 1], the Gaussian's peak.
        size: (h, w) of the volume in pixels.
        sigma: spread in heatmap pixels, > 0.
        min_score: scores under this draw nothing (1e-3 as in PYSKL, MMAction2 has 1e-4).
        out: (..., V, T, h, w) to draw into; its content is overwritten.

    Returns:
        (..., V, T, h, w) in [0, 1], of xy's kind, dtype and device; `out` if given.

    Raises:
        ValueError: shapes that do not fit each other, sigma <= 0.
    """
    points, peak, target = _prepare(xy, score, size, sigma, xy.shape[-2], out)
    peak = torch.where(torch.isfinite(points).all(-1) & (peak >= min_score), peak, torch.zeros_like(peak))
    points = torch.nan_to_num(points, nan=-FAR, posinf=FAR, neginf=-FAR).clamp(-FAR, FAR)
    return _finish(xy, _draw_joints(points, peak, size, sigma, target), out)


def _draw_joints(points: Tensor, peak: Tensor, size: tuple[int, int], sigma: float, target: Tensor) -> Tensor:
    """Merge Gaussians into `target` (N, V, T, h, w) by maximum; points (N, M, T, V, 2), peak 0 draws nothing."""
    h, w = size
    pixels_x, gauss_x = _window(points[..., 0], w, sigma)
    pixels_y, gauss_y = _window(points[..., 1], h, sigma)
    value = peak[..., None, None] * gauss_y[..., :, None] * gauss_x[..., None, :]
    n, _, t, v = peak.shape
    device = points.device
    clip = torch.arange(n, device=device).view(n, 1, 1, 1)
    frame = torch.arange(t, device=device).view(1, 1, t, 1)
    joint = torch.arange(v, device=device).view(1, 1, 1, v)
    plane = (clip * v + joint) * t + frame
    index = (plane[..., None, None] * h + pixels_y[..., :, None]) * w + pixels_x[..., None, :]
    target.view(-1).scatter_reduce_(0, index.reshape(-1), value.reshape(-1), "amax")
    return target


def _window(mu: Tensor, side: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Pixels (..., K) of the window around mu (...) on one axis, and the Gaussian there.

    Pixels that the window or the canvas leaves out are moved onto pixel 0 with a value of 0, which a maximum ignores.
    """
    first = (mu - 3 * sigma).trunc().clamp(min=0)
    stop = ((mu + 3 * sigma).trunc() + 1).clamp(max=side)
    pixels = first[..., None] + torch.arange(int(6 * sigma) + 2, device=mu.device, dtype=mu.dtype)
    inside = pixels < stop[..., None]
    gauss = torch.exp((pixels - mu[..., None]).square() / (-2 * sigma**2))
    return torch.where(inside, pixels, 0).long(), torch.where(inside, gauss, 0)


def limb_volumes(
    xy: Array,
    score: Array,
    limbs: Sequence[tuple[int, int]],
    size: tuple[int, int],
    *,
    sigma: float = 0.6,
    min_score: float = 1e-3,
    out: Array | None = None,
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
        out: (..., L, T, h, w) to draw into; its content is overwritten.

    Returns:
        (..., L, T, h, w) in [0, 1], of xy's kind, dtype and device; `out` if given.

    Raises:
        ValueError: shapes that do not fit each other, sigma <= 0, a limb of a joint that is not there.
    """
    joints = xy.shape[-2]
    if any(not 0 <= joint < joints for limb in limbs for joint in limb):
        raise ValueError(f"limbs name joints up to {max(map(max, limbs))}, but xy has V={joints}")
    points, peak, target = _prepare(xy, score, size, sigma, len(limbs), out)
    starts, ends = [limb[0] for limb in limbs], [limb[1] for limb in limbs]
    a, b = points[..., starts, :], points[..., ends, :]
    value = torch.minimum(peak[..., starts], peak[..., ends])
    drawn = (value >= min_score) & torch.isfinite(a).all(-1) & torch.isfinite(b).all(-1)
    a, b = (torch.nan_to_num(p, nan=-FAR, posinf=FAR, neginf=-FAR).clamp(-FAR, FAR) for p in (a, b))
    length2 = (b - a).square().sum(-1)
    short = drawn & (length2 < 1)
    zero = torch.zeros_like(value)
    _draw_joints(a, torch.where(short, peak[..., starts], zero), size, sigma, target)
    value = torch.where(drawn & ~short, value, zero)
    for clip in range(len(target)):  # one person of one clip at a time bounds the memory to one volume
        for person in range(value.shape[1]):
            limb = _draw_segments(a[clip, person], b[clip, person], value[clip, person], size, sigma)
            torch.maximum(target[clip], limb, out=target[clip])
    return _finish(xy, target, out)


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
    value = torch.exp(distance2 / (-2 * sigma**2)) * peak[..., None, None]
    return value * (inside[1][..., :, None] & inside[0][..., None, :])


def _prepare(
    xy: Array, score: Array, size: tuple[int, int], sigma: float, channels: int, out: Array | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check the shapes; xy as (N, M, T, V, 2), score as (N, M, T, V), and a zeroed target (N, channels, T, h, w)."""
    if xy.shape[-1:] != (2,) or xy.ndim < 4 or tuple(xy.shape[:-1]) != tuple(score.shape):
        raise ValueError(
            f"wanted xy (..., M, T, V, 2) and score (..., M, T, V), got {tuple(xy.shape)} and {tuple(score.shape)}"
        )
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    people, frames, joints = score.shape[-3:]
    wanted = (*score.shape[:-3], channels, frames, *size)
    if out is not None and tuple(out.shape) != wanted:
        raise ValueError(f"out has shape {tuple(out.shape)}, wanted {wanted}")
    clips = math.prod(score.shape[:-3])
    if isinstance(xy, np.ndarray):
        xy, score = np.ascontiguousarray(xy), np.ascontiguousarray(score)  # torch knows no negative strides
    points = torch.as_tensor(xy).reshape(clips, people, frames, joints, 2)
    if not points.is_floating_point():
        points = points.float()
    peak = torch.as_tensor(score).to(points.dtype).reshape(clips, people, frames, joints)
    target = points.new_zeros(clips, channels, frames, *size)
    return points, peak, target


def _finish(xy: Array, target: Tensor, out: Array | None) -> Array:
    """The target in the shape and kind the caller asked for."""
    volume = target.reshape(*xy.shape[:-4], *target.shape[1:])
    if isinstance(xy, np.ndarray):
        if out is None:
            return volume.numpy()
        out[...] = volume.numpy()
        return out
    return volume if out is None else out.copy_(volume)
