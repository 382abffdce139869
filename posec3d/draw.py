"""Pictures: tracks -> overlays; volumes -> GIF and strip; scores -> confusion matrix and learning curves.

Images are (H, W, 3) uint8 RGB arrays; nothing here opens a window or keeps a state.
"""

import colorsys
import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from posec3d.skeletons import Skeleton

# Distinct under the common colour blindnesses (after Okabe and Ito), bright enough for video.
PEOPLE = ((86, 180, 233), (230, 159, 0), (0, 190, 140), (240, 110, 180), (240, 228, 66), (160, 140, 255))
OUTLINE = (20, 20, 20)
SHIFT = 4  # fractional bits of OpenCV's coordinates
TRAIN_COLOUR, VAL_COLOUR = "#0072b2", "#d55e00"
# Shows a Gaussian's flank, and a peak that fell between pixels, without touching 0 and 1.
GAMMA = 0.6


def skeleton_overlay(
    frame: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, skeleton: Skeleton, *, min_score: float = 0.2
) -> np.ndarray:
    """Draw everyone's limbs and joints on a copy of a frame.

    Each person has a colour; the body's left side is lighter with white joints, its right side darker with
    black joints. Lines grow with the frame.

    Args:
        frame: (H, W, 3) uint8 RGB.
        keypoints: (M, V, 2) pixels, x then y; may leave the frame.
        scores: (M, V) in [0, 1].
        skeleton: names the limbs and the sides.
        min_score: joints under this are not drawn, nor are limbs that end in one.

    Returns:
        A new (H, W, 3) uint8 frame.
    """
    canvas = np.ascontiguousarray(frame).copy()
    width = max(1.0, min(canvas.shape[:2]) / 150)
    rim = max(1, round(width / 2))
    shades = np.zeros(len(skeleton.joints), int)  # 0 centre, 1 left, -1 right
    for left, right in skeleton.pairs:
        shades[left], shades[right] = 1, -1
    for m, (points, score) in enumerate(zip(keypoints, scores, strict=True)):
        shown = (score >= min_score) & (score > 0) & np.isfinite(points).all(-1)
        # A point may lie far outside; OpenCV's fixed point numbers end at 2**31.
        fixed = np.rint(np.clip(np.nan_to_num(points), -1e5, 1e5) * 2**SHIFT).astype(int).tolist()
        limbs = [(a, b) for a, b in skeleton.limbs if shown[a] and shown[b]]
        # All dark outlines before all colours, or the outline of one limb would cut the next one.
        for a, b in limbs:
            cv2.line(canvas, fixed[a], fixed[b], OUTLINE, round(width) + rim, cv2.LINE_AA, SHIFT)
        for a, b in limbs:
            colour = _shaded(PEOPLE[m % len(PEOPLE)], shades[a] + shades[b])
            cv2.line(canvas, fixed[a], fixed[b], colour, round(width), cv2.LINE_AA, SHIFT)
        for v in np.flatnonzero(shown):
            colour = _shaded(PEOPLE[m % len(PEOPLE)], shades[v])
            core = {1: (255, 255, 255), -1: (0, 0, 0)}.get(int(shades[v]), colour)
            rings = ((1.25 * width + rim / 2, OUTLINE), (1.25 * width, colour), (0.7 * width, core))
            for radius, fill in rings:
                cv2.circle(canvas, fixed[v], round(radius * 2**SHIFT), fill, cv2.FILLED, cv2.LINE_AA, SHIFT)
    return canvas


