"""Rendering: keypoint table -> fixed-shape coordinate samples -> heatmap volumes, through Ray Data.

The groups of `posec3d.index` are the units of work: a task reads one, samples, crops and augments its clips'
coordinates and sends those. Volumes are drawn where they are used; drawing them in the tasks is the same function,
called earlier.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
import torch

from posec3d import feed, training
from posec3d.clips import ClipConfig, flip
from posec3d.config import HeatmapConfig
from posec3d.feed import Arrays
from posec3d.index import ALL, Group, Index, Piece, Share, group_options, index, testing_groups, training_groups
from posec3d.skeletons import Skeleton, skeleton

BLOCKS = 1000  # tasks of an execution at most
WAVE = 16  # groups executed at a time at most
VOLUMES = 8  # volumes a task draws at a time

Render = Literal["device", "worker"]


def training_batches(
    chosen: Index,
    config: ClipConfig,
    size: int,
    *,
    seed: int,
    epoch: int,
    repeat: int = 1,
    balanced: bool = False,
    share: Share = ALL,
    batch: int | None = None,
    heatmap: HeatmapConfig | None = None,
) -> Iterator[Arrays]:
    """Batches of one worker's share of an epoch, by Ray's tasks: without `batch` those of `feed.training_batches`.

    Args:
        chosen: the clips.
        config: how they are sampled, cropped and augmented.
        size: samples a batch; a remainder that fills none is dropped.
        seed: of order and augmentation.
        epoch: 0, 1, ...
        repeat: draws of each clip.
        balanced: classes equally often.
        share: which one.
        batch: as for `training_groups`; `size` is this share's part of it.
        heatmap: draw the volumes in Ray's tasks, and send those: a hundred times the bytes, for consumers that have no
            time to draw. None sends coordinates.

    Returns:
        Batches of `feed.training_samples`; with `heatmap` of clip_id, label and volume (N, C, T, H, W) uint8, 255 = 1.
    """
    light, draw, small = _light(chosen), None, group_options(config)
    if heatmap is not None:
        draw = functools.partial(_drawn, size=config.size, heatmap=heatmap, body=skeleton(chosen.skeleton))
        small = {"piece": VOLUMES, "size": 4 * VOLUMES}  # a task of as many volumes as of coordinates would be 5 GB
    plan: dict[str, Any] = {"repeat": repeat, "balanced": balanced, "share": share, "batch": batch, **small}
    groups = training_groups(chosen, seed=seed, epoch=epoch, **plan)

    def sample(group: Group) -> Iterator[Arrays]:
        samples = feed.training_samples(group, light, config, seed=seed, epoch=epoch)
        yield from [samples] if draw is None else draw(samples)

    return feed.rebatch(_in_waves(groups, sample, share.world), size, drop_last=True)


def testing_batches(
    chosen: Index, config: ClipConfig, size: int, *, num_clips: int = 1, share: Share = ALL
) -> Iterator[Arrays]:
    """Batches of one worker's share of the chosen clips, each once: those of `feed.testing_samples`."""
    groups = testing_groups(chosen, share, piece=group_options(config).get("piece"))
    return feed.rebatch(_in_waves(groups, _testing(chosen, config, num_clips), share.world), size, drop_last=False)


def testing_samples(chosen: Index, config: ClipConfig, *, num_clips: int = 1) -> ray.data.Dataset:
    """The chosen clips, each once, as it is tested: blocks of `feed.testing_samples`."""
    groups = testing_groups(chosen, piece=group_options(config).get("piece"))
    return _by_group(groups, _testing(chosen, config, num_clips))


def _testing(chosen: Index, config: ClipConfig, num_clips: int) -> Callable[[Group], Iterator[Arrays]]:
    light = _light(chosen)

    def sample(group: Group) -> Iterator[Arrays]:
        yield feed.testing_samples(group, light, config, num_clips=num_clips)

    return sample


