"""Tests the features: values computed by hand, bounds, and the vectors that also test the Rust features."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from fixtures import golden_features
from market_features.definitions import DEFINITIONS, DIMENSION, NAMES
from market_features.features import LARGEST, SMALLEST, Features

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "features.jsonl"
MS = 1_000_000


def named(features: Features) -> dict[str, float]:
    return dict(zip(NAMES, features.observation(), strict=True))


def test_definitions_are_distinct_and_bounded() -> None:
    assert DIMENSION == 32
    assert len(set(NAMES)) == DIMENSION
    for definition in DEFINITIONS:
        assert definition.low < definition.high
        assert definition.unit
        assert definition.formula


def test_first_quote_has_no_past() -> None:
    features = Features()
    features.quote(5 * MS, 99.0, 3.0, 101.0, 1.0)
    values = named(features)
    # spread 2 on a mid of 100 is 200 bp, beyond the bound of 100; microprice (99 * 1 + 101 * 3) / 4 = 100.5.
    assert values.pop("spread_bp") == 100.0
    assert values.pop("microprice_offset_bp") == pytest.approx(50.0)
    for name in ("touch_imbalance", "touch_imbalance_1s", "touch_imbalance_10s"):
        assert values.pop(name) == 0.5
    assert values.pop("bid_depth_log") == pytest.approx(math.log(1.5))
    assert values.pop("ask_depth_log") == pytest.approx(math.log(0.5))
    assert values.pop("quote_count_1s_log") == pytest.approx(math.log(2.0))
    assert values == dict.fromkeys(values, 0.0)


def test_second_quote_against_hand_computed_values() -> None:
    features = Features()
    features.quote(0, 99.99, 2.0, 100.01, 2.0)
    features.quote(100 * MS, 100.01, 3.0, 100.03, 1.0)
    values = named(features)
    # The old mid, 100, held for the whole gap, so every mean is still 100.
    for window in ("100ms", "1s", "10s"):
        assert values[f"mid_return_{window}_bp"] == pytest.approx(1e4 * math.log(100.02 / 100.0))
    # A higher bid adds its 3. A higher ask gives back its 2. So the flow is 5, all in one direction; depth is
    # still 2.
    for window in ("100ms", "1s", "10s"):
        assert values[f"order_flow_imbalance_{window}"] == pytest.approx(5.0 / 7.0)
    move_bp = 1e4 * math.log(100.02 / 100.0)
    assert values["volatility_1s_bp"] == pytest.approx(move_bp)
    assert values["volatility_10s_bp"] == pytest.approx(move_bp / math.sqrt(10.0))
    assert values["touch_imbalance"] == 0.5
    assert values["touch_imbalance_1s"] == 0.0
    assert values["quote_count_1s_log"] == pytest.approx(math.log(1.0 + math.exp(-0.1) + 1.0))
    assert values["time_since_mid_move_log"] == 0.0
    assert values["time_since_event_log"] == pytest.approx(math.log(101.0))
    assert values["time_since_trade_log"] == pytest.approx(math.log(101.0))


def test_trades_against_hand_computed_values() -> None:
    features = Features()
    features.quote(0, 99.99, 2.0, 100.01, 2.0)
    features.trade(0, 100.01, 4.0, buyer_is_maker=False)
    features.trade(1000 * MS, 99.99, 68.0, buyer_is_maker=True)
    values = named(features)
    size = 4.0 + (68.0 - 4.0) / 64.0
    kept = math.exp(-1.0)
    volume = 4.0 * kept + 68.0
    assert values["trade_flow_imbalance_1s"] == pytest.approx((4.0 * kept - 68.0) / (volume + size))
    assert values["trade_volume_1s_log"] == pytest.approx(math.log(1.0 + volume / size))
    assert values["trade_count_1s_log"] == pytest.approx(math.log(1.0 + kept + 1.0))
    assert values["last_trade_sign"] == -1.0
    assert values["last_trade_offset_bp"] == pytest.approx(-1.0)
    assert values["time_since_trade_log"] == 0.0
    assert values["time_since_mid_move_log"] == pytest.approx(math.log(1001.0))


def test_means_forget_with_their_time_constant() -> None:
    features = Features()
    features.quote(0, 99.99, 2.0, 100.01, 2.0)
    features.quote(0, 100.99, 2.0, 101.01, 2.0)
    features.quote(1000 * MS, 100.99, 2.0, 101.01, 2.0)
    values = named(features)
    for window, seconds in (("100ms", 0.1), ("1s", 1.0), ("10s", 10.0)):
        mean = 101.0 + (100.0 - 101.0) * math.exp(-1.0 / seconds)
        assert values[f"mid_return_{window}_bp"] == pytest.approx(1e4 * math.log(101.0 / mean), abs=1e-9)


def test_an_earlier_time_counts_as_the_last_one() -> None:
    straight, backward = Features(), Features()
    for features, second_ns in ((straight, 50 * MS), (backward, 20 * MS)):
        features.quote(50 * MS, 99.99, 2.0, 100.01, 2.0)
        features.trade(second_ns, 100.01, 1.0, buyer_is_maker=False)
    assert backward.ts_ns == 50 * MS
    assert backward.observation() == straight.observation()


def test_no_input_within_bounds_gives_a_value_beyond_bounds() -> None:
    draw = random.Random(11)
    for _ in range(300):
        features, ts_ns = Features(), 0
        for _ in range(20):
            ts_ns += draw.choice((0, 1, 10**9, 10**15, 10**18 // 20))
            sizes = [draw.choice((SMALLEST, LARGEST, 10.0 ** draw.uniform(-12, 12))) for _ in range(4)]
            if draw.random() < 0.6:
                low, high = sorted(sizes[:2])
                features.quote(ts_ns, low, sizes[2], high, sizes[3])
            else:
                features.trade(ts_ns, sizes[0], sizes[1], draw.random() < 0.5)
            if features.ready:
                for value, definition in zip(features.observation(), DEFINITIONS, strict=True):
                    assert definition.low <= value <= definition.high, definition.name


def test_no_observation_before_the_first_quote() -> None:
    features = Features()
    features.trade(0, 100.0, 1.0, buyer_is_maker=True)
    assert not features.ready
    with pytest.raises(ValueError, match="before the first quote"):
        features.observation()


def test_committed_vectors_are_what_the_features_give() -> None:
    assert GOLDEN.read_text(encoding="utf-8").splitlines() == list(golden_features.lines())


def test_the_documented_table_is_the_definitions() -> None:
    text = (ROOT / "docs" / "FEATURES.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == DIMENSION
    for index, (row, definition) in enumerate(zip(rows, DEFINITIONS, strict=True)):
        formula = definition.formula.replace("|", "\\|")
        bounds = f"{definition.low} | {definition.high}"
        cells = f"| {index} | `{definition.name}` | {definition.unit} | {formula} | {bounds} |"
        assert row.startswith(cells)
