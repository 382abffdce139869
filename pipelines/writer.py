"""Results of actors -> files: in a folder whole and once, however often the driver that writes them is killed."""

import datetime
import io
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from posec3d import table as tables
from posec3d.redaction import unsigned
from posec3d.storage import read_whole, remove, write_whole

Put = Callable[[pa.Table, str, str], None]
"""Writes results, into a folder, as files of a name."""

SAVE_SECONDS = 15.0
"""Work of so long is lost at most when the driver is killed, and what was in the actors."""
COMMIT_BYTES = 2**28
"""Waiting results of so many bytes are written even if they do not fill a file: stored heatmaps are large."""


class Writer:
    """Appends results to a folder in files of many rows; what has not filled one yet is kept in a folder within it.

    A row is there once: a pending file is removed after its rows are in a file of the folder, and `recover` drops those
    that were there already.

    Args:
        folder: URI of the folder to append to.
        rows_per_file: of its files.
        put: writes results.
        pending: where in the folder waiting results are kept.
    """

    def __init__(self, folder: str, rows_per_file: int, put: Put, pending: str) -> None:
        self._put, self._pending = put, pending
        self.folder = folder.rstrip("/")
        self.rows_per_file = rows_per_file
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0  # of them; a sum over all of them for each result would grow with their square
        self._saved = 0  # of them, how many are in pending files
        self._files: list[str] = []
        self._name = uuid.uuid4().hex  # of the next file: a write that is tried again must not make two
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._saver = threading.Thread(target=self._save_regularly, daemon=True)
        self._saver.start()

    def add(self, results: pa.Table) -> None:
        """Take results; write what is waiting when it fills a file.

        Raises:
            OSError: the storage refuses, now or when it was to keep rows safe.
        """
        if self._error:
            raise self._error
        with self._lock:
            self._waiting.append(results)
            self._rows += results.num_rows
            self._bytes += results.nbytes
            if self._rows >= self.rows_per_file or self._bytes >= COMMIT_BYTES:
                self._commit()

    def close(self) -> None:
        """Write what is waiting."""
        self._ended.set()
        self._saver.join()
        with self._lock:
            self._commit()

    def save(self) -> None:
        """Keep what is waiting safe in a pending file."""
        with self._lock:
            if len(self._waiting) == self._saved:
                return
            sink = io.BytesIO()
            pq.write_table(pa.concat_tables(self._waiting[self._saved :]), sink, compression="zstd")
            path = f"{self.folder}/{self._pending}/{time.time_ns()}.parquet"
            write_whole(path, sink.getvalue())
            self._files.append(path)
            self._saved = len(self._waiting)

    def _save_regularly(self) -> None:
        while not self._error and not self._ended.wait(SAVE_SECONDS):
            try:
                self.save()
            except Exception as error:  # said where the job's own thread meets it
                self._error = error

    def _commit(self) -> None:
        if self._waiting:
            self._put(pa.concat_tables(self._waiting), self.folder, self._name)
        self._waiting, self._rows, self._bytes, self._saved = [], 0, 0, 0
        self._name = uuid.uuid4().hex
        for path in self._files:
            remove(path)
        self._files = []


def recover(folder: str, schema: pa.Schema, put: Put, pending: str) -> int:
    """Write what a killed driver left pending, but for clips that are in the folder; returns the number of rows.

    Args:
        folder: URI of the folder.
        schema: of the results, which have a clip_id.
        put: as of `Writer`.
        pending: as of `Writer`.
    """
    files = tables.data_files(f"{folder.rstrip('/')}/{pending}")
    if not files:
        return 0
    parts = []
    for path in files:
        data = read_whole(path) or b""
        try:
            parts.append(pq.ParquetFile(pa.BufferReader(data)).read().cast(schema))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: damaged ({error}); remove it: its clips are done again") from error
    results = pa.concat_tables(parts)
    for ids in clip_ids(folder):
        results = results.filter(pc.invert(pc.is_in(results["clip_id"], ids)))
    if results.num_rows:
        put(results, folder, uuid.uuid4().hex)
    for path in files:
        remove(path)
    return results.num_rows


def clip_ids(folder: str) -> Iterator[pa.ChunkedArray]:
    """The clip_id column of each Parquet file in a folder."""
    for path in tables.data_files(folder):
        yield tables.open_parquet(path).read(["clip_id"])["clip_id"]


def write_failures(results: pa.Table, table: str, name: str) -> pa.Table:
    """Append the results that have an error to a folder's failures; returns the others."""
    good, bad = (results.filter(keep(results["error"])) for keep in (pc.is_null, pc.is_valid))
    if bad.num_rows:
        now = datetime.datetime.now(datetime.UTC)
        columns = [column for column in tables.FAILURES.names if column != "time"]
        rows = [
            {**row, "video": unsigned(row["video"] or ""), "error": unsigned(row["error"]), "time": now}
            for row in bad.select(columns).to_pylist()
        ]
        tables.write_file(pa.Table.from_pylist(rows, tables.FAILURES), tables.failures_uri(table), name)
    return good
