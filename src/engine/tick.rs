//! One tick: peek, admit, infer, judge, commit, release, hand a record on.

use super::budget::Budget;
use super::carry::{Carried, CarryRules};
use super::input_guard::{GuardFinding, InputGuard};
use super::intake::{Frame, Intake};
use super::record::TickRecord;
use super::settings::{Backlog, OnFull, OnMiss, Settings, all_finite};
use crate::clock::{Clock, Nanos};
use crate::noise::Noise;
use crate::policy::Policy;
use crate::ring::{Claim, ClaimError, Consumer, Header, Producer, ProtocolViolation};
use crate::telemetry::Counters;
use crate::wire::{ActionFlags, ActionHeader, AgentState, ObservationHeader, Outcome, Reason};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// What an engine is made of.
pub struct Parts<C> {
    /// Time.
    pub clock: C,
    /// What answers observations.
    pub policy: Box<dyn Policy>,
    /// Where observations come from.
    pub observations: Consumer,
    /// Heartbeat of this side of the observation ring.
    pub observation_header: Header,
    /// Where actions go.
    pub actions: Producer,
    /// State word and heartbeat of this side of the action ring.
    pub action_header: Header,
    /// Where tick records go.
    pub records: Producer,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// What a tick goes by.
    pub settings: Settings,
    /// How often a daemon has started on these rings, this start included.
    pub epoch: u32,
}

/// Why an engine cannot be built on these rings.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A ring's positions are impossible.
    #[error(transparent)]
    Violation(#[from] ProtocolViolation),
    /// The two rings contradict each other.
    #[error(
        "the action ring answers observation {answered}, but only {released} were released: the rings are not a pair"
    )]
    NotAPair {
        /// Position of the observation answered last.
        answered: u64,
        /// Observations released.
        released: u64,
    },
    /// The last record in the action ring is not what a daemon committed.
    #[error("the last record of the action ring is damaged: its checksum does not match")]
    LastActionDamaged,
}

/// What a tick did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was no observation.
    Idle,
    /// One observation got its outcome, at this instant.
    Done(Nanos),
    /// The agent halted; the state word says so already. No further tick does anything.
    Halted(Reason),
    /// A ring's other side broke the protocol; the state word says halted.
    Violated(ProtocolViolation),
}

/// The engine. One thread owns it.
pub struct Engine<C> {
    pub(super) clock: C,
    pub(super) policy: Box<dyn Policy>,
    pub(super) settings: Settings,
    pub(super) observation: Box<[f32]>,
    pub(super) action: Box<[f32]>,
    observations: Consumer,
    observation_header: Header,
    actions: Producer,
    action_header: Header,
    records: Producer,
    counters: Arc<Counters>,
    intake: Intake,
    input_guard: Option<InputGuard>,
    noise: Option<Noise>,
    carried: Option<Carried>,
    misses: Budget,
    errors: Budget,
    epoch: u32,
    halted: Option<Reason>,
}

/// What a tick has found out so far.
struct Verdict {
    outcome: Outcome,
    reason: Reason,
    flags: u32,
}

impl<C: Clock> Engine<C> {
    /// Builds an engine and resumes where the rings say the last one stopped: an observation that was answered but not
    /// yet released when the last daemon died is released now, and not answered again.
    ///
    /// # Errors
    /// When the rings' positions are impossible, or they do not belong together.
    ///
    /// # Panics
    /// When the vectors in the settings do not have the policy's widths; `config` checks that.
    pub fn new(parts: Parts<C>) -> Result<Self, EngineError> {
        let Parts {
            clock,
            policy,
            mut observations,
            observation_header,
            actions,
            action_header,
            records,
            counters,
            settings,
            epoch,
        } = parts;
        let dimensions = policy.dimensions();
        assert_eq!(settings.observation_bounds.dimension(), dimensions.observation);
        assert_eq!(settings.action_bounds.dimension(), dimensions.action);
        assert_eq!(settings.safe_default.len(), dimensions.action);
        assert_eq!(settings.neutral.len(), dimensions.action);
        let last = resume(&mut observations, &actions, dimensions.action)?;
        Ok(Self {
            clock,
            observation: vec![0.0; dimensions.observation].into(),
            action: vec![0.0; dimensions.action].into(),
            misses: Budget::new(settings.miss_budget),
            errors: Budget::new(settings.error_budget),
            intake: Intake::resumed(last),
            input_guard: None,
            noise: None,
            carried: None,
            policy,
            settings,
            observations,
            observation_header,
            actions,
            action_header,
            records,
            counters,
            epoch,
            halted: None,
        })
    }

