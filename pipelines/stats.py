"""Statistics: keypoint table -> one dictionary of numbers, for the report and for people's own plots.

Each data file is one unit of work for Ray Data and becomes a `Counts`; these are added up in the task, then on the
driver. A task holds one row group at a time; the driver holds some 300 bytes of each clip and never sees a keypoint.
"""

import datetime
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from posec3d import table as tables
from posec3d.comparison import Differences
from posec3d.comparison import summarise as differences
from posec3d.counts import CLIP, Counts, count_file
from posec3d.frames import STAGE
from posec3d.statistics import QUALITY, summarise
from posec3d.table import Clip

EXAMPLES = 3  # of each cause of failure
BLOCKS = 200  # units of work at most
COMPARE = 20_000  # clips compared at most
PLACE = pa.schema([("clip_id", pa.string()), ("file", pa.string()), ("row_group", pa.int32())])
WHERE = PLACE.names


def in_tasks(function: Callable[..., Any], rows: list[Any]) -> Iterator[tuple[int, Any]]:
    """Run a function over parts of `rows` in Ray Data's tasks.

    Args:
        function: takes a list of rows.
        rows: what the tasks need to know of their work.

    Yields:
        How many rows a task took, and what the function made of them, as tasks end.
    """

    def task(batch: pa.Table) -> pa.Table:
        mine = [pickle.loads(row) for row in batch["row"].to_pylist()]  # noqa: S301 - made below
        return pa.table({"rows": [len(mine)], "made": [pickle.dumps(function(mine))]})

    items = [{"row": pickle.dumps(row)} for row in rows]
    if items:
        dataset = ray.data.from_items(items, override_num_blocks=min(len(items), BLOCKS))
        for done in dataset.map_batches(task, batch_size=None, batch_format="pyarrow").iter_rows():
            yield done["rows"], pickle.loads(done["made"])  # noqa: S301 - made by our own task


def count_files(paths: list[str]) -> Counts:
    """All counts of some data files."""
    total = Counts()
    for path in paths:
        total.add(count_file(path))
    return total


def count_table(table_uri: str, advance: Callable[[float, str], None] = lambda done, note: None) -> Counts:
    """Count a table, in parallel and with bounded memory.

    Args:
        table_uri: the table's directory, any fsspec URI.
        advance: is told how many files are done.

    Raises:
        FileNotFoundError: there is no table at `table_uri`.
        ValueError: its files are no keypoint table.
    """
    files = tables.require_table(table_uri)
    tables.open_file(files[0])  # a folder of other Parquet files is told so here, not by a task
    total, done = Counts(), 0
    for number, part in in_tasks(count_files, files):
        total.add(part)
        done += number
        advance(done, f"{sum(map(len, total.clips)):,} clips")
    total.totals["bytes"] = tables.size(table_uri)
    return total


