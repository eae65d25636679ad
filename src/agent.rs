//! L4. The embedded agent: a policy with its deadlines as a call, for programs that want the daemon's checks
//! without its rings.
//!
//! ```
//! use escapement::agent::{Agent, Options};
//!
//! let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/small.bundle");
//! let mut agent = Agent::load(bundle, Options::default())?;
//! match agent.predict(&[0.5, -0.25, 1.0], true) {
//!     Ok((action, info)) => println!("{action:?} after {} ns", info.inference_ns),
//!     Err(violation) => println!("too late to act: {violation}"),
//! }
//! let validation = agent.validate_slo_compliance(1_000)?;
//! println!("{:.2} % of paced calls within the deadline", 100.0 * validation.within_deadline());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A missed deadline is a [`Violation`] and gives no action; the caller decides what it means. Every other
//! fault (an observation that is not finite, a policy that raises, an action out of bounds) gives the safe
//! default and a reason.

use crate::bundle::{BundleError, Candidate, LoadError, Manifest, Sandbox, Trust, load};
use crate::latency::{LatencyError, LatencyReport, Objective, Pacing, measure_latency};
use crate::policy::{Backend, Dimensions, Execution, Policy, PolicyError, WeightChoice, Weights, Widths};
use escapement_engine::noise::Noise;
use escapement_engine::{
    Bounds, CarriedState, Deadlines, KeepWarm, all_finite, check_answer, synthetic_observations,
};
use escapement_policy::denormals::FlushDenormals;
use escapement_reference::feed::Arrivals;
use escapement_ring::clock::{Clock, MachineClock, Nanos};
use escapement_ring::wire::{Outcome, Reason};
use std::marker::PhantomData;
use std::num::NonZeroU64;
use std::path::Path;

/// How to load an [`Agent`].
///
/// ```
/// use escapement::agent::Options;
/// use escapement::engine::Deadlines;
/// use escapement::clock::Nanos;
///
/// let limit = Nanos::from_micros(250);
/// let deadlines = Deadlines { inference: limit, end_to_end: limit, max_age: None };
/// let options = Options { deadlines, safe_default: Some(vec![0.0, 0.0]), ..Options::default() };
/// assert!(options.enforce);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The backend that runs the policy.
    pub backend: Backend,
    /// How the weights are held. Bfloat16 needs a bundle whose golden vectors agree with it.
    pub weights: Weights,
    /// The signers whose bundles are accepted.
    pub trust: Trust,
    /// Both deadlines. The age of an observation is not known here, so the maximum age is ignored.
    pub deadlines: Deadlines,
    /// Whether a missed deadline is a violation. If not, it is still measured and reported.
    pub enforce: bool,
    /// The action that replaces a missing one. If not given, the bundle's suggestion, or else zeros.
    pub safe_default: Option<Vec<f32>>,
    /// The seed of the policy's noise.
    pub seed: u64,
    /// The share of paced calls (0 to 1) that [`Agent::validate_slo_compliance`] requires to meet the
    /// inference deadline.
    pub required_share: f64,
    /// Observations a second that the program expects. [`Agent::validate_slo_compliance`] paces its calls by
    /// it.
    pub expected_rate: NonZeroU64,
    /// The number of elements of one observation, for a file without a bundle that does not say it.
    pub observation: Option<usize>,
}

impl Default for Options {
    /// Both deadlines at 100 µs and enforced, 99 % of calls required at 1,000 a second, no signature
    /// required.
    fn default() -> Self {
        let limit = Nanos::from_micros(100);
        Self {
            backend: Backend::Auto,
            weights: Weights::F32,
            trust: Trust::default(),
            deadlines: Deadlines { inference: limit, end_to_end: limit, max_age: None },
            enforce: true,
            safe_default: None,
            seed: 0,
            required_share: 0.99,
            expected_rate: NonZeroU64::new(1_000).expect("not zero"),
            observation: None,
        }
    }
}

/// What is known about a call beside its action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// From the policy's call to its return; zero if it was not called.
    pub inference_ns: u64,
    /// From the call of [`Agent::predict`] to the verdict.
    pub end_to_end_ns: u64,
    /// The policy's own action, or the safe default.
    pub outcome: Outcome,
    /// Why it is the safe default.
    pub reason: Reason,
    /// The layer whose deadline was missed, if deadlines are not enforced.
    pub late: Option<Layer>,
}

/// A layer of deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// From the policy's call to its return.
    Inference,
    /// From the call of [`Agent::predict`] to the verdict.
    EndToEnd,
}

/// A deadline was missed: there is no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} took {} ns, its deadline is {} ns", self.layer.name(), self.taken.0, self.limit.0)]
pub struct Violation {
    /// The layer whose deadline was missed.
    pub layer: Layer,
    /// The time that it took.
    pub taken: Nanos,
    /// Its deadline.
    pub limit: Nanos,
    /// The policy's own time.
    pub inference_ns: u64,
}

impl Layer {
    /// Returns the name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::EndToEnd => "the call from end to end",
        }
    }
}

/// Why an agent cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The bundle or file was refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The policy cannot serve on this thread.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The safe default is not an action of this policy.
    #[error("safe_default: {0}")]
    SafeDefault(String),
}

