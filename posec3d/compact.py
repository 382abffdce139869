"""Compaction: keypoint tables -> what is wrong in them, and one table of few, whole files.

A table is read a row group at a time, and of a clip 21 bytes are kept: digests of its id and its content, its size,
and whether a merge takes it. Threads read ahead: an object store takes its time to answer for many small files.
"""

import hashlib
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import fsspec
import numpy as np
import pyarrow as pa

from posec3d import table as tables
from posec3d.skeletons import SKELETONS
from posec3d.storage import remove
from posec3d.table import FAILURES, SCHEMA, UNITS_PER_PIXEL, VERSION_KEY

EXAMPLES = 3  # of each kind of problem
AHEAD = 16  # row groups that wait to be looked at
HELD_BYTES = 2**28  # of rows that wait: long clips of many people are megabytes each
ID_BYTES = 12  # two of 10^9 clips share a digest with a chance of 10^-11
FAR = 4  # longer sides of the frame that a point may lie outside it; estimators stay well within one

ARRAYS = ("keypoints", "scores", "keypoints_3d", "boxes")
REQUIRED = "clip_id start_frame num_frames fps height width skeleton num_persons keypoints scores".split()
BROKEN = (OSError, ValueError, pa.ArrowException)  # what damaged Parquet raises
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Kind:
    """A kind of problem: a merge leaves out what has it, or mends it, or it is no fault of the table at all."""

    name: str
    weight: Literal["left out", "mended", "no fault"]
    remedy: str


LEAVE = "--out leaves these rows out; jobs.extract into the new table makes them again"
UNREADABLE = Kind(
    "unreadable files and row groups",
    "left out",
    "restore the file from a copy, or move it away and run jobs.extract again: it makes what is missing",
)
OTHER = Kind("files of another kind", "left out", "move them out of the table; of a newer version: update posec3d")
MISSING = Kind("rows with missing values", "left out", LEAVE)
SKELETON = Kind("rows with an unknown skeleton", "left out", LEAVE)
LENGTHS = Kind("rows with wrong lengths", "left out", LEAVE)
ABSURD = Kind("rows with absurd values", "left out", LEAVE)
IDENTICAL = Kind("identical duplicates", "mended", "--out keeps the first")
CONFLICTING = Kind("conflicting duplicates", "mended", "--out keeps the first: name the table to be trusted first")
LABELS = Kind("labels that disagree", "mended", "--out numbers all labels anew, by sorted name")
PARTS = Kind("stray .part files", "mended", "a killed write left them: delete them while no job writes to the table")
OUTDATED = Kind("outdated failures", "no fault", "none needed: the clip has a row by now; --out leaves them out")
FAILED = Kind("failed clips", "no fault", "jobs.extract tries them again, by three runs at most")
KINDS = (
    *(UNREADABLE, OTHER, MISSING, SKELETON, LENGTHS, ABSURD),
    *(IDENTICAL, CONFLICTING, LABELS, PARTS, OUTDATED, FAILED),
)


