"""Feed: keypoint table -> fixed-shape batches of sampled, cropped, augmented coordinates, epoch by epoch.

An epoch is planned from the table's small columns alone: which row is drawn how often, in an order of the seed. Its
unit of work is a group, some pieces of row groups from all over the table, read, sampled and mixed together; what is
in memory does not grow with the table. Here one process does one group after another, or several share them;
`pipelines.render` gives the same groups to Ray Data, and both make the same batches of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from posec3d.clips import RGB_SCALE, ClipConfig, pad_persons, testing_clips, training_clips
from posec3d.skeletons import skeleton as find_skeleton
from posec3d.streams import testing_people, training_people

if TYPE_CHECKING:
    from posec3d.stored import Heatmaps
    from posec3d.table import Clip

COLUMNS = "clip_id num_frames num_persons height width skeleton label keypoints scores".split()

PIECE = 16
"""Samples of a piece, at most: all of one row group, which is decoded for them."""

GROUP = 2048
"""Samples of a group, about: a table sorted by class still gives mixed batches, and a group of two people is 40 MB."""


def group_options(config: ClipConfig) -> dict[str, int]:
    """Arguments of `training_groups` for these clips: pictures and volumes of a sample are 0.1 to 3 MB, not 20 KB."""
    if config.maps == "stored":
        return {"piece": 8, "size": 32}
    if not config.rgb_length:
        return {}
    sample = config.rgb_length * (RGB_SCALE * config.size) ** 2 * 3
    return {"piece": 4, "size": min(128, max(32, 2**25 // sample))}


def index_options(config: ClipConfig) -> dict[str, Any]:
    """Arguments of `index` for these clips: what of a table they are made from."""
    from posec3d.frames import PADDING

    rgb = config.rgb_length > 0
    wide = config.padding is None or config.padding > PADDING
    return {
        "three_d": config.space == "body",
        "rgb": rgb,
        "whole": rgb and wide,
        "maps": config.maps == "stored",
    }


Arrays = dict[str, np.ndarray]
"""Samples by name: clip_id (N,), label (N,) int64 with -1 for none, and float32 xy (N, ..., M, T, V, 2) and score, or
for graph networks people (N, ..., M, T, V, C); for networks that see RGB also rgb (N, ..., R, H, W, 3) uint8. Of
stored maps volume (N, ..., V, T, H, W) uint8 in place of xy and score."""


@dataclass(frozen=True, eq=False)
class Unit:
    """The chosen rows of one row group of the table."""

    file: str
    version: str
    """Of the file's content, where copies of it are kept."""
    row_group: int
    rows: np.ndarray
    """Numbers of the rows within the row group."""
    labels: np.ndarray
    """Of those rows; -1 where there is none."""
    pictures: np.ndarray
    """(rows, 2) where their RGB frames lie: number of the file, row there; -1 where there are none."""


@dataclass(frozen=True, eq=False)
class Index:
    """The chosen clips of a table: where they lie, and how many people they hold at most."""

    units: Sequence[Unit]
    persons: int
    skeleton: str
    """The name of that whose joints the clips are given with."""
    skipped: int
    """Clips of the split left out: nobody in them, or (in training) no label."""
    blind: int = 0
    """Others left out because RGB frames are wanted: neither stored ones nor a video to take them from."""
    three_d: bool = False
    """Whether they come with keypoints_3d."""
    picture_files: Sequence[str] | None = None
    """Files of RGB frames beside the table; None if no frames are wanted."""
    cache: int = 0
    """Bytes of this machine's disk that copies of the table's files may take; 0: they are read where they lie."""

    @property
    def clips(self) -> int:
        """How many were chosen."""
        return sum(len(unit.rows) for unit in self.units)


