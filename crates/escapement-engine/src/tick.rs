//! One tick: peek, admit, lend the right to answer, infer, reclaim it, commit, release.
//!
//! Whoever has the right commits. The engine lends it before it calls the policy; once the tick's deadline has passed, the
//! guard may take it and commit the safe default itself. An action of the policy is made ready before the right is
//! reclaimed, so that nothing but the copy into the slot lies between the claim that decides and the commit.

use super::admission::{Admission, Frame};
use super::budget::Budget;
use super::carried_state::{CarriedState, StateReset};
use super::guard::{DeadlineGuard, GuardWake};
use super::input_check::{InputCheck, InputCheckResult};
use super::policies::Policies;
use super::responder::{Findings, InFlight, Responder, Verdict};
use super::resume::{EngineError, resume};
use super::settings::{Backlog, Settings, all_finite};
use super::update::{PolicyExtras, Update};
use crate::lease::{LeaseClaimant, LeaseHolder, Receiver, lease};
use crate::noise::Noise;
use crate::telemetry::Counters;
use escapement_policy::Fault;
use escapement_ring::clock::{Clock, LeadingClock, Nanos};
use escapement_ring::ring::{ClaimError, Consumer, Header, Producer, ProtocolViolation};
use escapement_ring::wire::{
    ActionFlags, ActionHeader, AgentState, ObservationFlags, ObservationHeader, Outcome, Reason,
};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// What an engine is made of.
pub struct Parts<C> {
    /// Time.
    pub clock: C,
    /// What answers observations.
    pub policies: Policies,
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

/// What a tick did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There was no observation.
    Idle,
    /// One observation got its outcome, at this instant.
    Done(Nanos),
    /// The guard is answering an observation: nothing can be done before it has.
    Waiting,
    /// The agent halted; the state word says so already. No further tick does anything.
    Halted(Reason),
    /// A ring's other side broke the protocol; the state word says halted.
    Violated(ProtocolViolation),
}

/// The engine. One thread owns it.
pub struct Engine<C> {
    pub(super) clock: C,
    pub(super) policies: Policies,
    pub(super) settings: Arc<Settings>,
    pub(super) responder: LeaseHolder<Responder>,
    /// The guard's end of the responder, until somebody asks for it.
    claimant: Option<LeaseClaimant<Responder>>,
    observations: Consumer,
    observation_header: Header,
    action_header: Header,
    counters: Arc<Counters>,
    admission: Admission,
    pub(super) input_check: Option<InputCheck>,
    pub(super) noise: Option<Noise>,
    pub(super) carried: Option<CarriedState>,
    /// What is left to do about an observation that the guard has answered.
    pub(super) lost_tick: Option<LostTick>,
    /// Where new settings come from.
    pub(super) updates: Option<Receiver<Update>>,
    pub(super) revision: u32,
    epoch: u32,
    halted: Option<Reason>,
}

