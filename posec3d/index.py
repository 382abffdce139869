"""Index: which clips of a table an epoch reads, how often and in what order, from the table's small columns alone.

The unit of work is a group, some pieces of row groups from all over the table, read, sampled and mixed together, in an
order of the seed; what is in memory does not grow with the table. `posec3d.feed` makes samples of groups.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posec3d.clips import RGB_SCALE, ClipConfig
from posec3d.skeletons import skeleton as find_skeleton

PIECE = 16
"""Samples of a piece, at most: all of one row group, which is decoded for them."""

GROUP = 2048
"""Samples of a group, about: a table sorted by class still gives mixed batches, and a group of two people is 40 MB."""

CROWD = 10
"""People of a sample, from which on groups are smaller; extraction keeps so many."""


def group_options(config: ClipConfig) -> dict[str, int]:
    """Arguments of `training_groups` for these clips: pictures and volumes of a sample are 0.1 to 3 MB, not 20 KB."""
    if config.maps == "stored":
        return {"piece": 8, "size": 32}
    if not config.rgb_length:
        return {"persons": config.persons} if config.persons else {}
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
    """One of `world` shares of an epoch."""

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
    persons: int | None = None,
    batch: int | None = None,
) -> list[Group]:
    """Plan a share of an epoch: clips * repeat // world samples, the same number in every share, or as `batch` says.

    Args:
        chosen: the clips.
        seed: of the order, with `epoch`.
        epoch: 0, 1, ...
        repeat: how often each clip is drawn, each time anew.
        balanced: draw every class equally often instead; which clips of a class make up the difference changes from
            epoch to epoch.
        share: which one; together they are the epoch, but for a remainder.
        piece: samples of a piece; by default `PIECE`.
        size: samples of a group; by default `GROUP`, or less in a `CROWD`.
        persons: people of a sample; by default those of the most crowded clip, to which all are padded.
        batch: samples of a step of all shares together: of the epoch's whole steps share r takes batch * (r + 1) //
            world - batch * r // world samples each, also where that is not the same number for all.

    Raises:
        ValueError: there is no clip.
    """
    if not chosen.clips:
        raise ValueError("no clip to train on: the split has none with a label and people in this table")
    piece = piece or PIECE
    size = size or max(piece, GROUP * CROWD // max(CROWD, persons or chosen.persons))
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
    total, ends = int(times.sum()), (share.rank, share.rank + 1)
    if batch:
        first, last = (total // batch * (batch * end // share.world) for end in ends)
    else:
        first, last = (total // share.world * end for end in ends)
    return _groups(_slice(pieces, first, last), size)


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
