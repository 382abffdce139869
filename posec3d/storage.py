"""Storage: bytes -> a file at any fsspec URI, whole or not at all."""

import os
import uuid

import fsspec
from fsspec.implementations.local import LocalFileSystem


def write_whole(uri: str, data: bytes) -> None:
    """Write a file so that a reader, or a kill, never meets half of it.

    A local file is renamed into place and its folder is made. An object store's PUT is atomic by itself; nothing is
    made there, so that a mistyped bucket is an error and not a new bucket.

    Args:
        uri: a path or any fsspec URI.
        data: the content.
    """
    fs, path = fsspec.url_to_fs(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.{uuid.uuid4().hex}.part"
    try:
        with open(part, "wb") as file:
            file.write(data)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.remove(part)
        raise


def read_whole(uri: str) -> bytes | None:
    """The content of a file, None if there is none."""
    fs, path = fsspec.url_to_fs(uri)
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None
