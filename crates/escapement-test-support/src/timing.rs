//! Single calls timed with the x86 time stamp counter.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// Turns ticks of the time stamp counter into nanoseconds.
pub struct Timer {
    ticks_per_ns: f64,
    overhead: u64,
}

/// Waits for all earlier instructions, then reads the counter before any later instruction runs.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: both instructions are part of the x86-64 baseline (SSE2) and touch no memory.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

impl Timer {
    /// Measures the counter's rate against the monotonic clock, and the cost of an empty measurement.
    pub fn calibrate() -> Self {
        let (start, ticks) = (Instant::now(), now());
        while start.elapsed() < Duration::from_millis(50) {}
        let ticks_per_ns = (now() - ticks) as f64 / start.elapsed().as_nanos() as f64;
        let mut empty: Vec<u64> =
            (0..10_000).map(|_| (now(), now())).map(|(start, end)| end - start).collect();
        empty.sort_unstable();
        Self { ticks_per_ns, overhead: empty[empty.len() / 2] }
    }

    /// Returns the counter's rate.
    pub fn ticks_per_ns(&self) -> f64 {
        self.ticks_per_ns
    }

    /// Returns the cost of an empty measurement, which every measurement subtracts.
    pub fn overhead_ns(&self) -> f64 {
        self.overhead as f64 / self.ticks_per_ns
    }

    /// Returns the smallest step of the counter, in nanoseconds. On some processors it is much more than one
    /// tick.
    pub fn resolution_ns(&self) -> f64 {
        let ticks: Vec<u64> = (0..10_000).map(|_| now()).collect();
        let steps = ticks.windows(2).map(|pair| pair[1] - pair[0]).filter(|&step| step > 0);
        // Steps are multiples of the resolution, so it is their greatest common divisor.
        let divisor = steps.fold(0u64, |a, b| {
            let (mut a, mut b) = (a, b);
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        });
        divisor as f64 / self.ticks_per_ns
    }

    /// Times one call, in nanoseconds.
    pub fn time(&self, call: &mut impl FnMut()) -> f64 {
        let start = now();
        call();
        let end = now();
        (end - start).saturating_sub(self.overhead) as f64 / self.ticks_per_ns
    }

    /// Times `calls` calls one by one, after a warm-up of a tenth as many.
    pub fn sample(&self, sample: &mut Sample, calls: usize, call: &mut impl FnMut()) {
        for _ in 0..calls / 10 {
            call();
        }
        for _ in 0..calls {
            sample.0.push(self.time(call));
        }
        sample.0.sort_unstable_by(f64::total_cmp);
    }

    /// Times `calls` calls whose starts are `gap` apart, and spins in between, as an engine does that polls.
    ///
    /// With `keep_warm`, an untimed call follows each such time of spinning, unless the next timed call is
    /// nearer than that.
    pub fn sample_paced(
        &self,
        sample: &mut Sample,
        calls: usize,
        gap: Duration,
        keep_warm: Option<Duration>,
        call: &mut impl FnMut(),
    ) {
        let ticks = |time: Duration| (time.as_nanos() as f64 * self.ticks_per_ns) as u64;
        let (gap, keep_warm) = (ticks(gap), keep_warm.map(ticks));
        let mut due = now();
        for _ in 0..calls {
            due = now().max(due + gap);
            let mut quiet_since = now();
            while now() < due {
                if let Some(quiet) = keep_warm
                    && now() - quiet_since >= quiet
                    && now() + quiet < due
                {
                    call();
                    quiet_since = now();
                }
                std::hint::spin_loop();
            }
            sample.0.push(self.time(call));
        }
        sample.0.sort_unstable_by(f64::total_cmp);
    }
}

/// Durations in nanoseconds, ascending once sampled.
pub struct Sample(Vec<f64>);

impl Sample {
    /// Returns an empty sample with room for `calls` durations.
    pub fn with_capacity(calls: usize) -> Self {
        Self(Vec::with_capacity(calls))
    }

    /// Returns the number of durations.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there are no durations.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the share of durations above a limit in nanoseconds.
    pub fn share_above(&self, limit: f64) -> f64 {
        (self.0.len() - self.0.partition_point(|&duration| duration <= limit)) as f64 / self.0.len() as f64
    }

    /// Returns the smallest duration that at least this share of the calls did not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.saturating_sub(1)]
    }
}
