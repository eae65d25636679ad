//! The consuming end of an agent's action ring, for order gateways written in Rust.
//!
//! A dead agent cannot send a safe default, and an action that lay in the ring while the gateway was stopped
//! is an order of the past. So a gateway must read the state word, the heartbeat, the epoch and the clock
//! before *each* send. [`Gateway::take`] does that, and [`Received::check`] returns the result. The gateway
//! also keeps the [`Ledger`], and can log every action before it leaves the ring ([`ActionLog`]). With the
//! log an auditor can prove that no action was lost or came twice, whichever process was killed.
//!
//! The command `escapement tap` is built on this module. *Tap* is the name of the command, *gateway* that of
//! the role.
//!
//! ```
//! use escapement_ring::clock::{ManualClock, Nanos};
//! use escapement_ring::directory::RingFile;
//! use escapement_ring::gateway::{Gateway, Limits};
//! use escapement_ring::ring::{HeapRegion, ProtocolViolation};
//!
//! // Rings for 3 features and 2 action elements. A real gateway attaches to the agent's:
//! // `Gateway::attach(&AgentDirectory::new(None, "eth"), limits)?`.
//! let actions = HeapRegion::ring(RingFile::Actions.spec(2, 8, 1))?;
//! let observations = HeapRegion::ring(RingFile::Observations.spec(3, 8, 1))?;
//! let clock = ManualClock::new(Nanos(1));
//! let limits = Limits { heartbeat_timeout: Nanos::from_millis(100), max_action_age: Nanos::from_millis(5) };
//! let mut gateway = Gateway::over(actions, observations, clock, limits)?;
//!
//! let taken = gateway.take(|action| {
//!     match action.check() {
//!         Ok(()) => {} // Send the order here. The action leaves the ring after the closure returned `Ok`.
//!         Err(withheld) => println!("not sent: {}", withheld.name()),
//!     }
//!     Ok::<_, ProtocolViolation>(action.header.sequence)
//! })?;
//! assert_eq!(taken, None, "this agent has committed nothing");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod ledger;
mod log;

pub use check::{Condition, Limits, MAX_COMMIT_SKEW, Present, Received, Withheld};
pub use ledger::{Account, Ledger};
pub use log::{ActionLog, LogError, LogSummary, check_log};

use crate::clock::{Clock, MonotonicClock};
use crate::directory::{AgentDirectory, DirectoryError, RingFile};
use crate::ring::{
    Consumer, Header, HeapRegion, MIN_CAPACITY, Peek, Producer, ProtocolViolation, Region, Spec,
};
use crate::wire::{ActionHeader, Outcome, Reason};
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
    limits: Limits,
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

impl Gateway<MonotonicClock> {
    /// Attaches to the rings of an agent.
    ///
    /// # Errors
    /// Fails if a ring does not exist or is not usable, or if the two are not a pair.
    pub fn attach(directory: &AgentDirectory, limits: Limits) -> Result<Self, AttachError> {
        let actions = directory.attach(RingFile::Actions)?;
        let observations = directory.attach(RingFile::Observations)?;
        Self::over(actions, observations, MonotonicClock, limits)
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
        limits: Limits,
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
            limits,
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
            present: Present::read(&self.header, &self.limits, || self.clock.now()),
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
        std::hint::black_box(Present::read(&self.header, &self.limits, || self.clock.now()));
    }

    /// The agent's condition now.
    pub fn condition(&self) -> Condition {
        Condition::of(&self.header, self.clock.now(), self.limits.heartbeat_timeout)
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

#[cfg(all(test, not(loom)))]
mod tests;
