"""Heatmaps on the CPU: the compiled kernel behind `posec3d.heatmaps`, a pixel's worth of work a pixel drawn.

Limbs and joints are one thing here: a joint is a limb from itself to itself. A plane of the volume (one frame of one
channel) is cleared and drawn while it lies in the first cache, so drawing costs little more than clearing.
"""

import logging
import math
import time

import numpy as np
from numba import njit

log = logging.getLogger(__name__)

# 2^f = Σ (f ln 2)^i / i!; for |f| <= 1/2 the terms up to the sixth are exact to 1.2e-7.
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(math.log(2) ** i / math.factorial(i)) for i in range(7))
_ZERO, _HALF, _LEAST = np.float32(0), np.float32(0.5), np.float32(-125)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)

LANES = 16
"""Pixels of a row that are computed together: one AVX-512 register, two of AVX2."""

NOTHING = 5.7
"""Standard deviations from a limb beyond which a Gaussian is under 1e-7 and not drawn, as float32 would hardly show."""

FAR = 1.0e9
"""Pixels from the canvas at which a point counts as not finite: whole pixels are then no more exact."""

_MATH = {"contract", "nsz", "arcp", "nnan"}  # what lets the compiler use all lanes; NaN never gets that far


@njit(inline="always")
def _exp2(t: np.float32) -> np.float32:
    """2^t for t <= 0, in operations that the compiler can do on many pixels at a time."""
    t = t if t > _LEAST else _LEAST
    n = np.int32(t - _HALF)  # conversion truncates, which rounds a negative number
    f = t - np.float32(n)
    p = _C6
    p = p * f + _C5
    p = p * f + _C4
    p = p * f + _C3
    p = p * f + _C2
    p = p * f + _C1
    p = p * f + _C0
    return p * np.int32((n + _BIAS) << _MANTISSA).view(np.float32)


@njit(inline="always")
def _window(low: float, high: float, side: int) -> tuple[int, int]:
    """First pixel and one past the last of what lies between; int() truncates toward zero, as published."""
    return max(int(low), 0), min(int(high) + 1, side)


@njit(fastmath=_MATH)
def _joint(plane, row, x, y, peak, k, reach):  # type: ignore[no-untyped-def]
    """Draw a Gaussian; `row` is room for W numbers."""
    height, width = plane.shape
    x0, x1 = _window(x - reach, x + reach, width)
    y0, y1 = _window(y - reach, y + reach, height)
    for i in range(x0, x1):
        d = np.float32(i - x)
        row[i] = _exp2(d * d * k)
    for j in range(y0, y1):
        d = np.float32(j - y)
        across = peak * _exp2(d * d * k)
        for i in range(x0, x1):
            value = across * row[i]
            if value > plane[j, i]:
                plane[j, i] = value


@njit(inline="always")
def _keep(plane, j, start, lane, value):  # type: ignore[no-untyped-def]
    """Merge a pixel by maximum."""
    # Unsigned, for a signed index might count from the end, and no compiler vectorises that.
    row, column = np.uint64(j), np.uint64(start) + np.uint64(lane)
    old = plane[row, column]
    plane[row, column] = value if value > old else old