@dataclass
class Problems:
    """How often each kind was met, and its first few places."""

    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    examples: dict[Kind, list[dict[str, str]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: Kind, file: str, what: str = "", clip_id: str | None = None) -> None:
        """Count one and remember it if it is among the first."""
        self.counts[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append({"file": file, "clip_id": clip_id or "", "what": what})

    @property
    def total(self) -> int:
        """All that were met."""
        return sum(self.counts.values())

    def left(self, *, merged: bool) -> bool:
        """Whether a table has problems, or has any left once it was `merged`."""
        serious = ("left out",) if merged else ("left out", "mended")
        return any(count for kind, count in self.counts.items() if kind.weight in serious)

    def listed(self) -> list[dict[str, Any]]:
        """The kinds that were met, for JSON: kind, count, remedy, examples (file, clip_id, what)."""
        return [
            {"kind": kind.name, "count": count, "remedy": kind.remedy, "examples": self.examples[kind]}
            for kind, count in self.counts.items()
            if count
        ]


@dataclass(frozen=True)
class RowGroup:
    """What is read at a time; `start` is the number of its first row among the rows of all tables."""

    file: str
    number: int
    start: int
    rows: int
    bytes: int


@dataclass
class Files:
    """What lies in some tables: data files in the order of the tables, and the latest failure row of each clip."""

    count: int = 0
    bytes: int = 0
    rows: int = 0
    groups: list[RowGroup] = field(default_factory=list)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By clip_id: a row of `FAILURES` and its "file"."""
    problems: Problems = field(default_factory=Problems)


def find(uris: Iterable[str]) -> Files:
    """List tables and read the footers of their files; a file that cannot be read becomes a problem.

    Raises:
        FileNotFoundError: one of them holds no data file.
    """
    found = Files()
    for uri in uris:
        files = tables.require_table(uri)
        for file, (size, groups) in zip(files, _ahead(_footer, files), strict=True):
            found.count += 1
            found.bytes += size
            if isinstance(groups, Exception):
                # Arrow's own errors are ValueErrors too.
                other = type(groups) is ValueError
                found.problems.add(OTHER if other else UNREADABLE, file, _text(groups, file))
                continue
            for number, (rows, held) in enumerate(groups):
                found.groups.append(RowGroup(file, number, found.rows, rows, held))
                found.rows += rows
        for file in _parts(uri):
            found.problems.add(PARTS, file)
        _add_failures(found, uri)
    return found


def _footer(file: str) -> tuple[int, list[tuple[int, int]] | Exception]:
    """Size in bytes, and rows and bytes of each row group, or what is wrong with the file."""
    fs, path = fsspec.url_to_fs(file)
    size = fs.size(path)
    try:
        footer = tables.open_file(file)
        given = {f.name: f.type for f in footer.schema_arrow}
        wanted = {f.name: f.type for f in SCHEMA}
        if given != wanted:
            names = sorted(name for name in {*given, *wanted} if given.get(name) != wanted.get(name))
            raise ValueError(f"missing, unknown or of another type: {', '.join(names)}")
        groups = (footer.metadata.row_group(i) for i in range(footer.num_row_groups))
        return size, [(group.num_rows, group.total_byte_size) for group in groups]
    except BROKEN as error:
        return size, error


def _parts(uri: str) -> list[str]:
    """Files that a killed write left in a table and its failures."""
    fs, root = fsspec.url_to_fs(uri)
    folders = [folder for folder in (root, f"{root}/_failures") if fs.exists(folder)]
    names = [name for folder in folders for name in fs.ls(folder, detail=False)]
    return sorted(fs.unstrip_protocol(name) for name in names if name.endswith(".part"))


def _add_failures(found: Files, uri: str) -> None:
    for file in tables.data_files(tables.failures_uri(uri)):
        try:
            rows = tables.open_parquet(file).read().select(FAILURES.names).cast(FAILURES)
            rows.validate(full=True)
            if rows["clip_id"].null_count or rows["time"].null_count:
                raise ValueError("a failure without clip_id or time")
        except (*BROKEN, KeyError) as error:
            found.problems.add(UNREADABLE, file, _text(error, file))
            continue
        for row in rows.to_pylist():
            known = found.failures.get(row["clip_id"])
            if known is None or row["time"] >= known["time"]:
                found.failures[row["clip_id"]] = {**row, "file": file}


def _text(error: Exception, file: str) -> str:
    return (str(error) or type(error).__name__).removeprefix(f"{file}: ").split("\n")[0]


def _ahead(read: Callable[[A], B], items: Iterable[A], size: Callable[[A], int] = lambda item: 0) -> Iterator[B]:
    """What `read` returns for each item, in order; a few are read while one is in use, of `HELD_BYTES` at most."""
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[tuple[Future[B], int]] = deque()
        held = 0
        for item in items:
            while waiting and (len(waiting) > AHEAD or held + size(item) > HELD_BYTES):
                done, bytes_ = waiting.popleft()
                held -= bytes_
                yield done.result()
            held += size(item)
            waiting.append((pool.submit(read, item), size(item)))
        while waiting:
            yield waiting.popleft()[0].result()


def _bytes(group: RowGroup) -> int:
    return group.bytes


def _read(group: RowGroup) -> pa.Table | Exception:
    try:
        table = tables.open_file(group.file).read_row_group(group.number)
        table.validate(full=True)
        if table.num_rows != group.rows:
            raise ValueError(f"{table.num_rows} rows, wanted {group.rows}")
        return table
    except BROKEN as error:
        return error


@dataclass(frozen=True)
class Check:
    """What the rows of all tables came to."""

    keep: np.ndarray
    """bool (rows,): nothing is wrong with the row and its clip_id is new."""
    ids: np.ndarray
    """S12 (rows,): digest of the clip_id, for rows with which nothing is wrong."""
    labels: dict[str, int]
    """Name -> number in a merged table."""
    renumber: bool
    """Whether they are not the numbers that the rows have."""
    failures: list[dict[str, Any]]
    """Rows of `FAILURES` of the clips without a row."""
    keypoints: np.ndarray
    """uint32 (rows,): M * T * V of each row with which nothing is wrong."""
    good: int
    """Rows with which nothing is wrong, duplicates among them."""


def check(found: Files, on_progress: Callable[[int], None] = lambda rows: None) -> Check:
    """Look at every row of some tables.

    Args:
        found: the tables, from `find`; the rows' problems are added to its problems.
        on_progress: called with the number of rows looked at.
    """
    problems = found.problems
    ids, contents = np.zeros(found.rows, f"S{ID_BYTES}"), np.zeros(found.rows, np.uint32)
    keep, keypoints = np.zeros(found.rows, bool), np.zeros(found.rows, np.uint32)
    labels: dict[tuple[int | None, str], tuple[str, str]] = {}  # (number, name) -> (file, clip_id) that has it first
    succeeded: set[str] = set()
    for group, table in zip(found.groups, _ahead(_read, found.groups, _bytes), strict=True):
        on_progress(group.start)
        if isinstance(table, Exception):
            what = f"row group {group.number} of {group.rows} rows: {_text(table, group.file)}"
            problems.add(UNREADABLE, group.file, what)
            continue
        for number, row in enumerate(_rows(table), group.start):
            fault = wrong(row)
            if fault is not None:
                problems.add(fault[0], group.file, fault[1], row["clip_id"])
                continue
            name = _label_name(row["label"], row["label_name"])
            keep[number] = True
            ids[number] = _id(row["clip_id"])
            contents[number] = _content(row, name)
            keypoints[number] = len(row["scores"])
            if name is not None:
                labels.setdefault((row["label"], name), (group.file, row["clip_id"]))
            # A video that could not be cut once is cut by now; pieces that failed have failures of their own.
            succeeded |= found.failures.keys() & {row["clip_id"], tables.base_and_count(row["clip_id"])[0]}
    on_progress(found.rows)

    good = int(keep.sum())
    for number, first in _again(ids, keep):
        keep[number] = False
        kind = IDENTICAL if contents[number] == contents[first] else CONFLICTING
        if problems.counts[kind] < EXAMPLES:
            file, clip_id = _place(found.groups, number)
            problems.add(kind, file, f"also in {_place(found.groups, first)[0]}", clip_id)
        else:
            problems.add(kind, "")
    for clip_id, row in found.failures.items():
        what = f"{row['stage']}: {row['error']}"
        problems.add(OUTDATED if clip_id in succeeded else FAILED, row["file"], what, clip_id)
    numbers, renumber = _agree(labels, problems)
    return Check(
        keep=keep,
        ids=ids,
        labels=numbers,
        renumber=renumber,
        failures=[
            {name: row[name] for name in FAILURES.names} for i, row in found.failures.items() if i not in succeeded
        ],
        keypoints=keypoints,
        good=good,
    )


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows of a table with all columns of `SCHEMA`; `ARRAYS` as flat arrays, as they are stored."""
    columns = {name: table[name].combine_chunks() for name in ARRAYS}
    for i, row in enumerate(table.drop_columns(list(ARRAYS)).to_pylist()):
        for name, column in columns.items():
            cell = column[i]
            row[name] = cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None
        yield row


def wrong(row: Mapping[str, Any]) -> tuple[Kind, str] | None:
    """What makes a stored row unusable: a kind, and got and wanted; None if nothing does.

    Args:
        row: a value for every column of `SCHEMA`; the arrays flat, as they are stored.
    """
    missing = [name for name in REQUIRED if row[name] is None or (name == "clip_id" and not row[name])]
    if missing:
        return MISSING, f"no {', '.join(missing)}"
    if row["skeleton"] not in SKELETONS:
        return SKELETON, f"{row['skeleton']!r}, known: {', '.join(sorted(SKELETONS))}"
    least = {"num_frames": 1, "height": 1, "width": 1, "num_persons": 0, "start_frame": 0, "fps": 0, "label": 0}
    for name, limit in least.items():
        if row[name] is not None and not limit <= row[name] < np.inf:
            return ABSURD, f"{name} {row[name]}, wanted at least {limit}"
    m, t, v = row["num_persons"], row["num_frames"], len(SKELETONS[row["skeleton"]].joints)
    wanted = {"keypoints": m * t * v * 2, "scores": m * t * v, "keypoints_3d": m * t * v * 3, "boxes": m * t * 4}
    for name, length in wanted.items():
        if row[name] is not None and len(row[name]) != length:
            return LENGTHS, f"{len(row[name])} {name}, wanted {length} (M={m}, T={t}, V={v})"
    for name in wanted:
        # An integer that is null comes as NaN.
        if row[name] is not None and row[name].dtype.kind == "f" and not np.isfinite(row[name]).all():
            return ABSURD, f"{name} not finite"
    x, y = row["keypoints"].reshape(-1, 2)[row["scores"] > 0].T
    margin = FAR * max(row["height"], row["width"])
    for name, values, side in (("x", x, row["width"]), ("y", y, row["height"])):
        if len(values):
            low, high = int(values.min()), int(values.max())
            stored = np.iinfo(np.int16)  # a point at a limit was cut off there
            least, most = -margin * UNITS_PER_PIXEL, (side + margin) * UNITS_PER_PIXEL
            if low <= max(least, stored.min) or high >= min(most, stored.max):
                what = f"{name} {low / UNITS_PER_PIXEL:g} .. {high / UNITS_PER_PIXEL:g}"
                return ABSURD, f"{what} in a frame of {row['width']} x {row['height']}"
    return None


def _id(clip_id: str) -> bytes:
    return hashlib.blake2b(clip_id.encode(), digest_size=ID_BYTES).digest()


def _content(row: Mapping[str, Any], name: str | None) -> int:
    """A digest of all that a row says; of its label the name, for numbers differ between tables."""
    plain = {key: value for key, value in row.items() if key not in (*ARRAYS, "label", "label_name", "splits")}
    splits = sorted(row["splits"] or ())
    digest = hashlib.blake2b(repr((plain, name, splits)).encode(), digest_size=4)
    for key in ARRAYS:
        if row[key] is not None:
            digest.update(key.encode())
            digest.update(row[key])
    return int.from_bytes(digest.digest(), "little")


def _again(ids: np.ndarray, good: np.ndarray) -> Iterator[tuple[int, int]]:
    """(row, first row with its id) of each good row whose id came before."""
    head = ids.view(np.uint8)[::ID_BYTES]
    for part in range(256):  # a part at a time: sorting all needs as much memory as they do
        rows = np.flatnonzero((head == part) & good)
        rows = rows[np.argsort(ids[rows], kind="stable")]
        first = -1
        for i in np.flatnonzero(ids[rows[1:]] == ids[rows[:-1]]):
            if first < 0 or ids[first] != ids[rows[i]]:
                first = int(rows[i])
            yield int(rows[i + 1]), first


def _place(groups: list[RowGroup], row: int) -> tuple[str, str]:
    """File and clip_id of a row."""
    group = groups[bisect_right(groups, row, key=lambda g: g.start) - 1]
    names = tables.open_file(group.file).read_row_group(group.number, columns=["clip_id"])["clip_id"]
    return group.file, names[row - group.start].as_py()


def _label_name(label: int | None, name: str | None) -> str | None:
    return name or (None if label is None else str(label))


def _agree(labels: Mapping[tuple[int | None, str], tuple[str, str]], problems: Problems) -> tuple[dict[str, int], bool]:
    """Numbers of all label names, and whether they are new ones because the given ones are not one to one."""
    names, numbers = defaultdict(set), defaultdict(set)
    for number, name in labels:
        names[number].add(name)
        numbers[name].add(number)
    disagree = [(i, n) for i, n in labels if i is None or len(names[i]) > 1 or len(numbers[n]) > 1]
    for number, name in sorted(disagree, key=lambda pair: (pair[0] is None, pair)):
        file, clip_id = labels[number, name]
        problems.add(LABELS, file, f"label {number} is {name!r}", clip_id)
    if disagree:
        return {name: i for i, name in enumerate(sorted(numbers))}, True
    return {name: number for number, name in labels if number is not None}, False


def merge(
    found: Files,
    checked: Check,
    out: str,
    *,
    rows_per_file: int = 512,
    on_progress: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write the rows that `check` keeps, and the failures, as one table.

    Rows that are in `out` already are not written again, so that a merge which was killed goes on where it stopped.
    Nobody else may write to `out` meanwhile.

    Args:
        found: the tables, from `find`.
        checked: what `check` made of them.
        out: URI of the table to write, none of those that are read.
        rows_per_file: rows of each file but the last; `HELD_BYTES`, or a table whose schema carries notes of its own,
            end a file before.
        on_progress: called with the number of rows of `found` that are dealt with.

    Raises:
        OSError: a row group could be read by `check` and cannot be read now.
    """
    for file in _parts(out):
        remove(file)
    there = _stored_ids(out)
    keep = checked.keep.copy()
    for group in found.groups:  # a row group at a time: np.isin needs several times the memory of the ids
        rows = slice(group.start, group.start + group.rows)
        keep[rows] &= ~_among(checked.ids[rows], there)
    groups = [group for group in found.groups if keep[group.start : group.start + group.rows].any()]
    waiting: list[pa.Table] = []
    for group, table in zip(groups, _ahead(_read, groups, _bytes), strict=True):
        if isinstance(table, Exception):
            raise OSError(
                f"{group.file}: readable at first and now not ({_text(table, group.file)}); give the command again"
            )
        on_progress(group.start)
        notes = {key: value for key, value in (table.schema.metadata or {}).items() if key != VERSION_KEY}
        if checked.renumber:
            table = _renumber(table, checked.labels)
        table = table.filter(pa.array(keep[group.start : group.start + group.rows])).select(SCHEMA.names)
        table = table.cast(SCHEMA.with_metadata({**notes, **SCHEMA.metadata}))
        if waiting and waiting[0].schema.metadata != table.schema.metadata:
            tables.write_file(pa.concat_tables(waiting), out)
            waiting = []
        waiting.append(table)
        while sum(t.num_rows for t in waiting) >= rows_per_file:
            rows = pa.concat_tables(waiting)
            tables.write_file(rows.slice(0, rows_per_file), out)
            waiting = [rows.slice(rows_per_file)] if rows.num_rows > rows_per_file else []
        if sum(t.nbytes for t in waiting) >= HELD_BYTES:
            tables.write_file(pa.concat_tables(waiting), out)
            waiting = []
    if waiting:
        tables.write_file(pa.concat_tables(waiting), out)
    on_progress(found.rows)
    if checked.failures and tables.read_failures(out) != {row["clip_id"]: row for row in checked.failures}:
        tables.write_file(pa.Table.from_pylist(checked.failures, FAILURES), tables.failures_uri(out))


def _stored_ids(uri: str) -> np.ndarray:
    """Sorted digests of the clip_ids of a table, none where there is no table."""
    groups = tables.read_row_groups(uri, ["clip_id"]) if tables.data_files(uri) else iter(())
    digests = b"".join(_id(name) for group in groups for name in group["clip_id"].to_pylist())
    return np.sort(np.frombuffer(digests, f"S{ID_BYTES}"))


def _among(ids: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Which ids are among the sorted `stored` ones."""
    if not len(stored):
        return np.zeros(len(ids), bool)
    return stored[np.searchsorted(stored, ids).clip(max=len(stored) - 1)] == ids


def _renumber(table: pa.Table, labels: Mapping[str, int]) -> pa.Table:
    given = zip(table["label"].to_pylist(), table["label_name"].to_pylist(), strict=True)
    names = [_label_name(label, name) for label, name in given]
    numbers = [None if name is None else labels[name] for name in names]
    for name, values in (("label", numbers), ("label_name", names)):
        index, kind = table.column_names.index(name), SCHEMA.field(name)
        table = table.set_column(index, kind, pa.array(values, kind.type))
    return table
