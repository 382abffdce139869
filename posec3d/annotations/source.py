"""Annotations -> table, first step: a file, a folder or a zip at any URI -> the files in it, read in place.

Nothing is unpacked to a disk, and what a file in a zip may take of the memory is limited, whatever the zip declares.
"""

import io
import lzma
import posixpath
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from posec3d.storage import files_below, reaching

MAX_BYTES = 2**28
"""Largest file that is read whole; annotations of one clip take less than a hundredth of it."""
_BLOCK = 4 * 2**20  # of an object store, as videos are read
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError)
"""What reading from a zip raises that is damaged, encrypted or of an unknown compression."""


class SourceError(ValueError):
    """The source as a whole cannot be imported as it was asked for: no clip of it would be better than another."""


@dataclass(frozen=True)
class File:
    """One file of a source: `name` is its path in there, `uri` says where it is to a reader, `size` is in bytes."""

    name: str
    uri: str
    size: int
    _open: Callable[[], BinaryIO]

    def open(self) -> BinaryIO:
        """Open it at its start, for reading.

        Raises:
            ValueError: the zip around it is damaged, encrypted or of an unknown compression.
        """
        try:
            return self._open()
        except BROKEN_ZIP as error:
            raise ValueError(f"{self.uri}: {error}") from error

    def read(self) -> bytes:
        """Its content.

        Raises:
            ValueError: more than `MAX_BYTES`, or as `open`.
        """
        if self.size > MAX_BYTES:
            raise ValueError(f"{self.uri}: {self.size} bytes, wanted at most {MAX_BYTES} for the poses of one clip")
        try:
            with self.open() as file:
                data = file.read(MAX_BYTES + 1)
        except BROKEN_ZIP as error:
            raise ValueError(f"{self.uri}: {error}") from error
        if len(data) != self.size:
            raise ValueError(f"{self.uri}: {len(data)} bytes, wanted {self.size}; it is cut off or damaged")
        return data


@dataclass(frozen=True)
class Source:
    """The files of one source, sorted by name."""

    uri: str
    files: tuple[File, ...]

    def ending(self, *endings: str) -> list[File]:
        """The files whose lower-case names end in one of these."""
        return [file for file in self.files if file.name.lower().endswith(endings)]

    def kinds(self) -> str:
        """What is there, for an error: the commonest endings and how often."""
        count: dict[str, int] = {}
        for file in self.files:
            ending = posixpath.splitext(file.name)[1].lower() or "no ending"
            count[ending] = count.get(ending, 0) + 1
        commonest = sorted(count.items(), key=lambda pair: -pair[1])[:4]
        return ", ".join(f"{n} of {ending}" for ending, n in commonest) or "no files"


def open_source(uri: str) -> Source:
    """List a source. Hidden files are left out; the files of zips in a folder are its files too.

    Args:
        uri: a file, a folder, or a zip; a path or any URI fsspec opens.

    Raises:
        FileNotFoundError: nothing there.
        SourceError: a zip that cannot be read, or with names that lead out of it.
    """
    fs, top = fsspec.url_to_fs(uri)
    top = top.rstrip("/")
    with reaching(uri):
        if not fs.exists(top):
            raise FileNotFoundError("no file or folder there")
        found = {top: fs.info(top)["size"]} if fs.isfile(top) else files_below(fs, top)
    files: list[File] = []
    for path, size in found.items():
        name = path.removeprefix(top).strip("/") or posixpath.basename(path)
        if _hidden(name):
            continue
        where = f"{uri.rstrip('/')}/{name}" if path != top else uri
        if name.lower().endswith(".zip"):
            folder = posixpath.splitext(name)[0] + "/" if path != top else ""
            files += _zip_files(fs, path, where, folder)
        else:
            files.append(File(name, where, size, partial(_open, fs, path)))
    return Source(uri, tuple(sorted(files, key=lambda file: file.name)))


def _zip_files(fs: Any, path: str, uri: str, folder: str) -> Iterator[File]:
    try:
        archive = zipfile.ZipFile(_open(fs, path))
    except BROKEN_ZIP as error:
        raise SourceError(f"{uri}: not a zip that can be read ({error}); fetch it again") from error
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or ":" in name.split("/")[0]:
            raise SourceError(f"{uri}: the name {info.filename!r} leads out of the archive; refused")
        if not info.is_dir() and not _hidden(name):
            yield File(folder + name, f"{uri}/{name}", info.file_size, partial(archive.open, info))  # type: ignore[arg-type]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _open(fs: Any, path: str) -> BinaryIO:
    if isinstance(fs, LocalFileSystem):
        return open(path, "rb")
    return io.BufferedReader(fs.open(path, "rb", block_size=_BLOCK), 2**16)
