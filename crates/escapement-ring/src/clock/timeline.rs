//! The arithmetic of a disciplined counter, without the counter, and its publication to other threads.

use super::ClockFault;
use crate::sync::{AtomicU64, Ordering};

/// Fixed-point fraction bits of a rate in nanoseconds per counter tick.
const RATE_BITS: u32 = 40;

/// The largest correction of the rate, in parts per million. The kernel itself slews by at most 500.
const MAX_SLEW_PPM: i128 = 1_000;

/// An error above this is corrected by a step, forwards only: the virtual machine was paused, and no slew
/// would catch up.
const STEP_NS: u64 = 1_000_000;

/// A clock further ahead than this of the kernel's is at fault. The largest slew would take ten seconds to
/// remove it, and meanwhile every stamp lies in the future of other processes.
const MAX_AHEAD_NS: u64 = 10_000_000;

/// The arithmetic of a disciplined counter, without the counter, so that tests can use any counter.
///
/// Within one stretch, `ns = anchor_ns + (count - anchor_count) * rate`. Each [`Timeline::correct`] begins a
/// new stretch at the value the old one predicts, so the reading is continuous and never goes back; the new
/// rate is the long-run one, bent so as to remove the observed error over the next stretch (a first-order
/// phase-locked loop).
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeline {
    first_count: u64,
    first_ns: u64,
    anchor_count: u64,
    anchor_ns: u64,
    /// Nanoseconds per count, with `RATE_BITS` fraction bits.
    rate: u64,
}

impl Timeline {
    pub(super) fn new(first: (u64, u64), second: (u64, u64)) -> Self {
        let rate = measured_rate(first, second).max(1);
        Self { first_count: first.0, first_ns: first.1, anchor_count: second.0, anchor_ns: second.1, rate }
    }

    #[inline]
    pub(super) fn at(&self, count: u64) -> u64 {
        reading(self.anchor_count, self.anchor_ns, self.rate, count)
    }

    /// Returns why the counter cannot be corrected at this pair of readings.
    pub(super) fn check(&self, count: u64, true_ns: u64) -> Result<(), ClockFault> {
        if count < self.anchor_count {
            return Err(ClockFault::WentBack);
        }
        let ahead = self.at(count).saturating_sub(true_ns);
        if ahead > MAX_AHEAD_NS { Err(ClockFault::Ahead { ns: ahead }) } else { Ok(()) }
    }

    pub(super) fn correct(&mut self, count: u64, true_ns: u64) {
        let predicted = self.at(count);
        let stretch = predicted.saturating_sub(self.anchor_ns);
        if stretch == 0 {
            return;
        }
        let long_run = measured_rate((self.first_count, self.first_ns), (count, true_ns)).max(1);
        self.anchor_count = count;
        if true_ns > predicted + STEP_NS {
            self.anchor_ns = true_ns;
            self.first_count = count;
            self.first_ns = true_ns;
            return;
        }
        self.anchor_ns = predicted;
        let error = i128::from(true_ns) - i128::from(predicted);
        let ppm = (error * 1_000_000 / i128::from(stretch)).clamp(-MAX_SLEW_PPM, MAX_SLEW_PPM);
        let bent = i128::from(long_run) + i128::from(long_run) * ppm / 1_000_000;
        self.rate = bent.max(1) as u64;
    }
}

/// What the timeline reads at a count.
#[inline]
fn reading(anchor_count: u64, anchor_ns: u64, rate: u64, count: u64) -> u64 {
    // The processor may have moved this read before the anchor's. It then reads as the anchor, not as the far
    // future.
    let elapsed = count.saturating_sub(anchor_count);
    anchor_ns + ((u128::from(elapsed) * u128::from(rate)) >> RATE_BITS) as u64
}

/// Nanoseconds per count between two readings of counter and clock, with `RATE_BITS` fraction bits.
fn measured_rate(first: (u64, u64), second: (u64, u64)) -> u64 {
    let counts = u128::from(second.0.saturating_sub(first.0)).max(1);
    let nanos = u128::from(second.1.saturating_sub(first.1));
    ((nanos << RATE_BITS) / counts) as u64
}

/// A stretch of a timeline that one thread writes and others read: a sequence lock. The writer never waits. A
/// reader that overlaps with a write reads again.
#[derive(Debug)]
pub(super) struct PublishedTimeline {
    /// Odd while the words below are being written.
    version: AtomicU64,
    anchor_count: AtomicU64,
    anchor_ns: AtomicU64,
    rate: AtomicU64,
}

impl PublishedTimeline {
    pub(super) fn new(timeline: &Timeline) -> Self {
        Self {
            version: AtomicU64::new(0),
            anchor_count: AtomicU64::new(timeline.anchor_count),
            anchor_ns: AtomicU64::new(timeline.anchor_ns),
            rate: AtomicU64::new(timeline.rate),
        }
    }

