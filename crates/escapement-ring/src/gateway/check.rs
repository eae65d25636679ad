//! The rule of a send: whether an action may leave, and if not, why. It stands here and nowhere else.

use crate::clock::Nanos;
use crate::ring::Header;
use crate::wire::{ActionHeader, AgentState, Outcome, Reason, StateWord};

/// How far an action's commit may lie ahead of the gateway's clock. Agent and gateway read the same timeline,
/// from two counters that are kept within microseconds of each other.
pub const MAX_COMMIT_SKEW: Nanos = Nanos::from_millis(1);

/// What a gateway still accepts. Neither limit has a default: what is too old depends on the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The age of a heartbeat above which the agent counts as lost.
    pub heartbeat_timeout: Nanos,
    /// The age of an action, counted from its commit, above which it is not sent.
    pub max_action_age: Nanos,
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
    /// Reads the condition from a ring's header.
    pub(super) fn of(header: &Header, now: Nanos, heartbeat_timeout: Nanos) -> Self {
        let StateWord { state, reason } = StateWord::from_numbers(header.state());
        if !matches!(state, Some(AgentState::Armed | AgentState::Draining)) {
            return Self::NotArmed { state, reason };
        }
        let age = now.since(Nanos(header.producer_heartbeat_ns()));
        if age > heartbeat_timeout {
            return Self::Silent { age };
        }
        match state {
            Some(AgentState::Armed) => Self::Armed,
            _ => Self::NotArmed { state, reason: None },
        }
    }

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

/// Why an action may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The checksum does not match, or outcome or reason is unknown.
    Torn,
    /// It is the record of a halt, and carries no action.
    HaltRecord,
    /// The agent does not control the position now.
    Agent(Condition),
    /// The ring was laid out again since the gateway attached.
    OtherGeneration {
        /// The generation of the ring now.
        current: u64,
    },
    /// An earlier start of the agent committed it.
    PastEpoch {
        /// The epoch of the frame.
        frame: u32,
        /// The epoch of the ring now.
        current: u64,
    },
    /// It was committed too long ago.
    TooOld {
        /// How long ago.
        age: Nanos,
    },
    /// It claims to be committed in the future: its age is unknown.
    StampedAhead {
        /// How far ahead of the gateway's clock.
        ahead: Nanos,
    },
}

impl Withheld {
    /// The name in reports. For the agent's condition it is the condition's.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::HaltRecord => Outcome::Halt.name(),
            Self::Agent(condition) => condition.name(),
            Self::OtherGeneration { .. } => "other_generation",
            Self::PastEpoch { .. } => "past_epoch",
            Self::TooOld { .. } => "too_old",
            Self::StampedAhead { .. } => "stamped_ahead",
        }
    }
}

/// What a gateway reads after it has copied a frame, to judge it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// The agent's condition.
    pub condition: Condition,
    /// The generation that the ring's header names.
    pub generation: u64,
    /// The epoch that the ring's header names.
    pub epoch: u64,
    /// The instant, read last.
    pub now: Nanos,
    /// The gateway's limit on the age of an action.
    pub max_action_age: Nanos,
}

impl Present {
    /// Reads what is judged. The state word comes first: a reader that sees an epoch's `armed` also sees that
    /// epoch's number.
    pub(super) fn read(header: &Header, limits: &Limits, now: impl Fn() -> Nanos) -> Self {
        let condition = Condition::of(header, now(), limits.heartbeat_timeout);
        let (generation, epoch) = (header.generation(), header.epoch());
        Self { condition, generation, epoch, now: now(), max_action_age: limits.max_action_age }
    }
}

/// One frame of the action ring, copied out of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Received<'a> {
    /// Distinguishes this ring from earlier ones of the same name: as it was when the gateway attached.
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
    /// What was read after the frame was copied.
    pub present: Present,
}

impl Received<'_> {
    /// Checks whether the action may be sent: the frame is whole and carries an action, the agent that
    /// committed it is the one that is armed and alive now, and it was committed recently.
    ///
    /// The answer holds for `present.now`. A caller that does more than a few microseconds of work between
    /// [`Gateway::take`](super::Gateway::take) and the send must look at its age again.
    ///
    /// # Errors
    /// Fails with the first reason against it.
    pub fn check(&self) -> Result<(), Withheld> {
        let Present { condition, generation, epoch, now, max_action_age } = self.present;
        match self.verdict {
            None => return Err(Withheld::Torn),
            Some((Outcome::Halt, _)) => return Err(Withheld::HaltRecord),
            Some((Outcome::Policy | Outcome::SafeDefault | Outcome::Fallback, _)) => {}
        }
        if condition != Condition::Armed {
            return Err(Withheld::Agent(condition));
        }
        if generation != self.generation {
            return Err(Withheld::OtherGeneration { current: generation });
        }
        // The frame has the low half of the number.
        if self.header.epoch != epoch as u32 {
            return Err(Withheld::PastEpoch { frame: self.header.epoch, current: epoch });
        }
        let committed = Nanos(self.header.ts_commit_ns);
        if committed > now.plus(MAX_COMMIT_SKEW) {
            return Err(Withheld::StampedAhead { ahead: committed.since(now) });
        }
        let age = now.since(committed);
        if age > max_action_age {
            return Err(Withheld::TooOld { age });
        }
        Ok(())
    }

    /// Returns whether the action may be sent; [`Received::check`] says why not.
    pub fn may_be_sent(&self) -> bool {
        self.check().is_ok()
    }
}