def _shaded(colour: tuple[int, int, int], shade: int) -> tuple[int, int, int]:
    target, share = (255, 0.45) if shade > 0 else (0, 0.35 if shade < 0 else 0.0)
    r, g, b = (round(c + (target - c) * share) for c in colour)
    return r, g, b


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The one font with wide coverage that a dependency brings along.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def one_line(text: str, length: int) -> str:
    """Text with line breaks and control characters as spaces, cut to `length` characters with an ellipsis."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def caption(frame: np.ndarray, text: str) -> np.ndarray:
    """Write one line of text on a translucent band along the frame's lower edge; what does not fit is cut.

    Args:
        frame: (H, W, 3) uint8 RGB.
        text: as a rule "label 97 %".

    Returns:
        A new frame of the same size.
    """
    height, width = frame.shape[:2]
    font = _font(max(10, min(height, width) // 18))
    pad = font.size // 2
    text = one_line(text, 200)
    while len(text) > 1 and font.getlength(text) > width - 2 * pad:
        text = one_line(text, len(text) - 1)
    band = min(height, 2 * font.size)
    canvas = frame.copy()
    canvas[height - band :] = canvas[height - band :] * 0.35
    image = Image.fromarray(canvas)
    ImageDraw.Draw(image).text((pad, height - band / 2), text, (255, 255, 255), font, anchor="lm")
    return np.asarray(image)


def joint_colours(joints: int) -> np.ndarray:
    """(V, 3) float RGB in 0..1: a colour for each joint; neighbours in number are far apart in hue."""
    hues = [v * 0.618034 % 1 for v in range(joints)]
    return np.array([colorsys.hsv_to_rgb(h, 0.7 if v % 2 else 0.95, 1) for v, h in enumerate(hues)])


def volume_picture(volume: np.ndarray, *, scale: int = 4) -> list[np.ndarray]:
    """A heatmap volume as one picture a frame: each channel in its own colour, merged by maximum, on black.

    Values are not normalised, so that two pictures can be compared: 1 is the joint's full colour.

    Args:
        volume: (V, T, h, w) in [0, 1].
        scale: picture pixels a heatmap pixel.

    Returns:
        T images (h * scale, w * scale, 3).
    """
    _, _, h, w = volume.shape
    colours = joint_colours(len(volume)).astype(np.float32)
    pictures = []
    for planes in np.moveaxis(np.asarray(volume, np.float32), 1, 0):
        image: Any = np.zeros((h, w, 3), np.float32)
        for plane, colour in zip(np.clip(planes, 0, 1) ** GAMMA, colours, strict=True):
            np.maximum(image, plane[..., None] * colour, out=image)
        image = cv2.resize(image, (w * scale, h * scale), interpolation=cv2.INTER_CUBIC)
        pictures.append(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    return pictures


def evenly(total: int, wanted: int) -> list[int]:
    """At most `wanted` numbers below `total`, evenly spaced from the first to the last."""
    return np.linspace(0, total - 1, min(wanted, total)).round().astype(int).tolist()


def volume_strip(volume: np.ndarray, frames: int = 8) -> np.ndarray:
    """Evenly spaced frames of a volume (V, T, h, w), first to last, side by side from left to right."""
    chosen = evenly(volume.shape[1], frames)
    return side_by_side(volume_picture(volume[:, chosen]))


def side_by_side(images: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Images of one height in a row with `gap` white pixels between them."""
    space = np.full((images[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for image in images for part in (space, image)][1:]
    return np.concatenate(parts, axis=1)


@contextlib.contextmanager
def _whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`, which takes its place if nothing is raised."""
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 image to a local PNG; the file appears only when it is whole."""
    with _whole_file(path) as part:
        Image.fromarray(image).save(part, format="PNG", optimize=True)


def write_gif(path: str | os.PathLike[str], frames: Sequence[np.ndarray], fps: float) -> None:
    """Write frames as an endless GIF; the file appears only when it is whole.

    Args:
        path: a local file name.
        frames: (H, W, 3) uint8, all of one size.
        fps: frames per second; a GIF cannot be faster than 50.

    Raises:
        ValueError: no frames, or fps not positive.
    """
    if not len(frames) or not fps > 0:
        raise ValueError(f"{path}: a GIF needs frames and fps > 0, got {len(frames)} frames and {fps} fps")
    # One palette for all: with one each, still parts of the picture flicker.
    some = np.concatenate([frames[i] for i in evenly(len(frames), 16)])
    palette = Image.fromarray(some).quantize(256)
    images = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    # A GIF counts in hundredths of a second: round the ends, not the durations, or the error adds up.
    ends = np.rint(np.arange(len(frames) + 1) * 100 / min(fps, 50))
    durations = (np.diff(ends) * 10).astype(int).tolist()
    with _whole_file(path) as part:
        images[0].save(part, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def confusion_matrix(path: str | os.PathLike[str], matrix: np.ndarray, names: Sequence[str]) -> None:
    """Write a confusion matrix as a PNG: the share of each true class, with counts while they are readable.

    Args:
        path: a local file name.
        matrix: (K, K) int, rows are the true class, columns the predicted one.
        names: the K class names.

    Raises:
        ValueError: the shapes disagree.
    """
    matrix = np.asarray(matrix)
    k = len(names)
    if matrix.shape != (k, k):
        raise ValueError(f"{path}: confusion matrix of shape {matrix.shape}, wanted ({k}, {k}) for {k} names")
    clips = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, clips, out=np.full(matrix.shape, np.nan), where=clips > 0)
    side = float(np.clip(0.5 * k, 2.5, 4) + np.clip(0.17 * (k - 8), 0, 10))  # inches
    figure = Figure(figsize=(side + 2.4, side + 2.0), layout="constrained")
    ax = figure.add_subplot()
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#e4e4e4")
    image = ax.imshow(share, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    size = float(np.clip(0.65 * 72 * side / k, 4, 9))
    if 72 * side / k >= 5:
        # parse_math: a class may be called "$5".
        short = [one_line(name, 28) for name in names]
        ax.set_xticks(range(k), short, rotation=90, fontsize=size, parse_math=False)
        ax.set_yticks(range(k), short, fontsize=size, parse_math=False)
    else:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(8, integer=True))
    for i, j in np.argwhere(matrix > 0) if k <= 30 else ():
        ink = "white" if share[i, j] > 0.55 else "#202020"
        ax.text(j, i, f"{matrix[i, j]}", ha="center", va="center", fontsize=0.9 * size, color=ink)
    ax.tick_params(length=0)
    ax.set(xlabel="predicted class", ylabel="true class")
    right, total = int(np.trace(matrix)), int(matrix.sum())
    ax.set_title(f"{right} of {total} clips right ({right / max(total, 1):.1%})", fontsize=10)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=ax, shrink=0.6, aspect=30, label="share of the true class")
    bar.outline.set_visible(False)
    _save(figure, path)


def learning_curves(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write loss and top-1 against epoch as a PNG.

    Args:
        path: a local file name.
        rows: one mapping an epoch with "epoch" and any of train_loss, train_top1, val_loss, val_top1 (0..1),
            as numbers or strings; an empty or missing value is left out.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    for ax, key in ((loss, "loss"), (top1, "top1")):
        for part, colour in (("train", TRAIN_COLOUR), ("val", VAL_COLOUR)):
            points = _points(rows, f"{part}_{key}")
            if points:
                style = "o-" if len(points) <= 40 else "-"
                ax.plot(*zip(*points, strict=True), style, color=colour, label=part, ms=3, lw=1.4)
    title = "top-1"
    if measured := _points(rows, "val_top1"):
        epoch, value = max(measured, key=lambda point: point[1])
        top1.plot(epoch, value, "o", color=VAL_COLOUR, markersize=9, markerfacecolor="none")
        title = f"top-1 (best val {value:.1%}, epoch {epoch:g})"
    top1.set_title(title, fontsize=10, loc="left")
    top1.set_ylim(-0.03, 1.03)
    top1.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    loss.set_title("loss", fontsize=10, loc="left")
    loss.set_ylim(bottom=0)
    epochs = [float(row["epoch"]) for row in rows] or [1.0]
    for ax in (loss, top1):
        ax.set(xlabel="epoch", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False)
    _save(figure, path)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key) not in (None, "")]
    return [point for point in points if np.isfinite(point[1])]


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with _whole_file(path) as part:
        figure.savefig(part, format="png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.12)
