//! Keep-warm: an idle engine runs the whole tick on an observation of its own, so that code, data, branch
//! predictors and address translations stay warm.
//!
//! A dry run goes through the same machine code as a tick: `Engine::tick`, which is never inlined for that
//! reason. What differs is the [`Session`]: for the time of the run the engine has the dry run's rings,
//! responder, counters and stream state in place of its own. The policy is the same, since its weights and
//! its code are what has to stay warm. Its carried states are saved before and put back after. So no ring,
//! counter, record, state or heartbeat shows that there was a dry run.
//!
//! The engine looks at its ring before and after each dry run, and never runs two in a row.

use super::admission::Admission;
use super::carried_state::{CarriedState, CarryRules};
use super::input_check::InputCheck;
use super::pipeline::Session;
use super::policies::Policies;
use super::private_responder::{Answers, PrivateResponder, private_ring};
use super::settings::Settings;
use crate::telemetry::{FeatureCounts, KeepWarmMeter};
use escapement_policy::Policy;
use escapement_ring::clock::Nanos;
use escapement_ring::ring::{Consumer, Producer};
use escapement_ring::wire::{AgentState, KIND_OBSERVATION, ObservationHeader, Reason, payload_bytes};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Every so many dry runs, one takes the paths of an observation that is refused and of a halt.
pub(super) const RARE_PATHS_EVERY: u64 = 64;
/// Dry runs of a new policy that are made to learn how long they take, and how far apart they are.
pub(super) const TRIALS: u64 = 15;
const TRIAL_EVERY: Nanos = Nanos::from_millis(1);

/// What an engine needs to run dry. Made before the real-time boundary.
pub(super) struct DryRun {
    pub(super) session: Session,
    pub(super) observations: Consumer,
    feed: Producer,
    answers: Answers,
    /// The observation that dry runs answer: the last real one that the policy answered.
    pub(super) sample: Box<[f32]>,
    /// Where the carried states are kept meanwhile.
    pub(super) states: Box<[f32]>,
    /// False if a call of this policy may leave more behind than its carried states.
    pub(super) is_allowed: bool,
    pub(super) length: TypicalLength,
    pub(super) runs: u64,
    /// When the engine was last busy: with an observation, or with a dry run.
    pub(super) busy_until: Nanos,
    /// When it last ran dry.
    pub(super) ran_at: Nanos,
    pub(super) meter: Arc<KeepWarmMeter>,
}

/// A running estimate of the median, which a single long run moves by one step only: by 1/64 of itself up or
/// down. Ma, Muthukrishnan and Sandler (2013), "Frugal Streaming for Estimating Quantiles", with
/// multiplicative steps.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TypicalLength {
    estimate: u64,
    samples: u64,
}

impl TypicalLength {
    /// Until there are [`TRIALS`], the shortest one is the estimate.
    #[inline]
    pub(super) fn add(&mut self, length: u64) {
        self.samples += 1;
        let step = self.estimate / 64 + 1;
        self.estimate = if self.samples <= TRIALS {
            if self.samples == 1 { length } else { self.estimate.min(length) }
        } else if length > self.estimate {
            self.estimate + step
        } else {
            self.estimate.saturating_sub(step)
        };
    }

    #[inline]
    pub(super) fn get(&self) -> Option<Nanos> {
        (self.samples >= TRIALS).then_some(Nanos(self.estimate))
    }
}