/// A policy with its deadlines. It belongs to the thread that loaded it, because backends keep state for each
/// thread.
///
/// ```
/// use escapement::agent::{Agent, Options};
/// use escapement::wire::{Outcome, Reason};
///
/// let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/small.bundle");
/// let options = Options { enforce: false, ..Options::default() };
/// let mut agent = Agent::load(bundle, options)?;
/// assert_eq!(agent.dimensions().observation, 3);
///
/// // An observation that is not finite gives the safe default, and says why.
/// let (action, info) = agent.predict(&[f32::NAN, 0.0, 0.0], true)?;
/// assert_eq!((info.outcome, info.reason), (Outcome::SafeDefault, Reason::ObservationNonFinite));
/// assert!(action.iter().all(|element| element.is_finite()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Agent<C = MachineClock> {
    policy: Box<dyn Policy>,
    clock: C,
    deadlines: Deadlines,
    enforce: bool,
    required_share: f64,
    expected_rate: NonZeroU64,
    bounds: Bounds,
    safe_default: Box<[f32]>,
    action: Box<[f32]>,
    noise: Option<Noise>,
    carried: Option<CarriedState>,
    calls: u64,
    examples: Vec<Vec<f32>>,
    weights: Option<WeightChoice>,
    of_this_thread: PhantomData<*const ()>,
}

/// The number of observations that [`Agent::validate_slo_compliance`] calls the policy with.
const EXAMPLES: usize = 256;
/// How long its paced calls take at most.
const PACED_AT_MOST: Nanos = Nanos::from_millis(5_000);

impl Agent {
    /// Loads a bundle, which is verified and proven on its golden vectors, or a TorchScript file without a
    /// bundle.
    ///
    /// # Errors
    /// Fails if the bundle or file is refused, if the policy cannot serve on this thread, or if the safe
    /// default is not an action of it.
    pub fn load(path: impl AsRef<Path>, options: Options) -> Result<Self, AgentError> {
        let candidate = Candidate::read(path.as_ref(), &options.trust)?;
        let widths = Widths { observation: options.observation, action: None };
        let execution = Execution { backend: options.backend, weights: options.weights };
        let served = load(&candidate, execution, widths, Sandbox::None).map_err(|error| match error {
            LoadError::Bundle(error) => error,
            LoadError::Unconfined(_) => unreachable!("the caller's thread is not confined"),
        })?;
        let policy = served.policy;
        let examples = match &candidate {
            Candidate::Bundle(bundle) => {
                bundle.golden().observations().take(EXAMPLES).map(<[f32]>::to_vec).collect()
            }
            Candidate::Unproven(_) => synthetic_observations(policy.dimensions().observation, EXAMPLES),
        };
        let agent = Self::new(policy, candidate.manifest(), examples, options, MachineClock::new())?;
        Ok(Self { weights: served.weights, ..agent })
    }
}

impl<C: Clock> Agent<C> {
    fn new(
        mut policy: Box<dyn Policy>,
        manifest: Option<&Manifest>,
        examples: Vec<Vec<f32>>,
        options: Options,
        clock: C,
    ) -> Result<Self, AgentError> {
        policy.enter_thread()?;
        policy.reset();
        let width = policy.dimensions().action;
        let bounds = manifest.and_then(|manifest| {
            let single = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
            Bounds::new(single(&manifest.action.low), single(&manifest.action.high))
        });
        let bounds = bounds.unwrap_or_else(|| Bounds::unlimited(width));
        let suggested = || manifest.and_then(|manifest| manifest.safe_default.clone());
        let safe_default = options.safe_default.or_else(suggested).unwrap_or_else(|| vec![0.0; width]);
        if safe_default.len() != width {
            let reason = format!("{} elements; an action has {width}", safe_default.len());
            return Err(AgentError::SafeDefault(reason));
        }
        if check_answer(Ok(()), &safe_default, &bounds).is_some() {
            return Err(AgentError::SafeDefault(format!("{safe_default:?} is out of the action's bounds")));
        }
        let noise = manifest.and_then(|manifest| manifest.noise);
        let noise = noise.map(|noise| Noise::new(options.seed, noise.kind.into()));
        let carried = manifest.and_then(|manifest| manifest.recurrent);
        let carried = carried.map(|recurrent| CarriedState::new(recurrent.into()));
        Ok(Self {
            clock,
            deadlines: options.deadlines,
            enforce: options.enforce,
            required_share: options.required_share,
            expected_rate: options.expected_rate,
            bounds,
            safe_default: safe_default.into(),
            action: vec![0.0; width].into(),
            noise,
            carried,
            calls: 0,
            examples,
            policy,
            weights: None,
            of_this_thread: PhantomData,
        })
    }

