//! L4. The consuming end of an agent's action ring, for order gateways written in Rust.
//!
//! A dead agent cannot send a safe default, so the state word and the heartbeat must be read before *each* send: that
//! is what [`Gateway::take`] does, and what it hands over says whether the action may be sent. It keeps the
//! [`Ledger`], too, and can log every action before the ring forgets it ([`ActionLog`]), so that whatever is killed, an
//! auditor can tell that nothing was lost and nothing came twice.

mod ledger;
mod log;

pub use ledger::{Account, Ledger};
pub use log::{ActionLog, LogError, LogSummary, check_log};

use crate::clock::{Clock, MonotonicClock, Nanos};
use crate::directory::{AgentDirectory, DirectoryError, RingFile};
use crate::ring::{Consumer, Header, ProtocolViolation, Region};
use crate::wire::{ActionHeader, AgentState, Outcome, Reason};
use zerocopy::IntoBytes;

/// One agent's gateway. There is one at a time; who it is, is settled by [`crate::directory::Role::Tap`].
#[derive(Debug)]
pub struct Gateway<C: Clock = MonotonicClock> {
    actions: Consumer,
    header: Header,
    observations: Region,
    generation: u64,
    clock: C,
    heartbeat_timeout: Nanos,
    ledger: Ledger,
    payload: Box<[f32]>,
}

/// Why a gateway cannot attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A ring that is not there, or is none.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The action ring's positions are impossible.
    #[error(transparent)]
    Violation(#[from] ProtocolViolation),
    /// The rings were made at different times: one of them is just being replaced.
    #[error("the rings are of two generations, {observations} and {actions}: they are not a pair")]
    NotAPair {
        /// The observation ring's.
        observations: u64,
        /// The action ring's.
        actions: u64,
    },
}

/// The agent, as a gateway sees it before a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Armed and alive: actions may be sent.
    Armed,
    /// Alive or ended in order, but not armed; the state's number may be one that this version does not know.
    NotArmed {
        /// The state.
        state: Option<AgentState>,
        /// The reason beside it.
        reason: Option<Reason>,
    },
    /// Its heartbeat is older than the timeout: dead, stopped by a debugger, or without a core. Nothing it has left in
    /// the ring may be sent.
    Silent {
        /// How old the heartbeat is.
        age: Nanos,
    },
}

impl Condition {
    /// The name in reports: the state's, or `silent`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Armed => AgentState::Armed.name(),
            Self::NotArmed { state, .. } => state.map_or("unknown", AgentState::name),
            Self::Silent { .. } => "silent",
        }
    }

    /// Whether the agent has ended in order, by itself or by a halt.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::NotArmed { state: Some(AgentState::Stopped | AgentState::Halted), .. })
    }
}

/// One frame of the action ring, copied out of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Received<'a> {
    /// Tells this ring from its predecessors of the same name.
    pub generation: u64,
    /// Position in the action ring.
    pub ring_position: u64,
    /// The frame's header.
    pub header: ActionHeader,
    /// The action itself, one element per dimension.
    pub payload: &'a [f32],
    /// What the frame means; `None` where it is torn: a checksum that does not match, or numbers that mean nothing.
    pub verdict: Option<(Outcome, Reason)>,
    /// The agent, looked at after the frame was copied and before it is handed over.
    pub condition: Condition,
}

impl Received<'_> {
    /// Whether the action may leave for the market. The record of a halt is not one to send: it says why.
    pub fn may_be_sent(&self) -> bool {
        self.condition == Condition::Armed
            && self.verdict.is_some_and(|(outcome, _)| outcome != Outcome::Halt)
    }
}

impl Gateway<MonotonicClock> {
    /// Attaches to the rings of an agent.
    ///
    /// # Errors
    /// When there are none, or they are not a pair that this code can use.
    pub fn attach(directory: &AgentDirectory, heartbeat_timeout: Nanos) -> Result<Self, AttachError> {
        let actions = directory.attach(RingFile::Actions)?;
        let observations = directory.attach(RingFile::Observations)?;
        Self::over(actions, observations, MonotonicClock, heartbeat_timeout)
    }
}

