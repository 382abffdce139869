"""Annotations -> table: reads the entries of a source, and appends the clips, and the failures, to a keypoint table."""

import datetime
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from posec3d import table as tables
from posec3d.annotations.entries import Annotations, Entry
from posec3d.annotations.source import SourceError
from posec3d.table import Clip

ROWS_PER_FILE = 512


@dataclass
class Imported:
    """What an import did."""

    clips: int = 0
    frames: int = 0
    without_people: int = 0
    already: int = 0
    """Clips that the table had before."""
    twice: int = 0
    """Entries with the name of an earlier one; the earlier one counts."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `FAILURES`."""
    labels: dict[int, str] = field(default_factory=dict)
    """Of the whole table, by number."""
    share: float = 0.0
    """Of the source that has been read so far."""

    @property
    def entries(self) -> int:
        """All that were found."""
        return self.clips + self.already + self.twice + len(self.failures)

    def labels_without_clips(self) -> list[int]:
        """Numbers below the highest label that no clip has."""
        return [number for number in range(max(self.labels, default=-1)) if number not in self.labels]


def import_clips(
    annotations: Annotations, table: str, *, on_progress: Callable[[Imported], None] = lambda imported: None
) -> Imported:
    """Append what a source has, and the table lacks, to the table; nobody else may write to it meanwhile.

    A clip that cannot be read becomes a row of the table's failures, and the others go on.

    Args:
        annotations: from `open_annotations`.
        table: URI of the table, which need not exist.
        on_progress: called with the running counts after each entry.

    Raises:
        SourceError: the source cannot be imported as it was asked for, or a label of it has another name or number in
            the table. What came before is written.
    """
    imported, writer = Imported(), _Writer(table, annotations.notes)
    there: set[str] = set()
    if tables.data_files(table):
        imported.labels = tables.summary(table)["labels"]
        for group in tables.read_row_groups(table, ["clip_id"]):
            there.update(group["clip_id"].to_pylist())
    before = tables.read_failures(table)
    seen: set[str] = set()
    try:
        for entry in annotations.entries:
            imported.share = entry.share
            if entry.clip_id in there:
                imported.already += 1
            elif entry.clip_id in seen:
                imported.twice += 1
            elif isinstance(clip := _read(entry), Clip):
                _same_label(clip, imported.labels)
                seen.add(entry.clip_id)
                imported.clips += 1
                imported.frames += clip.num_frames
                imported.without_people += not clip.scores.any()
                writer.add(clip)
            else:
                attempts = before.get(entry.clip_id, {}).get("attempts", 0) + 1
                failure: dict[str, Any] = {
                    "clip_id": _text(entry.clip_id),
                    "video": _text(entry.uri),
                    "stage": "import",
                }
                now = datetime.datetime.now(datetime.UTC)
                failure |= {"error": _text(clip), "attempts": attempts, "time": now}
                imported.failures.append(failure)
            on_progress(imported)
    finally:
        if imported.failures:
            rows = pa.Table.from_pylist(imported.failures, tables.FAILURES)
            tables.write_file(rows, tables.failures_uri(table))
        writer.write()
    return imported


class _Writer:
    """Appends clips in files of many rows."""

    def __init__(self, table: str, notes: dict[str, str]) -> None:
        self.table, self.notes = table, notes
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0
        self.name = uuid.uuid4().hex  # of the next file: a write that is interrupted, and done again, must not make two

    def add(self, clip: Clip) -> None:
        row = tables.to_row(clip)
        self.rows.append(row)
        self.bytes += sum(value.nbytes for value in row.values() if hasattr(value, "nbytes"))
        if len(self.rows) >= ROWS_PER_FILE or self.bytes >= tables.WAITING_BYTES:
            self.write()

    def write(self) -> None:
        if self.rows:
            rows = tables.rows_to_arrow(self.rows)
            notes: dict[Any, Any] = {**rows.schema.metadata, **self.notes}
            tables.write_file(rows.replace_schema_metadata(notes), self.table, self.name)
        self.rows, self.bytes, self.name = [], 0, uuid.uuid4().hex


def _read(entry: Entry) -> Clip | str:
    """The clip of an entry, or why there is none."""
    try:
        clip = entry.read()
        "".join((clip.clip_id, clip.label_name or "", *clip.splits)).encode()  # as it will be stored
        return clip
    except SourceError:
        raise
    except Exception as error:  # whatever a damaged or hostile file leads to
        return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"


def _same_label(clip: Clip, labels: dict[int, str]) -> None:
    if clip.label is None or clip.label_name is None or labels.get(clip.label) == clip.label_name:
        return
    other = next((number for number, name in labels.items() if name == clip.label_name), clip.label)
    if other in labels:
        raise SourceError(
            f"clip {clip.clip_id}: label {clip.label} is {clip.label_name!r} here, and {other} is {labels[other]!r} in "
            "the table; give --labels the names that the table has, in its order, or import into another table"
        )
    labels[clip.label] = clip.label_name


def _text(text: str) -> str:
    """What can be stored: names need not be valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()[:2000]
