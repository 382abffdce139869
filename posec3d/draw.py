"""Pictures: tracks -> overlays; volumes -> GIF and strip; scores -> confusion matrix and learning curves.

Images are (H, W, 3) uint8 RGB arrays; nothing here opens a window or keeps a state.
"""

import colorsys
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from posec3d.skeletons import Skeleton
from posec3d.storage import whole_file

# Distinct under the common colour blindnesses (after Okabe and Ito), bright enough for video.
PEOPLE = ((86, 180, 233), (230, 159, 0), (0, 190, 140), (240, 110, 180), (240, 228, 66), (160, 140, 255))
OUTLINE = (20, 20, 20)
MIN_SCORE = 0.2
SHIFT = 4  # fractional bits of OpenCV's coordinates
TRAIN_COLOUR, VAL_COLOUR = "#0072b2", "#d55e00"
ROWS = 20
"""People of a timeline's picture at most."""
# Shows a Gaussian's flank, and a peak that fell between pixels, without touching 0 and 1.
GAMMA = 0.6


def _shown(points: np.ndarray, score: np.ndarray) -> np.ndarray:
    return (score >= MIN_SCORE) & np.isfinite(points).all(-1)


def skeleton_overlay(
    frame: np.ndarray,
    keypoints: np.ndarray,
    scores: np.ndarray,
    skeleton: Skeleton,
    *,
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """Draw everyone's limbs and joints on a copy of a frame.

    Each person has a colour; the body's left side is lighter with white joints, its right side darker with
    black joints. Lines grow with the frame.

    Args:
        frame: (H, W, 3) uint8 RGB.
        keypoints: (M, V, 2) pixels, x then y; may leave the frame.
        scores: (M, V) in [0, 1].
        skeleton: names the limbs and the sides.
        numbers: M, by which people have their colours; None is their order.

    Returns:
        A new (H, W, 3) uint8 frame.
    """
    canvas = np.ascontiguousarray(frame).copy()
    width = max(1.0, min(canvas.shape[:2]) / 150)
    rim = max(1, round(width / 2))
    shades = np.zeros(len(skeleton.joints), int)  # 0 centre, 1 left, -1 right
    for left, right in skeleton.pairs:
        shades[left], shades[right] = 1, -1
    for m, points, score in zip(range(len(scores)) if numbers is None else numbers, keypoints, scores, strict=True):
        shown = _shown(points, score)
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


def name_tags(
    frame: np.ndarray, keypoints: np.ndarray, scores: np.ndarray, texts: Sequence[str], numbers: Sequence[int]
) -> np.ndarray:
    """Write a line above each person's head, on a plate of the person's colour; plates make room for each other.

    Args:
        frame: (H, W, 3) uint8 RGB.
        keypoints: (M, V, 2) pixels.
        scores: (M, V); who has no joint that is drawn gets no tag.
        texts: M of them.
        numbers: M, by which people have their colours.

    Returns:
        A new frame of the same size.
    """
    height, width = frame.shape[:2]
    font = _font(max(9, min(height, width) // 26))
    pad = font.size // 3
    tall = font.size + pad
    image = Image.fromarray(frame)
    canvas = ImageDraw.Draw(image)
    taken: list[tuple[float, float, float]] = []  # left, right, top
    for points, score, text, number in zip(keypoints, scores, texts, numbers, strict=True):
        shown = points[_shown(points, score)]
        if not len(shown):
            continue
        text = one_line(text, 60)
        wide = font.getlength(text) + 2 * pad
        left = float(np.clip((shown[:, 0].min() + shown[:, 0].max() - wide) / 2, 0, max(width - wide, 0)))
        top = float(np.clip(shown[:, 1].min() - 1.8 * tall, 0, height - tall))
        right = left + wide
        while top + 2 * tall < height and any(a < right and left < b and abs(top - t) < tall for a, b, t in taken):
            top += tall
        taken.append((left, right, top))
        canvas.rectangle((left, top, right, top + tall - 1), PEOPLE[number % len(PEOPLE)])
        canvas.text((left + pad, top + tall / 2), text, OUTLINE, font, anchor="lm")
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


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one height in a row with 4 white pixels between them."""
    space = np.full((images[0].shape[0], 4, 3), 255, np.uint8)
    parts = [part for image in images for part in (space, image)][1:]
    return np.concatenate(parts, axis=1)


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 image to a local PNG; the file appears only when it is whole."""
    with whole_file(path) as part:
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
    with whole_file(path) as part:
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


def evidence_picture(
    path: str | os.PathLike[str],
    title: str,
    volume: np.ndarray,
    activation: np.ndarray,
    joints: np.ndarray,
    names: Sequence[str],
    frames: np.ndarray,
) -> None:
    """Write where, when and in which joints a model saw an action, as a PNG.

    Above frames of the volume, each with its activation as a glow; below them the mean activation over time, and how
    each joint in each frame speaks for the action (red) or against it (blue).

    Args:
        path: a local file name.
        title: what it saw.
        volume: (V, T, H, W) in 0..1.
        activation: (T, H, W), of any unit.
        joints: (V, T) likewise.
        names: of the V joints or limbs.
        frames: (T,) numbers of the frames, in the clip.
    """
    length = volume.shape[1]
    chosen = evenly(length, 8)
    body = np.clip(volume, 0, 1).max(0) ** GAMMA
    glow = np.clip(activation / max(float(activation.max()), 1e-9), 0, 1)
    shown = []
    for t in chosen:
        grey, heat = np.repeat(body[t][..., None], 3, 2) * 0.85, matplotlib.colormaps["inferno"](glow[t])[..., :3]
        image = np.maximum(grey, heat).astype(np.float32)
        image = cv2.resize(image, (4 * image.shape[1], 4 * image.shape[0]), interpolation=cv2.INTER_CUBIC)
        shown.append(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    figure = Figure(figsize=(10, 3.4 + 0.2 * len(names)), layout="constrained")
    above, middle, below = figure.subplots(3, 1, height_ratios=(1.45, 0.75, 0.2 * len(names)))
    strip = side_by_side(shown)
    above.imshow(strip, aspect="equal")
    above.set_title(title, loc="left", fontsize=11, parse_math=False)
    step = strip.shape[1] / len(chosen)
    above.set_xticks([step * (i + 0.5) for i in range(len(chosen))], [f"frame {frames[t]}" for t in chosen], fontsize=8)
    above.set_yticks([])
    middle.plot(range(length), activation.mean((1, 2)), color=VAL_COLOUR, lw=1.4)
    middle.axhline(0, color="#999999", lw=0.6)
    middle.set_ylabel("activation", fontsize=8)
    middle.set_xlim(-0.5, length - 0.5)
    limit = max(float(np.abs(joints).max()), 1e-9)
    image = below.imshow(joints, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    below.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
    below.set_xlabel("frame of the clip", fontsize=8)
    bar = figure.colorbar(image, ax=below, aspect=25, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_ticks([-limit, 0, limit], labels=["against", "0", "for"], fontsize=8)
    ticks = evenly(length, 12)
    for ax in (middle, below):
        ax.set_xticks(ticks, [str(frames[t]) for t in ticks], fontsize=8)
    middle.tick_params(axis="y", labelsize=8)
    for ax in (above, middle, below):
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    _save(figure, path)


def timeline_strip(
    path: str | os.PathLike[str],
    bars: Sequence[tuple[int | None, float, float, str, float]],
    span: tuple[float, float],
) -> None:
    """Write who does what and when as a PNG: time from left to right, a row a person, a colour a label.

    The surer, the stronger a bar's colour. Of many people those who are seen longest are shown.

    Args:
        path: a local file name.
        bars: (number of the person, or None for all together; start and end in seconds; label; probability).
        span: start and end of the video, seconds.
    """
    seen: dict[int | None, float] = {}
    for person, start, end, _, _ in bars:
        seen[person] = seen.get(person, 0) + end - start
    longest = sorted(seen, key=lambda person: -seen[person])[:ROWS]
    people = sorted(longest, key=lambda person: -1 if person is None else person) or [None]
    labels = list(dict.fromkeys(bar[3] for bar in bars))
    # Neighbouring labels are far apart in hue; matplotlib's palettes end at 20.
    colours = {label: colorsys.hsv_to_rgb((0.58 + 0.618034 * i) % 1, 0.62, 0.85) for i, label in enumerate(labels)}
    figure = Figure(figsize=(11, 1.15 + 0.42 * len(people)), layout="constrained")
    ax = figure.add_subplot()
    inches = 9.5 / max(span[1] - span[0], 1e-9)  # a second's
    for person, start, end, label, probability in bars:
        if person not in people:
            continue
        row = people.index(person)
        strength = 0.35 + 0.65 * probability
        colour = tuple(1 - (1 - c) * strength for c in colours[label])
        ax.broken_barh([(start, end - start)], (row - 0.4, 0.8), facecolor=colour, edgecolor="white", linewidth=0.8)
        room = int((end - start) * inches * 72 / 5.8)  # characters of 9 points
        if room >= 4:
            text = f"{label} {probability:.0%}"
            text = text if len(text) <= room else one_line(label, room)
            ax.text((start + end) / 2, row, text, ha="center", va="center", fontsize=9, parse_math=False)
    if not bars:
        ax.text(sum(span) / 2, 0, "no action found", ha="center", va="center", fontsize=9, color="#606060")
    ax.set_ylim(len(people) - 0.45, -0.55)
    ax.set_xlim(*span)
    ax.set_yticks(range(len(people)), ["all" if person is None else f"#{person}" for person in people])
    ax.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 2, 3, 5, 6, 10], min_n_ticks=2))
    ax.xaxis.set_major_formatter(lambda value, _: clock(value))
    left_out = f"; {len(seen) - len(people)} more people, seen for less long, are not shown" if len(seen) > ROWS else ""
    ax.set_xlabel(f"time{left_out}")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if 1 < len(labels) <= 24:
        handles = [Patch(color=colours[label], label=one_line(label, 24)) for label in labels]
        legend = figure.legend(
            handles=handles, loc="outside upper left", ncols=min(len(labels), 6), frameon=False, fontsize=9,
            handlelength=1, handleheight=1,
        )  # fmt: skip
        for name in legend.get_texts():
            name.set_parse_math(False)
    _save(figure, path)


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: 7 s, 1:07, 1:00:07."""
    whole = round(seconds, 2)
    if whole < 60:
        return f"{whole:g} s"
    minutes, rest = divmod(round(whole), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    points = [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key) not in (None, "")]
    return [point for point in points if np.isfinite(point[1])]


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=150, facecolor="white", bbox_inches="tight", pad_inches=0.12)
