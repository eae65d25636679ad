//! When an idle engine runs dry, and what that costs.
//!
//! A core that only polls a ring goes cold: branch predictors, micro-op cache, first-level caches,
//! translations and the power state of the vector units. So the first observation after a pause is answered
//! several times more slowly than the next one. An idle engine therefore runs the whole tick on an
//! observation of its own from time to time (see `dry_run`). That is *keep-warm*, or cache warming.
//!
//! # What it costs
//! An observation that arrives during a dry run waits for its end. For arrivals at random, a share
//! `length / (interval + length)` of them arrives during one, and each of those waits `length / 2` on
//! average. So the expected delay is `length² / (2 (interval + length))`. [`KeepWarm::Auto`] chooses the
//! interval by it.

use escapement_ring::clock::Nanos;

/// How long an idle engine waits from the last work to a dry run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepWarm {
    /// It never runs dry.
    Off,
    /// This long.
    Every(Nanos),
    /// So long that the expected delay stays below [`KeepWarm::most_expected_delay`], and at least
    /// [`KeepWarm::SHORTEST`].
    Auto,
}

/// One part in this many of the shortest deadline is the most that [`KeepWarm::Auto`] lets dry runs delay an
/// observation on average: 1 µs where the deadline is 1 ms.
pub const DELAY_PER_DEADLINE: u64 = 1_000;

/// It always lets them delay an observation by this much on average, which is a thousandth of 100 µs. A
/// shorter deadline needs a warm core more than others. Under a smaller bound a dry run that takes a little
/// longer makes the pauses so much longer that the core goes cold, the next dry runs take longer still, and
/// none fits any more.
pub const DELAY_ALWAYS_ALLOWED: Nanos = Nanos(100);

/// A dry run that takes more than one part in this many of the shortest deadline is not started: an
/// observation that arrives while it runs would lose that much of its time.
pub const LENGTH_PER_DEADLINE: u64 = 4;

/// Nor is a dry run that takes longer than this. A policy that computes for so long is warm after its first
/// microseconds.
pub const LONGEST: Nanos = Nanos::from_micros(50);

impl KeepWarm {
    /// The interval of [`KeepWarm::Auto`], unless a dry run takes so long that it must be longer. Shorter
    /// ones keep the core no warmer (`docs/DEADLINES.md` has the measurement).
    pub const SHORTEST: Nanos = Nanos::from_micros(10);

    /// Returns by how much [`KeepWarm::Auto`] lets dry runs delay an observation on average, at most.
    #[inline]
    pub fn most_expected_delay(shortest_deadline: Nanos) -> Nanos {
        Nanos(shortest_deadline.0 / DELAY_PER_DEADLINE).max(DELAY_ALWAYS_ALLOWED)
    }

    /// Returns how long the engine must be idle before a dry run that takes `length`; `None` if it must not
    /// run dry.
    #[inline]
    pub fn interval(self, length: Nanos, shortest_deadline: Nanos) -> Option<Nanos> {
        if !fits(length, shortest_deadline) {
            return None;
        }
        match self {
            Self::Off => None,
            Self::Every(interval) => Some(interval),
            Self::Auto => {
                let most = Self::most_expected_delay(shortest_deadline).0;
                // The expected delay, solved for the interval.
                let interval = (length.0.saturating_mul(length.0) / (2 * most)).saturating_sub(length.0);
                Some(Nanos(interval).max(Self::SHORTEST))
            }
        }
    }
}

/// Returns whether a dry run of this length is a small enough share of the deadline to be started.
#[inline]
pub fn fits(length: Nanos, shortest_deadline: Nanos) -> bool {
    length <= LONGEST.min(Nanos(shortest_deadline.0 / LENGTH_PER_DEADLINE))
}

/// Returns by how much dry runs of this length delay an observation on average, in nanoseconds, where
/// observations arrive at random and a dry run begins whenever the engine was idle for `interval`.
pub fn expected_delay_ns(length: Nanos, interval: Nanos) -> f64 {
    let (length, interval) = (length.0 as f64, interval.0 as f64);
    if length > 0.0 { length * length / (2.0 * (interval + length)) } else { 0.0 }
}

/// When a dry run began and ended. Both are zero where there was none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrySpan {
    /// When it began.
    pub begun: Nanos,
    /// When it ended.
    pub ended: Nanos,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Nanos = Nanos::from_micros(100);

    #[test]
    fn auto_keeps_the_expected_delay_below_its_bound() {
        for length in [0, 1, 150, 300, 1_000, 3_000, 9_999, 25_000] {
            let interval = KeepWarm::Auto.interval(Nanos(length), DEADLINE).expect("it fits");
            let delay = expected_delay_ns(Nanos(length), interval);
            assert!(delay <= DEADLINE.0 as f64 / DELAY_PER_DEADLINE as f64 * 1.001, "{length}: {delay}");
            assert!(interval >= KeepWarm::SHORTEST);
        }
        // 0.3 us each 10 us: 4.4 ns. 10 us need a pause of half a millisecond.
        assert_eq!(KeepWarm::Auto.interval(Nanos(300), DEADLINE), Some(KeepWarm::SHORTEST));
        assert_eq!(KeepWarm::Auto.interval(Nanos(10_000), DEADLINE), Some(Nanos(490_000)));
    }

    /// A warm tick takes 0.7 us on this machine, and a cold one of the same policy 2.
    #[test]
    fn a_short_deadline_does_not_make_the_pauses_so_long_that_the_core_goes_cold() {
        let tight = Nanos::from_micros(10);
        assert_eq!(KeepWarm::Auto.interval(Nanos(700), tight), Some(KeepWarm::SHORTEST));
        assert_eq!(KeepWarm::Auto.interval(Nanos(2_000), tight), Some(Nanos(18_000)));
    }

    #[test]
    fn a_dry_run_that_is_a_visible_share_of_the_deadline_is_not_started() {
        for setting in [KeepWarm::Auto, KeepWarm::Every(Nanos(20_000))] {
            assert!(setting.interval(Nanos(25_000), DEADLINE).is_some());
            assert_eq!(setting.interval(Nanos(25_001), DEADLINE), None);
        }
        assert_eq!(KeepWarm::Off.interval(Nanos(1), DEADLINE), None);
        let minute = Nanos::from_millis(60_000);
        assert!(KeepWarm::Auto.interval(LONGEST, minute).is_some());
        assert_eq!(KeepWarm::Auto.interval(Nanos(LONGEST.0 + 1), minute), None);
    }
}
