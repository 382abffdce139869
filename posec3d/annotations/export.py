"""Table -> annotations: the clips of a keypoint table as one pickle of PYSKL and MMAction2, written clip by clip."""

import contextlib
import io
import os
import pickle
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from posec3d import table as tables
from posec3d.storage import reaching, whole_file
from posec3d.table import Clip

# What every pickled array begins with: the functions by their names before NumPy 2, which knows these too.
_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_PROTOCOL = 3  # the last one whose parts can be put together: no frames, and places in the memo are written out


def export_pyskl(
    table: str,
    file: str,
    *,
    split: str | None = None,
    coordinates: Literal["2d", "3d"] = "2d",
    dtype: Literal["float32", "float16"] = "float32",
) -> int:
    """Write {"split": {name: [frame_dir]}, "annotations": [...]} as PYSKL and MMAction2 load it.

    An annotation has frame_dir, total_frames, img_shape and original_shape (h, w), label (unless the clip has none),
    and keypoint (M, T, V, 2) with keypoint_score (M, T, V), or in 3D keypoint (M, T, V, 3) alone. The memory it takes
    is that of a row group of the table, and of the names in the splits.

    Args:
        table: URI of a keypoint table.
        file: path or URI of the pickle; it appears whole or not at all.
        split: only the clips of a split expression.
        coordinates: which keypoints.
        dtype: of keypoints and scores. float16, as PYSKL's own files have, is half as large, and rounds to whole
            pixels beyond the first 1024.

    Returns:
        The number of clips.

    Raises:
        FileNotFoundError: no table there.
        ValueError: a clip has no 3D keypoints.
    """
    splits: dict[str, list[str]] = {}
    for group in tables.read_row_groups(table, ["clip_id", "splits"]):
        for row in group.to_pylist():
            if tables.in_split(row["splits"] or (), split):
                for name in row["splits"] or ():
                    splits.setdefault(name, []).append(row["clip_id"])
    columns = ["label", "label_name", "splits", *(["keypoints_3d"] if coordinates == "3d" else [])]
    fs, path = fsspec.url_to_fs(file)
    local = isinstance(fs, LocalFileSystem)
    if local:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.ExitStack() as stack:
        if local:
            part = stack.enter_context(whole_file(path))
        else:
            part = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "part"
        with part.open("wb") as out:
            count = _write(out, splits, tables.read_table(table, columns, split), coordinates == "3d", np.dtype(dtype))
        if not local:
            with reaching(file):
                fs.put_file(str(part), path)
    return count


def _write(
    file: BinaryIO, splits: Mapping[str, Sequence[str]], clips: Iterable[Clip], in_3d: bool, dtype: np.dtype
) -> int:
    file.write(pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_DICT)
    file.write(pickle.MARK + _pickled("split") + _pickled(dict(splits)) + _pickled("annotations") + pickle.EMPTY_LIST)
    count = 0
    for clip in clips:
        count += 1
        file.write(_annotation(clip, in_3d, dtype) + pickle.APPEND)
    file.write(pickle.SETITEMS + pickle.STOP)
    return count


def _annotation(clip: Clip, in_3d: bool, dtype: np.dtype) -> bytes:
    size = clip.height, clip.width
    fields: dict[str, Any] = {
        "frame_dir": clip.clip_id, "total_frames": clip.num_frames, "img_shape": size, "original_shape": size,
    }  # fmt: skip
    if clip.label is not None:
        fields["label"] = clip.label
    arrays = {"keypoint": clip.keypoints, "keypoint_score": clip.scores}
    if in_3d:
        if clip.keypoints_3d is None:
            raise ValueError(f"clip {clip.clip_id} has no 3D keypoints; export 2d")
        arrays = {"keypoint": clip.keypoints_3d}
    written = io.BytesIO()
    written.write(pickle.EMPTY_DICT + pickle.MARK)
    for name, value in fields.items():
        written.write(_pickled(name) + _pickled(value))
    for name, array in arrays.items():
        written.write(_pickled(name) + _pickled_array(array.astype(dtype)))
    written.write(pickle.SETITEMS)
    return written.getvalue()


def _pickled_array(array: np.ndarray) -> bytes:
    kind = b"cnumpy\ndtype\n" + _pickled(array.dtype.str[1:]) + b"\x89\x88\x87R" + _LITTLE_ENDIAN
    data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return _ARRAY + b"(K\x01" + _pickled(array.shape) + kind + b"\x89" + _pickled(data) + b"tb"


def _pickled(value: Any) -> bytes:
    """A value as a part of a larger pickle: without the first two bytes, which say the protocol, and the last."""
    return pickle.dumps(value, _PROTOCOL)[2:-1]


_LITTLE_ENDIAN = _pickled((3, "<", None, None, None, -1, -1, 0)) + pickle.BUILD
