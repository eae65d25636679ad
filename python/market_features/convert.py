"""Converts a capture of Binance spot quotes and trades to observations for `escapement feed --replay`.

Usage: python scripts/convert_capture.py CAPTURE.jsonl.gz --out FILE.obs [--summary]

From the first quote on, each quote or trade gives one observation, computed from that event and those before
it. Its `ts_event_ns` is the local receive time. If a receive time is earlier than the one before it, the
earlier line's time is used instead, and the number of such events is reported. The same capture always gives
the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from market_features.capture import CaptureError, read_capture
from market_features.definitions import DEFINITIONS, NAMES
from market_features.features import Features
from market_features.obs_file import ObsFileError, ObsWriter, read_obs

EXIT_BAD_INPUT = 65


def convert(capture: Path, out: Path) -> tuple[int, int]:
    """Writes the observations of `capture` to `out`.

    Returns the number of observations and the number of receive times that went backward.
    """
    features = Features()
    backward = 0
    with ObsWriter(out, NAMES) as writer:
        for event in read_capture(capture):
            if features.ts_ns is not None and event.ts_ns < features.ts_ns:
                backward += 1
            event.apply(features)
            if features.ready and features.ts_ns is not None:
                writer.write(features.ts_ns, features.observation())
        if writer.count == 0:
            raise CaptureError(f"{capture}: it holds no quote, so there is no observation")
    return writer.count, backward


def summary(path: Path) -> str:
    """Returns a table with statistics of each feature in a file."""
    values = read_obs(path).observations.astype(float)
    lines = [f"{'feature':28}{'unit':12}{'mean':>10}{'std':>10}{'min':>10}{'median':>10}{'max':>10}"]
    for column, definition in enumerate(DEFINITIONS):
        series = values[:, column]
        figures = (
            series.mean(),
            series.std(),
            series.min(),
            float(sorted(series)[len(series) // 2]),
            series.max(),
        )
        lines.append(
            f"{definition.name:28}{definition.unit:12}" + "".join(f"{figure:10.4f}" for figure in figures)
        )
    return "\n".join(lines)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Convert a Binance spot capture to observations.")
    parser.add_argument(
        "capture", type=Path, help="capture, one `local_receive_time_ns {json}` per line, gzipped or not"
    )
    parser.add_argument("--out", type=Path, required=True, help="observation file to write")
    parser.add_argument("--summary", action="store_true", help="print mean, spread and range of each feature")
    arguments = parser.parse_args()
    if arguments.out.exists() and arguments.capture.exists() and arguments.out.samefile(arguments.capture):
        parser.error(f"--out {arguments.out} is the capture itself")
    try:
        count, backward = convert(arguments.capture, arguments.out)
        if arguments.summary:
            print(summary(arguments.out))
    except (CaptureError, ObsFileError) as error:
        print(f"convert_capture: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        print(f"convert_capture: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print(
        f"{arguments.out}: {count} observations of {len(NAMES)} features; "
        f"{backward} receive times went backward",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
