"""Annotations -> table: pickles of PYSKL and MMAction2, a list, one with splits, or compressed as for Kinetics-400."""

import logging
import posixpath
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from posec3d.annotations.entries import (
    Annotations,
    Entry,
    Options,
    by_number,
    choose_skeleton,
    failing,
    make_clip,
    project,
)  # fmt: skip
from posec3d.annotations.pickles import Layout, first_key, lay_out, read_pickle
from posec3d.annotations.source import File, Source, SourceError
from posec3d.table import Clip

_USUAL = {17: "coco17"}
_MAX_PERSONS = 10  # of the compressed form, as published
# The Kinect 2's depth camera, in whose coordinates 3D annotations of NTU RGB+D are: nominal values.
_DEPTH_SIZE, _DEPTH_FOCAL, _DEPTH_CENTRE = (424, 512), 366.0, (256.0, 208.0)

Annotation = dict[str, Any]
log = logging.getLogger(__name__)


def pyskl(source: Source, options: Options) -> Annotations:
    """Pickles of PYSKL and MMAction2 in all of their forms.

    A list of annotations, or {"split": {name: [id]}, "annotations": [...]}; an annotation is a dict with frame_dir,
    total_frames, img_shape (h, w), label, keypoint (M, T, V, 2) and keypoint_score (M, T, V). Without scores points
    other than (0, 0) have the score 1. Keypoints of 3 channels without scores are metres if the skeleton is ntu25:
    they are kept in 3D, and projected as by a Kinect's depth camera of 512x424 pixels; else they are x, y, score.

    The compressed form of Kinetics-400 has frame_inds, and the keypoints (N, V, 3) in other files of the source: by
    the id in the file that raw_file names, or in <id>.pkl; that of PYSKL's tool for own videos has them beside it.
    Frames without a pose are left out, as published.
    """
    return Annotations(_entries(source, options))


def _entries(source: Source, options: Options) -> Iterator[Entry]:
    tables, keypoints = list[File](), list[File]()
    for file in source.ending(".pkl", ".pickle"):
        try:
            key = first_key(file.open, file.size)
        except ValueError as error:
            yield Entry(file.name, file.uri, failing(error), 0.0)
            continue
        (tables if key in (None, "split", "annotations") else keypoints).append(file)
    if keypoints and not tables:
        raise SourceError(
            f"{source.uri}: no annotations among its pickles, such as {keypoints[0].name}; wanted a list of dicts, or "
            "a dict with split and annotations"
        )
    size, behind = sum(file.size for file in tables), 0
    for file in tables:
        try:
            layout = lay_out(file.open, file.size)
            first, splits = _look(file, layout)
            if "frame_inds" in first and "keypoint" not in first:
                yield from _compressed(file, layout, splits, keypoints, options)
            else:
                for entry in _plain(file, layout, first, splits, options):
                    yield replace(entry, share=(behind + entry.share * file.size) / size)
        except SourceError:
            raise
        except ValueError as error:
            yield Entry(file.name, file.uri, failing(error), (behind + file.size) / size)
        behind += file.size


def _items(file: File, layout: Layout) -> Iterator[tuple[Annotation, int]]:
    """The annotations of a file, and the position after each."""
    count = 0
    try:
        for key, value, position in read_pickle(file.open, file.size, layout):
            if key in (None, "annotations"):
                if not isinstance(value, dict):
                    raise ValueError(f"an annotation is a {type(value).__name__}, wanted a dict with frame_dir, ...")
                count += 1
                yield value, position
    except ValueError as error:
        raise ValueError(f"after {count} clips: {error}. What comes after them was not read") from error


