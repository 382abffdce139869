"""Clip -> volume by another way: the pose network's own heatmaps, kept in a table's `_heatmaps/`, beside keypoints."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from posec3d import table as tables
from posec3d.clips import ClipConfig, clip_box, sample_frames
from posec3d.storage import exists
from posec3d.table import Clip

HEATMAPS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("num_persons", pa.int32()),
        ("num_frames", pa.int32()),
        ("map_height", pa.int32()),
        ("map_width", pa.int32()),
        ("regions", pa.list_(pa.float32())),  # (M, T, 4) x y width height: the part of the frame a map covers
        ("maps", pa.list_(pa.binary())),  # (M, T): zstd of uint8 (V, map_height, map_width), 255 = 1.0; empty = absent
    ],
    metadata=tables.SCHEMA.metadata,
)

FLOOR = 3
"""Of 255; less is stored as 0, which nearly halves the bytes. Drawn Gaussians end there too: exp(-3² / 2) is 2.8."""


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """The maps of M tracks in T frames."""

    regions: np.ndarray
    """(M, T, 4) float32 x y width height: the part of the frame a map covers, in pixels; zeros where absent."""
    maps: list[list[bytes]]
    """[m][t]: `pack`ed (V, h, w); empty where the person is absent."""
    size: tuple[int, int]
    """(h, w) of a map."""


def heatmaps_uri(table: str) -> str:
    """Where the heatmaps of the table at this URI lie."""
    return f"{table.rstrip('/')}/_heatmaps"


def pack(heatmap: np.ndarray) -> bytes:
    """Compress one person's maps (V, h, w) in 0..1 to 8 bits and zstd; see `FLOOR`."""
    levels = np.rint(np.clip(heatmap, 0, 1) * 255).astype(np.uint8)
    levels[levels < FLOOR] = 0
    return pa.compress(levels.tobytes(), codec="zstd", asbytes=True)


def unpack(packed: bytes, joints: int, size: tuple[int, int]) -> np.ndarray:
    """Give back the maps (V, h, w) float32 that were packed; `joints` is V, `size` (h, w)."""
    h, w = size
    levels = np.frombuffer(pa.decompress(packed, joints * h * w, codec="zstd"), np.uint8)
    return levels.reshape(joints, h, w) / np.float32(255)


def heatmaps_row(heatmaps: Heatmaps) -> dict[str, Any]:
    """The columns of `HEATMAPS` that are not the clip's."""
    return {
        "map_height": heatmaps.size[0],
        "map_width": heatmaps.size[1],
        "regions": heatmaps.regions.ravel(),
        "maps": [packed for track in heatmaps.maps for packed in track],
    }


def read_heatmaps(
    table: str, clip_ids: Iterable[str] | None = None, *, beside: str = ""
) -> Iterator[tuple[str, Heatmaps]]:
    """Yield the heatmaps beside a table by clip_id, one row group in memory at a time.

    A killed extraction may have left a clip's maps twice; the first are taken.

    Args:
        table: URI.
        clip_ids: whose heatmaps; None is everybody's.
        beside: name of the table's file with these clips. Extraction writes their heatmaps to a file of the same name,
            which is looked into first; others, if any clip is missing there.

    Raises:
        ValueError: a clip has none; raised after those that have.
    """
    wanted = None if clip_ids is None else set(clip_ids)
    seen: set[str] = set()
    for path in _files(table, beside):
        file = tables.open_file(path)
        for group in range(file.num_row_groups):
            chosen = []
            for i, clip_id in enumerate(file.read_row_group(group, ["clip_id"])["clip_id"].to_pylist()):
                if clip_id not in seen and (wanted is None or clip_id in wanted):
                    seen.add(clip_id)
                    chosen.append(i)
            if not chosen:
                continue
            rows = file.read_row_group(group)
            for i in chosen:
                (row,) = rows.slice(i, 1).to_pylist()
                m, t = row["num_persons"], row["num_frames"]
                regions = np.array(row["regions"], np.float32).reshape(m, t, 4)
                maps = [row["maps"][track * t : (track + 1) * t] for track in range(m)]
                yield row["clip_id"], Heatmaps(regions, maps, (row["map_height"], row["map_width"]))
        if seen == wanted:
            return
    if wanted and (missing := sorted(wanted - seen)):
        raise ValueError(
            f"{len(missing)} of {len(wanted)} clips have no heatmaps in {heatmaps_uri(table)}: "
            f"{', '.join(missing[:3])}; make them with jobs.extract --store heatmaps into a new table, "
            "or draw from coordinates"
        )


def _files(table: str, beside: str) -> Iterator[str]:
    first = f"{heatmaps_uri(table)}/{beside}"
    if beside and exists(first):
        yield first
    yield from (path for path in tables.data_files(heatmaps_uri(table)) if path.rsplit("/", 1)[-1] != beside)


def stored_volumes(clip: Clip, heatmaps: Heatmaps, config: ClipConfig, num_clips: int = 1) -> np.ndarray:
    """Draw a clip's stored maps as it is tested (paper, section 3.2: volumes from heatmaps instead of coordinates).

    Frames, crop and scale are those of `posec3d.clips.testing_clips`. Each person's map is resampled
    bilinearly where its region lies, and nowhere else; people are merged by maximum.

    Args:
        clip: a row of the table.
        heatmaps: the maps of its people.
        config: lengths and sizes.
        num_clips: clips sampled from it.

    Returns:
        (num_clips, V, config.length, config.test_size, config.test_size) float32 in 0..1.

    Raises:
        ValueError: the maps are of other people or frames than the clip's.
    """
    people, _, joints = clip.scores.shape
    if heatmaps.regions.shape[:2] != (people, clip.num_frames):
        raise ValueError(
            f"clip {clip.clip_id} has (people, frames) = {(people, clip.num_frames)}, "
            f"its heatmaps {heatmaps.regions.shape[:2]}; extract it into a new table"
        )
    sampled = sample_frames(clip.num_frames, config, num_clips=num_clips)
    xy, score = clip.keypoints[:, sampled.ravel()], clip.scores[:, sampled.ravel()]
    left, top, width, height = clip_box(xy, score, (clip.height, clip.width), config.padding)
    side = config.test_size
    pixels = np.arange(side)[:, None] * np.array([width, height]) / side + [left, top]  # x and y in the frame
    frames, back = np.unique(sampled, return_inverse=True)
    volume = np.zeros((joints, len(frames), side, side), np.float32)
    for m, track in enumerate(heatmaps.maps):
        for i, t in enumerate(frames):
            if track[t]:
                x, y, w, h = heatmaps.regions[m, t]
                rows = _weights((pixels[:, 1] - y) / h * heatmaps.size[0], heatmaps.size[0])
                columns = _weights((pixels[:, 0] - x) / w * heatmaps.size[1], heatmaps.size[1])
                drawn = rows @ unpack(track[t], joints, heatmaps.size) @ columns.T
                np.maximum(volume[:, i], drawn, out=volume[:, i])
    return volume[:, back.reshape(sampled.shape)].swapaxes(0, 1)


def _weights(places: np.ndarray, cells: int) -> np.ndarray:
    """How much each of a map's cells counts at places (S,) given in cells: (S, cells) float32."""
    return np.clip(1 - abs(places[:, None] - np.arange(cells)), 0, None).astype(np.float32)
