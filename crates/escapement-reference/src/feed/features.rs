//! Features of one instrument's quotes and trades, computed one event at a time.
//!
//! `config/features.toml` lists them, and `docs/FEATURES.md` defines them.
//! `python/market_features/features.py` is the same computation in Python. The state has a fixed size, and
//! only past events enter it. Sums are kept in `f64` and rounded once, when an observation is written.

/// The number of features of an observation.
pub const N: usize = 32;

/// The features' names, in the order of the observation's elements.
#[cfg(test)]
pub const NAMES: [&str; N] = [
    "spread_bp",
    "spread_excess_bp",
    "microprice_offset_bp",
    "touch_imbalance",
    "touch_imbalance_1s",
    "touch_imbalance_10s",
    "bid_depth_log",
    "ask_depth_log",
    "mid_return_100ms_bp",
    "mid_return_1s_bp",
    "mid_return_10s_bp",
    "microprice_return_100ms_bp",
    "microprice_return_1s_bp",
    "microprice_return_10s_bp",
    "volatility_1s_bp",
    "volatility_10s_bp",
    "order_flow_imbalance_100ms",
    "order_flow_imbalance_1s",
    "order_flow_imbalance_10s",
    "trade_flow_imbalance_100ms",
    "trade_flow_imbalance_1s",
    "trade_flow_imbalance_10s",
    "trade_volume_100ms_log",
    "trade_volume_1s_log",
    "trade_volume_10s_log",
    "trade_count_1s_log",
    "quote_count_1s_log",
    "last_trade_sign",
    "last_trade_offset_bp",
    "time_since_trade_log",
    "time_since_mid_move_log",
    "time_since_event_log",
];

