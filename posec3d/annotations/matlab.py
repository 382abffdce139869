"""Annotations -> table: MATLAB files -> arrays. The format is data: reading it runs nothing."""

import io
import struct
import warnings
import zlib

import numpy as np

from posec3d.annotations.source import MAX_BYTES, File

_COMPRESSED = 15  # the type of an element


def read_mat(file: File, *names: str) -> dict[str, np.ndarray]:
    """Read variables of a MATLAB file, of versions 4 to 7.2.

    Raises:
        ValueError: no such file, damaged, of version 7.3, or without one of the variables.
    """
    from scipy.io import loadmat

    data = file.read()
    if data[:10] == b"MATLAB 7.3" or data[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("a MATLAB file of version 7.3 (HDF5), wanted one before; save it again with -v7 in MATLAB")
    _check_sizes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # duplicate or unreadable variables
            found = loadmat(io.BytesIO(data), variable_names=names)
    except Exception as error:  # scipy has errors of many kinds for what is damaged
        raise ValueError(f"not a MATLAB file that can be read ({type(error).__name__}: {error})"[:300]) from error
    lacking = [name for name in names if not isinstance(found.get(name), np.ndarray)]
    if lacking:
        raise ValueError(f"a MATLAB file without {', '.join(lacking)}")
    return found


def _check_sizes(data: bytes) -> None:
    """See that the variables of a version 5 file, which are compressed one by one, fit into the memory.

    Raises:
        ValueError: one does not.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    place = 128
    while order and place + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, place)
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                left = len(unpacker.decompress(data[place + 8 : place + 8 + size], MAX_BYTES)) == MAX_BYTES
            except zlib.error as error:
                raise ValueError(f"not a MATLAB file that can be read ({error}); it is damaged") from error
            if left:
                raise ValueError(f"a variable of {MAX_BYTES} bytes or more, wanted less for the poses of one clip")
        place += 8 + size
