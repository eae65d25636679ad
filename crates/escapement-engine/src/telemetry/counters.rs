//! Counters with one writer at a time, which is the side that answers the tick, and any number of readers.

use crossbeam::utils::CachePadded;
use escapement_ring::sync::{AtomicU64, Ordering};
use escapement_ring::wire::{Outcome, Reason};

/// Reasons are small numbers with one slot each.
const REASON_SLOTS: usize = 32;
const _: () = assert!(Reason::ALL.len() <= REASON_SLOTS);

/// A counter with one writer at a time. It shares its cache lines only with counters of the same writer.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// A plain add without a read-modify-write: there is one writer at a time, and the lease that passes
    /// between the writers orders their adds. Relaxed, because a counter orders no other memory.
    #[inline]
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the engine has done since it started. A reader sees each counter whole, but not all counters at one
/// instant.
#[derive(Debug, Default)]
pub struct Counters {
    page: CachePadded<Page>,
}

#[derive(Debug, Default)]
struct Page {
    observations: Counter,
    actions: Counter,
    skipped: Counter,
    records_lost: Counter,
    fallbacks: Counter,
    discarded: Counter,
    state_resets: Counter,
    inference_late: Counter,
    end_to_end_late: Counter,
    stale: Counter,
    sequence_gaps: Counter,
    restarts: Counter,
    reasons: [Counter; REASON_SLOTS],
}

/// A copy of [`Counters`] with the names that reports use.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CounterSnapshot {
    /// Observations that got their outcome.
    pub observations: u64,
    /// Actions committed.
    pub actions: u64,
    /// Observations that ended without an action.
    pub skipped: u64,
    /// Tick records lost because the supervisor was too slow.
    pub records_lost: u64,
    /// Actions of the fallback policy.
    pub fallbacks: u64,
    /// Answers of the policy that came after the guard had answered.
    pub discarded: u64,
    /// Resets of a recurrent policy's carried state.
    pub state_resets: u64,
    /// Ticks whose inference was late, enforced or not.
    pub inference_late: u64,
    /// Ticks that were late end to end, enforced or not.
    pub end_to_end_late: u64,
    /// Observations older than the maximum age, enforced or not.
    pub stale: u64,
    /// Observations whose sequence number did not follow the last one.
    pub sequence_gaps: u64,
    /// Observations with the restart flag. Left out of a report if zero.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u64,
    /// Actions by the name of their reason, which is `policy` for the policy's own. Zeros are left out.
    pub outcomes: std::collections::BTreeMap<String, u64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counters {
    /// Creates counters that are all zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts an observation that was answered by an action with this outcome and reason.
    #[inline]
    pub fn count_action(&self, outcome: Outcome, reason: Reason) {
        if outcome == Outcome::Fallback {
            self.page.fallbacks.add(1);
        }
        self.page.observations.add(1);
        self.page.actions.add(1);
        self.page.reasons[usize::from(reason.number()) % REASON_SLOTS].add(1);
    }

    /// Counts observations that ended without an action.
    #[inline]
    pub fn count_skipped(&self, count: u64) {
        self.page.observations.add(count);
        self.page.skipped.add(count);
    }

    /// Counts a tick record that found no room.
    #[inline]
    pub fn count_record_lost(&self) {
        self.page.records_lost.add(1);
    }

    /// Counts an answer that came after the guard had answered.
    #[inline]
    pub fn count_discarded(&self) {
        self.page.discarded.add(1);
    }

    /// Counts a reset of carried state.
    #[inline]
    pub fn count_state_reset(&self) {
        self.page.state_resets.add(1);
    }

    /// Counts a late inference.
    #[inline]
    pub fn count_inference_late(&self) {
        self.page.inference_late.add(1);
    }

    /// Counts a tick that was late end to end.
    #[inline]
    pub fn count_end_to_end_late(&self) {
        self.page.end_to_end_late.add(1);
    }

    /// Counts an observation that was too old.
    #[inline]
    pub fn count_stale(&self) {
        self.page.stale.add(1);
    }

    /// Counts a break in the sequence.
    #[inline]
    pub fn count_sequence_gap(&self) {
        self.page.sequence_gaps.add(1);
    }

    /// Counts an observation with the restart flag.
    #[inline]
    pub fn count_restart(&self) {
        self.page.restarts.add(1);
    }

    /// Copies every counter.
    pub fn snapshot(&self) -> CounterSnapshot {
        let page = &self.page;
        let outcomes = Reason::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), page.reasons[usize::from(reason.number())].get()))
            .filter(|(_, count)| *count > 0)
            .collect();
        CounterSnapshot {
            observations: page.observations.get(),
            actions: page.actions.get(),
            skipped: page.skipped.get(),
            records_lost: page.records_lost.get(),
            fallbacks: page.fallbacks.get(),
            discarded: page.discarded.get(),
            state_resets: page.state_resets.get(),
            inference_late: page.inference_late.get(),
            end_to_end_late: page.end_to_end_late.get(),
            stale: page.stale.get(),
            sequence_gaps: page.sequence_gaps.get(),
            restarts: page.restarts.get(),
            outcomes,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn counts_by_reason() {
        let counters = Counters::new();
        counters.count_action(Outcome::Policy, Reason::None);
        counters.count_action(Outcome::SafeDefault, Reason::Stale);
        counters.count_action(Outcome::SafeDefault, Reason::Stale);
        counters.count_skipped(3);
        let snapshot = counters.snapshot();
        assert_eq!((snapshot.observations, snapshot.actions, snapshot.skipped), (6, 3, 3));
        assert_eq!(
            snapshot.outcomes.into_iter().collect::<Vec<_>>(),
            [("policy".to_owned(), 1), ("stale".to_owned(), 2)]
        );
    }
}
