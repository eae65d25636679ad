//! Keep-warm: an idle engine runs the whole tick on an observation of its own, so that code, data, branch
//! predictors and address translations stay warm.
//!
//! A dry run goes through the same machine code as a tick: `Engine::tick`, which is never inlined for that
//! reason. What differs is the [`Session`]: for the time of the run the engine has the dry run's rings,
//! responder, counters and stream state in place of its own. The policy is the same, since its weights and its
//! code are what has to stay warm. Its carried states are saved before and put back after. So no ring,
//! counter, record, state or heartbeat shows that there was a dry run.
//!
//! The engine looks at its ring before and after each dry run, and never runs two in a row.

use super::admission::Admission;
use super::budget::Budget;
use super::carried_state::{CarriedState, CarryRules};
use super::input_check::InputCheck;
use super::pipeline::Session;
use super::policies::Policies;
use super::record::record_ring;
use super::responder::Responder;
use super::settings::Settings;
use super::tick::Engine;
use super::verdict::InFlight;
use crate::lease::lease;
use crate::telemetry::{Counters, FeatureCounts, KeepWarmMeter};
use escapement_policy::Policy;
use escapement_ring::clock::{Clock, Nanos};
use escapement_ring::ring::{Consumer, HeapRegion, Producer, Region, Spec};
use escapement_ring::wire::{
    ActionHeader, AgentState, KIND_ACTION, KIND_OBSERVATION, ObservationHeader, Reason, payload_bytes,
};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Slots of each private ring. One would do: each dry run drains them.
const CAPACITY: u64 = 8;
/// Every so many dry runs, one takes the paths of an observation that is refused and of a halt.
const RARE_PATHS_EVERY: u64 = 64;
/// Dry runs of a new policy that are made to learn how long they take, and how far apart they are.
const TRIALS: u64 = 15;
const TRIAL_EVERY: Nanos = Nanos::from_millis(1);

/// What an engine needs to run dry. Made before the real-time boundary.
pub(super) struct DryRun {
    pub(super) session: Session,
    observations: Consumer,
    feed: Producer,
    gateway: Consumer,
    records: Consumer,
    /// The observation that dry runs answer: the last real one that the policy answered.
    pub(super) sample: Box<[f32]>,
    /// Where the carried states are kept meanwhile.
    pub(super) states: Box<[f32]>,
    /// False if a call of this policy may leave more behind than its carried states.
    is_allowed: bool,
    length: TypicalLength,
    runs: u64,
    /// When the engine was last busy: with an observation, or with a dry run.
    busy_until: Nanos,
    meter: Arc<KeepWarmMeter>,
}

/// A running estimate of the median, which a single long run moves by one step only: by 1/64 of itself up or
/// down. Ma, Muthukrishnan and Sandler (2013), "Frugal Streaming for Estimating Quantiles", with
/// multiplicative steps.
#[derive(Debug, Clone, Copy, Default)]
struct TypicalLength {
    estimate: u64,
    samples: u64,
}

impl TypicalLength {
    /// Until there are [`TRIALS`], the shortest one is the estimate.
    #[inline]
    fn add(&mut self, length: u64) {
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
    fn get(&self) -> Option<Nanos> {
        (self.samples >= TRIALS).then_some(Nanos(self.estimate))
    }
}

impl DryRun {
    /// Makes the private rings and the session. Nothing runs dry before [`DryRun::serve`] says for which
    /// policies.
    pub(super) fn new(settings: &Arc<Settings>) -> Self {
        let (width, answer) = (settings.observation_bounds.dimension(), settings.action_bounds.dimension());
        let (_, feed, observations) = ring(KIND_OBSERVATION, ObservationHeader::slot_size(width), width);
        let (region, actions, gateway) = ring(KIND_ACTION, ActionHeader::slot_size(answer), answer);
        let (records_in, records) = record_ring(CAPACITY);
        let action_header = region.header();
        let counters = Arc::new(Counters::new());
        let (responder, _) = lease(Responder {
            actions,
            action_header: action_header.clone(),
            records: records_in,
            counters: Arc::clone(&counters),
            misses: Budget::new(settings.miss_budget),
            errors: Budget::new(settings.error_budget),
            settings: Arc::clone(settings),
            revision: 0,
            epoch: 0,
            tick: InFlight::default(),
            fallback: vec![0.0; answer].into(),
            halted: None,
        });
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
            gateway,
            records,
            sample: vec![0.0; width].into(),
            states: Box::default(),
            is_allowed: false,
            length: TypicalLength::default(),
            runs: 0,
            busy_until: Nanos(0),
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
        if !policy_changed {
            std::mem::swap(&mut self.states, &mut previous.states);
            self.is_allowed = previous.is_allowed;
            self.length = previous.length;
        }
    }

