//! The transitions of the state word. Several threads and processes write it: the engine, the daemon, the
//! guard and the kill switch.
//!
//! Within an epoch *halted* is absorbing. The first halt gives the reason. Only the start of the next epoch,
//! or a person who re-arms, leads out of it. A halt may replace an earlier reason if its caller names that
//! reason; this module does not know what reasons mean. All transitions are compare-and-swap loops, so a
//! transition that was decided before a halt cannot overwrite it.
//!
//! The model in `state_word::model` runs these functions under loom.

use crate::sync::{AtomicU64, Ordering};

/// The number of the state *halted*. This module does not know the other states.
pub const HALTED: u32 = 4;

/// How often a transition is retried when another writer came first. An honest epoch has a handful of
/// transitions. The bound is for a peer that keeps overwriting the word: it must not delay a tick.
const MAX_ATTEMPTS: usize = 64;

/// The word for `state` and `reason`.
#[inline]
pub(super) const fn pack(state: u32, reason: u32) -> u64 {
    state as u64 | (reason as u64) << 32
}

/// State and reason of a word.
#[inline]
pub(super) const fn unpack(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Halts. Returns whether this call did it. If the word says halted already, its reason stands, unless it is
/// one of `replaceable`.
pub(super) fn halt(word: &AtomicU64, reason: u32, replaceable: &[u32]) -> bool {
    debug_assert!(!replaceable.contains(&reason), "a reason does not replace itself");
    if transit(word, pack(HALTED, reason), replaceable) {
        return true;
    }
    if is_final(word.load(Ordering::Relaxed), replaceable) {
        return false;
    }
    // Another writer changes the word faster than it can be read. Halting matters more than which reason was
    // first.
    // SYNC POINT `STATE`, Release: as in `transit`.
    word.swap(pack(HALTED, reason), Ordering::Release);
    true
}

/// Begins an epoch in `state`, if the word is still the judged one. Otherwise fails with the current state
/// and reason.
pub(super) fn begin(word: &AtomicU64, judged: (u32, u32), state: u32) -> Result<(), (u32, u32)> {
    debug_assert!(state != HALTED, "no epoch begins halted");
    let judged = pack(judged.0, judged.1);
    // SYNC POINT `STATE`, Release: as in `transit`.
    word.compare_exchange(judged, pack(state, 0), Ordering::Release, Ordering::Relaxed)
        .map(drop)
        .map_err(unpack)
}

/// Replaces a word that a peer has changed, if it still is `found`. Returns whether it did.
pub(super) fn restore(word: &AtomicU64, found: (u32, u32), to: (u32, u32)) -> bool {
    let (found, to) = (pack(found.0, found.1), pack(to.0, to.1));
    // SYNC POINT `STATE`, Release: as in `transit`.
    word.compare_exchange(found, to, Ordering::Release, Ordering::Relaxed).is_ok()
}

/// Changes to a state that is not *halted*. Returns false, and changes nothing, if the word says halted.
pub(super) fn advance(word: &AtomicU64, state: u32, reason: u32) -> bool {
    debug_assert!(state != HALTED, "a halt is not an advance");
    transit(word, pack(state, reason), &[])
}

/// Whether a word says halted, for a reason that may not be replaced.
fn is_final(word: u64, replaceable: &[u32]) -> bool {
    let (state, reason) = unpack(word);
    state == HALTED && !replaceable.contains(&reason)
}

fn transit(word: &AtomicU64, to: u64, replaceable: &[u32]) -> bool {
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..MAX_ATTEMPTS {
        if is_final(seen, replaceable) {
            return false;
        }
        // SYNC POINT `STATE`, Release: partner is `Header::state`. A reader of `armed` also sees the epoch
        // and bundle hash that were set before it.
        match word.compare_exchange_weak(seen, to, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(found) => seen = found,
        }
    }
    false
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_halt_is_final_and_its_first_reason_stands() {
        let word = AtomicU64::new(pack(1, 0));
        assert!(advance(&word, 3, 0));
        assert!(halt(&word, 11, &[]));
        assert!(!halt(&word, 21, &[]));
        assert!(!halt(&word, 21, &[31]));
        assert!(!advance(&word, 5, 0));
        assert_eq!(unpack(word.load(Ordering::Relaxed)), (HALTED, 11));
    }

    #[test]
    fn a_reason_that_may_be_replaced_is_and_only_once() {
        let word = AtomicU64::new(pack(1, 0));
        assert!(halt(&word, 31, &[]));
        assert!(halt(&word, 11, &[30, 31]));
        assert!(!halt(&word, 31, &[]));
        assert!(!halt(&word, 21, &[30, 31]));
        assert_eq!(unpack(word.load(Ordering::Relaxed)), (HALTED, 11));
    }

    #[test]
    fn an_epoch_begins_only_after_what_was_judged() {
        let word = AtomicU64::new(pack(6, 0));
        assert!(halt(&word, 11, &[]));
        assert_eq!(begin(&word, (6, 0), 1), Err((HALTED, 11)));
        assert_eq!(begin(&word, (HALTED, 11), 1), Ok(()));
        assert_eq!(unpack(word.load(Ordering::Relaxed)), (1, 0));
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::thread;
    use std::sync::Arc;

    const STARTING: u32 = 1;
    const ARMED: u32 = 3;
    const DRAINING: u32 = 5;
    const STOPPED: u32 = 6;

    type Advance = fn(&AtomicU64, u32, u32) -> bool;

    fn check(scenario: impl Fn() + Sync + Send + 'static) {
        crate::sync::explore(3, scenario);
    }

    /// Two kill switches with different reasons run against a daemon that arms, drains and stops. A gateway
    /// reads the word.
    fn kills_against_transitions(advance: Advance) {
        let word = Arc::new(AtomicU64::new(pack(STARTING, 0)));
        let killers: Vec<_> = [11, 21]
            .into_iter()
            .map(|reason| {
                let word = Arc::clone(&word);
                thread::spawn(move || {
                    let first = halt(&word, reason, &[]);
                    // SYNC POINT `STATE`, Acquire: as a gateway reads it.
                    let (state, found) = unpack(word.load(Ordering::Acquire));
                    assert_eq!(state, HALTED, "a halt was undone");
                    assert_eq!(first, found == reason, "the first reason stands");
                    first
                })
            })
            .collect();
        let mut went = true;
        for state in [ARMED, DRAINING, STOPPED] {
            let before = went;
            went = advance(&word, state, 0);
            assert!(before || !went, "a transition after one that was refused");
        }
        let firsts = killers.into_iter().map(|killer| killer.join().expect("a killer"));
        assert_eq!(firsts.filter(|first| *first).count(), 1, "exactly one of them was first");
        assert_eq!(unpack(word.load(Ordering::Relaxed)).0, HALTED, "a halt was undone");
    }

    #[test]
    fn once_halted_it_stays_halted_for_the_first_reason() {
        check(|| kills_against_transitions(advance));
    }

    /// Loads and then stores, as if the word had a single writer.
    fn advance_by_plain_store(word: &AtomicU64, state: u32, reason: u32) -> bool {
        if unpack(word.load(Ordering::Relaxed)).0 == HALTED {
            return false;
        }
        word.store(pack(state, reason), Ordering::Release);
        true
    }

    #[test]
    #[should_panic(expected = "a halt was undone")]
    fn planted_bug_a_plain_store_turns_the_model_red() {
        check(|| kills_against_transitions(advance_by_plain_store));
    }

    const PASSING: u32 = 31;
    type Halt = fn(&AtomicU64, u32, &[u32]) -> bool;

    /// A process dies for a reason that a restart answers, while the kill switch is pulled. The lasting
    /// reason stays, whichever comes first.
    fn kill_against_death(halt: Halt) {
        let word = Arc::new(AtomicU64::new(pack(ARMED, 0)));
        let dying = {
            let word = Arc::clone(&word);
            thread::spawn(move || _ = halt(&word, PASSING, &[]))
        };
        let killed = halt(&word, 11, &[PASSING]);
        dying.join().expect("the dying thread");
        assert!(killed, "the kill switch was refused");
        assert_eq!(unpack(word.load(Ordering::Relaxed)), (HALTED, 11), "the lasting reason was lost");
    }

    #[test]
    fn a_reason_that_lasts_is_not_lost_to_one_that_passes() {
        check(|| kill_against_death(halt));
    }

    #[test]
    #[should_panic(expected = "the kill switch was refused")]
    fn planted_bug_a_first_reason_that_always_stands_turns_the_model_red() {
        check(|| kill_against_death(|word, reason, _| halt(word, reason, &[])));
    }

    type Begin = fn(&AtomicU64, (u32, u32), u32) -> Result<(), (u32, u32)>;

    /// The kill switch is pulled while a daemon starts that has found nothing halted. The daemon either
    /// judges again, or its new epoch is halted.
    fn kill_against_start(begin: Begin) {
        let word = Arc::new(AtomicU64::new(pack(STOPPED, 0)));
        let killer = {
            let word = Arc::clone(&word);
            thread::spawn(move || halt(&word, 11, &[]))
        };
        let (state, reason) = unpack(word.load(Ordering::Acquire));
        if state != HALTED {
            let _ = begin(&word, (state, reason), STARTING);
        }
        assert!(killer.join().expect("the killer"), "it was not halted before");
        assert_eq!(unpack(word.load(Ordering::Relaxed)), (HALTED, 11), "a halt was erased");
    }

    #[test]
    fn a_start_does_not_erase_a_halt_that_it_has_not_judged() {
        check(|| kill_against_start(begin));
    }

    #[test]
    #[should_panic(expected = "a halt was erased")]
    fn planted_bug_a_start_that_stores_blindly_turns_the_model_red() {
        check(|| {
            kill_against_start(|word, _, state| {
                word.store(pack(state, 0), Ordering::Release);
                Ok(())
            });
        });
    }
}