def statistics(
    table_uri: str,
    *,
    quality: float = QUALITY,
    advance: Callable[[float, str], None] = lambda done, note: None,
) -> tuple[dict[str, Any], pa.Table]:
    """Count everything worth knowing of a table.

    Args:
        table_uri: the table's directory, any fsspec URI.
        quality: clips under it are of low quality.
        advance: is told how many files are done.

    Returns:
        A dictionary that JSON can hold, as `posec3d.statistics.summarise` returns it; and for `compare` clip_id, file
        and row_group of each clip.

    Raises:
        FileNotFoundError: there is no table at `table_uri`.
    """
    counts = count_table(table_uri, advance)
    where = pa.concat_tables([part.select(WHERE) for part in counts.clips] or [CLIP.empty_table().select(WHERE)])
    failures = failed(tables.read_failures(table_uri), set(where["clip_id"].to_pylist()))
    about = {
        "table": table_uri,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return {**about, **summarise(counts, failures, quality)}, where


def compare(
    here: pa.Table,
    against: str,
    advance: Callable[[float, str], None] = lambda done, note: None,
) -> dict[str, Any]:
    """Compare a table's clips with those of the same clip_id in another one, joint by joint.

    A clip's two rows may lie anywhere, so that each is read for itself: of more than `COMPARE` clips that many are
    compared, chosen by chance.

    Args:
        here: the table's clips, as `statistics` returns them.
        against: the other table.
        advance: is told which share of the work is done.

    Returns:
        A dictionary that JSON can hold, as `posec3d.comparison.summarise` returns it.

    Raises:
        FileNotFoundError: there is no table at `against`.
    """
    there = count_places(against)
    # Cast: a join cannot take dictionaries.
    both = here.cast(PLACE).join(there.cast(PLACE), keys="clip_id", join_type="inner", right_suffix="_there")
    matched = pc.count_distinct(both["clip_id"]).as_py()
    if len(both) > COMPARE:  # a join has no order: sorted, it is the same clips each time
        both = both.sort_by("clip_id").take(np.random.default_rng(0).permutation(len(both))[:COMPARE])
    rows = both.sort_by([(name, "ascending") for name in both.column_names[1:]]).to_pylist()
    found, done = Differences(), 0
    for number, part in in_tasks(compare_rows, rows):
        found.add(part)
        done += number
        advance(100 * done / len(rows), f"{done:,} clips")
    mine, theirs = (pc.count_distinct(table["clip_id"]).as_py() for table in (here, there))
    return differences(found, mine, theirs, matched, min(matched, len(rows)), against)


def count_places(table_uri: str) -> pa.Table:
    """clip_id, file and row_group of a table's clips."""
    parts = [part for _, part in in_tasks(places, tables.require_table(table_uri))]
    return pa.concat_tables(parts).combine_chunks()


def places(paths: list[str]) -> pa.Table:
    """clip_id, file and row_group of the clips of some data files."""
    parts = []
    for path in paths:
        file = tables.open_file(path)
        for number in range(file.num_row_groups):
            ids = file.read_row_group(number, columns=["clip_id"])["clip_id"]
            parts.append(pa.table({"clip_id": ids, "file": [path] * len(ids), "row_group": [number] * len(ids)}))
    return pa.concat_tables([pa.table([[], [], []], schema=PLACE), *(part.cast(PLACE) for part in parts)])


def compare_rows(rows: list[dict[str, Any]]) -> Differences:
    """Compare clips whose places in both tables are given."""
    read, found = lru_cache(4)(_row_group), Differences()
    for row in rows:
        pair = [_clip(read(row[f"file{of}"], row[f"row_group{of}"]), row["clip_id"]) for of in ("", "_there")]
        found.add_clip(*pair)
    return found


def read_clip(row: Mapping[str, Any]) -> Clip:
    """A clip by clip_id, file and row_group, read from its row group alone."""
    return _clip(_row_group(row["file"], row["row_group"]), row["clip_id"])


def _row_group(file: str, number: int) -> pa.Table:
    return tables.open_file(file).read_row_group(number)


def _clip(group: pa.Table, clip_id: str) -> Clip:
    index = group["clip_id"].to_pylist().index(clip_id)
    return next(tables.arrow_to_clips(group.slice(index, 1)))


def failed(failures: Mapping[str, Mapping[str, Any]], succeeded: set[str]) -> dict[str, Any]:
    """Failures by stage and cause. Clips which have a row by now, or a piece of whose video has, are counted apart.

    Those that lack pictures alone never failed.

    Args:
        failures: as `posec3d.table.read_failures` returns them.
        succeeded: clip_ids of the table.

    Returns:
        clips, succeeded_later, and groups: stage, cause, clips, examples.
    """
    failures = {clip_id: row for clip_id, row in failures.items() if row["stage"] != STAGE}
    # A video that could not be cut once is cut by now; pieces that failed have failures of their own.
    succeeded = succeeded | {tables.base_and_count(clip_id)[0] for clip_id in succeeded}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for clip_id in sorted(set(failures) - succeeded):
        row = failures[clip_id]
        # Messages begin with the video's name, which is no part of the cause.
        cause = (row["error"] or "").replace(row["video"] or "\0", "").strip(" :").split("\n")[0]
        groups[row["stage"], cause].append(row)
    return {
        "clips": sum(map(len, groups.values())),
        "succeeded_later": len(failures.keys() & succeeded),
        "groups": [
            {
                "stage": stage,
                "cause": cause,
                "clips": len(rows),
                "examples": [{k: row[k] for k in ("clip_id", "video", "error")} for row in rows[:EXAMPLES]],
            }
            for (stage, cause), rows in sorted(groups.items(), key=lambda item: -len(item[1]))
        ],
    }
