"""Feed: keypoint table -> fixed-shape batches of sampled, cropped, augmented coordinates, epoch by epoch.

`posec3d.index` says which clips make a group; here they are read, sampled and augmented. One process does one group
after another, or several share them; `pipelines.render` gives the same groups to Ray Data, and both make the same
batches of them.
"""

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from posec3d.clips import RGB_SCALE, ClipConfig, pad_persons, testing_clips, training_clips
from posec3d.index import ALL, Group, Index, Piece, Share, group_options, training_groups
from posec3d.skeletons import skeleton as find_skeleton
from posec3d.streams import testing_people, training_people

if TYPE_CHECKING:
    from posec3d.stored import Heatmaps
    from posec3d.table import Clip

COLUMNS = "clip_id num_frames num_persons height width skeleton label keypoints scores".split()

Arrays = dict[str, np.ndarray]
"""Samples by name: clip_id (N,), label (N,) int64 with -1 for none, and float32 xy (N, ..., M, T, V, 2) and score, or
for graph networks people (N, ..., M, T, V, C); for networks that see RGB also rgb (N, ..., R, H, W, 3) uint8. Of
stored maps volume (N, ..., V, T, H, W) uint8 in place of xy and score."""

Read = Callable[[Piece, Index], "Sequence[Clip]"]


def read(piece: Piece, chosen: Index) -> "list[Clip]":
    """The clip of each of the piece's rows, in their order; a row that is wanted twice is one clip twice."""
    from posec3d import table as tables

    rows, back = np.unique(piece.rows, return_inverse=True)
    file = tables.open_file(piece.file, version=piece.version, cache=chosen.cache)
    columns = [*COLUMNS, *(["keypoints_3d"] if chosen.three_d else [])]
    if chosen.picture_files is not None:  # a clip without pictures is decoded from its video
        columns += ["video", "start_frame", "fps"]
    clips = tables.arrow_to_clips(file.read_row_group(piece.row_group, columns).take(rows))
    converted = [tables.with_skeleton(clip, chosen.skeleton) for clip in clips]
    return [converted[i] for i in back]


def training_samples(
    group: Group, chosen: Index, config: ClipConfig, *, seed: int, epoch: int, read: Read = read
) -> Arrays:
    """Sample, crop and augment the clips of a group; what comes of one depends on (seed, epoch, draw, clip_id) alone.

    Returns:
        `Arrays`, mixed: xy (N, M, T, V, 2) in heatmap pixels of config.size, or people (N, M, T, V, C) in another
        config.space, or volume (N, V, T, H, W) of stored maps; M is config.persons or chosen.persons.
    """
    from posec3d.stored import draw_maps

    clips, heatmaps = _read(group, chosen, config, read)
    draws, pictures = (np.concatenate([getattr(p, name) for p in group.pieces]) for name in ("draws", "pictures"))
    order = np.random.default_rng([seed, epoch, 1, group.number]).permutation(len(clips))
    clips, draws, pictures = [clips[i] for i in order], draws[order], pictures[order]
    rngs = [np.random.default_rng([seed, epoch, draw, _number(c)]) for c, draw in zip(clips, draws, strict=True)]
    persons = config.persons or chosen.persons
    if config.space != "volume":
        people = [training_people(clip, config, persons, rng) for clip, rng in zip(clips, rngs, strict=True)]
        return {**ids_and_labels(clips), "people": np.stack(people)}
    xy, score, places, frames = training_clips(clips, config, find_skeleton(chosen.skeleton).mirror, rngs, persons)
    if config.maps == "stored":
        drawn = [
            draw_maps(clip, heatmaps[clip.clip_id], frames[n], places[n], config.size, persons)
            for n, clip in enumerate(clips)
        ]
        return {**ids_and_labels(clips), "volume": np.stack(drawn)}
    samples = {**ids_and_labels(clips), "xy": xy, "score": score}
    if config.rgb_length:
        side = RGB_SCALE * config.size
        samples["rgb"] = np.empty((len(clips), config.rgb_length, side, side, 3), np.uint8)
        for n, place in enumerate(places * RGB_SCALE):
            samples["rgb"][n] = _rgb(clips[n], pictures[n], chosen, config, place, side, rng=rngs[n])[0]
    return samples


