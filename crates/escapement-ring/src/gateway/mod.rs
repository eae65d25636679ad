//! The consuming end of an agent's action ring, for order gateways written in Rust.
//!
//! A dead agent cannot send a safe default. So a gateway must read the state word and the heartbeat before
//! *each* send. [`Gateway::take`] does that, and [`Received::may_be_sent`] returns the result. The gateway
//! also keeps the [`Ledger`], and can log every action before it leaves the ring ([`ActionLog`]). With the
//! log an auditor can prove that no action was lost or came twice, whichever process was killed.
//!
//! The command `escapement tap` is built on this module. *Tap* is the name of the command, *gateway* that of
//! the role.
//!
//! ```
//! use escapement_ring::clock::{ManualClock, Nanos};
//! use escapement_ring::directory::RingFile;
//! use escapement_ring::gateway::Gateway;
//! use escapement_ring::ring::{HeapRegion, ProtocolViolation};
//!
//! // Rings for 3 features and 2 action elements. A real gateway attaches to the agent's:
//! // `Gateway::attach(&AgentDirectory::new(None, "eth"), Nanos::from_millis(100))?`.
//! let actions = HeapRegion::ring(RingFile::Actions.spec(2, 8, 1))?;
//! let observations = HeapRegion::ring(RingFile::Observations.spec(3, 8, 1))?;
//! let clock = ManualClock::new(Nanos(1));
//! let mut gateway = Gateway::over(actions, observations, clock, Nanos::from_millis(100))?;
//!
//! let taken = gateway.take(|action| {
//!     if action.may_be_sent() {
//!         // Send the order here. The action leaves the ring after this closure has returned `Ok`.
//!     }
//!     Ok::<_, ProtocolViolation>(action.header.sequence)
//! })?;
//! assert_eq!(taken, None, "this agent has committed nothing");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod ledger;
mod log;

pub use ledger::{Account, Ledger};
pub use log::{ActionLog, LogError, LogSummary, check_log};

use crate::clock::{Clock, MonotonicClock, Nanos};
use crate::directory::{AgentDirectory, DirectoryError, RingFile};
use crate::ring::{
    Consumer, Header, HeapRegion, MIN_CAPACITY, Peek, Producer, ProtocolViolation, Region, Spec,
};
use crate::wire::{ActionHeader, AgentState, Outcome, Reason, StateWord};
use zerocopy::IntoBytes;

/// One agent's gateway. There must be one at a time: hold [`Role::Tap`](crate::directory::Role::Tap) while it
/// lives.
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
    /// Both ends of a ring that nobody else sees, for [`Gateway::keep_warm`].
    dry: (Producer, Consumer),
}

/// Why a gateway cannot attach.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A ring does not exist, or its file is not a ring.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The action ring's positions are impossible.
    #[error(transparent)]
    Violation(#[from] ProtocolViolation),
    /// The rings were made at different times: the daemon is replacing them at this moment.
    #[error("the rings are of two generations, {observations} and {actions}: they are not a pair")]
    NotAPair {
        /// The observation ring's.
        observations: u64,
        /// The action ring's.
        actions: u64,
    },
}

/// The agent's condition before a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Armed and alive: actions may be sent.
    Armed,
    /// Not armed: alive, or ended in order.
    NotArmed {
        /// The state; `None` for a number that this version does not know.
        state: Option<AgentState>,
        /// The reason beside it.
        reason: Option<Reason>,
    },
    /// The heartbeat is older than the timeout: the agent is dead, stopped, or without a core. Nothing that
    /// it left in the ring may be sent.
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

    /// Returns whether the agent has stopped or halted.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::NotArmed { state: Some(AgentState::Stopped | AgentState::Halted), .. })
    }
}

/// One frame of the action ring, copied out of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Received<'a> {
    /// Distinguishes this ring from earlier ones of the same name.
    pub generation: u64,
    /// Position in the action ring.
    pub ring_position: u64,
    /// The frame's header.
    pub header: ActionHeader,
    /// The action itself, one element per dimension.
    pub payload: &'a [f32],
    /// Outcome and reason. `None` if the frame is torn: its checksum does not match, or its numbers are
    /// unknown.
    pub verdict: Option<(Outcome, Reason)>,
    /// The agent's condition, read after the frame was copied.
    pub condition: Condition,
}

impl Received<'_> {
    /// Returns whether the action may be sent: the frame is whole, it is not the record of a halt, and the
    /// agent is armed and alive.
    pub fn may_be_sent(&self) -> bool {
        self.condition == Condition::Armed
            && self.verdict.is_some_and(|(outcome, _)| outcome != Outcome::Halt)
    }
}

