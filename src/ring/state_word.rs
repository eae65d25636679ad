//! The transitions of the state word, which several threads and processes write: the engine, the daemon, the guard, the
//! kill switch.
//!
//! Within an epoch *halted* is absorbing: whoever gets there first gives the reason, and nothing but the start of the next
//! epoch, or a person who re-arms, leads out of it. Both transitions are compare-and-swap loops, so that a transition
//! that was decided before a halt cannot overwrite it after.
//!
//! The model in `state_word::model` runs these functions under loom.

use crate::sync::{AtomicU64, Ordering};

/// The number of the state *halted*; the other states are opaque here.
pub const HALTED: u32 = 4;

/// How often a transition is tried again when another writer came first. An honest epoch has a handful of transitions;
/// the bound is for a peer that scribbles over the word, which must not hold up a tick.
const MAX_ATTEMPTS: usize = 64;

/// The word that says `state` and `reason`.
pub(super) const fn pack(state: u32, reason: u32) -> u64 {
    state as u64 | (reason as u64) << 32
}

/// State and reason of a word.
pub(super) const fn unpack(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Halts. True for the caller that did it; where the word says halted already, its reason stands.
pub(super) fn halt(word: &AtomicU64, reason: u32) -> bool {
    if transit(word, pack(HALTED, reason)) {
        return true;
    }
    if unpack(word.load(Ordering::Relaxed)).0 == HALTED {
        return false;
    }
    // Somebody changes the word faster than it can be read. Halting goes before the order of reasons.
    // SYNC POINT `STATE`, Release: as in `transit`.
    word.swap(pack(HALTED, reason), Ordering::Release);
    true
}

/// Goes to a state that is not *halted*; refused, with false, once the word says halted.
pub(super) fn advance(word: &AtomicU64, state: u32, reason: u32) -> bool {
    debug_assert!(state != HALTED, "a halt is not an advance");
    transit(word, pack(state, reason))
}

fn transit(word: &AtomicU64, to: u64) -> bool {
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..MAX_ATTEMPTS {
        if unpack(seen).0 == HALTED {
            return false;
        }
        // SYNC POINT `STATE`, Release: partner is `Header::state`. Whoever reads `armed` also sees the epoch and bundle
        // hash that were set before it.
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
        assert!(halt(&word, 11));
        assert!(!halt(&word, 21));
        assert!(!advance(&word, 5, 0));
        assert_eq!(unpack(word.load(Ordering::Relaxed)), (HALTED, 11));
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
        let mut model = loom::model::Builder::new();
        if std::env::var_os("ESCAPEMENT_LOOM_FULL").is_some() {
            model.preemption_bound = None;
        } else if model.preemption_bound.is_none() {
            model.preemption_bound = Some(3);
        }
        model.check(scenario);
    }

    /// Two kill switches with different reasons against a daemon that arms, drains and stops, with a gateway looking on.
    fn kills_against_transitions(advance: Advance) {
        let word = Arc::new(AtomicU64::new(pack(STARTING, 0)));
        let killers: Vec<_> = [11, 21]
            .into_iter()
            .map(|reason| {
                let word = Arc::clone(&word);
                thread::spawn(move || {
                    let first = halt(&word, reason);
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

    /// Looks and then stores, as the word was written when it had one writer.
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
}