impl<C: Clock> Gateway<C> {
    /// A gateway over a pair of regions, wherever they lie.
    ///
    /// # Errors
    /// When they are not a pair, or the positions in the action ring are impossible.
    pub fn over(
        actions: Region,
        observations: Region,
        clock: C,
        heartbeat_timeout: Nanos,
    ) -> Result<Self, AttachError> {
        let (spec, other) = (*actions.spec(), observations.spec().generation);
        if spec.generation != other {
            return Err(AttachError::NotAPair { observations: other, actions: spec.generation });
        }
        let header = actions.header();
        let actions = Consumer::attach(actions)?;
        // What predecessors took, they accounted for.
        let ledger = match actions.position() {
            0 => Ledger::from_the_start(),
            _ => Ledger::from_the_first_action(),
        };
        let payload = vec![0.0; spec.dimension as usize].into();
        Ok(Self {
            actions,
            header,
            observations,
            generation: spec.generation,
            clock,
            heartbeat_timeout,
            ledger,
            payload,
        })
    }

    /// Takes the oldest action out of the ring, if there is one. It is released after `receive` has returned well, and
    /// not before: a gateway that dies in between gets it again, and one that fails keeps it.
    ///
    /// # Errors
    /// What `receive` fails with; a violation when the agent's position is impossible.
    pub fn take<T, E: From<ProtocolViolation>>(
        &mut self,
        receive: impl FnOnce(&Received<'_>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let Some(peek) = self.actions.peek()? else { return Ok(None) };
        let mut header = ActionHeader::default();
        peek.read(0, header.as_mut_bytes());
        peek.read(ActionHeader::BYTES, self.payload.as_mut_bytes());
        let numbers = (Outcome::from_number(header.outcome), Reason::from_number(header.reason));
        let verdict = match numbers {
            (Some(outcome), Some(reason)) if header.is_whole(&self.payload) => Some((outcome, reason)),
            _ => None,
        };
        let received = Received {
            generation: self.generation,
            ring_position: peek.position(),
            header,
            payload: &self.payload,
            verdict,
            condition: condition(&self.header, self.clock.now(), self.heartbeat_timeout),
        };
        let result = receive(&received)?;
        match verdict {
            Some(_) => self.ledger.note(header.position),
            None => self.ledger.note_torn(),
        }
        peek.release();
        Ok(Some(result))
    }

    /// The agent's condition now.
    pub fn condition(&self) -> Condition {
        condition(&self.header, self.clock.now(), self.heartbeat_timeout)
    }

    /// How often an agent has started on these rings.
    pub fn epoch(&self) -> u64 {
        self.header.epoch()
    }

    /// Says that this gateway is alive.
    pub fn beat(&self) {
        self.header.beat_consumer(self.clock.now().0);
    }

    /// The account as it stands.
    pub fn account(&self) -> Account {
        let (committed, released) = self.observations.positions();
        self.ledger.account(committed, released)
    }

    /// Whether the agent's directory holds another pair of rings by now: an agent that starts with another geometry
    /// replaces them, once they are empty. Opens a file; for idle time.
    pub fn is_replaced(&self, directory: &AgentDirectory) -> bool {
        directory.attach(RingFile::Actions).is_ok_and(|region| region.spec().generation != self.generation)
    }
}

fn condition(header: &Header, now: Nanos, heartbeat_timeout: Nanos) -> Condition {
    let (state, reason) = header.state();
    let state = AgentState::from_number(state);
    if !matches!(state, Some(AgentState::Armed | AgentState::Draining)) {
        let reason = u16::try_from(reason).ok().and_then(Reason::from_number);
        return Condition::NotArmed { state, reason };
    }
    let age = now.since(Nanos(header.producer_heartbeat_ns()));
    if age > heartbeat_timeout {
        return Condition::Silent { age };
    }
    match state {
        Some(AgentState::Armed) => Condition::Armed,
        _ => Condition::NotArmed { state, reason: None },
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
