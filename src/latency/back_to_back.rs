//! Calls without a pause.

use super::caller::Caller;
use super::series::{Collector, Series, excess_of_busy_loop};
use super::{LatencyError, Observer};
use escapement_engine::telemetry::Percentiles;
use escapement_ring::clock::{Clock, Nanos};

/// Calls, and then hiccups, in one block.
const BLOCK: u64 = 64;
/// Calls after which the clock is compared with the kernel's.
const DISCIPLINE_EVERY: u64 = 1_024;

/// Measures `calls` calls, each begun when the last one has returned.
pub(super) fn back_to_back(
    caller: &mut Caller<'_>,
    clock: &mut impl Clock,
    calls: u64,
    deadline: Nanos,
    warm_up: &Percentiles,
    observer: &mut impl Observer,
) -> Result<Series, LatencyError> {
    let mut collector = Collector::new(calls, deadline);
    let mut late = Vec::with_capacity(BLOCK as usize);
    observer.explain(warm_up, &late, collector.misses());
    while collector.left() > 0 {
        let block = collector.left().min(BLOCK);
        for _ in 0..block {
            caller.take_next();
            let call = caller.call(clock)?;
            if !collector.call(call) {
                late.push(call);
            }
        }
        observer.explain(warm_up, &late, collector.misses());
        late.clear();
        for _ in 0..block {
            collector.hiccup(excess_of_busy_loop(clock, Nanos(warm_up.p50)));
        }
        if collector.left() % DISCIPLINE_EVERY < BLOCK {
            clock.discipline()?;
            if observer.is_over(clock.now()) {
                return Err(LatencyError::Interrupted);
            }
        }
    }
    Ok(collector.finish())
}