def _look(file: File, layout: Layout) -> tuple[Annotation, dict[str, list[str]]]:
    """The first annotation of a file, and the splits of each clip, by what the file's splits call it."""
    first: Annotation | None = None
    splits: dict[str, list[str]] | None = None
    whole = True
    for key, value, _ in read_pickle(file.open, file.size, layout):
        if key == "split":
            splits, whole = defaultdict(list), False
            for name, clips in (value if isinstance(value, dict) else {}).items():
                if not isinstance(clips, list | tuple | set | np.ndarray):
                    raise ValueError(f"the split {name!r} is a {type(clips).__name__}, wanted a list of names")
                for clip in dict.fromkeys(map(_text, clips)):
                    splits[clip].append(_text(name))
        elif key in (None, "annotations") and first is None and isinstance(value, dict):
            first, whole = value, key is None
        if first is not None and (whole or splits is not None):
            break
    if first is None:
        raise ValueError("no annotations: wanted a list of dicts, or a dict with split and annotations, with any in it")
    return first, splits or {}


def _plain(
    file: File, layout: Layout, first: Annotation, splits: dict[str, list[str]], options: Options
) -> Iterator[Entry]:
    identifier, matched = "filename" if "filename" in first else "frame_dir", 0
    for i, (annotation, position) in enumerate(_items(file, layout)):
        parts = splits.get(_text(annotation.get(identifier)), [])
        matched += bool(parts)
        name = _text(annotation.get("frame_dir", annotation.get("filename")))
        yield Entry(
            name or f"{file.name}-{i}",
            file.uri,
            partial(_read, annotation, parts, options),
            position / file.size,
        )
    if splits and not matched:
        some = ", ".join(list(splits)[:2])
        log.warning("%s: its splits name no clip by its %s; they name %s", file.uri, identifier, some)


def _read(annotation: Annotation, splits: list[str], options: Options) -> Clip:
    keypoint, score = annotation.get("keypoint"), annotation.get("keypoint_score")
    if "frame_inds" in annotation:
        return _decompress(annotation, keypoint, splits, options)
    if not isinstance(keypoint, np.ndarray) or keypoint.ndim != 4 or keypoint.shape[3] not in (2, 3):
        got = f"shape {keypoint.shape}" if isinstance(keypoint, np.ndarray) else f"a {type(keypoint).__name__}"
        raise ValueError(f"keypoint has {got}, wanted (M, T, V, 2), or 3 channels for 3D")
    if annotation.get("total_frames", keypoint.shape[1]) != keypoint.shape[1]:
        raise ValueError(f"{keypoint.shape[1]} frames of keypoints, but total_frames is {annotation['total_frames']}")
    usual, xyz, size = _USUAL, None, None
    if keypoint.shape[3] == 3:
        if score is not None:
            raise ValueError("keypoint has 3 channels and keypoint_score is there too; wanted 2 channels beside it")
        usual = _USUAL | {25: "ntu25"}
    skeleton = choose_skeleton(keypoint.shape[2], options, usual)
    xy = keypoint[..., :2]
    if keypoint.shape[3] == 3 and skeleton == "ntu25":
        xyz, size = keypoint, _DEPTH_SIZE
        xy, score = project(keypoint, _DEPTH_FOCAL, _DEPTH_CENTRE)
    elif keypoint.shape[3] == 3:
        score = keypoint[..., 2]
    elif score is None:
        score = (xy != 0).any(-1)
    elif not isinstance(score, np.ndarray):
        raise ValueError(f"keypoint_score is a {type(score).__name__}, wanted an array (M, T, V)")
    return make_clip(
        _name(annotation),
        xy,
        score,
        size=size or _size(annotation, options),
        skeleton=skeleton,
        source="pyskl",
        options=options,
        label=_label(annotation, options),
        splits=splits,
        xyz=xyz,
    )


def _name(annotation: Annotation) -> str:
    name = _text(annotation.get("frame_dir", annotation.get("filename")))
    if not name:
        raise ValueError("an annotation without frame_dir, its clip's name")
    return name


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int | np.str_ | np.integer) else ""


def _size(annotation: Annotation, options: Options) -> tuple[int, int]:
    size = annotation.get("img_shape", annotation.get("original_shape"))
    if size is None and options.size is not None:
        return options.size
    if not isinstance(size, tuple | list | np.ndarray) or len(size) < 2:
        raise ValueError("no img_shape (h, w) of its frames; say it by --size HxW")
    return int(size[0]), int(size[1])


