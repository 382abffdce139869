"""Rendering: keypoint table -> fixed-shape coordinate samples -> heatmap volumes, through Ray Data.

The table's row groups are the units of work: a task reads one, samples, crops and augments its clips' coordinates and
sends those. What is drawn from a clip depends on (seed, epoch, draw, clip_id) alone, whatever the number of workers.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch

from posec3d import table as tables
from posec3d import training
from posec3d.clips import ClipConfig, flip, pad_persons, testing_clips, training_clip
from posec3d.config import HeatmapConfig
from posec3d.skeletons import skeleton
from posec3d.stored import read_heatmaps, stored_volumes

COLUMNS = "clip_id num_frames num_persons height width skeleton label keypoints scores".split()
SHUFFLE = 2048  # samples that the local shuffle of an epoch mixes
BLOCKS = 1000  # tasks an epoch is cut into at most


@dataclass(frozen=True)
class Unit:
    """The chosen rows of one row group of the table."""

    file: str
    row_group: int
    rows: tuple[int, ...]
    first: int
    """Number of the first row among all the chosen rows of the table."""


@dataclass(frozen=True)
class Index:
    """The chosen clips of a table: where they lie, and how many people they hold at most."""

    units: tuple[Unit, ...]
    clips: int
    persons: int
    skipped: int
    """Clips of the split left out: nobody in them, or (in training) no label."""


def index(table: str, split: str | None = None, *, labelled: bool = True, people: bool = True) -> Index:
    """Choose the clips of a split, from the small columns alone.

    Args:
        table: URI.
        split: split expression; None is every clip.
        labelled: leave out clips without a label.
        people: leave out clips without people.

    Raises:
        FileNotFoundError: no table there.
    """
    units, clips, persons, skipped = [], 0, 1, 0
    for file in tables.require_table(table):
        parquet = tables.open_file(file)
        for group in range(parquet.num_row_groups):
            rows = []
            for i, row in enumerate(parquet.read_row_group(group, ["label", "splits", "num_persons"]).to_pylist()):
                if not tables.in_split(row["splits"] or (), split):
                    continue
                if (labelled and row["label"] is None) or (people and row["num_persons"] == 0):
                    skipped += 1
                    continue
                rows.append(i)
                persons = max(persons, row["num_persons"])
            if rows:
                units.append(Unit(file, group, tuple(rows), clips))
                clips += len(rows)
    return Index(tuple(units), clips, persons, skipped)


def training_samples(
    chosen: Index, config: ClipConfig, *, seed: int, epoch: int, repeat: int = 1, rank: int = 0, world: int = 1
) -> ray.data.Dataset:
    """One worker's share of an epoch, every clip `repeat` times, each drawn anew; units in an order of the epoch.

    Returns:
        Rows: clip_id, label, xy (M, T, V, 2) float32 in heatmap pixels of config.size, score (M, T, V) float32;
        M = chosen.persons.
    """
    # Row groups in a random order, each draw of a clip on its own, rows in a random order: neighbours in the table,
    # often of one class, are far apart when the buffer of `batches` has mixed what comes.
    work = [(unit, draw) for unit in chosen.units for draw in range(repeat)]
    order = np.random.default_rng([seed, epoch]).permutation(len(work))
    persons = chosen.persons

    def sample(unit: Unit, draw: int) -> Iterator[dict[str, Any]]:
        clips = list(_read(unit))
        for i in np.random.default_rng([seed, epoch, draw, unit.first]).permutation(len(clips)):
            number, clip = clips[i]
            if (number * repeat + draw) % world != rank:
                continue
            digest = hashlib.blake2b(clip.clip_id.encode(), digest_size=8).digest()
            rng = np.random.default_rng([seed, epoch, draw, int.from_bytes(digest)])
            body = skeleton(clip.skeleton)
            xy, score = training_clip(clip.keypoints, clip.scores, (clip.height, clip.width), config, body.mirror, rng)
            yield _row(clip, *pad_persons(xy, score, persons))

    return _per_unit([work[i] for i in order], sample)


def testing_samples(
    chosen: Index, config: ClipConfig, *, num_clips: int = 1, rank: int = 0, world: int = 1
) -> ray.data.Dataset:
    """One worker's share of the chosen clips, each once, as it is tested.

    Returns:
        Rows: clip_id, label, xy (K, M, T, V, 2) float32 in heatmap pixels of config.test_size, score (K, M, T, V)
        float32; K = num_clips, M = chosen.persons.
    """
    persons = chosen.persons

    def sample(unit: Unit, _: int) -> Iterator[dict[str, Any]]:
        for number, clip in _read(unit):
            if number % world == rank:
                xy, score = testing_clips(clip.keypoints, clip.scores, (clip.height, clip.width), config, num_clips)
                yield _row(clip, *pad_persons(xy, score, persons))

    return _per_unit([(unit, 0) for unit in chosen.units], sample)


def _read(unit: Unit) -> Iterator[tuple[int, tables.Clip]]:
    group = tables.open_file(unit.file).read_row_group(unit.row_group, COLUMNS).take(list(unit.rows))
    yield from enumerate(tables.arrow_to_clips(group), unit.first)


def _row(clip: tables.Clip, xy: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    label = -1 if clip.label is None else clip.label
    return {"clip_id": clip.clip_id, "label": label, "xy": xy, "score": score.astype(np.float32)}


def _per_unit(
    work: list[tuple[Unit, int]], sample: Callable[[Unit, int], Iterator[dict[str, Any]]]
) -> ray.data.Dataset:
    def samples(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from sample(Unit(row["file"], row["row_group"], tuple(row["rows"]), row["first"]), row["draw"])

    items = [{**asdict(unit), "rows": list(unit.rows), "draw": draw} for unit, draw in work]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS)).flat_map(samples)
    dataset.context.execution_options.preserve_order = True  # the order of an epoch is part of its seed
    return dataset


def batches(
    dataset: ray.data.Dataset, size: int, *, shuffle_seed: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Batches of samples for `posec3d.training`; shuffled ones drop the remainder, others keep it."""
    return dataset.iter_batches(
        batch_size=size,
        batch_format="numpy",
        prefetch_batches=2,
        drop_last=shuffle_seed is not None,
        local_shuffle_buffer_size=None if shuffle_seed is None else SHUFFLE,
        local_shuffle_seed=shuffle_seed,
    )


