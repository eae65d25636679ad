//! What a thread executes in user mode, from the processor's counters.
//!
//! The counters run all the time and cost the thread nothing while nobody reads them. A reading interrupts
//! the thread's core for about a microsecond. So they are read only while a call is late already. The answer
//! of that tick has left by then, so no tick in time pays for it.

use super::attribution::{Interval, Timeline, UserCounts};
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

    /// Reads the counters, and adds what was counted since the reading before, if there was one.
    pub fn read(&mut self, timeline: &mut Timeline) {
        let begun = MonotonicClock.now().0;
        let counts = (|| {
            Some(UserCounts {
                cycles: complete(&mut self.cycles)?,
                instructions: complete(&mut self.instructions)?,
            })
        })();
        let Some(counts) = counts else {
            self.last = None;
            return;
        };
        let ended = MonotonicClock.now().0;
        if let Some((from, before)) = self.last.replace((begun, counts)) {
            // From before the first reading to after the second: all that was counted lies within.
            let since = UserCounts {
                cycles: counts.cycles.saturating_sub(before.cycles),
                instructions: counts.instructions.saturating_sub(before.instructions),
            };
            timeline.add_counted(Interval::new(from, ended), since);
        }
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