    /// Holds features to what the policy was trained on, from the next tick on.
    pub fn guard_input(&mut self, guard: InputGuard) {
        self.input_guard = Some(guard);
    }

    /// Calls the policy with noise that this source draws for each sequence number, from the next tick on.
    pub fn draw_noise(&mut self, noise: Noise) {
        self.noise = Some(noise);
    }

    /// Follows these rules about carried state, from the next tick on.
    pub fn carry_by(&mut self, rules: CarryRules) {
        self.carried = Some(Carried::new(rules));
    }

    /// Answers at most one observation.
    #[inline]
    pub fn tick(&mut self) -> Progress {
        if let Some(reason) = self.halted {
            return Progress::Halted(reason);
        }
        let mut skipped = 0;
        if self.settings.backlog == Backlog::Latest {
            match self.observations.skip_to_latest() {
                Ok(count) => skipped = count,
                Err(violation) => return self.violated(violation),
            }
        }
        let peek = match self.observations.peek() {
            Ok(Some(peek)) => peek,
            Ok(None) => return Progress::Idle,
            Err(violation) => return self.violated(violation),
        };
        let peeked = self.clock.begin();
        if skipped > 0 {
            self.counters.count_skipped(skipped);
        }
        let mut header = ObservationHeader::default();
        peek.read(0, header.as_mut_bytes());
        peek.read(ObservationHeader::BYTES, self.observation.as_mut_bytes());
        let position = peek.position();
        let frame = Frame { header, payload: &self.observation, position };

        let mut claim = match self.actions.try_claim() {
            Ok(claim) => claim,
            Err(ClaimError::Full { .. }) => {
                peek.release();
                return self.no_room(&header, peeked, skipped);
            }
            Err(ClaimError::Violation(violation)) => return self.violated(violation),
        };

        // The policy's action, or why not.
        let mut flags = 0;
        let mut inference_ns = 0;
        let mut refused = self.intake.admit(&self.settings, &frame, peeked, &mut flags);
        if let (Some(guard), None) = (&self.input_guard, refused)
            && guard.apply(&mut self.observation) == GuardFinding::Refuse
        {
            refused = Some(Reason::ObservationOutOfRange);
        }
        if let Some(carried) = self.carried.as_mut().filter(|_| flags & ActionFlags::GAP != 0) {
            carried.on_gap(self.policy.as_mut());
        }
        let mut policy_failed = false;
        if refused.is_none() {
            if let Some(noise) = &self.noise {
                noise.fill(header.sequence, self.policy.noise_mut());
            }
            let called = self.clock.begin();
            let answer = self.policy.infer(&self.observation, &mut self.action);
            let returned = self.clock.now();
            inference_ns = returned.since(called).0;
            if self.settings.deadlines.inference_is_late(called, returned) {
                flags |= ActionFlags::INFERENCE_LATE;
            }
            refused = if answer.is_err() {
                Some(Reason::PolicyError)
            } else if !all_finite(&self.action) {
                Some(Reason::ActionNonFinite)
            } else if !self.settings.action_bounds.contain(&self.action) {
                Some(Reason::ActionOutOfBounds)
            } else {
                None
            };
            policy_failed = refused.is_some();
            if refused.is_none() && self.carried.as_mut().is_some_and(Carried::is_burning_in) {
                refused = Some(Reason::BurnIn);
            }
        }
        // What is known without the clock is written before the clock is asked, so that as little as possible lies
        // between the verdict and the commit.
        if refused.is_none() {
            claim.write(ActionHeader::BYTES, self.action.as_bytes());
        }
        let verdict_at = self.clock.now();
        if self.settings.deadlines.end_to_end_is_late(peeked, verdict_at) {
            flags |= ActionFlags::END_TO_END_LATE;
        }
        let verdict = judge(
            &self.settings,
            (&mut self.misses, &mut self.errors),
            Findings { refused, policy_failed, flags },
        );
        if let Some(carried) = &mut self.carried
            && !matches!(verdict.reason, Reason::None | Reason::BurnIn)
        {
            carried.on_miss(self.policy.as_mut());
        }
        let queue_ns = peeked.since(Nanos(header.ts_publish_ns)).0;
        let action = ActionHeader {
            sequence: header.sequence,
            position,
            ts_event_ns: header.ts_event_ns,
            ts_publish_ns: header.ts_publish_ns,
            ts_commit_ns: verdict_at.0,
            inference_ns,
            queue_ns,
            epoch: self.epoch,
            outcome: verdict.outcome.number(),
            reason: verdict.reason.number(),
            reserved: 0,
            flags: verdict.flags,
            checksum: 0,
        };
        let payload = match verdict.outcome {
            Outcome::Policy => &self.action,
            Outcome::SafeDefault => &self.settings.safe_default,
            Outcome::Halt => &self.settings.neutral,
        };
        if verdict.outcome == Outcome::Halt {
            // The state word first: a gateway that reads it before each send stops at once.
            self.action_header.halt(verdict.reason.number().into());
            self.halted = Some(verdict.reason);
        }
        commit(claim, action, payload, verdict.outcome);
        // Released only after the commit: a daemon that dies in between finds both and does not answer twice.
        peek.release();

        self.count(&verdict);
        let record = TickRecord {
            sequence: header.sequence,
            position: action.position,
            ts_event_ns: header.ts_event_ns,
            ts_publish_ns: header.ts_publish_ns,
            ts_peek_ns: peeked.0,
            ts_commit_ns: verdict_at.0,
            inference_ns,
            skipped_before: skipped,
            outcome: action.outcome,
            reason: action.reason,
            flags: action.flags,
            ..TickRecord::default()
        };
        record.hand_on(&mut self.records, &self.counters);
        match self.halted {
            Some(reason) => Progress::Halted(reason),
            None => Progress::Done(verdict_at),
        }
    }

