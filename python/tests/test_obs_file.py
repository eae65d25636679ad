"""Tests the `.obs` file: the round trip, the byte layout, and that damaged files are rejected."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy
import pytest

from market_features.obs_file import ObsFileError, ObsWriter, read_obs

NAMES = ("first", "zweites_maß")


def write_two(path: Path) -> bytes:
    with ObsWriter(path, NAMES) as writer:
        writer.write(5, (1.5, -2.0))
        writer.write(5, (0.25, 3.0))
    return path.read_bytes()


def write_backward(path: Path) -> None:
    with ObsWriter(path, NAMES) as writer:
        writer.write(5, (0.0, 0.0))
        writer.write(4, (0.0, 0.0))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.obs"
    write_two(path)
    recording = read_obs(path)
    assert recording.names == NAMES
    assert recording.sequence.tolist() == [1, 2]
    assert recording.ts_event_ns.tolist() == [5, 5]
    assert recording.observations.dtype == numpy.float32
    assert recording.observations.tolist() == [[1.5, -2.0], [0.25, 3.0]]


def test_layout_byte_by_byte(tmp_path: Path) -> None:
    names = "\n".join(NAMES).encode()
    header = b"ESCOBSV1" + struct.pack("<IIQI", 128, 2, 2, len(names))
    expected = (header.ljust(64, b"\0") + names).ljust(128, b"\0")
    expected += struct.pack("<QQff", 1, 5, 1.5, -2.0) + struct.pack("<QQff", 2, 5, 0.25, 3.0)
    assert write_two(tmp_path / "a.obs") == expected


def test_no_observations_is_a_file_too(tmp_path: Path) -> None:
    with ObsWriter(tmp_path / "a.obs", NAMES):
        pass
    assert read_obs(tmp_path / "a.obs").observations.shape == (0, 2)


def test_a_failed_run_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.obs"
    before = write_two(path)
    with pytest.raises(ValueError, match="before its predecessor"):
        write_backward(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "names", [(), ("a", "a"), ("a", ""), ("a\nb",), tuple(str(index) for index in range(4097))]
)
def test_names_that_cannot_be_kept_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="feature"):
        ObsWriter(tmp_path / "a.obs", names)


@pytest.mark.parametrize(
    ("offset", "replacement", "message"),
    [
        (0, b"ESCOBSV2", "not an observation file"),
        (8, struct.pack("<I", 100), "header_bytes is 100"),
        (8, struct.pack("<I", 64), "header_bytes is 64"),
        (12, struct.pack("<I", 0), "dimension is 0; allowed: 1 to 4096"),
        (12, struct.pack("<I", 3), "bytes; 2 observations of 3 values"),
        (16, struct.pack("<Q", 3), "3 observations of 2 values"),
        (16, struct.pack("<Q", 2**63), "observations of 2 values"),
        (24, struct.pack("<I", 5), "1 feature names for 2 values"),
        (64, b"\xff", "not UTF-8"),
        (128 + 16, struct.pack("<f", float("nan")), "a value is not finite"),
        (128 + 8, struct.pack("<Q", 6), "ts_event_ns decreases"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, offset: int, replacement: bytes, message: str) -> None:
    path = tmp_path / "a.obs"
    data = bytearray(write_two(path))
    data[offset : offset + len(replacement)] = replacement
    path.write_bytes(data)
    with pytest.raises(ObsFileError, match=message) as caught:
        read_obs(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.obs"
    whole = write_two(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ObsFileError):
            read_obs(path)
