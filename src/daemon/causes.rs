//! The causes of misses in the running daemon: takes in the evidence, counts and logs misses, and reports
//! them.

use super::event::WatchedThread;
use super::planted::moved_in_time_if_planted;
use crate::evidence::{Cause, GapReader, LogRateLimit, Miss, MissReport, Misses, PolicyTimes, Timeline};
use crate::evidence::{ThreadWatch, WatchError, steal_is_accounted};
use escapement_engine::{Deadlines, TickRecord};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos, wall_clock_ns};
use escapement_ring::wire::Reason;

/// The misses of the running engine, and the evidence about them.
pub(super) struct Causes {
    misses: Misses,
    engine: Option<ThreadWatch>,
    guard: Option<(ThreadWatch, Timeline)>,
    gaps: GapReader,
    rate_limit: LogRateLimit,
    stamps_rate_limit: LogRateLimit,
    cannot_tell: Vec<String>,
    /// Whether it is known what the policy takes. A miss is not judged before.
    is_measured: bool,
    /// Whether the running policy does the same work at each call.
    has_fixed_work: bool,
}

impl Causes {
    pub(super) fn new(deadlines: Deadlines, gaps: GapReader) -> Self {
        let mut misses = Misses::new(MonotonicClock.now(), deadlines);
        let mut cannot_tell = Vec::new();
        if steal_is_accounted() {
            misses.timeline().rely_on_steal();
        } else {
            cannot_tell.push(
                "policy_slow and core_stalled from core_taken where a hypervisor took the engine's core alone: \
                 it has never said that it took one"
                    .to_owned(),
            );
        }
        Self {
            misses,
            engine: None,
            guard: None,
            gaps,
            rate_limit: LogRateLimit::default(),
            stamps_rate_limit: LogRateLimit::default(),
            cannot_tell,
            is_measured: false,
            has_fixed_work: false,
        }
    }

    /// Takes in that a thread is watched from now on, or cannot be watched.
    pub(super) fn watched(&mut self, thread: WatchedThread, watch: Result<ThreadWatch, WatchError>) {
        match (thread, watch) {
            (WatchedThread::Engine, Ok(watch)) => {
                // Nothing is known about the thread before that.
                self.misses.begin(watch.since());
                self.engine = Some(watch);
            }
            (WatchedThread::Guard, Ok(watch)) => {
                let timeline = Timeline::new(watch.since().0);
                self.guard = Some((watch, timeline));
            }
            (WatchedThread::Engine, Err(error)) => {
                tracing::warn!(%error, "causes of misses: most will be undetermined");
                self.misses.begin_blind();
                self.cannot_tell.push(format!(
                    "policy_slow, core_stalled, core_taken and page_fault from each other: {error}"
                ));
            }
            (WatchedThread::Guard, Err(error)) => {
                self.cannot_tell.push(format!("the platform's gaps from the guard's own: {error}"));
            }
        }
    }

    pub(super) fn note(&mut self, record: &TickRecord) {
        self.misses.note(&moved_in_time_if_planted(record));
        if record.reason == Reason::StampedAhead.number()
            && let Some(suppressed) = self.stamps_rate_limit.allow(MonotonicClock.now())
        {
            let (stamp, peeked) = (record.ts_publish_ns, record.ts_peek_ns);
            tracing::warn!(
                sequence = record.sequence,
                ahead_ns = stamp.saturating_sub(peeked),
                likely = likely_clock(stamp, wall_clock_ns()),
                suppressed,
                "stamped ahead of the clock: refused"
            );
        }
    }

    /// Takes in what the policy takes that was warmed up at the start.
    pub(super) fn measured(&mut self, policy: PolicyTimes) {
        self.is_measured = true;
        self.has_fixed_work = policy.work.in_call;
        self.misses.measured(policy);
    }

    /// Takes in what is expected from this revision of the settings on.
    pub(super) fn expect(&mut self, revision: u32, deadlines: Deadlines, policy: Option<PolicyTimes>) {
        self.has_fixed_work = policy.is_some_and(|policy| policy.work.in_call);
        self.misses.expect(revision, deadlines, policy);
    }