/// What the engine knows about a tick that it lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostTick {
    pub(super) inference_ns: u64,
    pub(super) returned: Nanos,
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
            policies,
            mut observations,
            observation_header,
            actions,
            action_header,
            records,
            counters,
            settings,
            epoch,
        } = parts;
        let dimensions = policies.policy.dimensions();
        settings.assert_widths(dimensions);
        let last = resume(&mut observations, &actions, dimensions.action)?;
        let settings = Arc::new(settings);
        const FIRST_REVISION: u32 = 1;
        let (responder, claimant) = lease(Responder {
            actions,
            action_header: action_header.clone(),
            records,
            counters: Arc::clone(&counters),
            misses: Budget::new(settings.miss_budget),
            errors: Budget::new(settings.error_budget),
            settings: Arc::clone(&settings),
            revision: FIRST_REVISION,
            epoch,
            tick: InFlight::default(),
            fallback: vec![0.0; dimensions.action].into(),
            halted: None,
        });
        responder.set_shortest_deadline(settings.deadlines.shortest());
        Ok(Self {
            clock,
            policies,
            admission: Admission::resumed(last),
            input_check: None,
            noise: None,
            carried: None,
            settings,
            responder,
            claimant: Some(claimant),
            observations,
            observation_header,
            action_header,
            counters,
            lost_tick: None,
            updates: None,
            revision: FIRST_REVISION,
            epoch,
            halted: None,
        })
    }

    /// The guard that answers in this engine's stead; for another thread. `None` when it has been asked for before.
    pub fn guard(
        &mut self,
        wake: GuardWake,
        hang_timeout: Option<Nanos>,
    ) -> Option<DeadlineGuard<C::Follower>>
    where
        C: LeadingClock,
    {
        let (clock, header) = (self.clock.follower(), self.action_header.clone());
        Some(DeadlineGuard::new(clock, self.claimant.take()?, header, wake, hang_timeout))
    }

    /// Goes with this extras from the next tick on.
    pub fn set_extras(&mut self, extras: PolicyExtras) {
        let PolicyExtras { input_check, noise, carry } = extras;
        self.input_check = input_check;
        self.noise = noise;
        self.carried = carry.map(CarriedState::new);
    }

    /// Whether every observation that was peeked has its outcome.
    #[inline]
    pub(super) fn is_between_ticks(&self) -> bool {
        self.lost_tick.is_none()
    }

    /// Answers at most one observation.
    #[inline]
    pub fn tick(&mut self) -> Progress {
        if let Some(lost_tick) = self.lost_tick {
            return self.settle(lost_tick);
        }
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
        let Policies { policy, fallback, observation, action, spare } = &mut self.policies;
        let mut header = ObservationHeader::default();
        peek.read(0, header.as_mut_bytes());
        peek.read(ObservationHeader::BYTES, observation.as_mut_bytes());
        let mut tick = InFlight {
            observation: header,
            position: peek.position(),
            peeked,
            skipped,
            ..InFlight::default()
        };

        let Some(room) = self.responder.with(Responder::has_room) else { return Progress::Waiting };
        match room {
            Ok(()) => {}
            Err(ClaimError::Full { .. }) => {
                peek.release();
                return self.no_room(tick);
            }
            Err(ClaimError::Violation(violation)) => return self.violated(violation),
        }

        // The policy's action, or why not.
        let frame = Frame { header, payload: observation, position: tick.position };
        let mut refused = self.admission.admit(&self.settings, &frame, peeked, &mut tick.flags);
        if let (Some(guard), None) = (&self.input_check, refused)
            && guard.apply(observation) == InputCheckResult::Refuse
        {
            refused = Some(Reason::ObservationOutOfRange);
        }
        let begins_an_episode =
            header.flags & ObservationFlags::RESTART != 0 && refused != Some(Reason::ObservationTorn);
        if let Some(carried) = &mut self.carried {
            if tick.flags & ActionFlags::GAP != 0 || skipped > 0 {
                count_reset(&self.counters, carried.on_gap(policy.as_mut()));
            } else if begins_an_episode {
                carried.on_episode(policy.as_mut());
            }
        }
        // A fallback has no rules of its own: its state begins anew wherever the stream does.
        if let Some(fallback) = fallback
            && (tick.flags & ActionFlags::GAP != 0 || skipped > 0 || begins_an_episode)
        {
            fallback.reset();
        }
        let enforced = self.settings.enforce;
        let deadlines = self.settings.deadlines;
        let mut found =
            Findings { refused, policy_failed: false, flags: tick.flags, inference_ns: 0, at: peeked };
        let mut lent = false;
        if refused.is_none() {
            if let Some(fallback) = fallback {
                // Under the end-to-end deadline alone, and under the guard's eyes: a fallback can hang, too.
                tick.deadline = if enforced { peeked.plus(deadlines.end_to_end) } else { Nanos(0) };
                self.responder.with(|responder| responder.tick = tick);
                self.responder.grant(guarded(tick.deadline));
                let good = objection(fallback.infer(observation, spare), spare, &self.settings).is_none();
                if !self.responder.take_back() {
                    let returned = self.clock.now();
                    return self.settle(LostTick { inference_ns: 0, returned });
                }
                tick.fallback_is_good = good;
                self.responder.with(|responder| responder.fallback.copy_from_slice(spare));
            }
            if let Some(noise) = &self.noise {
                noise.fill(header.sequence, policy.noise_mut());
            }
            let called = self.clock.begin();
            tick.called = called;
            tick.deadline = if enforced { deadlines.tick_deadline(peeked, called) } else { Nanos(0) };
            self.responder.with(|responder| responder.tick = tick);
            self.responder.grant(guarded(tick.deadline));
            lent = true;
            let answer = policy.infer(observation, action);
            let returned = self.clock.now();
            found.inference_ns = returned.since(called).0;
            if deadlines.inference_is_late(called, returned) {
                found.flags |= ActionFlags::INFERENCE_LATE;
            }
            found.refused = objection(answer, action, &self.settings);
            found.policy_failed = found.refused.is_some();
            if found.refused.is_none() && self.carried.as_mut().is_some_and(CarriedState::is_burning_in) {
                found.refused = Some(Reason::BurnIn);
            }
        }
        found.at = self.clock.now();
        if deadlines.end_to_end_is_late(peeked, found.at) {
            found.flags |= ActionFlags::END_TO_END_LATE;
        }
        let mut leaves = found.refused.is_none() && found.missed(&self.settings).is_none();
        // Made before the right is reclaimed: an action that is late by then stays where it is.
        let frame = if leaves {
            tick.frame(Verdict::POLICY, &found, self.revision, self.epoch).sealed(action)
        } else {
            ActionHeader::default()
        };
        if lent {
            if !self.responder.take_back() {
                return self.settle(LostTick { inference_ns: found.inference_ns, returned: found.at });
            }
            // The guard may have been stopped along with this thread. What lies between here and the commit is the copy
            // into the slot.
            let claimed = self.clock.now();
            if leaves && enforced && deadlines.end_to_end_is_late(peeked, claimed) {
                leaves = false;
                found.at = claimed;
                found.flags |= ActionFlags::END_TO_END_LATE;
            }
        } else {
            self.responder.with(|responder| responder.tick = tick);
        }
        let verdict = self.responder.with(|responder| {
            if leaves { responder.send(&frame, action, &found) } else { responder.answer(&found) }
        });
        // The right has just been won; there is always a verdict.
        let Some(verdict) = verdict else { return Progress::Waiting };
        if verdict == Verdict::NOT_COMMITTED {
            // Nothing answered it, and so it is not released.
            self.halted = Some(verdict.reason);
            return Progress::Halted(verdict.reason);
        }
        // Released only after the commit: a daemon that dies in between finds both and does not answer twice.
        peek.release();
        if let Some(carried) = &mut self.carried
            && !matches!(verdict.reason, Reason::None | Reason::BurnIn)
        {
            count_reset(&self.counters, carried.on_miss(policy.as_mut()));
        }
        if verdict.outcome == Outcome::Halt {
            self.halted = Some(verdict.reason);
            return Progress::Halted(verdict.reason);
        }
        Progress::Done(found.at)
    }

    /// Goes on after a tick that the guard answered, once it is done.
    #[cold]
    fn settle(&mut self, lost_tick: LostTick) -> Progress {
        self.lost_tick = Some(lost_tick);
        if !self.responder.recover() {
            return Progress::Waiting;
        }
        self.lost_tick = None;
        let halted = self.responder.with(|responder| {
            responder.discard(lost_tick.inference_ns, lost_tick.returned);
            responder.halted
        });
        // It is the one that was peeked: nobody else releases.
        match self.observations.peek() {
            Ok(Some(peek)) => peek.release(),
            Ok(None) => {}
            Err(violation) => return self.violated(violation),
        }
        if let Some(carried) = &mut self.carried {
            count_reset(&self.counters, carried.on_miss(self.policies.policy.as_mut()));
        }
        match halted.flatten() {
            Some(reason) => {
                self.halted = Some(reason);
                Progress::Halted(reason)
            }
            None => Progress::Done(lost_tick.returned),
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
        self.policies.policy.last_fault()
    }

    /// The gateway does not drain: the observation, already released, ends as a skip.
    #[cold]
    fn no_room(&mut self, tick: InFlight) -> Progress {
        let on = self.responder.with(|responder| {
            responder.tick = tick;
            responder.no_room()
        });
        match on {
            Some(Err(reason)) => {
                self.halt(reason);
                Progress::Halted(reason)
            }
            Some(Ok(())) | None => Progress::Done(tick.peeked),
        }
    }

    #[cold]
    fn violated(&mut self, violation: ProtocolViolation) -> Progress {
        self.halt(Reason::ProtocolViolation);
        Progress::Violated(violation)
    }
}

/// Why a policy's answer may not leave, lateness apart.
#[inline]
fn objection(answer: Result<(), Fault>, action: &[f32], settings: &Settings) -> Option<Reason> {
    if answer.is_err() {
        Some(Reason::PolicyError)
    } else if !all_finite(action) {
        Some(Reason::ActionNonFinite)
    } else if !settings.action_bounds.contain(action) {
        Some(Reason::ActionOutOfBounds)
    } else {
        None
    }
}

#[inline]
fn count_reset(counters: &Counters, begun: StateReset) {
    if begun == StateReset::Anew {
        counters.count_state_reset();
    }
}

/// When the guard may step in. Where nothing is enforced, never.
#[inline]
fn guarded(deadline: Nanos) -> Nanos {
    if deadline == Nanos(0) { Nanos(u64::MAX) } else { deadline }
}