def index(
    table: str,
    split: str | None = None,
    *,
    need_label: bool = True,
    need_people: bool = True,
    skeleton: str | None = None,
    three_d: bool = False,
    rgb: bool = False,
    whole: bool = False,
    maps: bool = False,
    cache_gb: float = 0,
) -> Index:
    """Choose the clips of a split, from the small columns alone.

    Args:
        table: URI.
        split: split expression; None is every clip.
        need_label: leave out clips without a label.
        need_people: leave out clips without people.
        skeleton: give all clips the joints of this one, as `posec3d.skeletons.convert` does; None is the table's own.
        three_d: read keypoints_3d too.
        rgb: find the clips' RGB frames too, and leave out clips that have none and no video to take them from.
        whole: see that stored frames show all of the frame, as clips need it without a crop or with a wide one.
        maps: see that there are stored heatmaps, of that skeleton's joints.
        cache_gb: disk that each machine may spend on copies of the files of a remote table, so that later epochs do
            not fetch them again; a larger table is read where it lies.

    Raises:
        FileNotFoundError: no table there.
        ValueError: no `skeleton` is given, and the table has several; frames that are not `whole`; no stored heatmaps
            where they are wanted.
    """
    from posec3d import frames, stored
    from posec3d import table as tables
    from posec3d.storage import content_version, is_local

    limit = int(cache_gb * 1e9)
    cache = limit if limit and not is_local(table) and tables.size(table) <= limit else 0
    units, persons, skipped, blind, skeletons = [], 1, 0, 0, set()
    picture_files, places = frames.locate(table) if rgb else (None, {})
    failed = frames.failed(table) if rgb else set()
    sizes: dict[str, tuple[int, int]] = {}
    for file in tables.require_table(table):
        version = content_version(file) if cache else ""
        parquet = tables.open_file(file, version=version, cache=cache)
        more = ["clip_id", "video"] * rgb + ["width", "height"] * (rgb and whole)
        columns = parquet.read(["label", "splits", "num_persons", "skeleton", *more])
        label = columns["label"].fill_null(-1).to_numpy()
        crowd = columns["num_persons"].to_numpy()
        skeletons |= set(columns["skeleton"].unique().to_pylist())
        inside = np.array([tables.in_split(splits or (), split) for splits in columns["splits"].to_pylist()], bool)
        chosen = inside & ~((need_label & (label < 0)) | (need_people & (crowd == 0)))
        skipped += int((inside & ~chosen).sum())
        pictures = np.full((columns.num_rows, 2), -1, np.int32)
        if rgb:
            ids, videos = columns["clip_id"].to_pylist(), columns["video"].to_pylist()
            pictures[:] = [places.get(clip_id, (-1, -1)) for clip_id in ids]
            bare = {ids[i]: videos[i] or "" for i in np.flatnonzero(chosen & (pictures[:, 0] < 0))}
            unseen = (failed & bare.keys()) | frames.without_video(bare)
            chosen &= np.array([clip_id not in unseen for clip_id in ids], bool)
            blind += len(unseen)
            if whole:
                size = list(zip(columns["width"].to_pylist(), columns["height"].to_pylist(), strict=True))
                sizes |= {ids[i]: size[i] for i in np.flatnonzero(chosen)}
        first = 0
        for group in range(parquet.num_row_groups):
            last = first + parquet.metadata.row_group(group).num_rows
            rows = np.flatnonzero(chosen[first:last])
            if len(rows):
                persons = max(persons, int(crowd[first + rows].max()))
                units.append(Unit(file, version, group, rows, label[first + rows], pictures[first + rows]))
            first = last
    if whole and (partial := frames.partial(picture_files or (), sizes)):
        raise ValueError(
            f"the pictures of {partial} clips in {frames.frames_uri(table)} show a part of the frame, and clip.padding "
            f"None, or above {frames.PADDING}, wants more: remove them and make others with jobs.extract --frames whole"
        )
    if skeleton is None:
        if len(skeletons) > 1:
            raise ValueError(
                f"{table} mixes skeletons {', '.join(sorted(skeletons))}; give the skeleton to take them all as"
            )
        (skeleton,) = skeletons
    if maps and not tables.data_files(stored.heatmaps_uri(table)):
        raise ValueError(
            f"{table} has no stored heatmaps, which clip.maps stored wants; extract it anew with --store heatmaps"
        )
    if maps and skeletons != {skeleton}:
        raise ValueError(f"stored heatmaps have the joints of {', '.join(sorted(skeletons))}, not those of {skeleton}")
    return Index(tuple(units), persons, find_skeleton(skeleton).name, skipped, blind, three_d, picture_files, cache)


@dataclass(frozen=True, eq=False)
class Piece:
    """Samples of one row group: which rows, which draw of each, and where its RGB frames lie."""

    file: str
    version: str
    row_group: int
    rows: np.ndarray
    draws: np.ndarray
    pictures: np.ndarray

    def __getitem__(self, part: Any) -> "Piece":
        """Some of the samples."""
        return replace(self, rows=self.rows[part], draws=self.draws[part], pictures=self.pictures[part])


@dataclass(frozen=True, eq=False)
class Group:
    """Pieces that are read, sampled and mixed together."""

    number: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Share:
    """One of `world` equal shares of an epoch."""

    rank: int = 0
    world: int = 1


ALL = Share()