    /// Gathers the evidence, and judges the misses that wait for it.
    pub(super) fn judge(&mut self, now: Nanos) {
        self.gather();
        if !self.is_measured {
            // The engine is armed, and the report of its warm-up is on its way.
            return;
        }
        let rate_limit = &mut self.rate_limit;
        self.misses.judge(now, |miss| log(miss, now, rate_limit));
    }

    /// Judges the remaining misses, when the engine ends or is abandoned.
    pub(super) fn close(&mut self, now: Nanos) {
        self.gather();
        let rate_limit = &mut self.rate_limit;
        self.misses.close(now, |miss| log(miss, now, rate_limit));
    }

    pub(super) fn report(&self) -> MissReport {
        let lost = self.engine.as_ref().map_or(0, ThreadWatch::lost);
        let uncounted = self.engine.as_ref().and_then(ThreadWatch::why_uncounted);
        let uncounted = uncounted.filter(|_| !self.has_fixed_work).map(|why| {
            format!(
                "policy_slow from core_stalled where this policy takes longer than its measured tail: \
                 the processor's counters cannot be read here: {why}"
            )
        });
        let cannot_tell: Vec<_> = self.cannot_tell.iter().cloned().chain(uncounted).collect();
        self.misses.report(&cannot_tell, lost)
    }

    fn gather(&mut self) {
        let is_late = self.misses.wait_for_a_call() && !self.has_fixed_work;
        if let Some(watch) = &mut self.engine {
            watch.drain(self.misses.timeline());
            if is_late {
                watch.count(self.misses.timeline());
            } else {
                watch.stop_counting();
            }
        }
        if let Some((watch, timeline)) = &mut self.guard {
            watch.drain(timeline);
        }
        while let Some(gap) = self.gaps.take() {
            // If the guard is not watched, another thread may have taken its core.
            if let Some((_, timeline)) = &self.guard {
                self.misses.timeline().add_gap(gap, timeline);
            }
        }
    }
}

/// Says which clock a stamp ahead of `CLOCK_MONOTONIC` is likely of.
fn likely_clock(stamp: u64, wall_ns: u64) -> &'static str {
    // Long enough for a backlog and for zones that were added by mistake. A machine that has been up since
    // the epoch, less this, does not exist.
    const NEAR_NS: u64 = 400 * 86_400 * 1_000_000_000;
    if stamp.abs_diff(wall_ns) < NEAR_NS {
        "CLOCK_REALTIME; the stamp must be of CLOCK_MONOTONIC"
    } else if stamp < wall_ns {
        "CLOCK_MONOTONIC of another time namespace or machine, or CLOCK_BOOTTIME"
    } else {
        "no clock of this machine: perhaps another unit, or a word that was never set"
    }
}

fn log(miss: &Miss, now: Nanos, rate_limit: &mut LogRateLimit) {
    let Some(suppressed) = rate_limit.allow(now) else { return };
    let Miss { sequence, reason, cause, evidence, .. } = miss;
    if *cause == Cause::ActionRingFull {
        tracing::warn!(sequence, reason = reason.name(), cause = cause.name(), suppressed, "missed");
        return;
    }
    tracing::warn!(
        sequence,
        reason = reason.name(),
        cause = cause.name(),
        took_ns = evidence.took_ns,
        limit_ns = evidence.limit_ns,
        on_core_ns = evidence.on_core_ns,
        asleep_ns = evidence.asleep_ns,
        preempted_ns = evidence.preempted_ns,
        platform_ns = evidence.platform_ns,
        fault_ns = evidence.fault_ns,
        queued_ns = evidence.queued_ns,
        feed_ns = evidence.feed_ns,
        unknown_ns = evidence.unknown_ns,
        policy_p50_ns = evidence.policy_p50_ns,
        policy_p999_ns = evidence.policy_p999_ns,
        suppressed,
        "missed"
    );
}

#[cfg(test)]
mod tests {
    use super::likely_clock;

    #[test]
    fn a_stamp_ahead_is_named_by_the_clock_that_it_resembles() {
        let (day, now) = (86_400_000_000_000, 1_790_000_000_000_000_000);
        for stamp in [now, now - day, now + day] {
            assert!(likely_clock(stamp, now).starts_with("CLOCK_REALTIME"));
        }
        assert!(likely_clock(30 * day, now).contains("time namespace"));
        assert!(likely_clock(u64::MAX, now).starts_with("no clock"));
    }
}
