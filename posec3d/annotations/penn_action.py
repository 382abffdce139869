"""Annotations -> table: Penn Action, people annotated by hand with 13 joints and whether each is visible."""

import posixpath
from functools import partial

import numpy as np

from posec3d.annotations.entries import Annotations, Entry, Options, by_name, make_clip
from posec3d.annotations.matlab import read_mat
from posec3d.annotations.source import File, Source
from posec3d.table import Clip

ACTIONS = (
    "baseball_pitch", "baseball_swing", "bench_press", "bowl", "clean_and_jerk", "golf_swing", "jump_rope",
    "jumping_jacks", "pullup", "pushup", "situp", "squat", "strum_guitar", "tennis_forehand", "tennis_serve",
)  # fmt: skip


def penn_action(source: Source, options: Options) -> Annotations:
    """Penn Action: NNNN.mat with x, y, visibility (T, 13), action, train (1 or -1), dimensions (h, w, T).

    The score is the visibility: joints that are marked invisible may have a guess for a place, or none, and the files
    do not say which. Splits: train and test.
    """
    files = source.ending(".mat")
    return Annotations(
        Entry(_name(file), file.uri, partial(_read, file, options), i / len(files)) for i, file in enumerate(files, 1)
    )


def _name(file: File) -> str:
    return posixpath.splitext(posixpath.basename(file.name))[0]


def _read(file: File, options: Options) -> Clip:
    found = read_mat(file, "x", "y", "visibility", "action", "train", "dimensions")
    x, y, visible, dimensions = (found[name] for name in ("x", "y", "visibility", "dimensions"))
    if x.ndim != 2 or x.shape[1] != 13 or not x.shape == y.shape == visible.shape:
        raise ValueError(f"x {x.shape}, y {y.shape}, visibility {visible.shape}; wanted (T, 13) for all three")
    if dimensions.size < 2 or found["action"].size != 1 or found["train"].size != 1:
        raise ValueError("wanted one action, one train flag, and h and w in dimensions")
    return make_clip(
        _name(file),
        np.stack([x, y], -1)[None].astype(np.float32),  # many are integers of 8 bits
        visible[None],
        size=(int(dimensions.flat[0]), int(dimensions.flat[1])),
        skeleton="penn13",
        source="penn-action",
        options=options,
        label=by_name(str(found["action"].flat[0]), ACTIONS, options),
        splits=["train" if found["train"].flat[0] == 1 else "test"],
    )