def testing_samples(group: Group, chosen: Index, config: ClipConfig, *, num_clips: int = 1) -> Arrays:
    """The clips of a group as they are tested.

    Returns:
        `Arrays` in the table's order: xy (N, K, M, T, V, 2) in heatmap pixels of config.test_size, or people
        (N, K, M, T, V, C) in another config.space, or volume (N, K, V, T, H, W) of stored maps; K = num_clips, M is
        config.persons or chosen.persons.
    """
    clips, heatmaps = _read(group, chosen, config, read)
    persons = config.persons or chosen.persons
    pictures = np.concatenate([piece.pictures for piece in group.pieces])
    samples = [
        testing_sample(
            clip, config, persons, num_clips, partial(_rgb, clip, where, chosen, config), heatmaps.get(clip.clip_id)
        )
        for clip, where in zip(clips, pictures, strict=True)
    ]
    return {**ids_and_labels(clips), **{name: np.stack([sample[name] for sample in samples]) for name in samples[0]}}


def testing_sample(
    clip: "Clip",
    config: ClipConfig,
    persons: int | None,
    num_clips: int = 1,
    rgb: Callable[..., np.ndarray] | None = None,
    heatmaps: "Heatmaps | None" = None,
) -> Arrays:
    """One clip as it is tested.

    Args:
        clip: of the skeleton that is wanted.
        config: how it is sampled and cropped.
        persons: M of the result; None is the clip's own.
        num_clips: K.
        rgb: what gives its pictures, by the map to them, their side and `num_clips`; None leaves them out.
        heatmaps: its stored maps, where the config wants those.

    Returns:
        Of `Arrays` xy (K, M, T, V, 2) and score, or people (K, M, T, V, C); rgb (K, R, H, W, 3). Of stored maps volume.

    Raises:
        ValueError: stored maps are wanted and not given.
    """
    if config.maps == "stored":
        from posec3d.stored import stored_volumes

        if heatmaps is None:
            raise ValueError(
                "this model looks at the pose network's own heatmaps (clip.maps stored), which only a table of "
                "jobs.extract --store heatmaps has: test it with jobs.evaluate; for new videos train on coordinates"
            )
        return {"volume": stored_volumes(clip, heatmaps, config, num_clips)}
    if config.space != "volume":
        assert persons is not None  # noqa: S101 - no graph network is made without
        return {"people": testing_people(clip, config, persons, num_clips)}
    xy, score, place = testing_clips(clip.keypoints, clip.scores, (clip.height, clip.width), config, num_clips)
    xy, score = (xy, score) if persons is None else pad_persons(xy, score, persons)
    sample = {"xy": xy, "score": score}
    if config.rgb_length and rgb is not None:
        sample["rgb"] = rgb(RGB_SCALE * place, RGB_SCALE * config.test_size, num_clips=num_clips)
    return sample


def _rgb(
    clip: "Clip", where: np.ndarray, chosen: Index, config: ClipConfig, place: np.ndarray, side: int, **options: Any
) -> np.ndarray:
    """What an RGB network sees of a clip, of its pictures where they lie, or without any of its video."""
    from posec3d.frames import read_frames, rgb_clips

    file, row = (int(number) for number in where)
    how = place, side, config.rgb_length
    if file >= 0:
        return rgb_clips(clip, read_frames((chosen.picture_files or ())[file], row), *how, **options)
    try:
        return rgb_clips(clip, None, *how, padding=config.padding, **options)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"clip {clip.clip_id} has no stored frames, and none can be taken from its video ({error}); store frames "
            "with jobs.extract --frames: what fails there is left out here"
        ) from error