    /// Halts without an observation: a person said so, or the loop found a reason. The first reason stands.
    pub fn halt(&mut self, reason: Reason) {
        if self.halted.is_none() {
            self.action_header.halt(reason.number().into());
            self.halted = Some(reason);
        }
    }

    /// Tells the gateway that what waits is still answered, and nothing after it.
    pub(super) fn announce_drain(&self) {
        if self.halted.is_none() {
            self.action_header.advance(AgentState::Draining.number(), Reason::None.number().into());
        }
    }

    /// Tells both neighbours that this side is alive.
    #[inline]
    pub fn beat(&self, now: Nanos) {
        self.observation_header.beat_consumer(now.0);
        self.action_header.beat_producer(now.0);
    }

    /// The clock this engine goes by.
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// Keeps the clock on the kernel's timeline. Between ticks only.
    pub fn discipline_clock(&mut self) {
        self.clock.discipline();
    }

    /// What the policy said about its latest fault.
    pub fn last_fault(&self) -> Option<&str> {
        self.policy.last_fault()
    }

    #[inline]
    fn count(&self, verdict: &Verdict) {
        self.counters.count_action(verdict.reason);
        if verdict.flags != 0 {
            self.count_flags(verdict.flags);
        }
    }

    fn count_flags(&self, flags: u32) {
        if flags & ActionFlags::INFERENCE_LATE != 0 {
            self.counters.count_inference_late();
        }
        if flags & ActionFlags::END_TO_END_LATE != 0 {
            self.counters.count_end_to_end_late();
        }
        if flags & ActionFlags::STALE != 0 {
            self.counters.count_stale();
        }
        if flags & ActionFlags::GAP != 0 {
            self.counters.count_sequence_gap();
        }
    }

