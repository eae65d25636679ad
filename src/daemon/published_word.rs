//! The state word as the supervisor knows it. The word in shared memory is a copy for others to read.
//!
//! Peers can write that copy. A peer may halt the agent by it, as the kill switch does. Any other change is
//! undone, counted and logged. Whether the agent is halted, and why, is decided from this memory alone.

use super::rate::LogLimit;
use crate::halt::{halt_for_good, halt_reason, latches, state_of};
use escapement_ring::clock::Nanos;
use escapement_ring::ring::Header;
use escapement_ring::wire::{AgentState, Reason, StateWord};

/// The state of this agent, and its copy in shared memory.
pub(super) struct PublishedWord {
    header: Header,
    state: AgentState,
    /// Why the agent is halted, if it is.
    halted: Option<Reason>,
    /// Whether the engine was told to drain. It changes the word itself.
    drains: bool,
    restored: u64,
    log: LogLimit,
}

impl PublishedWord {
    /// The word of an agent that warms up.
    pub(super) fn new(header: Header) -> Self {
        let state = AgentState::Warming;
        Self { header, state, halted: None, drains: false, restored: 0, log: LogLimit::default() }
    }

    /// What the word has to say.
    pub(super) fn get(&self) -> StateWord {
        StateWord::from_numbers(self.expected())
    }

    /// Why the agent is halted; `None` if it is not.
    pub(super) fn halted(&self) -> Option<Reason> {
        self.halted
    }

    /// How often a word that a peer had changed was restored.
    pub(super) fn restored(&self) -> u64 {
        self.restored
    }

    /// The engine has armed the agent.
    pub(super) fn armed(&mut self) {
        if self.state == AgentState::Warming {
            self.state = AgentState::Armed;
            // A word that was restored between the engine's step and this report says `warming` again.
            let warming = (AgentState::Warming.number(), 0);
            self.header.restore_state(warming, AgentState::Armed.number(), 0);
        }
    }

    /// The engine was told to drain.
    pub(super) fn drains(&mut self) {
        self.drains = true;
    }

    /// Halts. The first reason stands, except that one that lasts replaces one that a restart answers.
    pub(super) fn halt(&mut self, reason: Reason) {
        let reason = if reason == Reason::None { Reason::Operator } else { reason };
        match self.halted {
            Some(first) if latches(first) || !latches(reason) => {}
            _ => self.halted = Some(reason),
        }
        if latches(reason) {
            halt_for_good(&self.header, reason);
        } else {
            self.header.halt(reason.number().into());
        }
    }

    /// Compares the word in shared memory with what it has to say. Takes over a halt, and undoes every other
    /// change that is not the engine's.
    pub(super) fn check(&mut self, now: Nanos) {
        self.log.repeat(now, warn);
        let (found, word) = (self.header.state(), state_of(&self.header));
        if found == self.expected() {
            return;
        }
        let is_news = match self.halted {
            None => word.is_halted(),
            Some(known) => word.is_halted() && !latches(known) && latches(halt_reason(word)),
        };
        if is_news {
            self.halted = Some(halt_reason(word));
            return;
        }
        if self.halted.is_none() && self.is_the_engines(found) {
            return;
        }
        let expected = self.expected();
        let (state, reason) = expected;
        // If the word has changed again, the next look decides.
        if self.header.restore_state(found, state, reason) {
            self.restored += 1;
            self.log.note(now, |repeated| warn_of(found, expected, repeated));
        }
    }

    /// Whether the engine may have made this change, of which the supervisor has not been told yet.
    fn is_the_engines(&mut self, found: (u32, u32)) -> bool {
        let is = |state: AgentState| found == (state.number(), 0);
        if self.drains && is(AgentState::Draining) {
            self.state = AgentState::Draining;
            return true;
        }
        self.state == AgentState::Warming && is(AgentState::Armed)
    }

    fn expected(&self) -> (u32, u32) {
        match self.halted {
            Some(reason) => (AgentState::Halted.number(), reason.number().into()),
            None => (self.state.number(), Reason::None.number().into()),
        }
    }
}

fn warn_of(found: (u32, u32), expected: (u32, u32), repeated: u64) {
    tracing::warn!(
        found_state = found.0,
        found_reason = found.1,
        state = expected.0,
        reason = expected.1,
        repeated,
        "a peer changed the state word; it is restored"
    );
}

fn warn(repeated: u64) {
    tracing::warn!(repeated, "a peer changed the state word again; it is restored");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::halt::is_halted_for_good;
    use escapement_ring::directory::{AgentDirectory, RingFile};

    fn word() -> (tempfile::TempDir, Header, PublishedWord) {
        let root = tempfile::tempdir().expect("a directory");
        let directory = AgentDirectory::at(root.path());
        let ring = directory.make(RingFile::Actions, RingFile::Actions.spec(2, 16, 1)).expect("a ring");
        let header = ring.header();
        header.advance(AgentState::Warming.number(), 0);
        (root, header.clone(), PublishedWord::new(header))
    }

    #[test]
    fn a_scribbled_word_is_restored_and_counted_and_a_halt_is_taken_over() {
        let (_root, header, mut word) = word();
        header.advance(AgentState::Armed.number(), 0);
        word.check(Nanos(1));
        word.armed();
        assert_eq!(word.restored(), 0, "the engine armed it");
        for (count, state) in [0, 2, 5, 6, 99].into_iter().enumerate() {
            header.reset_state(state, 0);
            word.check(Nanos(2));
            assert_eq!(header.state(), (AgentState::Armed.number(), 0));
            assert_eq!((word.restored(), word.halted()), (count as u64 + 1, None));
        }
        header.halt(Reason::Operator.number().into());
        word.check(Nanos(3));
        assert_eq!((word.restored(), word.halted()), (5, Some(Reason::Operator)));
    }

    #[test]
    fn a_halt_cannot_be_undone_or_renamed_in_shared_memory() {
        let (_root, header, mut word) = word();
        word.halt(Reason::ProtocolViolation);
        for other in [(3, 0), (4, Reason::Panic.number().into()), (4, Reason::Operator.number().into())] {
            header.reset_state(other.0, other.1);
            word.check(Nanos(1));
            assert_eq!(state_of(&header).reason, Some(Reason::ProtocolViolation));
            assert!(is_halted_for_good(word.get()));
        }
        assert_eq!(word.restored(), 3);
    }

    #[test]
    fn a_reason_that_lasts_replaces_one_that_passes() {
        let (_root, header, mut word) = word();
        header.halt(Reason::Panic.number().into());
        word.check(Nanos(1));
        assert_eq!(word.halted(), Some(Reason::Panic));
        word.halt(Reason::ProtocolViolation);
        word.halt(Reason::Operator);
        assert_eq!(word.halted(), Some(Reason::ProtocolViolation));
        assert_eq!(state_of(&header).reason, Some(Reason::ProtocolViolation));
    }

    #[test]
    fn only_an_ordered_drain_is_the_engines() {
        let (_root, header, mut word) = word();
        word.armed();
        word.check(Nanos(1));
        header.advance(AgentState::Draining.number(), 0);
        word.check(Nanos(1));
        assert_eq!(header.state().0, AgentState::Armed.number(), "nobody asked for a drain");
        word.drains();
        header.advance(AgentState::Draining.number(), 0);
        word.check(Nanos(1));
        assert_eq!(word.get().state, Some(AgentState::Draining));
    }
}