def _read(group: Group, chosen: Index, config: ClipConfig, read: Read) -> "tuple[list[Clip], dict[str, Heatmaps]]":
    """The clips of a group, and by clip_id their stored maps if the config wants those."""
    from posec3d.stored import read_heatmaps

    clips: list[Clip] = []
    heatmaps: dict[str, Heatmaps] = {}
    for piece in group.pieces:
        here = read(piece, chosen)
        clips += here
        if config.maps == "stored":
            table, file = piece.file.rsplit("/", 1)
            heatmaps |= read_heatmaps(table, {clip.clip_id for clip in here}, beside=file)
    return clips, heatmaps


def _number(clip: "Clip") -> int:
    return int.from_bytes(hashlib.blake2b(clip.clip_id.encode(), digest_size=8).digest())


def ids_and_labels(clips: "Sequence[Clip]") -> Arrays:
    """What samples say of their clips: clip_id and label, -1 where there is none."""
    labels = [-1 if clip.label is None else clip.label for clip in clips]
    return {"clip_id": np.array([clip.clip_id for clip in clips]), "label": np.array(labels, np.int64)}


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
    processes: int = 0,
    read: Read = read,
) -> Iterator[Arrays]:
    """Batches of a share of an epoch, without Ray; a remainder that fills no batch is dropped.

    Args:
        chosen: the clips, from `index`.
        config: how they are sampled, cropped and augmented.
        size: samples a batch.
        seed: of order and augmentation.
        epoch: 0, 1, ...
        repeat: as for `training_groups`.
        balanced: as for `training_groups`.
        share: as for `training_groups`.
        processes: how many others sample; 0 does it here. The batches are the same.
        read: how the clips of a piece are read.
    """
    groups = training_groups(
        chosen, seed=seed, epoch=epoch, repeat=repeat, balanced=balanced, share=share, **group_options(config)
    )
    samples = _Samples(chosen, config, seed, epoch, read)
    blocks: Iterable[Arrays] = map(samples.__getitem__, groups)
    if processes:
        # A generator of its own: by default each epoch would draw from torch's, on which dropout depends.
        blocks = DataLoader(
            samples,
            batch_size=None,
            sampler=groups,
            num_workers=processes,
            collate_fn=_as_they_are,
            worker_init_fn=_forked,
            generator=torch.Generator(),
        )
    return rebatch(blocks, size, drop_last=True)


@dataclass(frozen=True)
class _Samples(Dataset[Arrays]):
    """Groups -> their samples, as torch's DataLoader wants it."""

    chosen: Index
    config: ClipConfig
    seed: int
    epoch: int
    read: Read

    def __getitem__(self, group: Group) -> Arrays:
        return training_samples(group, self.chosen, self.config, seed=self.seed, epoch=self.epoch, read=self.read)


def _as_they_are(samples: Any) -> Any:
    return samples


def _forked(_: int) -> None:
    # Garbage that came along may be a video's decoder: to free it is to wait for threads that stayed behind.
    gc.freeze()


def rebatch(blocks: Iterable[Mapping[str, np.ndarray]], size: int, *, drop_last: bool) -> Iterator[Arrays]:
    """Blocks of any number of samples -> batches of `size`, and of what remains unless `drop_last`; always copies."""
    waiting: list[Mapping[str, np.ndarray]] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block["label"])
        while held >= size:
            batch, waiting = _take(waiting, size)
            held -= size
            yield batch
    if held and not drop_last:
        yield _take(waiting, held)[0]


def _take(blocks: list[Mapping[str, np.ndarray]], size: int) -> tuple[Arrays, list[Mapping[str, np.ndarray]]]:
    """The first `size` samples of some blocks, and the rest."""
    parts = []
    while size:
        block = blocks[0]
        count = len(block["label"])
        parts.append({name: array[:size] for name, array in block.items()})
        blocks = [{name: array[size:] for name, array in block.items()}, *blocks[1:]] if count > size else blocks[1:]
        size -= min(size, count)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, blocks