    /// The gateway does not drain: the observation, already released, ends as a skip.
    #[cold]
    fn no_room(&mut self, header: &ObservationHeader, peeked: Nanos, skipped: u64) -> Progress {
        self.counters.count_skipped(1);
        let record = TickRecord {
            sequence: header.sequence,
            position: self.observations.position() - 1,
            ts_event_ns: header.ts_event_ns,
            ts_publish_ns: header.ts_publish_ns,
            ts_peek_ns: peeked.0,
            ts_commit_ns: peeked.0,
            skipped_before: skipped,
            reason: Reason::ActionRingFull.number(),
            ..TickRecord::default()
        };
        record.hand_on(&mut self.records, &self.counters);
        match self.settings.on_full {
            OnFull::Drop => Progress::Done(peeked),
            OnFull::Halt => {
                self.halt(Reason::ActionRingFull);
                Progress::Halted(Reason::ActionRingFull)
            }
        }
    }

    #[cold]
    fn violated(&mut self, violation: ProtocolViolation) -> Progress {
        self.halt(Reason::ProtocolViolation);
        Progress::Violated(violation)
    }
}

/// What the tick found, before it is judged.
struct Findings {
    refused: Option<Reason>,
    policy_failed: bool,
    flags: u32,
}

/// Turns findings into the one outcome. A late tick is a miss whatever else was wrong with it; between two reasons the
/// one that was there first is reported.
#[inline]
fn judge(settings: &Settings, (misses, errors): (&mut Budget, &mut Budget), found: Findings) -> Verdict {
    let Findings { refused, policy_failed, flags } = found;
    let late = if flags & ActionFlags::INFERENCE_LATE != 0 {
        Some(Reason::InferenceLate)
    } else if flags & ActionFlags::END_TO_END_LATE != 0 {
        Some(Reason::EndToEndLate)
    } else {
        None
    };
    let missed = late.filter(|_| settings.enforce);
    let misses_exceeded = misses.note(missed.is_some());
    let errors_exceeded = errors.note(policy_failed);

    let (outcome, reason) = if missed.is_some() && misses_exceeded && settings.on_miss == OnMiss::Halt {
        (Outcome::Halt, missed.unwrap_or(Reason::EndToEndLate))
    } else if policy_failed && errors_exceeded {
        (Outcome::Halt, Reason::ErrorBudget)
    } else {
        match refused.or(missed) {
            Some(reason) => (Outcome::SafeDefault, reason),
            None => (Outcome::Policy, Reason::None),
        }
    };
    Verdict { outcome, reason, flags }
}

/// Seals and commits the tick's one action. The policy's payload is in the slot already.
#[inline]
fn commit(mut claim: Claim<'_>, header: ActionHeader, payload: &[f32], outcome: Outcome) {
    if outcome != Outcome::Policy {
        claim.write(ActionHeader::BYTES, payload.as_bytes());
    }
    claim.write(0, header.sealed(payload).as_bytes());
    claim.commit();
}

/// Finds out what the last daemon answered, and releases that observation if it did not get to it. Gives the sequence
/// and position that the next observation follows.
fn resume(
    observations: &mut Consumer,
    actions: &Producer,
    action_dimension: usize,
) -> Result<Option<(u64, u64)>, EngineError> {
    let mut last = ActionHeader::default();
    if !actions.read_last(0, last.as_mut_bytes()) {
        return Ok(None);
    }
    // The gateway's process can write to this ring, so what recovery goes by is checked like anything else in it.
    let mut payload = vec![0.0f32; action_dimension];
    actions.read_last(ActionHeader::BYTES, payload.as_mut_bytes());
    if !last.is_whole(&payload) {
        return Err(EngineError::LastActionDamaged);
    }
    let released = observations.position();
    if last.position > released {
        return Err(EngineError::NotAPair { answered: last.position, released });
    }
    if last.position == released {
        match observations.peek()? {
            Some(peek) => peek.release(),
            None => return Err(EngineError::NotAPair { answered: last.position, released }),
        }
    }
    // The sequence of a torn frame says nothing about the next one.
    let believed = last.reason != Reason::ObservationTorn.number();
    Ok(believed.then_some((last.sequence, last.position)))
}
