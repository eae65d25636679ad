//! Why calls were late, and whether a signal ends the measurement.

use crate::evidence::{
    FixedWork, Interval, MissKind, PolicyTimes, ThreadWatch, Timeline, UsualTimes, judge, steal_is_accounted,
};
use crate::latency::{MissCounts, Observer};
use escapement_engine::telemetry::Percentiles;
use escapement_reference::stop::StopSignals;
use escapement_ring::clock::Nanos;

/// Finds why calls were late, from what the kernel records about this thread.
pub(super) struct Explainer {
    watch: Option<ThreadWatch>,
    timeline: Timeline,
    limit: u64,
    work: FixedWork,
    stop: Option<StopSignals>,
}

impl Explainer {
    pub(super) fn new(deadline: Nanos, work: FixedWork, stop: Option<StopSignals>) -> Self {
        let watch = ThreadWatch::of_this_thread();
        let mut timeline = Timeline::new(0);
        match &watch {
            Ok(watch) => timeline.forget_before(watch.since().0),
            Err(error) => {
                timeline.forget_before(u64::MAX);
                eprintln!("escapement: the causes of late calls cannot be told apart: {error}");
            }
        }
        if steal_is_accounted() {
            timeline.rely_on_steal();
        }
        Self { watch: watch.ok(), timeline, limit: deadline.0, work, stop }
    }
}

impl Observer for Explainer {
    fn explain(&mut self, warm_up: &Percentiles, late: &[Interval], counts: &mut MissCounts) {
        if let Some(watch) = &mut self.watch {
            watch.drain(&mut self.timeline);
        }
        let usual = UsualTimes { policy: PolicyTimes::new(warm_up, self.work), around_ns: 0 };
        for call in late {
            let kind = MissKind::Late { window: *call, call: *call, limit: self.limit };
            let (cause, _) = judge(&self.timeline, kind, late.len() == 1, Some(&usual));
            *counts.entry(cause).or_default() += 1;
        }
    }

    fn is_over(&mut self, now: Nanos) -> bool {
        self.stop.as_mut().is_some_and(|stop| stop.requested(now))
    }
}
