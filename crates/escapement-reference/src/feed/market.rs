//! A synthetic market: seeded quotes and trades whose features resemble those of a recorded order book.
//!
//! It is not a model to trade against. It lets a feed without a recording give a policy the kind of
//! observations that it was trained on: a book that is one tick wide most of the time, jumps that open and
//! close the spread, runs of trades on one side, and bursts of events. The constants below were set by
//! comparing the features' means and standard deviations with those of six recorded minutes of a liquid spot
//! pair. The tests keep them comparable.
//!
//! A seed gives the same events on the same build. The market has its own time; the feed's schedule decides
//! how fast the events are published.

use super::features::{Features, N};
use super::random::Random;

/// An event in the market.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A new best bid and ask.
    Quote {
        /// The time, in nanoseconds.
        ts_ns: u64,
        /// Best bid price.
        bid: f64,
        /// The quantity at the bid.
        bid_qty: f64,
        /// Best ask price.
        ask: f64,
        /// The quantity at the ask.
        ask_qty: f64,
    },
    /// A trade.
    Trade {
        /// The time, in nanoseconds.
        ts_ns: u64,
        /// Its price.
        price: f64,
        /// Its quantity.
        qty: f64,
        /// Whether the taker sold.
        buyer_is_maker: bool,
    },
}

/// Events per second of the recording that the shares and sizes were compared with.
pub const RECORDED_EVENTS_PER_S: f64 = 87.0;

const TICKS_PER_UNIT: f64 = 100.0;
const START_BID_TICKS: i64 = 268_000;
/// The range of the mid price, in ticks. The mid turns back at its edges, so that a run of any length keeps
/// its tick-to-price ratio within a factor of two.
const BID_TICKS: std::ops::RangeInclusive<i64> = START_BID_TICKS / 2..=START_BID_TICKS * 2;
const SMALLEST_QTY: f64 = 1e-4;
const LARGEST_QTY: f64 = 60.0;

/// Gaps between events: share, and mean in units of the overall mean gap. Most gaps are short and within a
/// burst; the few long ones make up most of the time. The products add up to 1.
const GAPS: [(f64, f64); 3] = [(0.4, 6e-5), (0.4, 0.17), (0.2, 4.659_88)];
const TRADE_AFTER_TRADE: f64 = 0.69;
const TRADE_AFTER_QUOTE: f64 = 0.08;
const SAME_SIDE_AS_LAST_TRADE: f64 = 0.92;

/// A sweep is a period of faster events in which trades and prices go one way. The constants keep the mean
/// gap: the share of events in sweeps times their pace, plus the rest times the calm pace, is 1.
const SWEEP_SHARE: f64 = 0.25;
const SWEEP_EVENTS: f64 = 60.0;
const SWEEP_PACE: f64 = 0.12;
const CALM_PACE: f64 = (1.0 - SWEEP_SHARE * SWEEP_PACE) / (1.0 - SWEEP_SHARE);
/// The probability that a quote opens a spread of one tick, in a sweep and otherwise.
const OPENING: (f64, f64) = (0.2, 0.008);
/// The probability that a sweep's trades and moves follow its direction.
const WITH_THE_SWEEP: f64 = 0.85;
/// The lean of the book: the share that survives an event, and the size of its random steps.
const LEAN_KEPT: f64 = 0.998;
const LEAN_STEP: f64 = 0.05;

/// One side of the best quotes.
#[derive(Debug, Clone, Copy)]
struct Level {
    ticks: i64,
    qty: f64,
}

impl Level {
    fn price(self) -> f64 {
        self.ticks as f64 / TICKS_PER_UNIT
    }
}

/// The market of one instrument.
#[derive(Debug, Clone)]
pub struct Market {
    random: Random,
    mean_gap_ns: f64,
    ts_ns: u64,
    started: bool,
    bid: Level,
    ask: Level,
    last_was_trade: bool,
    taker_sells: bool,
    /// Whether the current sweep goes up.
    sweep: Option<bool>,
    /// The lean of the book: the logarithm of the bid's target depth over the ask's.
    lean: f64,
}

impl Market {
    /// The market of this seed. Its first event happens at `start_ns`. `events_per_s` is the mean rate; it
    /// must be finite and above 0.
    pub fn new(seed: u64, start_ns: u64, events_per_s: f64) -> Self {
        Self {
            random: Random::new(seed),
            mean_gap_ns: 1e9 / events_per_s,
            ts_ns: start_ns,
            started: false,
            bid: Level { ticks: START_BID_TICKS, qty: 10.0 },
            ask: Level { ticks: START_BID_TICKS + 1, qty: 10.0 },
            last_was_trade: false,
            taker_sells: false,
            sweep: None,
            lean: 0.0,
        }
    }

    /// Returns the next event. The first event is a quote. Times never decrease.
    pub fn next_event(&mut self) -> Event {
        if !self.started {
            self.started = true;
            return self.quote();
        }
        self.change_mood();
        self.ts_ns += self.gap_ns();
        let trade_chance = if self.last_was_trade { TRADE_AFTER_TRADE } else { TRADE_AFTER_QUOTE };
        self.last_was_trade = self.random.chance(trade_chance);
        if self.last_was_trade {
            self.trade()
        } else {
            self.move_book();
            self.quote()
        }
    }

    fn gap_ns(&mut self) -> u64 {
        let mut pick = self.random.uniform();
        let mut mean = GAPS[GAPS.len() - 1].1;
        for (share, candidate) in GAPS {
            if pick < share {
                mean = candidate;
                break;
            }
            pick -= share;
        }
        let pace = if self.sweep.is_some() { SWEEP_PACE } else { CALM_PACE };
        self.random.exponential(mean * pace * self.mean_gap_ns) as u64
    }

