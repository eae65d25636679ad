//! What dry runs cost.

use super::counters::Counter;
use escapement_ring::clock::Nanos;

/// Square nanoseconds to a unit of the sum of squares. In single ones, runs of 50 us would overflow it within
/// a day.
const SQUARE_UNIT: u64 = 256;

/// The figures of the dry runs. The engine writes them between ticks; any thread may read them. They are
/// apart from [`Counters`](super::Counters), which no dry run touches.
#[derive(Debug, Default)]
pub struct KeepWarmMeter {
    runs: Counter,
    /// The sum of the runs' lengths, and of their squares.
    nanos: Counter,
    squares: Counter,
    longest: Counter,
    /// The typical length; zero while it is not known.
    typical: Counter,
    /// One more than the time without work before the next run; zero if none is due.
    interval: Counter,
    /// What a call of the policy takes if that alone is too long for the deadline; else zero.
    too_long_call: Counter,
    delayed: Counter,
    delay: Counter,
}

/// A copy of [`KeepWarmMeter`].
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct KeepWarmSnapshot {
    /// Dry runs since the engine was made.
    pub runs: u64,
    /// Their total length.
    pub total_ns: u64,
    /// The median of their lengths, as estimated while they run; zero while it is not known.
    pub typical_ns: u64,
    /// The time without work before the next run; `None` if none is due, or if trials wait for their turn.
    pub interval_ns: Option<u64>,
    /// What a call of the policy takes if that alone is too long for the deadline.
    pub too_long_call_ns: Option<u64>,
    /// The longest one.
    pub longest_ns: u64,
    /// Observations that came during a dry run.
    pub delayed: u64,
    /// How long those waited for its end, in total.
    pub delay_ns: u64,
    /// The sum of the squares of the lengths in units of 256 ns², for
    /// [`KeepWarmSnapshot::expected_delay_ns`].
    pub squares: u64,
}

impl KeepWarmMeter {
    /// Counts one dry run.
    #[inline]
    pub(crate) fn count_run(&self, length: Nanos, typical: Option<Nanos>) {
        self.runs.add(1);
        self.nanos.add(length.0);
        self.squares.add(length.0.saturating_mul(length.0) / SQUARE_UNIT);
        if length.0 > self.longest.get() {
            self.longest.set(length.0);
        }
        self.typical.set(typical.map_or(0, |typical| typical.0));
    }

    /// Says how long the engine is idle before the next run.
    #[inline]
    pub(crate) fn set_interval(&self, interval: Option<Nanos>) {
        self.interval.set(interval.map_or(0, |interval| interval.0.saturating_add(1)));
    }

    /// Says that a call of the policy alone is too long for the deadline, or that it is not.
    #[inline]
    pub(crate) fn set_too_long_call(&self, call: Option<Nanos>) {
        self.too_long_call.set(call.map_or(0, |call| call.0));
    }

    /// Forgets the typical length, which was that of another policy.
    pub(crate) fn forget_typical(&self) {
        self.typical.set(0);
    }

    /// Counts an observation that waited for the end of a dry run, if the delay is not zero.
    #[inline]
    pub(crate) fn count_delay(&self, nanos: u64) {
        if nanos > 0 {
            self.delayed.add(1);
            self.delay.add(nanos);
        }
    }

    /// Reads all figures. Each is whole, but they need not be of one instant.
    pub fn snapshot(&self) -> KeepWarmSnapshot {
        KeepWarmSnapshot {
            runs: self.runs.get(),
            total_ns: self.nanos.get(),
            typical_ns: self.typical.get(),
            interval_ns: self.interval.get().checked_sub(1),
            too_long_call_ns: Some(self.too_long_call.get()).filter(|call| *call > 0),
            longest_ns: self.longest.get(),
            delayed: self.delayed.get(),
            delay_ns: self.delay.get(),
            squares: self.squares.get(),
        }
    }
}

impl KeepWarmSnapshot {
    /// Returns what was added since `earlier`. The typical and the longest length are those of now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            runs: self.runs - earlier.runs,
            total_ns: self.total_ns - earlier.total_ns,
            delayed: self.delayed - earlier.delayed,
            delay_ns: self.delay_ns - earlier.delay_ns,
            squares: self.squares - earlier.squares,
            ..*self
        }
    }

    /// By how much the dry runs made so far would delay an observation that arrives at a random instant of
    /// `elapsed`, on average, in nanoseconds: the share of time of each run, times half its length.
    pub fn expected_delay_ns(&self, elapsed: Nanos) -> f64 {
        if elapsed.0 == 0 { 0.0 } else { self.squares as f64 * SQUARE_UNIT as f64 / (2.0 * elapsed.0 as f64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_delay_counts_each_run_by_its_share_of_time() {
        let meter = KeepWarmMeter::default();
        for length in [160, 320] {
            meter.count_run(Nanos(length), None);
        }
        meter.count_delay(0);
        meter.count_delay(40);
        let found = meter.snapshot();
        assert_eq!((found.runs, found.total_ns, found.longest_ns), (2, 480, 320));
        assert_eq!((found.delayed, found.delay_ns), (1, 40));
        // In 10 us: 1.6 % of the time 80 ns, and 3.2 % of the time 160 ns.
        assert!((found.expected_delay_ns(Nanos(10_000)) - 6.4).abs() < 1e-9);
    }
}