    /// Returns how long the engine must be idle before the next dry run; `None` if it must not run dry.
    #[inline]
    fn interval(&self, settings: &Settings) -> Option<Nanos> {
        if !self.is_allowed {
            return None;
        }
        let shortest = settings.deadlines.shortest();
        match self.length.get() {
            Some(length) => settings.keep_warm.interval(length, shortest),
            None => settings.keep_warm.interval(Nanos(0), shortest).map(|interval| interval.max(TRIAL_EVERY)),
        }
    }

    /// Commits the observation that is answered next to the private ring.
    #[inline]
    fn publish(&mut self, now: Nanos, takes_rare_paths: bool) {
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
    fn drain(&mut self) {
        for ring in [&mut self.gateway, &mut self.records] {
            while let Ok(Some(peek)) = ring.peek() {
                peek.release();
            }
        }
        if self.session.halted.take().is_some() {
            self.session.action_header.reset_state(AgentState::Armed.number(), Reason::None.number().into());
            self.session.responder.with(|responder| responder.halted = None);
        }
    }
}

/// A ring in ordinary memory, and both of its ends.
fn ring(kind: u32, slot_size: usize, dimension: usize) -> (Region, Producer, Consumer) {
    let (slot_size, dimension) = (slot_size as u32, dimension as u32);
    let spec = Spec { kind, slot_size, dimension, capacity: CAPACITY, generation: 1 };
    let region = HeapRegion::ring(spec).expect("the ring allows this capacity");
    let producer = Producer::attach(region.clone()).expect("a new ring has both positions at zero");
    let consumer = Consumer::attach(region.clone()).expect("a new ring has both positions at zero");
    (region, producer, consumer)
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
    fn save_states(&mut self, saved: &mut [f32]) {
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
    fn restore_states(&mut self, saved: &[f32]) {
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

impl<C: Clock> Engine<C> {
    /// Returns the figures of the dry runs, for readers on other threads.
    pub fn keep_warm_meter(&self) -> Arc<KeepWarmMeter> {
        Arc::clone(&self.dry.meter)
    }

    /// Takes the observation in the policy's buffer as the one that dry runs answer from now on.
    pub(super) fn sample_observation(&mut self) {
        self.dry.sample.copy_from_slice(&self.pipeline.policies.observation);
    }

    /// Notes that an observation got its outcome at `now`. If a dry run ended just before, part of the
    /// observation's wait may be due to it.
    #[inline]
    pub(super) fn note_answer(&mut self, now: Nanos, after: Option<DrySpan>) {
        self.dry.busy_until = now;
        if let Some(DrySpan { begun, ended }) = after {
            let published =
                self.pipeline.session.responder.with(|responder| responder.tick.observation.ts_publish_ns);
            let delay = published.map_or(0, |published| ended.0.saturating_sub(published.max(begun.0)));
            self.dry.meter.count_delay(delay);
        }
    }

    /// Runs dry if the engine has been idle for long enough by `now`, and says from when to when it did.
    #[inline]
    pub(super) fn keep_warm(&mut self, now: Nanos) -> Option<DrySpan> {
        let interval = self.dry.interval(&self.pipeline.settings)?;
        if now.since(self.dry.busy_until) < interval || !self.is_between_ticks() {
            return None;
        }
        Some(self.run_dry())
    }

    /// Runs dry once. The caller must be between ticks.
    #[inline(never)]
    pub fn run_dry(&mut self) -> DrySpan {
        let begun = self.pipeline.clock.now();
        let takes_rare_paths = self.dry.runs % RARE_PATHS_EVERY == RARE_PATHS_EVERY - 1;
        if self.pipeline.session.policy_answered {
            // The policy's buffer still holds the observation that it has answered.
            self.sample_observation();
            self.pipeline.session.policy_answered = false;
        }
        self.dry.publish(begun, takes_rare_paths);
        self.pipeline.policies.save_states(&mut self.dry.states);
        // A lease is granted meanwhile, so that the guard notices a policy that hangs here as it does in a
        // tick. It cannot be claimed, because nothing is due.
        self.pipeline.session.responder.grant(Nanos(u64::MAX));
        self.swap_sessions();
        self.tick();
        if takes_rare_paths {
            self.halt(Reason::Operator);
        }
        self.swap_sessions();
        let back = self.pipeline.session.responder.take_back();
        debug_assert!(back, "a lease without a deadline is never claimed");
        self.pipeline.policies.restore_states(&self.dry.states);
        self.dry.drain();
        self.dry.runs += 1;
        let ended = self.pipeline.clock.now();
        if !takes_rare_paths {
            self.dry.length.add(ended.since(begun).0);
        }
        self.dry.busy_until = ended;
        self.dry.meter.count_run(ended.since(begun), self.dry.length.get());
        DrySpan { begun, ended }
    }

    #[inline]
    fn swap_sessions(&mut self) {
        std::mem::swap(&mut self.pipeline.session, &mut self.dry.session);
        std::mem::swap(&mut self.observations, &mut self.dry.observations);
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