    fn change_mood(&mut self) {
        self.lean = LEAN_KEPT * self.lean + LEAN_STEP * self.random.bell();
        match self.sweep {
            Some(_) if self.random.chance(1.0 / SWEEP_EVENTS) => self.sweep = None,
            None if self.random.chance(SWEEP_SHARE / (1.0 - SWEEP_SHARE) / SWEEP_EVENTS) => {
                self.sweep = Some(self.random.chance(0.5));
            }
            _ => {}
        }
    }

    /// Whether the next move goes up: mostly in the direction of the sweep, if there is one.
    fn follow_sweep(&mut self) -> Option<bool> {
        self.sweep.filter(|_| self.random.chance(WITH_THE_SWEEP))
    }

    fn quote(&self) -> Event {
        Event::Quote {
            ts_ns: self.ts_ns,
            bid: self.bid.price(),
            bid_qty: self.bid.qty,
            ask: self.ask.price(),
            ask_qty: self.ask.qty,
        }
    }

    /// A trade takes from the best quote. The next quote shows what is left.
    fn trade(&mut self) -> Event {
        if let Some(up) = self.follow_sweep() {
            self.taker_sells = !up;
        } else if !self.random.chance(SAME_SIDE_AS_LAST_TRADE) {
            self.taker_sells = !self.taker_sells;
        }
        let qty = (0.01 * (2.4 * self.random.bell()).exp()).max(SMALLEST_QTY);
        let hit = if self.taker_sells { &mut self.bid } else { &mut self.ask };
        hit.qty = (hit.qty - qty).max(SMALLEST_QTY);
        Event::Trade { ts_ns: self.ts_ns, price: hit.price(), qty, buyer_is_maker: self.taker_sells }
    }

    fn move_book(&mut self) {
        let spread = self.ask.ticks - self.bid.ticks;
        if spread > 1 {
            if self.random.chance(0.45) {
                return self.close_spread(spread);
            }
        } else {
            let opening = if self.sweep.is_some() { OPENING.0 } else { OPENING.1 };
            if self.random.chance(opening) {
                return self.open_spread();
            }
        }
        let on_bid = self.random.chance(0.5);
        let fresh = self.fresh_qty(on_bid);
        let factor = (0.15 * self.random.bell()).exp();
        let renewed = self.random.chance(0.2);
        let side = if on_bid { &mut self.bid } else { &mut self.ask };
        side.qty = if renewed { fresh } else { (side.qty * factor).clamp(SMALLEST_QTY, LARGEST_QTY) };
    }

    /// One side moves back by some ticks, the thinner one more often.
    fn open_spread(&mut self) {
        let ticks = 1 + self.random.exponential(9.0) as i64;
        let imbalance = (self.bid.qty - self.ask.qty) / (self.bid.qty + self.ask.qty);
        let up = if self.bid.ticks < *BID_TICKS.start() {
            true
        } else if self.bid.ticks > *BID_TICKS.end() {
            false
        } else {
            self.follow_sweep().unwrap_or_else(|| self.random.chance(0.5 + 0.3 * imbalance))
        };
        let qty = self.fresh_qty(!up);
        if up {
            self.ask = Level { ticks: self.ask.ticks + ticks, qty };
        } else {
            self.bid = Level { ticks: self.bid.ticks - ticks, qty };
        }
    }

    /// One side moves into the spread, all the way or partly.
    fn close_spread(&mut self, spread: i64) {
        let ticks = if self.random.chance(0.7) { spread - 1 } else { 1 };
        let on_bid = self.follow_sweep().unwrap_or_else(|| self.random.chance(0.5));
        let qty = self.fresh_qty(on_bid);
        if on_bid {
            self.bid = Level { ticks: self.bid.ticks + ticks, qty };
        } else {
            self.ask = Level { ticks: self.ask.ticks - ticks, qty };
        }
    }

    /// The quantity of a new level: sometimes very small, otherwise some units, more on the side that the
    /// book leans to.
    fn fresh_qty(&mut self, on_bid: bool) -> f64 {
        let lean = if on_bid { self.lean } else { -self.lean };
        let qty = if self.random.chance(0.2) {
            0.05 * (2.0 * self.random.bell()).exp()
        } else {
            self.random.exponential(10.0 * (0.5 * lean).exp())
        };
        qty.clamp(SMALLEST_QTY, LARGEST_QTY)
    }
}

/// The observations of a synthetic market, one per event.
#[derive(Debug, Clone)]
pub struct SyntheticObservations {
    market: Market,
    features: Features,
}

impl SyntheticObservations {
    /// The observations of [`Market::new`] with the same arguments.
    pub fn new(seed: u64, start_ns: u64, events_per_s: f64) -> Self {
        Self { market: Market::new(seed, start_ns, events_per_s), features: Features::new() }
    }

    /// Writes the next observation and returns its time in nanoseconds.
    pub fn next_into(&mut self, out: &mut [f32; N]) -> u64 {
        match self.market.next_event() {
            Event::Quote { ts_ns, bid, bid_qty, ask, ask_qty } => {
                self.features.quote(ts_ns, bid, bid_qty, ask, ask_qty);
            }
            Event::Trade { ts_ns, price, qty, buyer_is_maker } => {
                self.features.trade(ts_ns, price, qty, buyer_is_maker);
            }
        }
        let observed = self.features.observation(out);
        debug_assert!(observed, "a market begins with a quote");
        self.features.ts_ns()
    }
}

#[cfg(test)]
mod tests;
