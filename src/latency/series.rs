//! The figures of calls that were made in one way.

use crate::evidence::{Cause, Interval};
use escapement_engine::telemetry::Histogram;
use escapement_ring::clock::{Clock, Nanos};
use std::collections::BTreeMap;

/// How many calls missed for each cause.
pub type MissCounts = BTreeMap<Cause, u64>;

/// Slices whose medians show how steady the run was.
pub(super) const SLICES: u64 = 20;

/// Calls that were made in one way, with the platform's hiccups beside them.
#[derive(Debug, Clone)]
pub struct Series {
    /// Latencies of the calls.
    pub inference: Histogram,
    /// Calls that met the deadline, counted exactly: the histogram keeps three digits only.
    pub met: u64,
    /// What the machine added to busy loops of a typical call's length.
    pub hiccup: Histogram,
    /// The median of each slice of the run, in order. They show how steady the run was.
    pub slice_medians_ns: Vec<u64>,
    /// Calls that missed the deadline, by cause; empty if they were not explained.
    pub misses: MissCounts,
}

impl Series {
    /// Returns the number of calls.
    pub fn calls(&self) -> u64 {
        self.inference.percentiles().count
    }

    /// Returns the share of calls, 0 to 1, that met the deadline.
    pub fn within_deadline(&self) -> f64 {
        self.met as f64 / self.calls().max(1) as f64
    }
}

/// Collects a [`Series`] call by call.
pub(super) struct Collector {
    series: Series,
    of_slice: Histogram,
    deadline: Nanos,
    calls: u64,
    made: u64,
    /// The number of calls after which the current slice ends.
    slice_ends: u64,
}

impl Collector {
    /// Prepares for `calls` calls.
    pub(super) fn new(calls: u64, deadline: Nanos) -> Self {
        let series = Series {
            inference: Histogram::new(),
            met: 0,
            hiccup: Histogram::new(),
            slice_medians_ns: Vec::with_capacity(SLICES as usize),
            misses: MissCounts::new(),
        };
        let slice_ends = end_of_slice(calls, 1);
        Self { series, of_slice: Histogram::new(), deadline, calls, made: 0, slice_ends }
    }

    /// The number of calls that are still to be made.
    pub(super) fn left(&self) -> u64 {
        self.calls - self.made
    }

    /// Takes a call, and returns whether it met the deadline.
    #[inline]
    pub(super) fn call(&mut self, call: Interval) -> bool {
        self.of_slice.record(call.length());
        self.made += 1;
        if self.made == self.slice_ends {
            self.end_slice();
        }
        let is_met = call.length() <= self.deadline.0;
        self.series.met += u64::from(is_met);
        is_met
    }

    #[inline]
    pub(super) fn hiccup(&mut self, excess: u64) {
        self.series.hiccup.record(excess);
    }

    pub(super) fn misses(&mut self) -> &mut MissCounts {
        &mut self.series.misses
    }

    pub(super) fn finish(self) -> Series {
        self.series
    }

    #[cold]
    fn end_slice(&mut self) {
        self.series.slice_medians_ns.push(self.of_slice.quantile_ns(0.5));
        self.series.inference.merge(&self.of_slice);
        self.of_slice = Histogram::new();
        self.slice_ends = end_of_slice(self.calls, self.series.slice_medians_ns.len() as u64 + 1);
    }
}

/// Returns after how many calls the slice `number`, from 1, ends. Slices differ by at most one call.
fn end_of_slice(calls: u64, number: u64) -> u64 {
    let slices = SLICES.min(calls).max(1);
    (u128::from(calls) * u128::from(number) / u128::from(slices)) as u64
}

/// Spins for `length`, and returns how much longer that took, in nanoseconds.
#[inline]
pub(super) fn excess_of_busy_loop(clock: &impl Clock, length: Nanos) -> u64 {
    let begun = clock.now();
    let due = begun.plus(length);
    loop {
        let now = clock.now();
        if now >= due {
            return now.since(due).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_end_with_the_calls() {
        for calls in [1, 3, 19, 20, 21, 12_345] {
            let mut collector = Collector::new(calls, Nanos(5));
            for call in 0..calls {
                assert_eq!(collector.call(Interval::new(0, call % 10)), call % 10 <= 5);
            }
            assert_eq!(collector.left(), 0);
            let series = collector.finish();
            assert_eq!(series.calls(), calls);
            assert_eq!(series.slice_medians_ns.len() as u64, calls.min(SLICES));
            assert_eq!(series.met, (0..calls).filter(|call| call % 10 <= 5).count() as u64);
        }
    }
}
