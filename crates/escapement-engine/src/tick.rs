//! The engine, and one tick: observe, admit, consult the fallback, consult the policy, conclude.
//!
//! The side that has the responder commits. The engine grants a lease on it before it calls the policy. Once
//! the tick's deadline has passed, the guard may claim it and commit the safe default. The engine seals the
//! policy's action before it takes the responder back, so that only the copy into the slot lies between
//! winning the tick and the commit.

use super::admission::Admission;
use super::budget::Budget;
use super::carried_state::CarriedState;
use super::dry_run::DryRun;
use super::guard::{DeadlineGuard, GuardWake};
use super::keep_warm::DrySpan;
use super::pipeline::{Lease, Pipeline, Session};
use super::policies::Policies;
use super::progress::Progress;
use super::responder::Responder;
use super::resume::{EngineError, resume};
use super::settings::Settings;
use super::update::{PolicyExtras, Update};
use super::verdict::{InFlight, Verdict};
use crate::lease::{LeaseClaimant, Receiver, lease};
use crate::telemetry::Counters;
use escapement_ring::clock::{Clock, ClockFault, LeadingClock, Nanos};
use escapement_ring::ring::{ClaimError, Consumer, Header, Producer};
use escapement_ring::wire::{AgentState, Reason};
use std::sync::Arc;

/// The parts of an engine.
pub struct Parts<C> {
    /// The clock.
    pub clock: C,
    /// The policies that answer observations.
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
    /// The counters that the engine writes.
    pub counters: Arc<Counters>,
    /// The rules of a tick.
    pub settings: Settings,
    /// How often a daemon has started on these rings, including this start.
    pub epoch: u32,
}

/// The engine. One thread owns it.
pub struct Engine<C> {
    pub(super) pipeline: Pipeline<C>,
    pub(super) observations: Consumer,
    observation_header: Header,
    /// The guard's side of the lease, until [`Engine::guard`] hands it out.
    claimant: Option<LeaseClaimant<Responder>>,
    /// Where new settings come from.
    pub(super) updates: Option<Receiver<Update>>,
    /// Keeps the engine warm while it is idle.
    pub(super) dry: Box<DryRun>,
}

