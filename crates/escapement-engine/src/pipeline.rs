//! The steps of one tick: observe, admit, consult the fallback, consult the policy, conclude.
//! [`Engine::tick`] runs them in this order.
//!
//! [`Engine::tick`]: super::Engine::tick

use super::admission::{Admission, Frame};
use super::carried_state::{CarriedState, StateReset};
use super::checks::check_answer;
use super::input_check::{InputCheck, InputCheckResult};
use super::keep_warm::DrySpan;
use super::policies::Policies;
use super::progress::Progress;
use super::responder::Responder;
use super::settings::{Backlog, Settings};
use super::verdict::{Findings, InFlight, Verdict};
use crate::lease::LeaseHolder;
use crate::noise::Noise;
use crate::telemetry::Counters;
use escapement_ring::clock::{Clock, Nanos};
use escapement_ring::ring::{ClaimError, Consumer, Header, Peek, ProtocolViolation};
use escapement_ring::wire::{
    ActionFlags, ActionHeader, ObservationFlags, ObservationHeader, Outcome, Reason,
};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Everything that one observation passes through on its way to an action. It is apart from the observation
/// ring, because the observation stays borrowed from the ring until its action is committed.
pub(super) struct Pipeline<C> {
    pub(super) clock: C,
    pub(super) policies: Policies,
    pub(super) settings: Arc<Settings>,
    pub(super) noise: Option<Noise>,
    /// The revision of the settings.
    pub(super) revision: u32,
    pub(super) epoch: u32,
    pub(super) session: Session,
}

/// What belongs to one stream of observations: where its answers go, and what one tick leaves for the next. A
/// dry run has a session of its own, and shares the rest of the pipeline.
pub(super) struct Session {
    pub(super) responder: LeaseHolder<Responder>,
    pub(super) action_header: Header,
    pub(super) counters: Arc<Counters>,
    pub(super) admission: Admission,
    pub(super) input_check: Option<InputCheck>,
    pub(super) carried: Option<CarriedState>,
    /// The tick that the guard has claimed, until it is done with it.
    pub(super) lost_tick: Option<LostTick>,
    /// Whether the last tick committed the policy's own action.
    pub(super) policy_answered: bool,
    /// The dry run between the last look at the ring and the next one, until that observation is answered.
    pub(super) dry_before: DrySpan,
    pub(super) halted: Option<Reason>,
}

/// A tick that the engine lost to the guard.
#[derive(Debug, Clone, Copy)]
pub(super) struct LostTick {
    pub(super) inference_ns: u64,
    /// When the engine learned of it.
    pub(super) returned: Nanos,
}

/// What [`Pipeline::conclude`] has to do about the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease {
    /// The policy was not called, and no lease was granted.
    Held,
    /// The policy was called, and the guard may have claimed the tick since.
    Granted,
}