def _in_waves(groups: Sequence[Group], sample: Callable[[Group], Iterator[Arrays]], consumers: int) -> Iterator[Arrays]:
    """What comes of the groups, in their order: some of them are executed while those before are used.

    One execution of all of them would be held back by the object store most of the time, and a Ray Data executor that
    is held back spins: it takes a core from the training it feeds (measured with 2.60: steps take two to three times
    as long).
    """
    store = ray.cluster_resources().get("object_store_memory", 0)
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[Any] | None = None
        size, first = 1, 0  # groups of a wave; what one comes to tells how many the next may have
        while first < len(groups) or ahead:
            done = ahead.result() if ahead else None
            if done is not None:
                bytes_ = max(done.size_bytes() / size, 1)
                size = int(max(1, min(WAVE, store / 4 / consumers // bytes_)))
            wave, first = groups[first : first + size], first + size
            ahead = pool.submit(_by_group(wave, sample).materialize) if wave else None
            if done is not None:
                yield from done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)


def _by_group(groups: Sequence[Group], sample: Callable[[Group], Iterator[Any]]) -> ray.data.Dataset:
    """A dataset of what comes of each group, in their order."""

    def samples(batch: pa.Table) -> Iterator[Any]:
        for row in batch.to_pylist():
            yield from sample(Group(row["number"], tuple(_to_piece(piece) for piece in row["pieces"])))

    rows = [{"number": group.number, "pieces": [_from_piece(piece) for piece in group.pieces]} for group in groups]
    each = -(-len(rows) // BLOCKS) or 1
    blocks = [pa.Table.from_pylist(rows[i : i + each], _GROUP) for i in range(0, len(rows), each)]
    dataset = ray.data.from_arrow(blocks or [_GROUP.empty_table()])
    dataset = dataset.map_batches(samples, batch_size=1, batch_format="pyarrow")
    dataset.context.execution_options.preserve_order = True  # the order of an epoch is part of its seed
    return dataset


def _from_piece(piece: Piece) -> dict[str, Any]:
    return {**vars(piece), "pictures": piece.pictures.ravel()}


def _to_piece(row: dict[str, Any]) -> Piece:
    arrays = {name: np.array(row[name], np.int64) for name in ("rows", "draws", "pictures")}
    return Piece(**{**row, **arrays, "pictures": arrays["pictures"].reshape(-1, 2)})


_GROUP = pa.schema(
    {
        "number": pa.int64(),
        "pieces": pa.list_(
            pa.struct(
                {
                    "file": pa.string(),
                    "version": pa.string(),
                    "row_group": pa.int64(),
                    "rows": pa.list_(pa.int32()),
                    "draws": pa.list_(pa.int32()),
                    "pictures": pa.list_(pa.int32()),
                }
            )
        ),
    }
)


def _light(chosen: Index) -> Index:
    """What a task needs of an index, which every task is sent: not where millions of clips lie."""
    return dataclasses.replace(chosen, units=())


def _drawn(samples: Arrays, size: int, heatmap: HeatmapConfig, body: Skeleton) -> Iterator[Arrays]:
    """Samples with volumes in place of coordinates, a few at a time."""
    for start in range(0, len(samples["label"]), VOLUMES):
        part = {name: array[start : start + VOLUMES] for name, array in samples.items()}
        xy, score = (torch.from_numpy(part.pop(name)) for name in ("xy", "score"))
        volume = training.draw(xy, score, size, heatmap, body, dtype=torch.uint8, memory_format=torch.contiguous_format)
        yield {**part, "volume": volume.numpy()}


def volumes(
    table: str,
    config: ClipConfig | None = None,
    heatmap: HeatmapConfig | None = None,
    *,
    split: str | None = None,
    num_clips: int = 1,
    flipped: bool = False,
) -> ray.data.Dataset:
    """Heatmap volumes of a table's clips, as they are tested, for whoever wants volumes and not coordinates.

    Args:
        table: URI.
        config: how clips are sampled and cropped; with `maps="stored"` the pose network's own maps are drawn, which
            `jobs.extract --store heatmaps` keeps, and not the coordinates.
        heatmap: how they are drawn.
        split: split expression; None is every clip.
        num_clips: clips sampled from each row.
        flipped: mirror them.

    Returns:
        Rows: clip_id, label (-1 where there is none), volume (K, C, T, H, W) float32.

    Raises:
        ValueError: no clip in the split; no stored maps, or limbs from them, which are of joints. While iterating: a
            clip without stored maps.
    """
    config, heatmap = config or ClipConfig(), heatmap or HeatmapConfig()
    if config.maps == "stored" and heatmap.kind != "joint":
        raise ValueError(f"stored maps are of joints, got heatmap.kind {heatmap.kind}; draw that from coordinates")
    chosen = index(table, split, need_label=False, need_people=False, maps=config.maps == "stored")
    if not chosen.clips:
        raise ValueError(f"no clip to draw: split {split!r} of {table} has none")
    light, body = _light(chosen), skeleton(chosen.skeleton)

    def draw(group: Group) -> Iterator[Arrays]:
        samples = feed.testing_samples(group, light, config, num_clips=num_clips)
        for i in range(len(samples["label"])):  # one at a time: ten clips of 64 x 64 are 130 MB
            names = {name: samples[name][i : i + 1] for name in ("clip_id", "label")}
            yield {**names, "volume": one({name: array[i] for name, array in samples.items()})[None]}

    def one(sample: Arrays) -> np.ndarray:
        if "volume" in sample:
            volume = sample["volume"] / np.float32(255)
            return volume[:, list(body.mirror), ..., ::-1] if flipped else volume
        xy, score = sample["xy"], sample["score"]
        if flipped:
            xy, score = flip(xy, score, config.test_size, body.mirror)
        points = torch.from_numpy(xy), torch.from_numpy(score)
        layout = torch.contiguous_format
        return training.draw(*points, config.test_size, heatmap, body, memory_format=layout).numpy()

    return _by_group(testing_groups(chosen, piece=group_options(config).get("piece")), draw)