@njit(fastmath=_MATH)
def _limb(plane, ax, ay, bx, by, length, peak, k, reach, far):  # type: ignore[no-untyped-def]
    """Draw a segment of `length` >= 1, of each row of its window only the pixels within `far` of its line."""
    height, width = plane.shape
    x0, x1 = _window(min(ax, bx) - reach, max(ax, bx) + reach, width)
    y0, y1 = _window(min(ay, by) - reach, max(ay, by) + reach, height)
    ux, uy = (bx - ax) / length, (by - ay) / length
    uy32 = np.float32(uy)
    steep = abs(uy) * (width + height) > far  # else no row leaves the strip
    slope, half = (ux / uy, far / abs(uy)) if steep else (0.0, 0.0)
    # Rows, counted from the start, of which no pixel near the line lies before the limb's start or beyond its end.
    edge = (half + 1) * abs(ux)
    inner0, inner1 = min(edge * uy, (length - edge) * uy), max(edge * uy, (length - edge) * uy)
    if not steep or length < 2 * edge:
        inner0, inner1 = 1.0, 0.0
    for j in range(y0, y1):
        r = j - ay
        i, stop, near = x0, x1, x0
        if steep:
            middle = ax + r * slope
            first, last = _window(middle - half, middle + half, x1)
            i, stop, near = max(x0, first), last, int(middle)
        # Distances are counted from a pixel near the line, where they are small and float32 holds them well.
        across0 = np.float32((near - ax) * uy - r * ux)
        while i < stop:
            # Whole chunks, the last one moved back into the row: the same pixel drawn twice is the same pixel.
            start = min(i, width - LANES)
            low, high, off = np.int32(i - start), np.int32(stop - start), np.float32(start - near)
            along0 = (start - ax) * ux + r * uy
            if inner0 <= r <= inner1:
                for lane in range(LANES):
                    z = np.int32(lane)
                    across = across0 + (np.float32(z) + off) * uy32
                    value = peak * _exp2(across * across * k)
                    _keep(plane, j, start, lane, value if (z >= low) & (z < high) else _ZERO)
            else:
                for lane in range(LANES):
                    z = np.int32(lane)
                    along = along0 + np.float64(z) * ux
                    before, beyond = np.float32(-along), np.float32(along - length)
                    end = before if before > beyond else beyond
                    end = end if end > _ZERO else _ZERO
                    across = across0 + (np.float32(z) + off) * uy32
                    value = peak * _exp2((across * across + end * end) * k)
                    _keep(plane, j, start, lane, value if (z >= low) & (z < high) else _ZERO)
            i = start + LANES


def _draw(xy, score, limbs, sigma, min_score, out, first, last):  # type: ignore[no-untyped-def]
    """Draw channels first .. last - 1 of the N * L channels of a batch; releases the GIL.

    Args:
        xy: float64 (N, M, T, V, 2) heatmap pixels.
        score: float32 (N, M, T, V).
        limbs: int64 (L, 2).
        sigma: spread in pixels.
        min_score: peaks under this draw nothing.
        out: float32 (N, L, T, H, W), W >= LANES, or limbs are all joints. In C order it is cleared, a plane at a time
            while it is in the cache; of any other strides it must have been.
        first: a channel of the batch, clip * L + limb.
        last: one past the last.
    """
    people, frames = score.shape[1], score.shape[2]
    channels, width = len(limbs), out.shape[4]
    reach, far = 3 * sigma, NOTHING * sigma
    k = np.float32(-1 / (2 * sigma * sigma * math.log(2)))
    row = np.empty(width, np.float32)
    for channel in range(first, last):
        n = channel // channels
        c = channel - n * channels
        a, b = limbs[c, 0], limbs[c, 1]
        for t in range(frames):
            plane = out[n, c, t]
            if out.flags.c_contiguous:
                plane[:, :] = 0
            for m in range(people):
                start, end = score[n, m, t, a], score[n, m, t, b]
                if not (start >= min_score and end >= min_score):
                    continue
                ax, ay, bx, by = xy[n, m, t, a, 0], xy[n, m, t, a, 1], xy[n, m, t, b, 0], xy[n, m, t, b, 1]
                if not (abs(ax) < FAR and abs(ay) < FAR and abs(bx) < FAR and abs(by) < FAR):
                    continue
                peak = start if start < end else end
                length2 = (bx - ax) * (bx - ax) + (by - ay) * (by - ay)
                if length2 < 1:
                    _joint(plane, row, ax, ay, start, k, reach)
                else:
                    _limb(plane, ax, ay, bx, by, math.sqrt(length2), peak, k, reach, far)


def _compile(cache: bool):  # type: ignore[no-untyped-def]
    """The kernel for volumes in C order and for those of any strides."""
    begin = "void(float64[:,:,:,:,::1], float32[:,:,:,::1], int64[:,::1], float64, float32, "
    return njit([f"{begin}float32[:,:,:,:,{inner}], int64, int64)" for inner in ("::1", ":")], nogil=True, cache=cache)(
        _draw
    )


_began = time.monotonic()
try:
    draw = _compile(cache=True)
except RuntimeError as error:  # Numba's, where it can write neither beside this file nor into the user's cache
    log.warning("the heatmap kernel is compiled anew by every process: %s", error)
    draw = _compile(cache=False)
if draw.stats.cache_misses:
    log.info("compiled the heatmap kernel in %.1f s; later processes find it in a cache", time.monotonic() - _began)