impl DryRun {
    /// Makes the private rings and the session. Nothing runs dry before [`DryRun::serve`] says for which
    /// policies.
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        let width = settings.observation_bounds.dimension();
        let (_, feed, observations) =
            private_ring(KIND_OBSERVATION, ObservationHeader::slot_size(width), width);
        let PrivateResponder { holder: responder, action_header, counters, answers, .. } =
            PrivateResponder::new(settings);
        let session = Session {
            responder,
            action_header,
            counters,
            admission: Admission::resumed(None),
            input_check: None,
            carried: None,
            lost_tick: None,
            policy_answered: false,
            halted: None,
        };
        Self {
            session,
            observations,
            feed,
            answers,
            sample: vec![0.0; width].into(),
            states: Box::default(),
            is_allowed: false,
            length: TypicalLength::default(),
            runs: 0,
            busy_until: Nanos(0),
            ran_at: Nanos(0),
            meter: Arc::default(),
        }
    }

    /// Prepares for dry runs of these policies.
    pub(super) fn serve(&mut self, policies: &mut Policies) {
        self.states = vec![0.0; policies.state_elements()].into();
        self.is_allowed = policies.can_run_dry();
    }

    /// Uses the limits of this input check, with counts of its own, and these rules for carried states.
    pub(super) fn set_rules(&mut self, input_check: Option<&InputCheck>, carry: Option<CarryRules>) {
        let mut check = input_check.cloned();
        if let Some(check) = &mut check {
            check.share_counts(Arc::new(FeatureCounts::new(self.sample.len())));
        }
        self.session.input_check = check;
        self.session.carried = carry.map(CarriedState::new);
    }

    /// Takes over from the dry run before an update. The policy is the same unless `policy_changed`.
    pub(super) fn succeed(&mut self, previous: &mut Self, policy_changed: bool) {
        std::mem::swap(&mut self.sample, &mut previous.sample);
        std::mem::swap(&mut self.meter, &mut previous.meter);
        self.busy_until = previous.busy_until;
        self.ran_at = previous.ran_at;
        if !policy_changed {
            std::mem::swap(&mut self.states, &mut previous.states);
            self.is_allowed = previous.is_allowed;
            self.length = previous.length;
        }
    }

    /// Returns whether a dry run is due at `now`.
    #[inline]
    pub(super) fn is_due(&self, settings: &Settings, now: Nanos) -> bool {
        if !self.is_allowed {
            return false;
        }
        let length = self.length.get();
        let shortest = settings.deadlines.shortest();
        let Some(interval) = settings.keep_warm.interval(length.unwrap_or_default(), shortest) else {
            return false;
        };
        // The trials are apart from each other, but not from the work: a stream without long pauses would
        // never let them happen.
        let may_run = length.is_some() || now.since(self.ran_at) >= TRIAL_EVERY;
        may_run && now.since(self.busy_until) >= interval
    }

    /// Commits the observation that is answered next to the private ring.
    #[inline]
    pub(super) fn publish(&mut self, now: Nanos, takes_rare_paths: bool) {
        let mut header = ObservationHeader {
            sequence: self.runs,
            ts_event_ns: now.0,
            ts_publish_ns: now.0,
            ..ObservationHeader::default()
        }
        .sealed(&self.sample);
        if takes_rare_paths {
            // A torn frame is refused before anything looks at its content.
            header.checksum ^= 1;
        }
        if let Ok(mut claim) = self.feed.try_claim() {
            claim.write(0, header.as_bytes());
            claim.write(ObservationHeader::BYTES, payload_bytes(&self.sample));
            claim.commit();
        }
    }

    /// Takes the answer and the record out of the private rings, and forgets a halt: a dry run that was late
    /// says nothing about the next one.
    #[inline]
    pub(super) fn drain(&mut self) {
        self.answers.discard();
        if self.session.halted.take().is_some() {
            self.session.action_header.reset_state(AgentState::Armed.number(), Reason::None.number().into());
            self.session.responder.with(|responder| responder.halted = None);
        }
    }
}

impl Policies {
    /// Returns whether calls of both policies leave nothing behind but the carried states.
    fn can_run_dry(&self) -> bool {
        self.policy.can_run_dry() && self.fallback.as_ref().is_none_or(|fallback| fallback.can_run_dry())
    }

    /// The elements of all carried states.
    fn state_elements(&mut self) -> usize {
        let mut elements = 0;
        self.each_state(|state| elements += state.len());
        elements
    }

    /// Copies the carried states out.
    #[inline]
    pub(super) fn save_states(&mut self, saved: &mut [f32]) {
        let mut rest = saved;
        self.each_state(|state| {
            if let Some((here, after)) = std::mem::take(&mut rest).split_at_mut_checked(state.len()) {
                here.copy_from_slice(state);
                rest = after;
            }
        });
    }

    /// Puts back what [`Policies::save_states`] copied.
    #[inline]
    pub(super) fn restore_states(&mut self, saved: &[f32]) {
        let mut rest = saved;
        self.each_state(|state| {
            if let Some((here, after)) = rest.split_at_checked(state.len()) {
                state.copy_from_slice(here);
                rest = after;
            }
        });
    }

    #[inline]
    fn each_state(&mut self, mut each: impl FnMut(&mut [f32])) {
        let mut of_policy = |policy: &mut dyn Policy| {
            let mut index = 0;
            while let Some(state) = policy.state_mut(index) {
                each(state);
                index += 1;
            }
        };
        of_policy(self.policy.as_mut());
        if let Some(fallback) = &mut self.fallback {
            of_policy(fallback.as_mut());
        }
    }
}

/// When a dry run began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrySpan {
    /// When it began.
    pub begun: Nanos,
    /// When it ended.
    pub ended: Nanos,
}
