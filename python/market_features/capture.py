"""Reads captures of Binance spot market-data streams.

A capture has one message per line, `local_receive_time_ns {json}`, gzipped or not. The messages are those of
the combined streams `<symbol>@bookTicker` and `<symbol>@trade` of one instrument. The capture may also hold
`<symbol>@depth...` messages and order-book snapshots. Their form is checked, and they are not used.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .features import LARGEST, SMALLEST, Features

MAXIMUM_TS_NS = 2**63 - 1


class CaptureError(Exception):
    """A capture that cannot be used. The text is one line that names the file and the line."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A new best bid and ask."""

    ts_ns: int
    bid: float
    bid_qty: float
    ask: float
    ask_qty: float

    def apply(self, features: Features) -> None:
        """Takes the event into the features."""
        features.quote(self.ts_ns, self.bid, self.bid_qty, self.ask, self.ask_qty)


@dataclass(frozen=True, slots=True)
class Trade:
    """One trade."""

    ts_ns: int
    price: float
    qty: float
    buyer_is_maker: bool

    def apply(self, features: Features) -> None:
        """Takes the event into the features."""
        features.trade(self.ts_ns, self.price, self.qty, self.buyer_is_maker)


class _BadLineError(Exception):
    """One line is invalid. The text says why."""


def read_capture(path: Path) -> Iterator[Quote | Trade]:
    """Yields the quotes and trades of a capture in the order of its lines."""
    number = 0
    symbol: str | None = None
    try:
        with _open(path) as lines:
            for line in lines:
                number += 1
                found, event = _parse(line)
                if found is not None:
                    if symbol not in (None, found):
                        raise _BadLineError(
                            f"symbol {found!r} in a capture of {symbol!r}; one capture holds one symbol"
                        )
                    symbol = found
                if event is not None:
                    yield event
    except _BadLineError as error:
        raise CaptureError(f"{path}:{number}: {error}") from None
    except UnicodeDecodeError:
        raise CaptureError(f"{path}:{number + 1}: not UTF-8 text") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CaptureError(f"{path}:{number + 1}: damaged gzip data: {error}") from None
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror or error}") from None


def _open(path: Path) -> IO[str]:
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rt", encoding="utf-8") if gzipped else path.open(encoding="utf-8")


def _parse(line: str) -> tuple[str | None, Quote | Trade | None]:
    """Returns the symbol and the event of one line, each None if the line has none."""
    stamp, _, text = line.rstrip("\n").partition(" ")
    if not (stamp.isascii() and stamp.isdigit()) or int(stamp) > MAXIMUM_TS_NS:
        raise _BadLineError(
            f"receive time {stamp[:40]!r}; allowed: nanoseconds, a whole number up to {MAXIMUM_TS_NS}"
        )
    try:
        message = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise _BadLineError("not `local_receive_time_ns {json}`: the JSON is broken or cut off") from None
    if not isinstance(message, dict):
        raise _BadLineError("the message is not a JSON object")
    if "stream" not in message:
        if "lastUpdateId" in message:
            return None, None
        raise _BadLineError("neither a stream message (key `stream`) nor a snapshot (key `lastUpdateId`)")
    symbol, _, channel = str(message["stream"]).partition("@")
    data = message.get("data")
    if not isinstance(data, dict):
        raise _BadLineError("key `data` is missing or not an object")
    if channel == "bookTicker":
        return symbol, _quote(int(stamp), data)
    if channel == "trade":
        return symbol, _trade(int(stamp), data)
    if channel.split("@")[0] == "depth":
        return symbol, None
    raise _BadLineError(
        f"stream {str(message['stream'])[:60]!r}; allowed: <symbol>@bookTicker, @trade, @depth..."
    )


def _quote(ts_ns: int, data: dict[str, Any]) -> Quote:
    quote = Quote(ts_ns, *(_positive(data, key) for key in ("b", "B", "a", "A")))
    if quote.bid >= quote.ask:
        raise _BadLineError(f"bid `b` {quote.bid} is not below ask `a` {quote.ask}")
    return quote


def _trade(ts_ns: int, data: dict[str, Any]) -> Trade:
    buyer_is_maker = data.get("m")
    if not isinstance(buyer_is_maker, bool):
        raise _BadLineError(f"key `m` is {str(buyer_is_maker)[:40]!r}; allowed: true, false")
    return Trade(ts_ns, _positive(data, "p"), _positive(data, "q"), buyer_is_maker)


def _positive(data: dict[str, Any], key: str) -> float:
    """Returns a price or quantity, which Binance writes as a string. Fails if it is out of bounds."""
    value = data.get(key)
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if not SMALLEST <= number <= LARGEST:
        allowed = f"a number from {SMALLEST} to {LARGEST}, as a string"
        raise _BadLineError(f"key `{key}` is {str(value)[:40]!r}; allowed: {allowed}")
    return number
