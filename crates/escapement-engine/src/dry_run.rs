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
use super::keep_warm::{DrySpan, KeepWarm, fits};
use super::pipeline::Session;
use super::policies::Policies;
use super::private_responder::{Answers, PrivateResponder, private_ring};
use super::settings::Settings;
use super::state_copy::StateCopy;
use crate::telemetry::{FeatureCounts, KeepWarmMeter};
use escapement_ring::clock::Nanos;
use escapement_ring::ring::{Consumer, Producer};
use escapement_ring::wire::{AgentState, KIND_OBSERVATION, ObservationHeader, Reason, payload_bytes};
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Every so many dry runs, one takes the paths of an observation that is refused and of a halt.
pub(super) const RARE_PATHS_EVERY: u64 = 64;
/// Dry runs that are made to learn how long they take, if that is not known.
pub(super) const TRIALS: u64 = 15;
/// After a trial, the next one is made not before this many times its length. So trials of any length take
/// little of the engine's time, and short ones come so close together that the last ones are warm.
const TRIAL_SHARE: u64 = 16;
/// If dry runs turn out too long for the deadline, new trials are made after this time: a millisecond in
/// which the machine is slow must not let the core go cold for longer. Each time that the trials fail too, it
/// doubles, up to the longest.
const RETRY_AFTER: Nanos = Nanos::from_millis(1);
const RETRY_AFTER_AT_MOST: Nanos = Nanos::from_millis(60_000);

/// What an engine needs to run dry. Made before the real-time boundary.
pub(super) struct DryRun {
    pub(super) session: Session,
    pub(super) observations: Consumer,
    feed: Producer,
    answers: Answers,
    /// The observation that dry runs answer: the last real one that the policy answered.
    pub(super) sample: Box<[f32]>,
    /// Where the carried states are kept meanwhile.
    pub(super) states: StateCopy,
    /// False if a call of this policy may leave more behind than its carried states.
    pub(super) is_allowed: bool,
    /// What a call of the policy takes, as measured; `None` if it was not.
    pub(super) call: Option<Nanos>,
    pub(super) length: TypicalLength,
    /// How long the last one took.
    last: Nanos,
    /// When the next one is due; `None` if it must not run dry. It is worked out after each dry run and with
    /// each update, so that an idle pass only compares.
    due: Option<Due>,
    retry_after: Nanos,
    pub(super) runs: u64,
    /// When the engine was last busy: with an observation, or with a dry run.
    pub(super) busy_until: Nanos,
    /// When it last ran dry.
    pub(super) ran_at: Nanos,
    pub(super) meter: Arc<KeepWarmMeter>,
}

/// Both times must have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Due {
    /// Since the engine was last busy.
    idle_for: Nanos,
    /// Since the last dry run.
    apart: Nanos,
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
            dry_before: DrySpan::default(),
            halted: None,
        };
        Self {
            session,
            observations,
            feed,
            answers,
            sample: vec![0.0; width].into(),
            states: StateCopy::default(),
            is_allowed: false,
            call: None,
            length: TypicalLength::default(),
            last: Nanos(0),
            due: None,
            retry_after: RETRY_AFTER,
            runs: 0,
            busy_until: Nanos(0),
            ran_at: Nanos(0),
            meter: Arc::default(),
        }
    }

    /// Prepares for dry runs of these policies. `call` is what a call takes, if that was measured.
    pub(super) fn serve(&mut self, policies: &mut Policies, call: Option<Nanos>) {
        self.states = StateCopy::for_policies(policies.both());
        self.is_allowed = policies.can_run_dry();
        self.call = call;
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
            self.call = previous.call;
            self.length = previous.length;
            self.last = previous.last;
        } else {
            self.meter.forget_typical();
        }
    }

    /// Returns whether a dry run is due at `now`.
    #[inline]
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        let due =
            |due: Due| now.since(self.busy_until) >= due.idle_for && now.since(self.ran_at) >= due.apart;
        self.due.is_some_and(due)
    }

    /// Returns whether a dry run may ever be due as things are.
    pub(super) fn is_ever_due(&self) -> bool {
        self.due.is_some()
    }

    /// Takes in how long a run took that was not one of the rare paths.
    #[inline]
    pub(super) fn add_length(&mut self, length: Nanos) {
        self.last = length;
        self.length.add(length.0);
    }

    /// Works out when the next dry run is due under these settings.
    #[inline]
    pub(super) fn plan(&mut self, settings: &Settings) {
        let (setting, shortest) = (settings.keep_warm, settings.deadlines.shortest());
        let too_long_call = self.call.filter(|call| !fits(*call, shortest));
        self.meter.set_too_long_call(too_long_call);
        self.due = if setting == KeepWarm::Off || !self.is_allowed || too_long_call.is_some() {
            None
        } else if let Some(length) = self.length.get() {
            match setting.interval(length, shortest) {
                Some(idle_for) => {
                    self.retry_after = RETRY_AFTER;
                    Some(Due { idle_for, apart: Nanos(0) })
                }
                None => Some(self.new_trials()),
            }
        } else {
            // The trials are apart from each other, but not from the work: a stream without long pauses would
            // never let them happen.
            let apart = Nanos(self.last.0.saturating_mul(TRIAL_SHARE));
            setting.interval(Nanos(0), shortest).map(|idle_for| Due { idle_for, apart })
        };
        let wait_for_trials = self.length.samples == 0 && self.runs > 0;
        self.meter.set_interval(self.due.filter(|_| !wait_for_trials).map(|due| due.idle_for));
    }

    /// Forgets the length, which does not fit. It may have been that of a core that was disturbed or cold.
    #[cold]
    fn new_trials(&mut self) -> Due {
        self.length = TypicalLength::default();
        let apart = self.retry_after;
        self.retry_after = Nanos(apart.0 * 2).min(RETRY_AFTER_AT_MOST);
        Due { idle_for: KeepWarm::SHORTEST, apart }
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
