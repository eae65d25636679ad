//! Counters with one writer at a time, whoever has the right to answer a tick, and any number of readers.

use crossbeam::utils::CachePadded;
use escapement_ring::sync::{AtomicU64, Ordering};
use escapement_ring::wire::{Outcome, Reason};

/// Reasons are small numbers; one slot each.
const REASON_SLOTS: usize = 32;
const _: () = assert!(Reason::ALL.len() <= REASON_SLOTS);

/// One counter on cache lines of its own words' neighbours only: all are written by the same thread.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// A plain add: there is one writer at a time, and what passes the right to write on orders the adds, so that no
    /// read-modify-write is needed. Relaxed: a counter orders nothing.
    #[inline]
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the engine has done since it started. Readers see each counter whole, but not all of one instant.
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
    reasons: [Counter; REASON_SLOTS],
}

/// A copy of [`Counters`], in the terms of the reports.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CounterSnapshot {
    /// Observations that got their outcome.
    pub observations: u64,
    /// Actions committed.
    pub actions: u64,
    /// Observations that ended without an action.
    pub skipped: u64,
    /// Tick records that the supervisor was too slow to take.
    pub records_lost: u64,
    /// Actions that were the fallback policy's.
    pub fallbacks: u64,
    /// Answers of the policy that came after the guard had answered in its stead.
    pub discarded: u64,
    /// Times that a recurrent policy's carried state began anew.
    pub state_resets: u64,
    /// Ticks whose inference was late, enforced or not.
    pub inference_late: u64,
    /// Ticks that were late end to end, enforced or not.
    pub end_to_end_late: u64,
    /// Observations older than the maximum age, enforced or not.
    pub stale: u64,
    /// Observations whose sequence did not follow.
    pub sequence_gaps: u64,
    /// Actions by the name of their reason (`policy` for the policy's own); zeros are left out.
    pub outcomes: std::collections::BTreeMap<String, u64>,
}

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// One observation was answered by an action of this outcome and reason.
    #[inline]
    pub fn count_action(&self, outcome: Outcome, reason: Reason) {
        if outcome == Outcome::Fallback {
            self.page.fallbacks.add(1);
        }
        self.page.observations.add(1);
        self.page.actions.add(1);
        self.page.reasons[usize::from(reason.number()) % REASON_SLOTS].add(1);
    }

    /// Observations ended without an action.
    #[inline]
    pub fn count_skipped(&self, count: u64) {
        self.page.observations.add(count);
        self.page.skipped.add(count);
    }

    /// A tick record found no room.
    #[inline]
    pub fn count_record_lost(&self) {
        self.page.records_lost.add(1);
    }

    /// The policy answered after the guard had.
    #[inline]
    pub fn count_discarded(&self) {
        self.page.discarded.add(1);
    }

    /// A carried state began anew.
    #[inline]
    pub fn count_state_reset(&self) {
        self.page.state_resets.add(1);
    }

    /// An inference was late.
    #[inline]
    pub fn count_inference_late(&self) {
        self.page.inference_late.add(1);
    }

    /// A tick was late end to end.
    #[inline]
    pub fn count_end_to_end_late(&self) {
        self.page.end_to_end_late.add(1);
    }

    /// An observation was too old.
    #[inline]
    pub fn count_stale(&self) {
        self.page.stale.add(1);
    }

    /// A sequence number did not follow.
    #[inline]
    pub fn count_sequence_gap(&self) {
        self.page.sequence_gaps.add(1);
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