/// The lowest and the highest value of each feature, in the order of [`NAMES`]. A value outside is set to the
/// bound.
pub const BOUNDS: [(f64, f64); N] = [
    (0.0, 100.0),
    (-100.0, 100.0),
    (-50.0, 50.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (-10.0, 10.0),
    (-10.0, 10.0),
    (-200.0, 200.0),
    (-200.0, 200.0),
    (-200.0, 200.0),
    (-200.0, 200.0),
    (-200.0, 200.0),
    (-200.0, 200.0),
    (0.0, 200.0),
    (0.0, 200.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (-1.0, 1.0),
    (0.0, 15.0),
    (0.0, 15.0),
    (0.0, 15.0),
    (0.0, 15.0),
    (0.0, 15.0),
    (-1.0, 1.0),
    (-100.0, 100.0),
    (0.0, 20.0),
    (0.0, 20.0),
    (0.0, 20.0),
];

/// Time constants of the exponentially decaying windows, in seconds.
const WINDOWS_S: [f64; 3] = [0.1, 1.0, 10.0];
const ONE_SECOND: usize = 1;
const TEN_SECONDS: usize = 2;
/// Weight of the newest trade in the mean trade size.
const TRADE_SIZE_WEIGHT: f64 = 1.0 / 64.0;

/// One value per window.
type PerWindow = [f64; 3];

/// A quote and the values derived from it.
#[derive(Debug, Clone, Copy, Default)]
struct Touch {
    bid: f64,
    bid_qty: f64,
    ask: f64,
    ask_qty: f64,
    mid: f64,
    microprice: f64,
    imbalance: f64,
    spread_bp: f64,
}

impl Touch {
    fn new(bid: f64, bid_qty: f64, ask: f64, ask_qty: f64) -> Self {
        let mid = 0.5 * (bid + ask);
        let size = bid_qty + ask_qty;
        Self {
            bid,
            bid_qty,
            ask,
            ask_qty,
            mid,
            microprice: (bid * ask_qty + ask * bid_qty) / size,
            imbalance: (bid_qty - ask_qty) / size,
            spread_bp: 1e4 * (ask - bid) / mid,
        }
    }

    /// The order flow imbalance of the next quote: what it adds to demand minus what it adds to supply.
    /// Source: Cont, Kukanov and Stoikov (2014), "The price impact of order book events".
    fn order_flow_to(&self, next: &Self) -> f64 {
        let mut flow = 0.0;
        if next.bid >= self.bid {
            flow += next.bid_qty;
        }
        if next.bid <= self.bid {
            flow -= self.bid_qty;
        }
        if next.ask <= self.ask {
            flow -= next.ask_qty;
        }
        if next.ask >= self.ask {
            flow += self.ask_qty;
        }
        flow
    }
}

/// The last trade.
#[derive(Debug, Clone, Copy)]
struct LastTrade {
    ts_ns: u64,
    price: f64,
    /// +1 if the taker bought, -1 if the taker sold.
    sign: f64,
}

/// The feature state of one instrument. Prices and quantities must lie in [1e-12, 1e12]; within it no feature
/// overflows.
#[derive(Debug, Clone, Default)]
pub struct Features {
    /// The times of the first and of the last event.
    span_ns: Option<(u64, u64)>,
    /// The time between the last two events.
    gap_ns: u64,
    /// The last quote, and the time of the last move of the mid price.
    quoted: Option<(Touch, u64)>,
    last_trade: Option<LastTrade>,
    // Means over time.
    mid_mean: PerWindow,
    microprice_mean: PerWindow,
    imbalance_mean: PerWindow,
    spread_mean: f64,
    depth: f64,
    // Mean over trades.
    trade_size: f64,
    // Decaying sums over events.
    squared_moves: PerWindow,
    flow: PerWindow,
    flow_size: PerWindow,
    signed_volume: PerWindow,
    volume: PerWindow,
    trades: f64,
    quotes: f64,
}

impl Features {
    /// A state without any event.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time of the last event, in nanoseconds; 0 before the first. It never decreases: an event with an
    /// earlier time counts as having happened at this time.
    pub fn ts_ns(&self) -> u64 {
        self.span_ns.map_or(0, |(_, last_ns)| last_ns)
    }

    /// Adds a new best bid and ask.
    pub fn quote(&mut self, ts_ns: u64, bid: f64, bid_qty: f64, ask: f64, ask_qty: f64) {
        let now_ns = self.advance(ts_ns);
        let touch = Touch::new(bid, bid_qty, ask, ask_qty);
        let mid_moved_ns = match self.quoted {
            None => {
                self.mid_mean = [touch.mid; 3];
                self.microprice_mean = [touch.microprice; 3];
                self.imbalance_mean = [touch.imbalance; 3];
                self.spread_mean = touch.spread_bp;
                self.depth = 0.5 * (bid_qty + ask_qty);
                now_ns
            }
            Some((last, mid_moved_ns)) => {
                let flow = last.order_flow_to(&touch);
                add(&mut self.flow, flow);
                add(&mut self.flow_size, flow.abs());
                if touch.mid == last.mid {
                    mid_moved_ns
                } else {
                    let move_bp = 1e4 * (touch.mid / last.mid).ln();
                    add(&mut self.squared_moves, move_bp * move_bp);
                    now_ns
                }
            }
        };
        self.quotes += 1.0;
        self.quoted = Some((touch, mid_moved_ns));
    }

    /// Adds a trade. If the buyer was the maker, the taker sold.
    pub fn trade(&mut self, ts_ns: u64, price: f64, qty: f64, buyer_is_maker: bool) {
        let now_ns = self.advance(ts_ns);
        let sign = if buyer_is_maker { -1.0 } else { 1.0 };
        match self.last_trade {
            None => self.trade_size = qty,
            Some(_) => self.trade_size += TRADE_SIZE_WEIGHT * (qty - self.trade_size),
        }
        self.last_trade = Some(LastTrade { ts_ns: now_ns, price, sign });
        add(&mut self.signed_volume, sign * qty);
        add(&mut self.volume, qty);
        self.trades += 1.0;
    }

    /// Writes the features as of the last event, in the order of [`NAMES`], each within its [`BOUNDS`].
    /// Returns `false`, and writes nothing, before the first quote.
    #[must_use]
    pub fn observation(&self, out: &mut [f32; N]) -> bool {
        let (Some((touch, mid_moved_ns)), Some((first_ns, now_ns))) = (self.quoted, self.span_ns) else {
            return false;
        };
        let Touch { mid, microprice, .. } = touch;
        let return_bp = |price: f64, mean: f64| 1e4 * (price / mean).ln();
        let volatility = |w: usize| (self.squared_moves[w] / WINDOWS_S[w]).sqrt();
        let order_flow = |w: usize| self.flow[w] / (self.flow_size[w] + self.depth);
        let trade = self.last_trade;
        let trade_flow =
            |w: usize| trade.map_or(0.0, |_| self.signed_volume[w] / (self.volume[w] + self.trade_size));
        let trade_volume = |w: usize| trade.map_or(0.0, |_| (1.0 + self.volume[w] / self.trade_size).ln());
        let values = [
            touch.spread_bp,
            touch.spread_bp - self.spread_mean,
            1e4 * (microprice - mid) / mid,
            touch.imbalance,
            self.imbalance_mean[ONE_SECOND],
            self.imbalance_mean[TEN_SECONDS],
            (touch.bid_qty / self.depth).ln(),
            (touch.ask_qty / self.depth).ln(),
            return_bp(mid, self.mid_mean[0]),
            return_bp(mid, self.mid_mean[1]),
            return_bp(mid, self.mid_mean[2]),
            return_bp(microprice, self.microprice_mean[0]),
            return_bp(microprice, self.microprice_mean[1]),
            return_bp(microprice, self.microprice_mean[2]),
            volatility(ONE_SECOND),
            volatility(TEN_SECONDS),
            order_flow(0),
            order_flow(1),
            order_flow(2),
            trade_flow(0),
            trade_flow(1),
            trade_flow(2),
            trade_volume(0),
            trade_volume(1),
            trade_volume(2),
            (1.0 + self.trades).ln(),
            (1.0 + self.quotes).ln(),
            trade.map_or(0.0, |trade| trade.sign),
            trade.map_or(0.0, |trade| 1e4 * (trade.price - mid) / mid),
            log_ms(now_ns - trade.map_or(first_ns, |trade| trade.ts_ns)),
            log_ms(now_ns - mid_moved_ns),
            log_ms(self.gap_ns),
        ];
        for ((out, value), (low, high)) in out.iter_mut().zip(values).zip(BOUNDS) {
            *out = value.clamp(low, high) as f32;
        }
        true
    }

    /// Advances time to `ts_ns`. Returns the new time, which never decreases.
    fn advance(&mut self, ts_ns: u64) -> u64 {
        let Some((first_ns, last_ns)) = self.span_ns else {
            self.span_ns = Some((ts_ns, ts_ns));
            return ts_ns;
        };
        let now_ns = ts_ns.max(last_ns);
        self.gap_ns = now_ns - last_ns;
        self.span_ns = Some((first_ns, now_ns));
        let elapsed_s = 1e-9 * self.gap_ns as f64;
        let decays = WINDOWS_S.map(|window_s| (-elapsed_s / window_s).exp());
        for sum in [
            &mut self.squared_moves,
            &mut self.flow,
            &mut self.flow_size,
            &mut self.signed_volume,
            &mut self.volume,
        ] {
            for (sum, decay) in sum.iter_mut().zip(decays) {
                *sum *= decay;
            }
        }
        self.trades *= decays[ONE_SECOND];
        self.quotes *= decays[ONE_SECOND];
        if let Some((touch, _)) = &self.quoted {
            // The last quote was valid for the whole gap, so each mean moves towards it.
            for (window, decay) in decays.into_iter().enumerate() {
                approach(&mut self.mid_mean[window], touch.mid, decay);
                approach(&mut self.microprice_mean[window], touch.microprice, decay);
                approach(&mut self.imbalance_mean[window], touch.imbalance, decay);
            }
            approach(&mut self.spread_mean, touch.spread_bp, decays[TEN_SECONDS]);
            approach(&mut self.depth, 0.5 * (touch.bid_qty + touch.ask_qty), decays[TEN_SECONDS]);
        }
        now_ns
    }
}

fn add(sums: &mut PerWindow, value: f64) {
    for sum in sums {
        *sum += value;
    }
}

fn approach(mean: &mut f64, held: f64, decay: f64) {
    // A sum of shares, because `held + (mean - held) * decay` can cancel to zero or below.
    *mean = *mean * decay + held * (1.0 - decay);
}

fn log_ms(duration_ns: u64) -> f64 {
    (1.0 + 1e-6 * duration_ns as f64).ln()
}

#[cfg(test)]
mod tests;
