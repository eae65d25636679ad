//! What the reasons of a halt mean for the state word: which of them last, and which may be replaced.

use escapement_ring::ring::{HALTED, Header};
use escapement_ring::wire::{AgentState, Reason, StateWord};

// The ring knows this one state by its number. It does not know the meaning of the others.
const _: () = assert!(AgentState::Halted.number() == HALTED);

/// Reasons of halts that hold only as long as the process. A panic and a truncated file are answered by a
/// restart, as the table of exit codes says.
const PASSING: [Reason; 2] = [Reason::Panic, Reason::BusError];
/// Their numbers.
const REPLACEABLE: [u32; 2] = [PASSING[0].number() as u32, PASSING[1].number() as u32];

/// Whether a halt for this reason holds until a person lifts it.
pub fn latches(reason: Reason) -> bool {
    !PASSING.contains(&reason)
}

/// Sets the state word to halted for a reason that latches. Returns whether this call did it.
///
/// The first reason stands, except that this one replaces a reason that does not latch. Otherwise a lasting
/// halt would be lost if the process died, and was started again, at the same moment. Async-signal-safe.
pub fn halt_for_good(header: &Header, reason: Reason) -> bool {
    debug_assert!(latches(reason), "{reason:?} is answered by a restart");
    header.halt_over(reason.number().into(), &REPLACEABLE)
}

/// Sets the state word to halted for a reason that a restart answers. Async-signal-safe.
pub(super) fn halt_for_now(header: &Header, reason: Reason) {
    debug_assert!(!latches(reason), "{reason:?} lasts");
    header.halt(reason.number().into());
}

/// The decoded state word.
pub fn state_of(header: &Header) -> StateWord {
    StateWord::from_numbers(header.state())
}

/// Why the state word says that the agent is halted. A reason that this version does not know counts as an
/// operator's: it latches.
pub fn halt_reason(word: StateWord) -> Reason {
    word.reason.unwrap_or(Reason::Operator)
}

/// Whether the state word says halted, for a reason that latches.
pub fn is_halted_for_good(word: StateWord) -> bool {
    word.is_halted() && latches(halt_reason(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_panic_and_a_truncated_file_pass() {
        let passing: Vec<_> = Reason::ALL.iter().copied().filter(|reason| !latches(*reason)).collect();
        assert_eq!(passing, PASSING);
    }

    /// A newer version may halt for a reason that this one does not know. It must not start such an agent.
    #[test]
    fn an_unknown_reason_latches_and_an_unknown_state_is_not_halted() {
        let word = StateWord::from_numbers((AgentState::Halted.number(), u32::MAX));
        assert!(is_halted_for_good(word));
        assert_eq!(halt_reason(word), Reason::Operator);
        assert!(!is_halted_for_good(StateWord::from_numbers((u32::MAX, u32::MAX))));
    }
}
