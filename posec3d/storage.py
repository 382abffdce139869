"""Storage: bytes -> a file at any fsspec URI, whole or not at all; and copies of remote files on the local disk."""

import _thread
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

log = logging.getLogger(__name__)

_CREDENTIALS = (
    "On S3 credentials are looked for in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the profile "
    "that AWS_PROFILE names, and in the role of the machine; on a cluster every node needs them"
)
# A request S3 refuses because it is busy is tried again for two minutes or so; botocore's default gives up after some
# seconds, and with it a job of many hours. Set here, before any file system is made; a user's own setting stays.
fsspec.config.conf.setdefault("s3", {}).setdefault(
    "config_kwargs", {"retries": {"mode": "standard", "max_attempts": 12}}
)

LEASE_SECONDS = 120.0
"""A lease that was not renewed for so long is its owner's no more; the clocks of two owners must agree to a minute."""

_leases: list[Callable[[], None]] = []
"""Renew each lease of this process, if that is due."""


@contextlib.contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Say of what a storage refuses which URI it was, and what to do; object stores' own messages do not.

    Raises:
        PermissionError: access denied, or no credentials.
        FileNotFoundError: no such bucket.
    """
    try:
        yield
    except PermissionError as error:
        if is_local(uri):  # whose message says which file
            raise
        raise PermissionError(f"{uri}: access denied ({error}). {_CREDENTIALS}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{uri}: {error}") from error
    except Exception as error:
        if "Credentials" in type(error).__name__:  # botocore's errors are no OSErrors, and it may not be there
            raise PermissionError(f"{uri}: {error}. {_CREDENTIALS}") from error
        raise


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], ending: str = "") -> Iterator[Path]:
    """Give the name of a new, hidden file beside a local one, whose place it takes if nothing is raised.

    Args:
        path: a local file name, in a folder that is there.
        ending: of the new file's name, for who tells a format by it.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part{ending}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(uri: str, data: bytes) -> None:
    """Write a file so that a reader, or a kill, never meets half of it.

    A local file is renamed into place and its folder is made. An object store's PUT is atomic by itself; nothing is
    made there, so that a mistyped bucket is an error and not a new bucket.

    Args:
        uri: a path or any fsspec URI.
        data: the content.

    Raises:
        Leased: on an object store: this process was suspended, and another one has taken a `lease` from it.
    """
    fs, path = fsspec.url_to_fs(uri)
    if not isinstance(fs, LocalFileSystem):
        for renew in _leases:
            renew()
        with reaching(uri):
            fs.pipe_file(path, data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # before it takes its name: a machine may lose power


def read_whole(uri: str) -> bytes | None:
    """The content of a file, None if there is none."""
    fs, path = fsspec.url_to_fs(uri)
    try:
        with reaching(uri):
            return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def is_local(uri: str) -> bool:
    """Whether a URI is of this machine's disk, or of one that is mounted there."""
    return isinstance(fsspec.url_to_fs(uri)[0], LocalFileSystem)


def cache_folder() -> Path:
    """Where fetched files are kept: `$POSEC3D_CACHE`, by default ~/.cache/posec3d."""
    cache = os.environ.get("POSEC3D_CACHE") or "~/.cache/posec3d"
    return Path(cache).expanduser().absolute()


def open_copy(uri: str, version: str, limit: int) -> BinaryIO:
    """Open a remote file as a copy on this machine's disk, fetched once for all processes.

    Where the disk does not take it the file is read all the same.

    Args:
        uri: the file.
        version: of its content, from `content_version`; another version is another copy.
        limit: bytes that copies may take in all; those used least recently make room.

    Raises:
        FileNotFoundError: no such file.
    """
    folder = cache_folder() / "tables"
    path = folder / hashlib.blake2b(f"{uri} {version}".encode(), digest_size=16).hexdigest()
    with contextlib.suppress(OSError):
        os.utime(path)
        return open(path, "rb")
    lock = FileLock(f"{path}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        log.warning("no copies in %s (%s): what is needed again is fetched again", folder, error)
        return io.BytesIO(_fetch(uri))
    try:
        with contextlib.suppress(OSError):  # another process may have fetched it while this one waited
            return open(path, "rb")
        data = _fetch(uri)
        try:
            write_whole(str(path), data)
            _make_room(folder, path, limit)
        except OSError as error:
            log.warning("no copy of %s in %s (%s): it is fetched again when it is needed again", uri, folder, error)
        return io.BytesIO(data)
    finally:
        lock.release()


def _fetch(uri: str) -> bytes:
    fs, name = fsspec.url_to_fs(uri)
    with reaching(uri):
        return fs.cat_file(name)


def _make_room(folder: Path, newest: Path, limit: int) -> None:
    """Remove the copies used least recently until all take at most `limit` bytes, or the newest is alone."""
    with FileLock(folder / ".lock"):
        size = 0
        copies = [path for path in folder.iterdir() if not path.suffix]
        for copy in sorted(copies, key=lambda path: -path.stat().st_mtime):
            size += copy.stat().st_size
            if size > limit and copy != newest:
                copy.unlink()
                Path(f"{copy}.lock").unlink(missing_ok=True)


def exists(uri: str) -> bool:
    """Whether there is a file at a local path or any URI."""
    if "://" not in uri:
        return os.path.exists(uri)
    fs, name = fsspec.url_to_fs(uri)
    with reaching(uri):
        return bool(fs.exists(name))


def remove(uri: str) -> None:
    """Delete a file at a local path or any URI, if it is there."""
    fs, name = fsspec.url_to_fs(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(name)


def clear(uri: str, *keep: str) -> None:
    """Delete what is in a folder at a local path or any URI, but for files in it of the names `keep`."""
    fs, folder = fsspec.url_to_fs(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.invalidate_cache(folder)
        for path in fs.find(folder):
            if path.removeprefix(f"{folder}/") not in keep:
                fs.rm_file(path)
    elif os.path.exists(folder):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry)
            elif entry.name not in keep:
                os.unlink(entry)


def files_below(fs: Any, top: str) -> dict[str, int]:
    """Paths of all files below a folder, in order, and their sizes; on a disk those behind links to folders, too."""
    if not isinstance(fs, LocalFileSystem):
        return {path: info["size"] for path, info in sorted(fs.find(top, detail=True).items())}
    found: dict[str, int] = {}
    _find(top, (os.path.realpath(top),), found)
    return dict(sorted(found.items()))


def _find(folder: str, way: tuple[str, ...], found: dict[str, int]) -> None:
    """Add the files below a folder; the way to it are the real folders walked through."""
    try:
        names = os.listdir(folder)
    except OSError as error:  # not ours to read, or gone by now
        log.warning("%s; its files are left out", error)
        return
    for path in (os.path.join(folder, name) for name in names):
        if not os.path.isdir(path):
            # A link to nowhere fails when it is read.
            found[path] = os.stat(path).st_size if os.path.exists(path) else 0
            continue
        there = os.path.realpath(path)
        # A link to a folder that the way leads through, or that one of them lies in, would be followed for ever.
        if not any(on_way == there or on_way.startswith(f"{there.rstrip('/')}/") for on_way in way):
            _find(path, (*way, there), found)


def content_version(uri: str) -> str:
    """What changes when a file's content does: on object stores its ETag, elsewhere its size and time."""
    if "://" not in uri:
        found = os.stat(uri)
        return f"{found.st_size}-{found.st_mtime_ns}"
    fs, name = fsspec.url_to_fs(uri)
    return str(fs.ukey(name))


class Leased(Exception):
    """Somebody else holds a lease; the message says who, and since when."""


@contextlib.contextmanager
def lease(uri: str) -> Iterator[None]:
    """Hold the only right to something on an object store, as long as this process lives and reaches the store.

    The lease is a file that is made only if there is none (S3 does that in one step) and renewed by a thread. Whoever
    was suspended for so long that another process took it is interrupted, and `write_whole` writes nothing more.

    Args:
        uri: of that file.

    Raises:
        Leased: another process holds it.
    """
    fs, path = fsspec.url_to_fs(uri)
    me = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex[:8]}"

    def content() -> bytes:
        return json.dumps({"owner": me, "renewed": time.time()}).encode()

    def holder() -> dict[str, Any]:
        fs.invalidate_cache()
        return json.loads(read_whole(uri) or b"{}")

    for _ in range(2):
        renewed = time.time()
        try:
            with reaching(uri):
                fs.pipe_file(path, content(), mode="create")
            break
        except FileExistsError:
            held = holder()
            age = time.time() - held.get("renewed", 0)
            if held.get("owner") == me:  # made by a request whose answer was lost
                break
            if age < LEASE_SECONDS:
                raise Leased(f"{held.get('owner')} holds {uri}, renewed {age:.0f} s ago") from None
            with contextlib.suppress(FileNotFoundError):  # its owner died
                fs.rm_file(path)
            time.sleep(2 * random.random())  # noqa: S311 - who sees that at the same time comes at another
    if (held := holder()).get("owner") != me:
        raise Leased(f"{held.get('owner')} took {uri} just now")
    ended, busy = threading.Event(), threading.Lock()

    def renew() -> None:
        nonlocal renewed
        with busy:
            now = time.time()
            if now - renewed < LEASE_SECONDS / 4:
                return
            if (held := holder()).get("owner") != me:  # this process was asleep for too long
                raise Leased(f"{held.get('owner', 'another run')} has taken {uri} from this one, which writes no more")
            fs.pipe_file(path, content())
            renewed = now

    def renew_regularly() -> None:
        while not ended.wait(LEASE_SECONDS / 4):
            try:
                renew()
            except Leased as error:
                log.error("%s", error)
                _thread.interrupt_main(signal.SIGTERM)  # Ctrl-C is ignored in a script's background
                return
            except Exception as error:  # the store may come back before the lease ends
                log.warning("cannot renew %s: %s", uri, error)

    thread = threading.Thread(target=renew_regularly, daemon=True)
    thread.start()
    _leases.append(renew)
    try:
        yield
    finally:
        _leases.remove(renew)
        ended.set()
        thread.join()
        if holder().get("owner") == me:
            fs.rm_file(path)
