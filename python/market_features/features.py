"""Features of one instrument's quotes and trades, computed one event at a time.

config/features.toml lists them and docs/FEATURES.md defines them. The same computation in Rust is
crates/escapement-reference/src/feed/features.rs. The state is a few dozen numbers for a stream of any length.
Only past events enter it.
"""

from __future__ import annotations

import math

from .definitions import DEFINITIONS

WINDOWS_S = (0.1, 1.0, 10.0)
"""Time constants of the exponentially decaying windows, in seconds."""
ONE_SECOND, TEN_SECONDS = 1, 2
TRADE_SIZE_WEIGHT = 1.0 / 64.0
"""Weight of the newest trade in the mean trade size."""


SMALLEST, LARGEST = 1e-12, 1e12
"""Bounds of prices and quantities. Within them no feature can overflow or lose its meaning."""


class Features:
    """The state of one instrument. The caller must keep prices and quantities in [SMALLEST, LARGEST]."""

    def __init__(self) -> None:
        self.ts_ns: int | None = None
        """Time of the last event. An event with an earlier time counts as one at this time."""
        self._gap_ns = 0
        self._first_ns = 0
        # Best bid and ask, and the values that hold until the next quote.
        self._bid = self._bid_qty = self._ask = self._ask_qty = 0.0
        self._mid = self._microprice = self._imbalance = self._spread_bp = 0.0
        self._mid_moved_ns: int | None = None
        # Means over time.
        self._mid_mean = [0.0, 0.0, 0.0]
        self._microprice_mean = [0.0, 0.0, 0.0]
        self._imbalance_mean = [0.0, 0.0, 0.0]
        self._spread_mean = 0.0
        self._depth = 0.0
        # Decaying sums over events.
        self._squared_moves = [0.0, 0.0, 0.0]
        self._flow = [0.0, 0.0, 0.0]
        self._flow_size = [0.0, 0.0, 0.0]
        self._signed_volume = [0.0, 0.0, 0.0]
        self._volume = [0.0, 0.0, 0.0]
        self._trades = 0.0
        self._quotes = 0.0
        # The last trade.
        self._trade_size = 0.0
        self._trade_price = 0.0
        self._trade_sign = 0.0
        self._trade_ns = 0

    @property
    def ready(self) -> bool:
        """Whether there has been a quote. Before the first quote there is no observation."""
        return self._mid_moved_ns is not None

    def quote(self, ts_ns: int, bid: float, bid_qty: float, ask: float, ask_qty: float) -> None:
        """Takes in a new best bid and ask."""
        now_ns = self._advance(ts_ns)
        mid = 0.5 * (bid + ask)
        size = bid_qty + ask_qty
        microprice = (bid * ask_qty + ask * bid_qty) / size
        imbalance = (bid_qty - ask_qty) / size
        spread_bp = 1e4 * (ask - bid) / mid
        if self._mid_moved_ns is None:
            self._mid_moved_ns = now_ns
            self._mid_mean = [mid] * 3
            self._microprice_mean = [microprice] * 3
            self._imbalance_mean = [imbalance] * 3
            self._spread_mean = spread_bp
            self._depth = 0.5 * size
        else:
            flow = self._order_flow(bid, bid_qty, ask, ask_qty)
            for window in range(3):
                self._flow[window] += flow
                self._flow_size[window] += abs(flow)
            if mid != self._mid:
                self._mid_moved_ns = now_ns
                move_bp = 1e4 * math.log(mid / self._mid)
                for window in range(3):
                    self._squared_moves[window] += move_bp * move_bp
        self._quotes += 1.0
        self._bid, self._bid_qty, self._ask, self._ask_qty = bid, bid_qty, ask, ask_qty
        self._mid, self._microprice, self._imbalance, self._spread_bp = mid, microprice, imbalance, spread_bp

    def trade(self, ts_ns: int, price: float, qty: float, buyer_is_maker: bool) -> None:
        """Takes in a trade. If the buyer was the maker, the taker sold."""
        self._trade_ns = self._advance(ts_ns)
        self._trade_sign = -1.0 if buyer_is_maker else 1.0
        self._trade_price = price
        if self._trade_size == 0.0:
            self._trade_size = qty
        else:
            self._trade_size += TRADE_SIZE_WEIGHT * (qty - self._trade_size)
        for window in range(3):
            self._signed_volume[window] += self._trade_sign * qty
            self._volume[window] += qty
        self._trades += 1.0

    def observation(self) -> list[float]:
        """Returns the features after the last event, in the definitions' order and within their bounds."""
        if self.ts_ns is None or self._mid_moved_ns is None:
            raise ValueError("there is no observation before the first quote")
        mid, microprice, traded = self._mid, self._microprice, self._trade_size > 0.0
        values = [
            self._spread_bp,
            self._spread_bp - self._spread_mean,
            1e4 * (microprice - mid) / mid,
            self._imbalance,
            self._imbalance_mean[ONE_SECOND],
            self._imbalance_mean[TEN_SECONDS],
            math.log(self._bid_qty / self._depth),
            math.log(self._ask_qty / self._depth),
            *(1e4 * math.log(mid / mean) for mean in self._mid_mean),
            *(1e4 * math.log(microprice / mean) for mean in self._microprice_mean),
            *(math.sqrt(self._squared_moves[w] / WINDOWS_S[w]) for w in (ONE_SECOND, TEN_SECONDS)),
            *(self._flow[w] / (self._flow_size[w] + self._depth) for w in range(3)),
            *(
                self._signed_volume[w] / (self._volume[w] + self._trade_size) if traded else 0.0
                for w in range(3)
            ),
            *(math.log(1.0 + self._volume[w] / self._trade_size) if traded else 0.0 for w in range(3)),
            math.log(1.0 + self._trades),
            math.log(1.0 + self._quotes),
            self._trade_sign,
            1e4 * (self._trade_price - mid) / mid if traded else 0.0,
            _log_ms(self.ts_ns - (self._trade_ns if traded else self._first_ns)),
            _log_ms(self.ts_ns - self._mid_moved_ns),
            _log_ms(self._gap_ns),
        ]
        return [min(max(value, d.low), d.high) for value, d in zip(values, DEFINITIONS, strict=True)]

    def _advance(self, ts_ns: int) -> int:
        """Advances the state to `ts_ns`, or leaves it if that is in the past.

        Returns the time of the state.
        """
        if self.ts_ns is None:
            self.ts_ns = self._first_ns = ts_ns
            return ts_ns
        now_ns = max(ts_ns, self.ts_ns)
        self._gap_ns = now_ns - self.ts_ns
        self.ts_ns = now_ns
        elapsed_s = 1e-9 * self._gap_ns
        decays = [math.exp(-elapsed_s / window_s) for window_s in WINDOWS_S]
        for window, decay in enumerate(decays):
            # The quoted values held for the whole gap, so each mean moves towards them.
            self._mid_mean[window] = _towards(self._mid_mean[window], self._mid, decay)
            self._microprice_mean[window] = _towards(self._microprice_mean[window], self._microprice, decay)
            self._imbalance_mean[window] = _towards(self._imbalance_mean[window], self._imbalance, decay)
            self._squared_moves[window] *= decay
            self._flow[window] *= decay
            self._flow_size[window] *= decay
            self._signed_volume[window] *= decay
            self._volume[window] *= decay
        self._spread_mean = _towards(self._spread_mean, self._spread_bp, decays[TEN_SECONDS])
        self._depth = _towards(self._depth, 0.5 * (self._bid_qty + self._ask_qty), decays[TEN_SECONDS])
        self._trades *= decays[ONE_SECOND]
        self._quotes *= decays[ONE_SECOND]
        return now_ns

    def _order_flow(self, bid: float, bid_qty: float, ask: float, ask_qty: float) -> float:
        """Returns what a quote adds to demand minus what it adds to supply (Cont, Kukanov, Stoikov, 2014)."""
        flow = 0.0
        if bid >= self._bid:
            flow += bid_qty
        if bid <= self._bid:
            flow -= self._bid_qty
        if ask <= self._ask:
            flow -= ask_qty
        if ask >= self._ask:
            flow += self._ask_qty
        return flow


def _towards(mean: float, held: float, decay: float) -> float:
    # A sum of two shares, because held + (mean - held) * decay can cancel to zero or change its sign.
    return mean * decay + held * (1.0 - decay)


def _log_ms(duration_ns: int) -> float:
    return math.log(1.0 + 1e-6 * duration_ns)