impl Gateway<MonotonicClock> {
    /// Attaches to the rings of an agent.
    ///
    /// # Errors
    /// Fails if a ring does not exist or is not usable, or if the two are not a pair.
    pub fn attach(directory: &AgentDirectory, heartbeat_timeout: Nanos) -> Result<Self, AttachError> {
        let actions = directory.attach(RingFile::Actions)?;
        let observations = directory.attach(RingFile::Observations)?;
        Self::over(actions, observations, MonotonicClock, heartbeat_timeout)
    }
}

impl<C: Clock> Gateway<C> {
    /// A gateway over a pair of regions.
    ///
    /// # Errors
    /// Fails if they are not a pair, or if the positions in the action ring are impossible.
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
        // Actions that a predecessor took are in its account.
        let ledger = match actions.position() {
            0 => Ledger::from_the_start(),
            _ => Ledger::from_the_first_action(),
        };
        let payload = vec![0.0; spec.dimension as usize].into();
        let private = Spec { capacity: MIN_CAPACITY, ..spec };
        let (_, committing, taking) = HeapRegion::both_ends(private).expect("the geometry is that of a ring");
        Ok(Self {
            actions,
            header,
            observations,
            generation: spec.generation,
            clock,
            heartbeat_timeout,
            ledger,
            payload,
            dry: (committing, taking),
        })
    }

    /// Takes the oldest action out of the ring, if there is one. It is released after `receive` has returned
    /// `Ok`. If the gateway dies before, its successor gets the action again. If `receive` fails, the action
    /// stays in the ring.
    ///
    /// # Errors
    /// The error of `receive`; a violation if the agent's position is impossible.
    pub fn take<T, E: From<ProtocolViolation>>(
        &mut self,
        receive: impl FnOnce(&Received<'_>) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        let Some(Read { peek, header, verdict }) = read_next(&mut self.actions, &mut self.payload)? else {
            return Ok(None);
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

    /// Reads an action from a ring that nobody else sees, and the agent's condition, so that the code and the
    /// data of [`Gateway::take`] stay in the caches. For a gateway that spins: call it after some 20 µs
    /// without work, then look for work again. It hands nothing out, and changes neither the agent's ring nor
    /// the account.
    pub fn keep_warm(&mut self) {
        let (producer, consumer) = &mut self.dry;
        let header = ActionHeader::default().sealed(&self.payload);
        // The private ring is empty, so there is a slot.
        if let Ok(mut claim) = producer.try_claim() {
            claim.write(ActionHeader::BYTES, self.payload.as_bytes());
            claim.write(0, header.as_bytes());
            claim.commit();
        }
        if let Ok(Some(Read { peek, .. })) = read_next(consumer, &mut self.payload) {
            peek.release();
        }
        std::hint::black_box(self.condition());
    }

    /// The agent's condition now.
    pub fn condition(&self) -> Condition {
        condition(&self.header, self.clock.now(), self.heartbeat_timeout)
    }

    /// The number of starts of an agent on these rings.
    pub fn epoch(&self) -> u64 {
        self.header.epoch()
    }

    /// Publishes this gateway's heartbeat.
    pub fn beat(&self) {
        self.header.beat_consumer(self.clock.now().0);
    }

    /// The account up to now.
    pub fn account(&self) -> Account {
        let (committed, released) = self.observations.positions();
        self.ledger.account(committed, released)
    }

    /// Returns whether the agent's directory holds another pair of rings by now. An agent that starts with
    /// another geometry replaces its rings once they are empty. This opens a file, so call it only when idle.
    pub fn is_replaced(&self, directory: &AgentDirectory) -> bool {
        directory.attach(RingFile::Actions).is_ok_and(|region| region.spec().generation != self.generation)
    }
}

/// The oldest frame of a ring, copied out and checked, and the right to release it.
struct Read<'a> {
    peek: Peek<'a>,
    header: ActionHeader,
    verdict: Option<(Outcome, Reason)>,
}

// Never inlined, because `Gateway::keep_warm` keeps exactly this code warm.
#[inline(never)]
fn read_next<'a>(
    actions: &'a mut Consumer,
    payload: &mut [f32],
) -> Result<Option<Read<'a>>, ProtocolViolation> {
    let Some(peek) = actions.peek()? else { return Ok(None) };
    let mut header = ActionHeader::default();
    peek.read(0, header.as_mut_bytes());
    peek.read(ActionHeader::BYTES, payload.as_mut_bytes());
    let numbers = (Outcome::from_number(header.outcome), Reason::from_number(header.reason));
    let verdict = match numbers {
        (Some(outcome), Some(reason)) if header.is_whole(payload) => Some((outcome, reason)),
        _ => None,
    };
    Ok(Some(Read { peek, header, verdict }))
}

fn condition(header: &Header, now: Nanos, heartbeat_timeout: Nanos) -> Condition {
    let StateWord { state, reason } = StateWord::from_numbers(header.state());
    if !matches!(state, Some(AgentState::Armed | AgentState::Draining)) {
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