def _label(annotation: Annotation, options: Options) -> tuple[int, str] | None:
    label = annotation.get("label")
    if label is None:
        return None
    if not isinstance(label, int | np.integer) or isinstance(label, bool):
        raise ValueError(f"label is a {type(label).__name__}, wanted one number; a table has one label a clip")
    return by_number(int(label), options, str(label))


def _compressed(
    file: File, layout: Layout, splits: dict[str, list[str]], keypoints: list[File], options: Options
) -> Iterator[Entry]:
    """Clips whose keypoints are in other files. The table of contents is kept in memory, some kilobytes a clip."""
    by_file: dict[File | None, dict[str, Annotation]] = defaultdict(dict)
    base: dict[str, list[File]] = defaultdict(list)
    for other in keypoints:
        base[posixpath.basename(other.name)].append(other)
    total = done = 0
    for annotation, _ in _items(file, layout):
        wanted = annotation.get("raw_file") or f"{_name(annotation)}.pkl"
        by_file[_like(_text(wanted), base)][_name(annotation)] = annotation
        total += 1

    for holder, annotations in by_file.items():
        left = dict(annotations)
        error = ValueError("its keypoints are not among the source's files; give the folder, or zip, that has them too")
        try:
            for key, value, _ in read_pickle(holder.open, holder.size) if holder else ():
                if key == "keypoint" and len(annotations) == 1:  # a file of one clip
                    key, value = next(iter(annotations)), {key: value}
                if key in left and isinstance(value, dict) and "keypoint" in value:
                    annotation, rows, parts = left.pop(key), value["keypoint"], splits.get(key, [])
                    done += 1
                    yield Entry(
                        key,
                        (holder or file).uri,
                        partial(_decompress, annotation, rows, parts, options),
                        done / total,
                    )
        except ValueError as broken:
            error = broken
        for name in left:
            done += 1
            yield Entry(name, (holder or file).uri, failing(error), done / total)


def _like(path: str, files: dict[str, list[File]]) -> File | None:
    """The file whose name has the longest tail in common with a path."""

    def common(file: File) -> int:
        pairs = zip(reversed(path.split("/")), reversed(file.name.split("/")), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), 100)

    return max(files.get(posixpath.basename(path), ()), key=common, default=None)


def _decompress(annotation: Annotation, rows: Any, splits: list[str], options: Options) -> Clip:
    """Spread rows, one a person and frame, into people: in the order of the rows, or of their scores if too many."""
    frames = annotation["frame_inds"]
    if not isinstance(rows, np.ndarray) or rows.ndim != 3 or rows.shape[2] != 3 or rows.dtype.kind != "f":
        raise ValueError(f"keypoints of shape {getattr(rows, 'shape', None)}, wanted (N, V, 3): x, y, score")
    if not isinstance(frames, np.ndarray) or frames.shape != rows.shape[:1] or (np.diff(frames.astype(int)) < 0).any():
        raise ValueError(f"frame_inds of shape {np.shape(frames)}, wanted {rows.shape[:1]} numbers in order")
    skeleton = choose_skeleton(rows.shape[1], options, _USUAL)
    most = options.max_persons or _MAX_PERSONS
    numbers, at = np.unique(frames, return_inverse=True)
    if len(rows) and np.bincount(at).max() > most:
        order = np.lexsort((-rows[..., 2].astype(np.float64).sum(1), at))
        rows, at = rows[order], at[order]
    slot = np.arange(len(at)) - np.searchsorted(at, at)
    rows, at, slot = rows[slot < most], at[slot < most], slot[slot < most]
    frames_left = len(numbers) or int(annotation.get("total_frames", 1))
    joints = np.zeros((int(slot.max(initial=-1)) + 1, frames_left, *rows.shape[1:]), np.float32)
    joints[slot, at] = rows
    return make_clip(
        _name(annotation),
        joints[..., :2],
        joints[..., 2],
        size=_size(annotation, options),
        skeleton=skeleton,
        source="pyskl",
        options=options,
        label=_label(annotation, options),
        splits=splits,
    )