    /// Publishes a stretch. Only one thread may call it.
    pub(super) fn publish(&self, timeline: &Timeline) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        // SYNC POINT `STRETCH`, Release: partner is `PublishedTimeline::at`. A reader that sees one of these
        // words also sees the odd version stored before it.
        self.anchor_count.store(timeline.anchor_count, Ordering::Release);
        self.anchor_ns.store(timeline.anchor_ns, Ordering::Release);
        self.rate.store(timeline.rate, Ordering::Release);
        // SYNC POINT `TIMELINE`, Release: partner is `PublishedTimeline::at`. The words are complete before
        // the version is even.
        self.version.store(version + 2, Ordering::Release);
    }

    #[inline]
    pub(super) fn at(&self, count: u64) -> u64 {
        loop {
            // SYNC POINT `TIMELINE`, Acquire: partner is `PublishedTimeline::publish`.
            let before = self.version.load(Ordering::Acquire);
            // SYNC POINT `STRETCH`, Acquire: partner is `PublishedTimeline::publish`. The version below is
            // read after these.
            let anchor_count = self.anchor_count.load(Ordering::Acquire);
            let anchor_ns = self.anchor_ns.load(Ordering::Acquire);
            let rate = self.rate.load(Ordering::Acquire);
            let after = self.version.load(Ordering::Relaxed);
            if before == after && before.is_multiple_of(2) {
                return reading(anchor_count, anchor_ns, rate, count);
            }
            core::hint::spin_loop();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A follower reads the same time as its leader, also across corrections of any size, and never goes
    /// back.
    #[test]
    fn a_follower_agrees_with_its_leader() {
        let mut timeline = Timeline::new((0, 0), (26_000_000, 10_000_000));
        let published = PublishedTimeline::new(&timeline);
        let (mut count, mut ns) = (26_000_000u64, 10_000_000u64);
        for round in 0..200u64 {
            count += 65_000_000;
            ns += 25_000_000 + round * 977 % 40_000;
            assert_eq!(published.at(count), timeline.at(count));
            timeline.correct(count, ns);
            published.publish(&timeline);
            assert_eq!(published.at(count + 7), timeline.at(count + 7));
        }
    }

    /// A reader that meets the writer half-way sees one stretch or the other, never a mixture.
    #[test]
    fn a_timeline_is_read_whole_while_it_is_corrected() {
        // At every count, stretch k reads the same as any other: anchors lie on one line.
        let stretch = |k: u64| Timeline {
            first_count: 0,
            first_ns: 0,
            anchor_count: k * 1_000,
            anchor_ns: k * 1_000,
            rate: 1 << RATE_BITS,
        };
        let published = PublishedTimeline::new(&stretch(0));
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200_000).for_each(|k| published.publish(&stretch(k))));
            for _ in 0..200_000 {
                assert_eq!(published.at(1 << 40), 1 << 40);
            }
        });
    }

    #[test]
    fn a_forward_jump_is_stepped_over() {
        let mut timeline = Timeline::new((0, 0), (26_000, 10_000));
        timeline.correct(52_000, 10_000_000_000);
        assert_eq!(timeline.at(52_000), 10_000_000_000);
    }

    /// A counter that was reset, as by a suspend, stands still at its anchor. The check names it.
    #[test]
    fn a_counter_that_went_back_or_ran_ahead_is_a_fault() {
        let timeline = Timeline::new((0, 0), (26_000_000, 10_000_000));
        assert_eq!(timeline.check(52_000_000, 20_000_000), Ok(()));
        assert_eq!(timeline.check(25_999_999, 20_000_000), Err(ClockFault::WentBack));
        let reads = timeline.at(52_000_000);
        assert_eq!(timeline.check(52_000_000, reads - MAX_AHEAD_NS), Ok(()));
        let fault = timeline.check(52_000_000, reads - MAX_AHEAD_NS - 1);
        assert_eq!(fault, Err(ClockFault::Ahead { ns: MAX_AHEAD_NS + 1 }));
        // A clock that is behind is stepped forwards.
        assert_eq!(timeline.check(52_000_000, 20_000_000_000), Ok(()));
    }

    proptest! {
        /// Whatever the kernel's clock does, the disciplined reading never goes back, within a stretch or
        /// across corrections.
        #[test]
        fn never_backwards(errors in prop::collection::vec(-2_000_000i64..2_000_000, 1..60)) {
            let (mut count, mut ns) = (26_000_000u64, 10_000_000u64);
            let mut timeline = Timeline::new((0, 0), (count, ns));
            let mut last = 0;
            for error in errors {
                for _ in 0..4 {
                    count += 65_000_000;
                    ns += 25_000_000;
                    let reading = timeline.at(count);
                    prop_assert!(reading >= last);
                    last = reading;
                }
                timeline.correct(count, ns.saturating_add_signed(error));
                let reading = timeline.at(count);
                prop_assert!(reading >= last);
                last = reading;
            }
        }

        /// A kernel clock that runs off by up to 400 ppm is followed to within a microsecond.
        #[test]
        fn follows_a_slewed_kernel_clock(ppm in -400i64..400) {
            let mut timeline = Timeline::new((0, 0), (26_000_000, 10_000_000));
            let mut count = 26_000_000u64;
            let mut true_ns = 10_000_000u64;
            for _ in 0..200 {
                count += 260_000_000;
                true_ns += 100_000_000u64.saturating_add_signed(100 * ppm);
                timeline.correct(count, true_ns);
            }
            let error = timeline.at(count).abs_diff(true_ns);
            prop_assert!(error < 1_000, "{error} ns off");
        }
    }
}
