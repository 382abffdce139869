"""Annotations -> table: poses that others published or estimated, in the formats they come in, and back to PYSKL's."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from posec3d.annotations.entries import Annotations, Entry, Options
from posec3d.annotations.jhmdb import jhmdb
from posec3d.annotations.json_poses import coco, openpose
from posec3d.annotations.kinect import ntu, sbu, utd_mhad
from posec3d.annotations.penn_action import penn_action
from posec3d.annotations.pyskl import pyskl
from posec3d.annotations.source import Source, SourceError, open_source

__all__ = ["FORMATS", "Annotations", "Entry", "Options", "SourceError", "open_annotations"]


@dataclass(frozen=True)
class Format:
    """How a format is read, and how its files are known."""

    read: Callable[[Source, Options], Annotations]
    wanted: str
    """Its files, for people."""
    pattern: str
    """Of their names, lower case."""


FORMATS = {
    "pyskl": Format(pyskl, "*.pkl", r"\.(pkl|pickle)$"),
    "ntu": Format(ntu, "SsssCcccPpppRrrrAaaa.skeleton", r"\.skeleton$"),
    "penn-action": Format(penn_action, "NNNN.mat", r"(^|/)\d{4}\.mat$"),
    "sbu": Format(sbu, "sXXsYY/AA/NNN/skeleton_pos.txt", r"s\d\ds\d\d/\d\d/\w+/skeleton_pos\.txt$"),
    "utd-mhad": Format(utd_mhad, "aA_sS_tT_skeleton.mat", r"a\d+_s\d+_t\d+_skeleton\.mat$"),
    "jhmdb": Format(
        jhmdb,
        "<class>/<video>/joint_positions.mat, or GT_train_K.pkl and GT_test_K.pkl",
        r"[^/]+/[^/]+/joint_positions\.mat$|gt_(train|test)_\d\.pkl$",
    ),
    "coco": Format(coco, "*.json", r"(?<!\d_keypoints)\.json$"),
    "openpose": Format(openpose, "<video>_<frame>_keypoints.json", r"\d_keypoints\.json$"),
}


def open_annotations(name: str, uri: str, options: Options) -> Annotations:
    """Find the clips of a source; they are read as its entries are.

    Args:
        name: of the format, one of `FORMATS`.
        uri: a file, a folder or a zip, at any URI fsspec opens. Zips are read in place.
        options: what the format leaves open.

    Raises:
        FileNotFoundError: nothing there.
        SourceError: no file of this format.
    """
    source, wanted = open_source(uri), FORMATS[name]

    def has(pattern: str) -> bool:
        return any(re.search(pattern, file.name.lower()) for file in source.files)

    if not has(wanted.pattern):
        others = [other for other, known in FORMATS.items() if has(known.pattern)]
        hint = f"; it may be {' or '.join(others)}" if others else ""
        raise SourceError(f"{uri}: {source.kinds()}, wanted {wanted.wanted} for the format {name}{hint}")
    return wanted.read(source, options)