impl<C: Clock> Pipeline<C> {
    /// Observes: peeks the next observation, if there is one, and copies it out of the ring. Skips to the
    /// newest one if the settings say so.
    ///
    /// # Errors
    /// Fails if the feed's position is impossible.
    #[inline(always)]
    pub(super) fn observe<'ring>(
        &mut self,
        observations: &'ring mut Consumer,
    ) -> Result<Option<(Peek<'ring>, InFlight)>, ProtocolViolation> {
        let mut skipped = 0;
        if self.settings.backlog == Backlog::Latest {
            skipped = observations.skip_to_latest()?;
        }
        let Some(peek) = observations.peek()? else { return Ok(None) };
        let peeked = self.clock.begin();
        if skipped > 0 {
            self.session.counters.count_skipped(skipped);
        }
        let mut header = ObservationHeader::default();
        peek.read(0, header.as_mut_bytes());
        peek.read(ObservationHeader::BYTES, self.policies.observation.as_mut_bytes());
        let position = peek.position();
        let dry_before = self.session.dry_before;
        let tick =
            InFlight { observation: header, position, peeked, skipped, dry_before, ..InFlight::default() };
        Ok(Some((peek, tick)))
    }

    /// Returns whether the action ring has room for this tick's action.
    #[inline(always)]
    pub(super) fn has_room(&mut self) -> Result<(), ClaimError> {
        held(&mut self.session.responder, Responder::has_room, Ok(()))
    }

    /// Admits: decides whether the policy may see the observation, and resets carried state if the stream is
    /// broken or an episode begins.
    #[inline(always)]
    pub(super) fn admit(&mut self, tick: &mut InFlight) -> Findings {
        let Policies { policy, fallback, observation, .. } = &mut self.policies;
        let frame = Frame { header: tick.observation, payload: observation, position: tick.position };
        let mut refused = self.session.admission.admit(&self.settings, &frame, tick.peeked, &mut tick.flags);
        if let (Some(check), None) = (&self.session.input_check, refused)
            && check.apply(observation) == InputCheckResult::Refuse
        {
            refused = Some(Reason::ObservationOutOfRange);
        }
        let begins_episode = tick.observation.flags & ObservationFlags::RESTART != 0
            && refused != Some(Reason::ObservationTorn);
        if begins_episode {
            self.session.counters.count_restart();
        }
        let is_broken = tick.flags & ActionFlags::GAP != 0 || tick.skipped > 0;
        if let Some(carried) = &mut self.session.carried {
            if is_broken {
                count_reset(&self.session.counters, carried.on_gap(policy.as_mut()));
            } else if begins_episode {
                carried.on_episode(policy.as_mut());
            }
        }
        // The fallback has no rules of its own: its state is reset whenever the stream is broken
        // or an episode begins.
        if let Some(fallback) = fallback
            && (is_broken || begins_episode)
        {
            fallback.reset();
        }
        Findings { refused, ..Findings::nothing_wrong(tick.flags, 0, tick.peeked) }
    }

    /// Consults the fallback, if there is one. It computes first, so that its action is ready when the policy
    /// fails or is late. It runs under the end-to-end deadline alone, and the guard watches it, because a
    /// fallback can hang too.
    ///
    /// # Errors
    /// Fails if the guard has claimed the tick meanwhile.
    #[inline(always)]
    pub(super) fn consult_fallback(&mut self, tick: &mut InFlight) -> Result<(), LostTick> {
        let Policies { fallback: Some(fallback), observation, spare, .. } = &mut self.policies else {
            return Ok(());
        };
        let deadlines = self.settings.deadlines;
        tick.deadline = if self.settings.enforce { tick.peeked.plus(deadlines.end_to_end) } else { Nanos(0) };
        self.session.responder.with(|responder| responder.tick = *tick);
        self.session.responder.grant(claimable_after(tick.deadline));
        let answer = fallback.infer(observation, spare);
        let is_good = check_answer(answer, spare, &self.settings.action_bounds).is_none();
        if !self.session.responder.take_back() {
            return Err(LostTick { inference_ns: 0, returned: self.clock.now() });
        }
        tick.fallback_is_good = is_good;
        self.session.responder.with(|responder| responder.fallback.copy_from_slice(spare));
        Ok(())
    }

    /// Consults the policy, after granting the guard a lease on the responder, and checks its answer.
    #[inline(always)]
    pub(super) fn consult_policy(&mut self, tick: &mut InFlight, found: &mut Findings) {
        let Policies { policy, observation, action, .. } = &mut self.policies;
        let deadlines = self.settings.deadlines;
        if let Some(noise) = &self.noise {
            noise.fill(tick.observation.sequence, policy.noise_mut());
        }
        tick.called = self.clock.begin();
        tick.deadline =
            if self.settings.enforce { deadlines.tick_deadline(tick.peeked, tick.called) } else { Nanos(0) };
        self.session.responder.with(|responder| responder.tick = *tick);
        self.session.responder.grant(claimable_after(tick.deadline));
        let answer = policy.infer(observation, action);
        let returned = self.clock.now();
        found.inference_ns = returned.since(tick.called).0;
        if deadlines.inference_is_late(tick.called, returned) {
            found.flags |= ActionFlags::INFERENCE_LATE;
        }
        let went_back = returned < tick.called;
        found.refused = check_answer(answer, action, &self.settings.action_bounds);
        found.policy_failed = found.refused.is_some();
        if found.refused.is_none() && self.session.carried.as_mut().is_some_and(CarriedState::is_burning_in) {
            found.refused = Some(Reason::BurnIn);
        }
        if went_back {
            found.refused = Some(Reason::ClockFault);
        }
    }

    /// Concludes: checks the time, takes the responder back, and commits one action.
    ///
    /// # Errors
    /// Fails if the guard has claimed the tick.
    #[inline(always)]
    pub(super) fn conclude(
        &mut self,
        tick: &InFlight,
        found: &mut Findings,
        lease: Lease,
    ) -> Result<Verdict, LostTick> {
        let deadlines = self.settings.deadlines;
        let action = &self.policies.action;
        found.at = self.clock.now();
        if deadlines.end_to_end_is_late(tick.peeked, found.at) {
            found.flags |= ActionFlags::END_TO_END_LATE;
            if found.at < tick.peeked {
                found.refused = Some(Reason::ClockFault);
            }
        }
        let mut leaves = found.refused.is_none() && found.missed(&self.settings).is_none();
        // Sealed before the responder is taken back, so that only the copy lies between that and the commit.
        // An action that is late by then is not sent.
        let frame = if leaves {
            tick.frame(Verdict::POLICY, found, self.revision, self.epoch).sealed(action)
        } else {
            ActionHeader::default()
        };
        match lease {
            Lease::Granted => {
                if !self.session.responder.take_back() {
                    return Err(LostTick { inference_ns: found.inference_ns, returned: found.at });
                }
                // The guard may have been stopped together with this thread. Only the copy into the slot lies
                // between this look at the clock and the commit.
                let taken_back = self.clock.now();
                if leaves && self.settings.enforce && deadlines.end_to_end_is_late(tick.peeked, taken_back) {
                    leaves = false;
                    if taken_back < tick.peeked {
                        found.refused = Some(Reason::ClockFault);
                    }
                    found.at = taken_back;
                    found.flags |= ActionFlags::END_TO_END_LATE;
                }
            }
            Lease::Held => {
                self.session.responder.with(|responder| responder.tick = *tick);
            }
        }
        let answer = |responder: &mut Responder| {
            if leaves { responder.send(&frame, action, found) } else { responder.answer(found) }
        };
        Ok(held(&mut self.session.responder, answer, Verdict::NOT_COMMITTED))
    }

    /// Finishes a tick whose action is committed and whose observation is released.
    #[inline(always)]
    pub(super) fn finish(&mut self, verdict: Verdict, at: Nanos) -> Progress {
        self.session.policy_answered = verdict == Verdict::POLICY;
        if let Some(carried) = &mut self.session.carried
            && !matches!(verdict.reason, Reason::None | Reason::BurnIn)
        {
            count_reset(&self.session.counters, carried.on_miss(self.policies.policy.as_mut()));
        }
        if verdict.outcome == Outcome::Halt {
            self.session.halted = Some(verdict.reason);
            return Progress::Halted(verdict.reason);
        }
        Progress::Done(at)
    }

    /// Finishes a tick that the guard has claimed, once the guard is done with it.
    #[cold]
    pub(super) fn settle(&mut self, observations: &mut Consumer, lost: LostTick) -> Progress {
        self.session.lost_tick = Some(lost);
        // The policy was too slow for it, or would be for the next one like it: no observation to run dry on.
        self.session.policy_answered = false;
        if !self.session.responder.recover() {
            return Progress::Waiting;
        }
        self.session.lost_tick = None;
        let discard = |responder: &mut Responder| {
            responder.discard(lost.inference_ns, lost.returned);
            responder.halted
        };
        let halted = held(&mut self.session.responder, discard, None);
        // This is the observation that was peeked: only the engine releases.
        match observations.peek() {
            Ok(Some(peek)) => peek.release(),
            Ok(None) => {}
            Err(violation) => return self.violated(violation),
        }
        if let Some(carried) = &mut self.session.carried {
            count_reset(&self.session.counters, carried.on_miss(self.policies.policy.as_mut()));
        }
        match halted {
            Some(reason) => {
                self.session.halted = Some(reason);
                Progress::Halted(reason)
            }
            // A new reading: the caller has read the clock since the policy returned.
            None => Progress::Done(self.clock.now()),
        }
    }

    /// Skips an observation, which is already released, because the gateway has left no room for its action.
    #[cold]
    pub(super) fn skip(&mut self, tick: &InFlight) -> Progress {
        // It may have been refused, so it is no observation to run dry on.
        self.session.policy_answered = false;
        let skip = |responder: &mut Responder| {
            responder.tick = *tick;
            responder.skip()
        };
        match held(&mut self.session.responder, skip, Ok(())) {
            Err(reason) => self.stop(reason),
            Ok(()) => Progress::Done(tick.peeked),
        }
    }

    #[cold]
    pub(super) fn violated(&mut self, violation: ProtocolViolation) -> Progress {
        self.halt(Reason::ProtocolViolation);
        Progress::Violated(violation)
    }

    #[cold]
    pub(super) fn stop(&mut self, reason: Reason) -> Progress {
        self.halt(reason);
        Progress::Halted(reason)
    }

    /// Halts. The first reason stands.
    pub(super) fn halt(&mut self, reason: Reason) {
        if self.session.halted.is_none() {
            self.session.action_header.halt(reason.number().into());
            self.session.halted = Some(reason);
        }
    }
}

/// Runs `body` on the responder, which the engine has: between ticks, and after the lease was taken back or
/// recovered. A responder that is not there would be a defect in this crate. A debug build panics then; a
/// release build returns `missing`, because the hot path must not panic.
#[inline(always)]
fn held<R>(responder: &mut LeaseHolder<Responder>, body: impl FnOnce(&mut Responder) -> R, missing: R) -> R {
    let result = responder.with(body);
    debug_assert!(result.is_some(), "the engine has the responder outside a lease");
    result.unwrap_or(missing)
}

#[inline]
fn count_reset(counters: &Counters, reset: StateReset) {
    if reset == StateReset::Done {
        counters.count_state_reset();
    }
}

/// Returns the instant after which the guard may claim the tick: never, if nothing is enforced.
#[inline]
fn claimable_after(deadline: Nanos) -> Nanos {
    if deadline == Nanos(0) { Nanos(u64::MAX) } else { deadline }
}
