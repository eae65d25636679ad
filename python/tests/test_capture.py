"""Tests the converter: what it reads, what it rejects and how, and that it never looks ahead."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from fixtures import golden_features
from market_features.capture import CaptureError, Quote, Trade, read_capture
from market_features.convert import convert
from market_features.definitions import NAMES
from market_features.features import Features
from market_features.obs_file import read_obs

ROOT = Path(__file__).resolve().parents[2]
QUOTE = '{"stream":"abc@bookTicker","data":{"u":1,"s":"ABC","b":"99.99","B":"2.0","a":"100.01","A":"3.0"}}'
TRADE = '{"stream":"abc@trade","data":{"e":"trade","p":"100.01","q":"0.5","m":false}}'
DEPTH = '{"stream":"abc@depth@100ms","data":{"e":"depthUpdate","U":1,"u":2,"b":[],"a":[]}}'
SNAPSHOT = '{"lastUpdateId":1,"bids":[],"asks":[]}'


def write_capture(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_reads_quotes_and_trades_and_passes_over_the_book(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "c.jsonl", f"7 {QUOTE}", f"8 {DEPTH}", f"8 {SNAPSHOT}", f"9 {TRADE}")
    assert list(read_capture(path)) == [Quote(7, 99.99, 2.0, 100.01, 3.0), Trade(9, 100.01, 0.5, False)]


def test_gzipped_or_not_gives_the_same_bytes(tmp_path: Path) -> None:
    plain = write_capture(tmp_path / "c.jsonl", f"7 {QUOTE}", f"9 {TRADE}")
    zipped = tmp_path / "c.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    for source, out in ((plain, "a.obs"), (zipped, "b.obs")):
        assert convert(source, tmp_path / out) == (2, 0)
    assert (tmp_path / "a.obs").read_bytes() == (tmp_path / "b.obs").read_bytes()


def test_one_observation_per_event_from_the_first_quote_on(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "c.jsonl", f"6 {TRADE}", f"7 {QUOTE}", f"8 {DEPTH}", f"9 {TRADE}")
    convert(path, tmp_path / "out.obs")
    recording = read_obs(tmp_path / "out.obs")
    assert recording.names == NAMES
    assert recording.sequence.tolist() == [1, 2]
    assert recording.ts_event_ns.tolist() == [7, 9]
    features = Features()
    features.trade(6, 100.01, 0.5, buyer_is_maker=False)
    features.quote(7, 99.99, 2.0, 100.01, 3.0)
    expected = numpy.array(features.observation(), dtype=numpy.float32)
    assert numpy.array_equal(recording.observations[0], expected)


def test_times_that_go_backward_are_held_and_counted(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "c.jsonl", f"50 {QUOTE}", f"40 {TRADE}", f"45 {QUOTE}", f"60 {TRADE}")
    assert convert(path, tmp_path / "out.obs") == (4, 2)
    assert read_obs(tmp_path / "out.obs").ts_event_ns.tolist() == [50, 50, 50, 60]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"soon {QUOTE}", "receive time 'soon'; allowed: nanoseconds"),
        (f"-1 {QUOTE}", "receive time '-1'"),
        (f"{2**63} {QUOTE}", "receive time"),
        ("", "receive time ''"),
        (f"8 {QUOTE[:-9]}", "the JSON is broken or cut off"),
        ("8 " + "[" * 100_000, "the JSON is broken"),
        ("8 [1]", "not a JSON object"),
        ("8 {}", "neither a stream message (key `stream`) nor a snapshot"),
        ('8 {"stream":"abc@bookTicker"}', "key `data` is missing"),
        (f"8 {QUOTE.replace('bookTicker', 'kline_1m')}", "stream 'abc@kline_1m'; allowed:"),
        (f"8 {QUOTE.replace('abc@', 'xyz@')}", "symbol 'xyz' in a capture of 'abc'"),
        (f"8 {QUOTE.replace('99.99', '100.01')}", "bid `b` 100.01 is not below ask `a` 100.01"),
        (
            f"8 {QUOTE.replace('99.99', 'nan')}",
            "key `b` is 'nan'; allowed: a number from 1e-12 to 1000000000000.0, as a string",
        ),
        (f"8 {QUOTE.replace('3.0', '1e999')}", "key `A` is '1e999'"),
        (f"8 {QUOTE.replace('2.0', '0')}", "key `B` is '0'"),
        (f"8 {TRADE.replace('0.5', '-0.5')}", "key `q` is '-0.5'"),
        (f"8 {TRADE.replace('false', '1')}", "key `m` is '1'; allowed: true, false"),
        (f"8 {TRADE.replace(chr(34) + 'p' + chr(34), chr(34) + 'P' + chr(34))}", "key `p` is 'None'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write_capture(tmp_path / "c.jsonl", f"7 {QUOTE}", line, f"9 {TRADE}")
    with pytest.raises(CaptureError) as caught:
        convert(path, tmp_path / "out.obs")
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.jsonl"], "something was left behind"


def test_damaged_gzip_data_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(f"7 {QUOTE}\n".encode() * 1000)
    for damaged in (whole[:-20], whole[:40] + b"\xff" * 8 + whole[48:]):
        path = tmp_path / "c.jsonl.gz"
        path.write_bytes(damaged)
        with pytest.raises(CaptureError, match=r"c\.jsonl\.gz:\d+: damaged gzip data"):
            convert(path, tmp_path / "out.obs")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"7 \xff\xfe\n")
    with pytest.raises(CaptureError, match=r":1: not UTF-8 text"):
        list(read_capture(path))


def test_a_capture_without_a_quote_gives_no_file(tmp_path: Path) -> None:
    path = write_capture(tmp_path / "c.jsonl", f"7 {TRADE}")
    with pytest.raises(CaptureError, match="it holds no quote"):
        convert(path, tmp_path / "out.obs")
    assert not (tmp_path / "out.obs").exists()


def test_the_command_line_ends_with_one_line_and_65(tmp_path: Path) -> None:
    bad = write_capture(tmp_path / "c.jsonl", f"7 {QUOTE}", "8 {")
    for capture, expected in (
        (bad, f"{bad}:2: "),
        (tmp_path / "absent", f"{tmp_path / 'absent'}: No such file"),
    ):
        command = [
            sys.executable,
            str(ROOT / "scripts" / "convert_capture.py"),
            str(capture),
            "--out",
            str(tmp_path / "o"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 65
        assert done.stderr.startswith(f"convert_capture: {expected}")
        assert done.stderr.count("\n") == 1


def as_line(event: Quote | Trade) -> str:
    if isinstance(event, Quote):
        data = f'"b":"{event.bid}","B":"{event.bid_qty}","a":"{event.ask}","A":"{event.ask_qty}"'
        return f'{event.ts_ns} {{"stream":"abc@bookTicker","data":{{{data}}}}}'
    maker = "true" if event.buyer_is_maker else "false"
    data = f'"p":"{event.price}","q":"{event.qty}","m":{maker}'
    return f'{event.ts_ns} {{"stream":"abc@trade","data":{{{data}}}}}'


def assert_the_future_changes_nothing(lines: list[str], cuts: tuple[int, ...], directory: Path) -> None:
    convert(write_capture(directory / "longer.jsonl", *lines), directory / "longer.obs")
    longer = read_obs(directory / "longer.obs")
    for cut in cuts:
        convert(write_capture(directory / "shorter.jsonl", *lines[:cut]), directory / "shorter.obs")
        shorter = read_obs(directory / "shorter.obs")
        kept = len(shorter.sequence)
        assert 0 < kept < len(longer.sequence)
        assert numpy.array_equal(shorter.observations, longer.observations[:kept])
        assert numpy.array_equal(shorter.ts_event_ns, longer.ts_event_ns[:kept])


def test_the_future_changes_no_observation(tmp_path: Path) -> None:
    lines = [as_line(event) for event in golden_features.events()]
    assert_the_future_changes_nothing(lines, tuple(range(2, len(lines))), tmp_path)


def test_the_future_changes_no_observation_of_the_recording(recorded_capture: Path, tmp_path: Path) -> None:
    with gzip.open(recorded_capture, "rt", encoding="utf-8") as capture:
        lines = [line.rstrip("\n") for line, _ in zip(capture, range(3000), strict=False)]
    assert_the_future_changes_nothing(lines, (10, 777, 2000), tmp_path)


def test_the_whole_recording(recorded_capture: Path, tmp_path: Path) -> None:
    count, backward = convert(recorded_capture, tmp_path / "out.obs")
    if recorded_capture.name == "binance-spot-ethusdt-20240808.jsonl.gz":
        assert (count, backward) == (30_183, 0)
    recording = read_obs(tmp_path / "out.obs")
    assert len(recording.sequence) == count
    assert numpy.all(numpy.isfinite(recording.observations))
    assert numpy.all(recording.observations.std(axis=0) > 0.05)
