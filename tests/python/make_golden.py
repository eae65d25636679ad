"""Writes tests/golden/features.jsonl: made-up events, and the observation after each as the Python features have it.

Usage: python make_golden.py FILE, with scripts/ on PYTHONPATH. The Rust features are held to the same file.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from market_features.capture import Quote, Trade
from market_features.features import Features

EVENTS = 48
SEED = 20240808


def events() -> Iterator[Quote | Trade]:
    """Bursts, silences, a trade before the first quote, equal and backward times, wide and one-tick spreads."""
    draw = random.Random(SEED)
    ts_ns = 1_700_000_000_000_000_000
    mid_ticks = 268_000
    yield Trade(ts_ns, 2680.0, 0.25, True)
    for index in range(1, EVENTS):
        ts_ns += draw.choice((0, 300, 80_000, 4_000_000, 90_000_000, 2_500_000_000))
        if index == EVENTS // 2:
            ts_ns -= 1_000_000_000
        mid_ticks += draw.choice((0, 0, 0, -1, 1, -7, 12))
        half_spread = draw.choice((1, 1, 1, 4))
        if draw.random() < 0.6:
            bid, ask = (mid_ticks - half_spread) / 100, (mid_ticks + half_spread) / 100
            yield Quote(ts_ns, bid, draw.randint(1, 200_000) / 1e4, ask, draw.randint(1, 200_000) / 1e4)
        else:
            yield Trade(
                ts_ns, (mid_ticks + draw.choice((-1, 1))) / 100, draw.randint(1, 9_000) / 1e4, draw.random() < 0.5
            )


def lines() -> Iterator[str]:
    """The lines of the file."""
    features = Features()
    for event in events():
        event.apply(features)
        observation = [float(f"{value:.9g}") for value in features.observation()] if features.ready else None
        fields: list[str | float | bool]
        if isinstance(event, Quote):
            fields = ["quote", event.ts_ns, event.bid, event.bid_qty, event.ask, event.ask_qty]
        else:
            fields = ["trade", event.ts_ns, event.price, event.qty, event.buyer_is_maker]
        step = {"event": fields, "ts_event_ns": features.ts_ns, "observation": observation}
        yield json.dumps(step, separators=(",", ":"))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")