def training_groups(
    chosen: Index,
    *,
    seed: int,
    epoch: int,
    repeat: int = 1,
    balanced: bool = False,
    share: Share = ALL,
    piece: int | None = None,
    size: int | None = None,
) -> list[Group]:
    """Plan a share of an epoch: clips * repeat // world samples, the same number in every share.

    Args:
        chosen: the clips.
        seed: of the order, with `epoch`.
        epoch: 0, 1, ...
        repeat: how often each clip is drawn, each time anew.
        balanced: draw every class equally often instead; which clips of a class make up the difference changes from
            epoch to epoch.
        share: which one; together they are the epoch, but for a remainder.
        piece: samples of a piece; by default `PIECE`.
        size: samples of a group; by default `GROUP`.

    Raises:
        ValueError: there is no clip.
    """
    if not chosen.clips:
        raise ValueError("no clip to train on: the split has none with a label and people in this table")
    piece, size = piece or PIECE, size or GROUP
    rng = np.random.default_rng([seed, epoch])
    times = np.full(chosen.clips, repeat)
    if balanced:
        times = _balanced(np.concatenate([unit.labels for unit in chosen.units]), chosen.clips * repeat, rng)
    pieces, first = [], 0
    for unit in chosen.units:
        often = times[first : first + len(unit.rows)]
        first += len(unit.rows)
        rows, pictures = np.repeat(unit.rows, often), np.repeat(unit.pictures, often, 0)
        draws = np.arange(len(rows)) - np.repeat(np.cumsum(often) - often, often)
        whole = Piece(unit.file, unit.version, unit.row_group, rows, draws, pictures)
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), piece):
            pieces.append(whole[order[start : start + piece]])
    pieces = [pieces[i] for i in rng.permutation(len(pieces))]
    each = int(times.sum()) // share.world
    return _groups(_slice(pieces, share.rank * each, (share.rank + 1) * each), size)


def _balanced(labels: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """How often each clip is drawn so that `total` samples are shared equally by the classes, each by its clips."""
    times = np.zeros(len(labels), np.int64)
    classes = rng.permutation(np.unique(labels))
    for label, wanted in zip(classes, _equal(total, len(classes)), strict=True):
        clips = rng.permutation(np.flatnonzero(labels == label))
        times[clips] = _equal(wanted, len(clips))
    return times


def _equal(total: int, parts: int) -> np.ndarray:
    """Share out `total` as equally as whole numbers can, the larger parts first."""
    return total // parts + (np.arange(parts) < total % parts)


def testing_groups(chosen: Index, share: Share = ALL, *, piece: int | None = None) -> list[Group]:
    """Plan a share of a test: each clip once, in the table's order; the shares differ by a clip at most.

    Args:
        chosen: the clips.
        share: which one.
        piece: clips of a group at most; by default those of a row group.
    """
    pieces = []
    for unit in chosen.units:
        draws = np.zeros(len(unit.rows), int)
        whole = Piece(unit.file, unit.version, unit.row_group, unit.rows, draws, unit.pictures)
        each = piece or len(unit.rows)
        pieces += [whole[start : start + each] for start in range(0, len(unit.rows), each)]
    first, last = (chosen.clips * rank // share.world for rank in (share.rank, share.rank + 1))
    return _groups(_slice(pieces, first, last), 1)


def _slice(pieces: Iterable[Piece], first: int, last: int) -> Iterator[Piece]:
    """Samples first .. last - 1 of those of all the pieces."""
    for piece in pieces:
        part = slice(max(first, 0), max(last, 0))
        first, last = first - len(piece.rows), last - len(piece.rows)
        if len(piece.rows[part]):
            yield piece[part]


def _groups(pieces: Iterable[Piece], size: int) -> list[Group]:
    """Pieces together until they hold `size` samples."""
    groups: list[Group] = []
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if sum(len(part.rows) for part in held) >= size:
            groups.append(Group(len(groups), _merged(held)))
            held = []
    return [*groups, Group(len(groups), _merged(held))] if held else groups


def _merged(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Pieces of one row group as one, so that a group reads it once."""
    of: dict[tuple[str, str, int], list[Piece]] = {}
    for piece in pieces:
        of.setdefault((piece.file, piece.version, piece.row_group), []).append(piece)
    return tuple(
        Piece(
            *unit, *(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "draws", "pictures"))
        )
        for unit, parts in of.items()
    )


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


def testing_samples(
    group: Group, chosen: Index, config: ClipConfig, *, num_clips: int = 1, read: Read = read
) -> Arrays:
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
