"""Pictures of docs/evidence.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from benchmarks import _claims, _evidence
from benchmarks._data import DATA
from benchmarks._evidence import Worst
from benchmarks._suites import SUITES
from benchmarks._tables import Results, Row, rows_of
from posec3d import draw
from posec3d.clips import clip_box
from posec3d.skeletons import skeleton
from posec3d.table import Clip, read_table


def write(results: Results, folder: Path, tables: Path) -> None:
    """Draw all of them into a folder; clips are drawn from the tables that are on this machine."""
    rows = rows_of("utd-mhad", results)
    if any(not title.startswith("3D-CNN") for title in rows):  # else the page has no use for it
        cost(rows, folder / "evidence-cost.png")
    for suite in (name for name in DATA if name in SUITES):
        _, found = _evidence.worst(rows_of(suite, results))
        if found and (tables / f"{suite}.json").exists():  # the table is whole
            wanted = {one.example for one in found}
            clips = {clip.clip_id: clip for clip in read_table(str(tables / suite)) if clip.clip_id in wanted}
            worst(found, clips, folder / f"evidence-worst-{suite}.png")
    if curves := {kind: models for kind, models in _claims.curves(results).items() if models}:
        robustness(curves, folder / "evidence-robustness.png")
    if learnt := _claims.learnt(results):
        losses(learnt, folder / "evidence-losses.png")


def worst(found: Sequence[Worst], clips: Mapping[str, Clip], path: Path) -> None:
    """Eight frames of the skeletons of each class's example, cropped as in training, a row a class."""
    side = 120
    figure = Figure(figsize=(10, 1.55 * len(found)), layout="constrained")
    for axes, one in zip(figure.subplots(len(found), 1, squeeze=False)[:, 0], found, strict=True):
        clip = clips[one.example]
        x, y, w, h = clip_box(clip.keypoints, clip.scores, (clip.height, clip.width), 0.1)
        points = (clip.keypoints - [x, y]) * [2 * side / w, 2 * side / h]
        tiles = []
        for t in draw.evenly(clip.num_frames, 8):
            black = np.full((2 * side, 2 * side, 3), 24, np.uint8)
            tile = draw.skeleton_overlay(black, points[:, t], clip.scores[:, t], skeleton(clip.skeleton))
            tiles.append(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA))
        axes.imshow(draw.side_by_side(tiles))
        axes.set_title(f"{one.label}, taken for {one.taken_for[0][0]}", loc="left", fontsize=9, parse_math=False)
        axes.axis("off")
    figure.savefig(path, dpi=110)


def cost(rows: Mapping[str, Row], path: Path) -> None:
    """Accuracy against multiply-accumulates, with 1 and 10 clips."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for title, row in rows.items():
        macs = row.results[row.runs[0].name]["gmacs"]
        points = [np.mean(row.top1(clips)) for clips in ("1", "10")]
        axes.plot([macs, 10 * macs], points, "o-" if title.startswith("3D-CNN") else "s--", label=title)
    axes.set_xscale("log")
    axes.set_xlabel("GMACs a video: 1 clip, 10 clips")
    axes.set_ylabel("top-1, %")
    axes.set_title("UTD-MHAD", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def robustness(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: Path) -> None:
    """Accuracy against how much worse the poses are."""
    said = {
        "drop": "probability that a frame lacks a limb joint",
        "jitter": "noise, share of the people's box",
    }
    figure = Figure(figsize=(5 * len(curves), 4), layout="constrained")
    places = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (kind, models) in zip(places, curves.items(), strict=True):
        for title, points in models.items():
            axes.plot(*zip(*points, strict=True), "o-" if title.startswith("3D-CNN") else "s--", label=title)
        axes.set_xlabel(said[kind])
        axes.spines[["top", "right"]].set_visible(False)
    places[0].set_ylabel("top-1, %")
    places[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def losses(learnt: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """How top-1 and loss go with the epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for color, (title, curve) in enumerate(learnt.items()):
        epochs = range(1, len(curve["val_loss"]) + 1)
        accuracy.plot(epochs, [100 * share for share in curve["train_top1"]], ":", color=f"C{color}")
        accuracy.plot(epochs, [100 * share for share in curve["val_top1"]], "o-", color=f"C{color}", label=title)
        loss.plot(epochs, curve["val_loss"], "o-", color=f"C{color}")
    accuracy.set_ylabel("top-1, %, 1 clip; dotted: of training")
    loss.set_ylabel("loss of the test clips")
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(learnt), frameon=False)
    figure.savefig(path, dpi=110)
