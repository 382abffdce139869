"""Statistics: keypoint table -> one dictionary of counts, for the report and for people's own plots.

Each row group is one unit of work for Ray Data and becomes a small dictionary of counts; these are added up
in the task, then on the driver. A task holds one row group at a time, and the driver never sees a keypoint.
"""

import datetime
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pyarrow as pa
import ray

from posec3d import table as tables
from posec3d.counts import COLUMNS, Counts, count_row_group, summarise

EXAMPLES = 3  # of each cause of failure


def count_units(units: pa.Table, failed: set[str]) -> pa.Table:
    """Ray Data function: units (file, row_group) -> one row with the JSON of all their `Counts`.

    Args:
        units: columns file and row_group.
        failed: clip_ids that have a failure row.
    """
    total = Counts()
    for unit in units.to_pylist():
        group = tables.open_file(unit["file"]).read_row_group(unit["row_group"], columns=COLUMNS)
        total.add(count_row_group(group, failed, (unit["file"], unit["row_group"])))
    return pa.table({"counts": [total.to_json()]})


def statistics(table_uri: str) -> dict[str, Any]:
    """Count everything worth knowing of a table, in parallel and with bounded memory.

    Args:
        table_uri: the table's directory, any fsspec URI.

    Returns:
        A dictionary that JSON can hold; its keys are explained in `posec3d.counts.summarise`.

    Raises:
        FileNotFoundError: there is no table at `table_uri`.
    """
    files = tables.require_table(table_uri)
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(_footer, files))
    units = [{"file": f, "row_group": g} for f, (_, groups) in zip(files, footers, strict=True) for g in range(groups)]
    failures = tables.read_failures(table_uri)
    total = Counts()
    if units:
        dataset = ray.data.from_items(units, override_num_blocks=min(len(units), 200))
        counted = dataset.map_batches(
            count_units, fn_kwargs={"failed": set(failures)}, batch_size=None, batch_format="pyarrow"
        )
        for row in counted.iter_rows():
            total.add(Counts.from_json(row["counts"]))
    storage = {"files": len(files), "row_groups": len(units), "bytes": sum(size for size, _ in footers)}
    return {
        "table": table_uri,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **summarise(total, storage),
        "failures": _failures(failures, set(total.succeeded)),
    }


def _footer(file: str) -> tuple[int, int]:
    """Size in bytes and number of row groups."""
    fs, path = fsspec.url_to_fs(file)
    return fs.size(path), tables.open_file(file).num_row_groups


def _failures(failures: Mapping[str, Mapping[str, Any]], succeeded: set[str]) -> dict[str, Any]:
    """Failures by stage and cause. Clips which have a row by now are counted apart."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for clip_id in sorted(set(failures) - succeeded):
        row = failures[clip_id]
        # Messages begin with the video's name, which is no part of the cause.
        cause = (row["error"] or "").replace(row["video"] or "\0", "").strip(" :").split("\n")[0]
        groups[row["stage"], cause].append(row)
    return {
        "clips": sum(map(len, groups.values())),
        "succeeded_later": len(succeeded),
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
