"""IDX files, plain or gzipped: describing and reading them. No torch at import."""

import gzip
import struct
import zlib
from functools import lru_cache
from math import prod
from pathlib import Path

BROKEN = (OSError, EOFError, ValueError, zlib.error)
"""What is raised for a file that is not whole, or no IDX file."""

_UNSIGNED_BYTE = 0x08
_BLOCK = 2**20


def describe(path: Path) -> dict:
    """What is inside, whether compressed or not: name, bytes and CRC-32 (a gzip file's own record of them)."""
    status = path.stat()
    size, crc = _content(str(path), status.st_size, status.st_mtime_ns)
    return {"file": path.name.removesuffix(".gz"), "bytes": size, "crc32": crc}


def read_shape(path: Path) -> tuple[int, ...]:
    """Shape of the array in an IDX file of unsigned bytes.

    Raises:
        ValueError: not such a file, or its length does not fit the shape. OSError, EOFError: not readable.
    """
    with _open(path) as stream:
        zeros, kind, dimensions = struct.unpack(">HBB", _exactly(stream, 4))
        if zeros or kind != _UNSIGNED_BYTE or not dimensions:
            raise ValueError("not an IDX file of unsigned bytes")
        shape = struct.unpack(f">{dimensions}I", _exactly(stream, 4 * dimensions))
    size, expected = describe(path)["bytes"], 4 + 4 * dimensions + prod(shape)
    if size != expected % 2**32:
        raise ValueError(f"{size} bytes where its header asks for {expected}")
    return shape


def read_array(path: Path):
    """The file's numpy array, filled in place: nothing of its size is held beside it. Raises as `read_shape`."""
    import numpy as np

    shape = read_shape(path)
    array = np.empty(shape, np.uint8)
    rest = memoryview(array.reshape(-1))
    with _open(path) as stream:
        _exactly(stream, 4 + 4 * len(shape))
        while len(rest):
            count = stream.readinto(rest[:_BLOCK])
            if not count:
                raise EOFError("the file ends early")
            rest = rest[count:]
        if stream.read(1):  # also makes gzip compare its checksum
            raise ValueError("bytes after the end of the array")
    return array


def _open(path: Path):
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _exactly(stream, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("the file ends early")
    return data


@lru_cache(maxsize=64)
def _content(path: str, size: int, mtime_ns: int) -> tuple[int, int]:
    """(bytes, CRC-32) of the uncompressed content of a file of this size and time."""
    with open(path, "rb") as stream:
        if path.endswith(".gz"):
            stream.seek(-min(8, size), 2)
            crc, length = struct.unpack("<II", _exactly(stream, 8))
            return length, crc
        crc = 0
        while block := stream.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return size, crc
