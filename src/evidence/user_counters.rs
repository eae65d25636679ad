//! What a thread executes in user mode, from the processor's counters.
//!
//! The counters run all the time and cost the thread nothing while nobody reads them. A reading interrupts
//! the thread's core for about a microsecond. So they are read only while a call is late already. The answer
//! of that tick has left by then, so no tick in time pays for it.

use super::attribution::{Interval, UserCounts};
use escapement_ring::clock::{Clock, MonotonicClock};
use perf_event::events::Hardware;
use perf_event::{Builder, Counter};
use std::io;

/// The counters of one thread.
pub struct UserCounters {
    cycles: Counter,
    instructions: Counter,
    /// The reading before, with the instant before it. `None` if it is not followed by another one.
    last: Option<(u64, UserCounts)>,
}

impl UserCounters {
    /// Counts what the calling thread executes from now on. Another thread may read the counters.
    ///
    /// # Errors
    /// Fails if the kernel refuses, or if the processor, or the virtual one, has none.
    pub fn of_this_thread() -> io::Result<Self> {
        let open = |event| -> io::Result<Counter> {
            // Only user mode is counted, which the builder's defaults say.
            let mut counter = Builder::new(event).observe_self().any_cpu().build()?;
            counter.enable()?;
            Ok(counter)
        };
        let cycles = open(Hardware::CPU_CYCLES)?;
        Ok(Self { cycles, instructions: open(Hardware::INSTRUCTIONS)?, last: None })
    }

    /// Reads the counters. Returns what was counted since the reading before, and an interval that all of it
    /// lies in; `None` if this is the first reading of a series, or if something was not counted.
    pub fn read(&mut self) -> Option<(Interval, UserCounts)> {
        let before = self.last.take();
        let begun = MonotonicClock.now().0;
        let counts = UserCounts {
            cycles: complete(&mut self.cycles)?,
            instructions: complete(&mut self.instructions)?,
        };
        let ended = MonotonicClock.now().0;
        self.last = Some((begun, counts));
        let (from, before) = before?;
        let since = UserCounts {
            cycles: counts.cycles.saturating_sub(before.cycles),
            instructions: counts.instructions.saturating_sub(before.instructions),
        };
        Some((Interval::new(from, ended), since))
    }

    /// The next reading is the first of a series.
    pub fn stop(&mut self) {
        self.last = None;
    }
}

/// Returns the count; `None` if the counter shared its place on the processor with others, and missed some.
fn complete(counter: &mut Counter) -> Option<u64> {
    let data = counter.read_count_and_time().ok()?;
    (data.time_running > 0 && data.time_running == data.time_enabled).then_some(data.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a machine that lets a process use the processor's counters can show this.
    #[test]
    fn what_a_thread_executes_between_two_readings_is_counted() {
        let mut counters = match UserCounters::of_this_thread() {
            Ok(counters) => counters,
            Err(error) => return eprintln!("skipped: the processor's counters cannot be had: {error}"),
        };
        assert_eq!(counters.read(), None, "there is nothing to compare with yet");
        let begun = MonotonicClock.now().0;
        let sum = (0..1_000_000u64).fold(0, |sum, index| std::hint::black_box(sum ^ index));
        let ended = MonotonicClock.now().0;
        let (interval, counts) = counters.read().expect("both counters ran all the time");
        assert!(interval.begin <= begun && interval.end >= ended, "{interval:?}, {sum}");
        assert!(counts.instructions > 1_000_000 && counts.cycles > 100_000, "{counts:?}");
        counters.stop();
        assert_eq!(counters.read(), None, "a new series begins");
    }
}
