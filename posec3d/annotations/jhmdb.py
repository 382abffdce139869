"""Annotations -> table: J-HMDB, 15 joints annotated by hand, as its authors publish it or as the 14-class pickles."""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from posec3d.annotations.entries import Annotations, Entry, Options, by_name, failing, make_clip
from posec3d.annotations.matlab import read_mat
from posec3d.annotations.pickles import Layout, lay_out, read_pickle
from posec3d.annotations.source import File, Source, SourceError
from posec3d.table import Clip

_FRAME = (240, 320)  # of all its videos
_MAT = re.compile(r"(?:.*/)?([^/]+)/([^/]+)/joint_positions\.mat$")
_SPLIT = re.compile(r"(?:.*/)?([^/]+)_test_split(\d)\.txt$")
_PART = {"1": "train", "2": "test"}
_PICKLE = re.compile(r"GT_(train|test)_(\d)\.pkl$")
_SCALE, _SIDE = 80.0, 512
"""Pixels of a unit of the pickles' coordinates, which are -2.8 .. 1.8 from the frame's centre; side of the frame."""
NOTE = "posec3d.normalised"
"""Key of the metadata of a table that says how normalised coordinates became pixels: pixels = origin + scale * x."""


def jhmdb(source: Source, options: Options) -> Annotations:
    """J-HMDB: <class>/<video>/joint_positions.mat with pos_img (2, 15, T) in pixels, or GT_{train,test}_K.pkl.

    The pickles (Yang et al., MM Asia 2019) hold 14 of the 21 classes and normalised coordinates, which are scaled into
    a frame of 512x512; every clip is in each of the three splits' files, and once in the table. Labels by sorted name
    of the classes that are there. Splits: splitK_train and splitK_test, of the .mat form only if the source has the
    official lists <class>_test_splitK.txt.
    """
    pickles = [file for file in source.files if _PICKLE.search(file.name)]
    if pickles and any(_MAT.match(file.name) for file in source.files):
        raise SourceError(f"{source.uri}: both .mat files and GT pickles of J-HMDB; import one of them")
    if pickles:
        note = json.dumps({"scale": _SCALE, "origin": [_SIDE / 2, _SIDE / 2]})
        return Annotations(_from_pickles(pickles, options), {NOTE: note})
    return Annotations(_from_mat(source, options))


def _from_mat(source: Source, options: Options) -> Iterator[Entry]:
    splits: dict[tuple[str, str], list[str]] = {}
    for file in source.ending(".txt"):
        if named := _SPLIT.match(file.name):
            for line in file.read().decode().splitlines():
                video, _, part = line.strip().rpartition(" ")
                if part in _PART:  # 0: not used
                    key = named[1], posixpath.splitext(video.strip())[0]
                    splits.setdefault(key, []).append(f"split{named[2]}_{_PART[part]}")
    files = [(file, found[1], found[2]) for file in source.files if (found := _MAT.match(file.name))]
    classes = sorted({name for _, name, _ in files})

    def read(file: File, name: str, video: str) -> Clip:
        joints = read_mat(file, "pos_img")["pos_img"]
        if joints.ndim != 3 or joints.shape[:2] != (2, 15):
            raise ValueError(f"pos_img has shape {joints.shape}, wanted (2, 15, T)")
        xy = joints.transpose(2, 1, 0)[None]
        return make_clip(
            f"{name}/{video}",
            xy,
            np.ones(xy.shape[:3]),
            size=_FRAME,
            skeleton="jhmdb15",
            source="jhmdb",
            options=options,
            label=by_name(name, classes, options),
            splits=sorted(splits.get((name, video), ())),
        )

    for i, (file, name, video) in enumerate(files, 1):
        yield Entry(f"{name}/{video}", file.uri, partial(read, file, name, video), i / len(files))


@dataclass
class _Known:
    """What the files say of a clip: its class, and the splits it is in."""

    label: str
    splits: set[str]


def _from_pickles(files: list[File], options: Options) -> Iterator[Entry]:
    """Clips are told by their coordinates, which are the same in the files of all splits."""
    known: dict[str, _Known] = {}
    layouts: dict[str, Layout] = {}  # of the files that can be read
    for file in files:
        part, number = _PICKLE.search(file.name).groups()  # type: ignore[union-attr]
        try:
            layout = lay_out(file.open, file.size)
            digests, labels = _contents(file, layout)
        except ValueError as error:
            yield Entry(file.name, file.uri, failing(error), 0.0)
            continue
        layouts[file.name] = layout
        for digest, label in zip(digests, labels, strict=True):
            clip = known.setdefault(digest, _Known(label, set()))
            if clip.label != label:
                raise SourceError(f"{file.uri}: the clip {digest} is {label!r} here and {clip.label!r} elsewhere")
            clip.splits.add(f"split{number}_{part}")
    classes = sorted({clip.label for clip in known.values()})

    def read(pose: Any, name: str, clip: _Known) -> Clip:
        if not isinstance(pose, np.ndarray) or pose.ndim != 3 or pose.shape[1:] != (15, 2):
            raise ValueError(f"a pose of shape {getattr(pose, 'shape', None)}, wanted (T, 15, 2)")
        return make_clip(
            name,
            _SIDE / 2 + _SCALE * pose[None],
            np.ones((1, *pose.shape[:2])),
            size=(_SIDE, _SIDE),
            skeleton="jhmdb15",
            source="jhmdb-14",
            options=options,
            label=by_name(clip.label, classes, options),
            splits=sorted(clip.splits),
        )

    seen: set[str] = set()
    for file in files:
        if file.name not in layouts:
            continue
        for key, pose, _ in read_pickle(file.open, file.size, layouts[file.name]):
            digest = _digest(pose) if key == "pose" else ""
            if key == "pose" and digest not in seen:
                seen.add(digest)
                clip = known[digest]
                name = f"{clip.label}-{digest}"
                yield Entry(name, file.uri, partial(read, pose, name, clip), len(seen) / len(known))


def _contents(file: File, layout: Layout) -> tuple[list[str], list[str]]:
    digests, labels = [], []
    for key, value, _ in read_pickle(file.open, file.size, layout):
        if key == "pose":
            digests.append(_digest(value))
        elif key == "label":
            if not isinstance(value, str):
                raise ValueError(f"a label that is a {type(value).__name__}, wanted a name")
            labels.append(value)
    if len(digests) != len(labels) or not labels:
        raise ValueError(f"{len(digests)} poses and {len(labels)} labels, wanted as many, in lists 'pose' and 'label'")
    return digests, labels


def _digest(pose: Any) -> str:
    if not isinstance(pose, np.ndarray):
        raise ValueError(f"a pose that is a {type(pose).__name__}, wanted an array (T, 15, 2)")
    content = repr(pose.shape).encode() + np.ascontiguousarray(pose, np.float64).tobytes()
    return hashlib.blake2b(content, digest_size=6).hexdigest()