def volumes(
    table: str,
    config: ClipConfig | None = None,
    heatmap: HeatmapConfig | None = None,
    *,
    split: str | None = None,
    num_clips: int = 1,
    flipped: bool = False,
    stored: bool = False,
) -> ray.data.Dataset:
    """Heatmap volumes of a table's clips, as they are tested, for whoever wants volumes and not coordinates.

    Args:
        table: URI.
        config: how clips are sampled and cropped.
        heatmap: how they are drawn.
        split: split expression; None is every clip.
        num_clips: clips sampled from each row.
        flipped: mirror them.
        stored: draw the pose network's own maps, which `jobs.extract --store heatmaps` keeps, and not the coordinates.

    Returns:
        Rows: clip_id, label (-1 where there is none), volume (K, C, T, H, W) float32.

    Raises:
        ValueError: limbs from stored maps, which are of joints. While iterating: a clip without stored maps.
    """
    config, heatmap = config or ClipConfig(), heatmap or HeatmapConfig()
    chosen = index(table, split, labelled=False, people=False)
    body = skeleton(next(tables.read_table(table, columns=())).skeleton)

    def draw_stored(unit: Unit, _: int) -> Iterator[dict[str, Any]]:
        clips = {clip.clip_id: clip for _, clip in _read(unit)}
        folder = unit.file.rsplit("/", 1)[0]  # the table, by a name that holds on every machine
        for clip_id, heatmaps in read_heatmaps(folder, clips):
            volume = stored_volumes(clips[clip_id], heatmaps, config, num_clips)
            if flipped:
                volume = volume[:, list(body.mirror), ..., ::-1]
            label = clips[clip_id].label
            yield {"clip_id": clip_id, "label": -1 if label is None else label, "volume": volume}

    if stored:
        if heatmap.kind != "joint":
            raise ValueError(f"stored maps are of joints, got heatmap.kind {heatmap.kind}; draw that from coordinates")
        return _per_unit([(unit, 0) for unit in chosen.units], draw_stored)

    def draw(row: dict[str, Any]) -> dict[str, Any]:
        xy, score = row["xy"], row["score"]
        if flipped:
            xy, score = flip(xy, score, config.test_size, body.mirror)
        volume = training.draw(torch.as_tensor(xy), torch.as_tensor(score), config.test_size, heatmap, body)
        return {"clip_id": row["clip_id"], "label": row["label"], "volume": volume.contiguous().numpy()}

    return testing_samples(chosen, config, num_clips=num_clips).map(draw)
