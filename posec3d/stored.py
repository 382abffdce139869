"""Clip -> volume by another way: the pose network's own heatmaps, kept in a table's `_heatmaps/`, beside keypoints."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from posec3d import table as tables
from posec3d.clips import ClipConfig, sample_frames, testing_clips
from posec3d.skeletons import skeleton
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


def draw_maps(
    clip: Clip, heatmaps: Heatmaps, frames: np.ndarray, place: np.ndarray, side: int, persons: int | None = None
) -> np.ndarray:
    """Draw some frames of a clip's stored maps (paper, section 3.2: volumes from heatmaps instead of coordinates).

    Each person's map is resampled bilinearly where its region lies, and nowhere else; people are merged by maximum.

    Args:
        clip: a row of the table.
        heatmaps: the maps of its people.
        frames: (T,) their numbers.
        place: (2, 3) affine map from pixels of the frame to pixels of the volume; one that mirrors swaps the joints
            of left and right too.
        side: H = W of the volume.
        persons: only the first so many; None is everybody.

    Returns:
        (V, T, side, side) uint8, 255 = 1.

    Raises:
        ValueError: the maps are of other people or frames than the clip's.
    """
    import torch  # not by those who only keep maps
    from torch.nn.functional import grid_sample

    people, _, joints = clip.scores.shape
    if heatmaps.regions.shape[:2] != (people, clip.num_frames):
        raise ValueError(
            f"clip {clip.clip_id} has (people, frames) = {(people, clip.num_frames)}, "
            f"its heatmaps {heatmaps.regions.shape[:2]}; extract it into a new table"
        )
    to_frame = np.linalg.inv(np.vstack([place, [0, 0, 1]]))
    pixels = np.stack([*np.mgrid[:side, :side][::-1], np.ones((side, side))])
    x, y, _ = np.tensordot(to_frame, pixels, 1)
    numbers, back = np.unique(frames, return_inverse=True)
    volume = torch.zeros(len(numbers), joints, side, side)
    h, w = heatmaps.size
    for regions, track in zip(heatmaps.regions[:persons], heatmaps.maps, strict=False):
        there = [i for i, number in enumerate(numbers) if track[number]]
        if not there:
            continue
        maps = np.stack([unpack(track[numbers[i]], joints, heatmaps.size) for i in there])
        left, top, width, height = regions[numbers[there]].T[..., None, None]
        cells = np.stack([(x - left) / width * w, (y - top) / height * h], -1)
        grid = torch.from_numpy(((2 * cells + 1) / (w, h) - 1).astype(np.float32))  # -1 and 1 are a map's outer edges
        drawn = grid_sample(torch.from_numpy(maps), grid, align_corners=False)
        volume[there] = torch.maximum(volume[there], drawn)
    levels = volume.mul_(255).round_().byte().numpy()[back.ravel()].swapaxes(0, 1)
    return levels[list(skeleton(clip.skeleton).mirror)] if np.linalg.det(place[:, :2]) < 0 else levels


def stored_volumes(clip: Clip, heatmaps: Heatmaps, config: ClipConfig, num_clips: int = 1) -> np.ndarray:
    """Draw a clip's stored maps as it is tested: frames, crop and scale of `posec3d.clips.testing_clips`.

    Returns:
        (num_clips, V, config.length, config.test_size, config.test_size) uint8, 255 = 1.

    Raises:
        ValueError: as of `draw_maps`.
    """
    frames = sample_frames(clip.num_frames, config, num_clips=num_clips)
    *_, place = testing_clips(clip.keypoints, clip.scores, (clip.height, clip.width), config, num_clips)
    levels = draw_maps(clip, heatmaps, frames.ravel(), place, config.test_size, config.persons)
    return levels.reshape(len(levels), *frames.shape, *levels.shape[2:]).swapaxes(0, 1)