    /// Returns the action for one observation, or the safe default if there is none, and what is known about
    /// the call. The action is the deterministic one if `deterministic` is true or the policy has no noise.
    /// The state of a recurrent policy is carried from call to call; see [`Agent::reset`].
    ///
    /// # Errors
    /// Returns a [`Violation`] if a deadline was missed and deadlines are enforced.
    pub fn predict(&mut self, observation: &[f32], deterministic: bool) -> Result<(&[f32], Info), Violation> {
        let begun = self.clock.now();
        let _flush = FlushDenormals::enter();
        let mut inference = Nanos(0);
        let mut refused = if observation.len() != self.policy.dimensions().observation {
            Some(Reason::PolicyError)
        } else if !all_finite(observation) {
            Some(Reason::ObservationNonFinite)
        } else {
            None
        };
        if refused.is_none() {
            (inference, refused) = self.consult_policy(observation, deterministic);
        }
        self.calls += 1;
        let taken = self.clock.now().since(begun);
        let late = self.missed_deadline(inference, taken);
        let violation = late.filter(|_| self.enforce);
        let missed = violation.is_some() || refused.is_some_and(|reason| reason != Reason::BurnIn);
        if let Some(carried) = self.carried.as_mut().filter(|_| missed) {
            carried.on_miss(self.policy.as_mut());
        }
        if let Some(violation) = violation {
            return Err(violation);
        }
        let (action, outcome) = match refused {
            None => (&self.action, Outcome::Policy),
            Some(_) => (&self.safe_default, Outcome::SafeDefault),
        };
        let info = Info {
            inference_ns: inference.0,
            end_to_end_ns: taken.0,
            outcome,
            reason: refused.unwrap_or(Reason::None),
            late: late.map(|violation| violation.layer),
        };
        Ok((action, info))
    }

    /// Calls the policy. Returns the time that it took, and why its answer may not be used, if so.
    fn consult_policy(&mut self, observation: &[f32], deterministic: bool) -> (Nanos, Option<Reason>) {
        match (&self.noise, deterministic) {
            (Some(noise), false) => noise.fill(self.calls, self.policy.noise_mut()),
            _ => self.policy.noise_mut().fill(0.0),
        }
        let called = self.clock.now();
        let answer = self.policy.infer(observation, &mut self.action);
        let inference = self.clock.now().since(called);
        let refused = check_answer(answer, &self.action, &self.bounds);
        if refused.is_none() && self.carried.as_mut().is_some_and(CarriedState::is_burning_in) {
            return (inference, Some(Reason::BurnIn));
        }
        (inference, refused)
    }

    /// Returns which deadline these times miss, enforced or not.
    fn missed_deadline(&self, inference: Nanos, taken: Nanos) -> Option<Violation> {
        let violation = |layer, taken, limit| Violation { layer, taken, limit, inference_ns: inference.0 };
        let Deadlines { inference: inference_limit, end_to_end, .. } = self.deadlines;
        if inference > inference_limit {
            Some(violation(Layer::Inference, inference, inference_limit))
        } else if taken > end_to_end {
            Some(violation(Layer::EndToEnd, taken, end_to_end))
        } else {
            None
        }
    }

    /// Begins an episode: resets carried state to its initial value.
    pub fn reset(&mut self) {
        match &mut self.carried {
            Some(carried) => carried.on_episode(self.policy.as_mut()),
            None => self.policy.reset(),
        }
    }

    /// Returns the text of the policy's latest fault.
    pub fn last_fault(&self) -> Option<&str> {
        self.policy.last_fault()
    }

    /// Returns the widths of the policy's observation and action, in `f32` elements.
    pub fn dimensions(&self) -> Dimensions {
        self.policy.dimensions()
    }

    /// Returns the name of the backend that runs the policy.
    pub fn backend(&self) -> &'static str {
        self.policy.backend()
    }

    /// Returns how the native backend holds the weights, and the measurements that chose it; `None` for
    /// another backend. [`Options::weights`] takes the kernel as [`Weights::Only`], so that a later run has
    /// the same bits.
    pub fn weights(&self) -> Option<&WeightChoice> {
        self.weights.as_ref()
    }

    /// Measures calls on this thread against the inference deadline, with nothing enforced: `trials` back to
    /// back, and as many at [`Options::expected_rate`], on which the verdict is. The paced calls take at most
    /// five seconds. Between them the thread polls, and nothing keeps the core warm, because nothing does
    /// between two calls of [`Agent::predict`]. Resets carried state afterwards.
    ///
    /// # Errors
    /// Fails if a call faults.
    pub fn validate_slo_compliance(&mut self, trials: u64) -> Result<LatencyReport, LatencyError> {
        let objective = Objective { deadline: self.deadlines.inference, share: self.required_share };
        let arrivals = Arrivals::Even(self.expected_rate);
        let paced = arrivals.within(PACED_AT_MOST, usize::try_from(trials).unwrap_or(usize::MAX));
        let pacing = Pacing::scheduled(arrivals.times(paced), arrivals.to_string(), KeepWarm::Off);
        self.policy.noise_mut().fill(0.0);
        let (policy, clock) = (self.policy.as_mut(), &mut self.clock);
        let report = measure_latency(policy, clock, &self.examples, objective, trials, pacing, &mut ());
        self.reset();
        report
    }
}

impl<C> std::fmt::Debug for Agent<C> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Agent")
            .field("backend", &self.policy.backend())
            .field("dimensions", &self.policy.dimensions())
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
