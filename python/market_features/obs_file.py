"""Reads and writes the `.obs` file of recorded observations for `escapement feed --replay`.

docs/FORMATS-obs.md describes the format.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy
from numpy.typing import NDArray

MAGIC = b"ESCOBSV1"
HEADER = struct.Struct("<8sIIQI36x")
RECORD_PREFIX = struct.Struct("<QQ")
ALIGNMENT = 64
MAXIMUM_DIMENSION = 4096


class ObsFileError(Exception):
    """A file that is not a complete `.obs` file. The text is one line that names the file."""


@dataclass(frozen=True)
class Recording:
    """Recorded observations."""

    names: tuple[str, ...]
    sequence: NDArray[numpy.uint64]
    """[n]"""
    ts_event_ns: NDArray[numpy.uint64]
    """[n], never decreasing."""
    observations: NDArray[numpy.float32]
    """[n, len(names)]"""


def _header_bytes(names: bytes) -> int:
    return -(-(HEADER.size + len(names)) // ALIGNMENT) * ALIGNMENT


class ObsWriter:
    """Writes observations one by one. The file gets its name only after all are written."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        if not 1 <= len(names) <= MAXIMUM_DIMENSION:
            raise ValueError(f"{len(names)} features; allowed: 1 to {MAXIMUM_DIMENSION}")
        if len(set(names)) != len(names) or any(not name or "\n" in name for name in names):
            raise ValueError("feature names have to be distinct, not empty, and without line breaks")
        self.count = 0
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._names = "\n".join(names).encode()
        self._dimension = len(names)
        self._values = struct.Struct(f"<{len(names)}f")
        self._last_ts_ns = 0
        self._file = self._partial.open("wb")
        # The count is not known yet, so the header is written again at the end.
        self._file.write(self._header())

    def write(self, ts_event_ns: int, values: Sequence[float]) -> None:
        """Appends one observation. Sequences start at 1 and increase by one."""
        if ts_event_ns < self._last_ts_ns:
            raise ValueError(f"ts_event_ns {ts_event_ns} is before its predecessor's {self._last_ts_ns}")
        self._last_ts_ns = ts_event_ns
        self.count += 1
        self._file.write(RECORD_PREFIX.pack(self.count, ts_event_ns) + self._values.pack(*values))

    def _header(self) -> bytes:
        header_bytes = _header_bytes(self._names)
        header = HEADER.pack(MAGIC, header_bytes, self._dimension, self.count, len(self._names))
        return (header + self._names).ljust(header_bytes, b"\0")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._file.write(self._header())
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


def read_obs(path: Path) -> Recording:
    """Reads an `.obs` file. Fails if the file is not complete and valid."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ObsFileError(f"{path}: {error.strerror}") from None
    if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise ObsFileError(
            f"{path}: not an observation file: it does not begin with {MAGIC.decode()} and its header"
        )
    _, header_bytes, dimension, count, names_bytes = HEADER.unpack_from(data)
    if not 1 <= dimension <= MAXIMUM_DIMENSION:
        raise ObsFileError(f"{path}: dimension is {dimension}; allowed: 1 to {MAXIMUM_DIMENSION}")
    if header_bytes % ALIGNMENT != 0 or header_bytes < HEADER.size + names_bytes:
        raise ObsFileError(f"{path}: header_bytes is {header_bytes}, with {names_bytes} bytes of names")
    record = numpy.dtype([("sequence", "<u8"), ("ts_event_ns", "<u8"), ("values", "<f4", (dimension,))])
    if len(data) != header_bytes + count * record.itemsize:
        expected = header_bytes + count * record.itemsize
        raise ObsFileError(
            f"{path}: {len(data)} bytes; {count} observations of {dimension} values take {expected}"
        )
    try:
        names = tuple(data[HEADER.size : HEADER.size + names_bytes].decode().split("\n"))
    except UnicodeDecodeError:
        raise ObsFileError(f"{path}: the feature names are not UTF-8") from None
    if len(names) != dimension:
        raise ObsFileError(f"{path}: {len(names)} feature names for {dimension} values")
    records = numpy.frombuffer(data, dtype=record, offset=header_bytes)
    ts_event_ns = records["ts_event_ns"].copy()
    if numpy.any(ts_event_ns[1:] < ts_event_ns[:-1]):
        raise ObsFileError(f"{path}: ts_event_ns decreases")
    if not numpy.all(numpy.isfinite(records["values"])):
        raise ObsFileError(f"{path}: a value is not finite")
    return Recording(names, records["sequence"].copy(), ts_event_ns, records["values"].copy())