impl<C: Clock> Engine<C> {
    /// Builds an engine that resumes where the rings say the last one stopped. An observation that was
    /// answered but not released when the last daemon died is released now, and not answered again.
    ///
    /// # Errors
    /// Fails if the rings' positions are impossible, or if the rings do not belong together.
    ///
    /// # Panics
    /// Panics if the vectors in the settings do not have the policy's widths. The configuration must have
    /// checked that.
    pub fn new(parts: Parts<C>) -> Result<Self, EngineError> {
        let Parts {
            clock,
            mut policies,
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
        let mut dry = DryRun::new(&settings);
        dry.serve(&mut policies, None);
        dry.plan(&settings);
        let session = Session {
            responder,
            action_header,
            counters,
            admission: Admission::resumed(last),
            input_check: None,
            carried: None,
            lost_tick: None,
            policy_answered: false,
            dry_before: DrySpan::default(),
            halted: None,
        };
        let pipeline =
            Pipeline { clock, policies, settings, noise: None, revision: FIRST_REVISION, epoch, session };
        Ok(Self {
            pipeline,
            observations,
            observation_header,
            claimant: Some(claimant),
            updates: None,
            dry: Box::new(dry),
        })
    }

    /// Returns the guard that answers late ticks in place of this engine, for another thread to run. Returns
    /// `None` on every call after the first.
    pub fn guard(
        &mut self,
        wake: GuardWake,
        hang_timeout: Option<Nanos>,
    ) -> Option<DeadlineGuard<C::Follower>>
    where
        C: LeadingClock,
    {
        let claimant = self.claimant.take()?;
        let (clock, header) = (self.pipeline.clock.follower(), self.pipeline.session.action_header.clone());
        let settings = &self.pipeline.settings;
        Some(DeadlineGuard::new(clock, claimant, header, wake, hang_timeout, settings))
    }

    /// Sets the input check, the noise and the carried-state rules, from the next tick on.
    pub fn set_extras(&mut self, extras: PolicyExtras) {
        let PolicyExtras { input_check, noise, carry } = extras;
        self.dry.set_rules(input_check.as_ref(), carry);
        self.pipeline.session.input_check = input_check;
        self.pipeline.noise = noise;
        self.pipeline.session.carried = carry.map(CarriedState::new);
    }

    /// Returns true if every observation that was peeked has its outcome.
    #[inline]
    pub(super) fn is_between_ticks(&self) -> bool {
        self.pipeline.session.lost_tick.is_none()
    }

    /// Answers at most one observation.
    // Never inlined, because a dry run keeps exactly this code warm.
    #[inline(never)]
    pub fn tick(&mut self) -> Progress {
        let Self { pipeline, observations, .. } = self;
        if let Some(lost) = pipeline.session.lost_tick {
            return pipeline.settle(observations, lost);
        }
        if let Some(reason) = pipeline.session.halted {
            return Progress::Halted(reason);
        }
        let (observation, mut tick) = match pipeline.observe(observations) {
            Ok(Some(observed)) => observed,
            Ok(None) => return Progress::Idle,
            Err(violation) => return pipeline.violated(violation),
        };
        match pipeline.has_room() {
            Ok(()) => {}
            Err(ClaimError::Full { .. }) => {
                observation.release();
                return pipeline.skip(&tick);
            }
            Err(ClaimError::Violation(violation)) => return pipeline.violated(violation),
        }
        let mut found = pipeline.admit(&mut tick);
        let mut lease = Lease::Held;
        if found.refused.is_none() {
            if let Err(lost) = pipeline.consult_fallback(&mut tick) {
                return pipeline.settle(observations, lost);
            }
            pipeline.consult_policy(&mut tick, &mut found);
            lease = Lease::Granted;
        }
        let verdict = match pipeline.conclude(&tick, &mut found, lease) {
            Ok(verdict) => verdict,
            Err(lost) => return pipeline.settle(observations, lost),
        };
        if verdict == Verdict::NOT_COMMITTED {
            // The observation has no answer, so it is not released.
            return pipeline.stop(verdict.reason);
        }
        // Released only after the commit: if the daemon dies in between, its successor finds both and does
        // not answer twice.
        observation.release();
        pipeline.finish(verdict, found.at)
    }

    /// Halts without an observation: a person asked for it, or the loop found a reason. The first reason
    /// stands.
    pub fn halt(&mut self, reason: Reason) {
        self.pipeline.halt(reason);
    }

    /// Tells the gateway that the waiting observations are still answered, and none after them.
    pub(super) fn announce_drain(&self) {
        if self.pipeline.session.halted.is_none() {
            self.pipeline
                .session
                .action_header
                .advance(AgentState::Draining.number(), Reason::None.number().into());
        }
    }

    /// Tells the feed and the gateway that this side is alive.
    #[inline]
    pub fn beat(&self, now: Nanos) {
        self.observation_header.beat_consumer(now.0);
        self.pipeline.session.action_header.beat_producer(now.0);
    }

    /// Returns the clock of this engine.
    pub fn clock(&self) -> &C {
        &self.pipeline.clock
    }

    /// Corrects the clock to the kernel's timeline. The caller must do this between ticks only.
    ///
    /// # Errors
    /// Fails if the clock went back, or runs far ahead of the kernel's. Nothing can be timed with it then.
    pub fn discipline_clock(&mut self) -> Result<(), ClockFault> {
        self.pipeline.clock.discipline()
    }

    /// Returns what the policy said about its latest fault.
    pub fn last_fault(&self) -> Option<&str> {
        self.pipeline.policies.policy.last_fault()
    }
}
