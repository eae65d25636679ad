//! L4. A policy with its deadlines as a call, for programs that embed it: the daemon's semantics without its rings.
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
//! println!("{:.2} % within the deadline", 100.0 * validation.within_deadline());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A missed deadline is a violation, and gives no action: whoever calls decides what it means. Everything else that goes
//! wrong (an observation that is not finite, a policy that raises, an action out of bounds) gives the safe default and
//! says why.

use crate::bundle::{BundleError, Candidate, LoadError, Manifest, Sandbox, StateRule, Trust, load};
use crate::latency::{LatencyError, LatencyReport, Objective, measure_latency};
use crate::policy::{Backend, Dimensions, Execution, Policy, PolicyError, Precision, Widths};
use escapement_engine::noise::Noise;
use escapement_engine::{Bounds, Carried, Carry, CarryRules, Deadlines, all_finite, made_up_observations};
use escapement_policy::denormals::FlushDenormals;
use escapement_ring::clock::{Clock, MachineClock, Nanos};
use escapement_ring::wire::{Outcome, Reason};
use std::marker::PhantomData;
use std::path::Path;

/// How to load an [`Agent`].
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What runs the policy.
    pub backend: Backend,
    /// How it holds the weights. Bfloat16 ones need a bundle whose golden vectors they agree with.
    pub weights: Precision,
    /// Whose bundles are taken.
    pub trust: Trust,
    /// Both layers; the age of an observation is not known here, and its limit is not looked at.
    pub deadlines: Deadlines,
    /// Whether a missed deadline is a violation. Where not, it is still measured and told.
    pub enforce: bool,
    /// What stands for an action where there is none; the bundle's suggestion, else zeros, if not given.
    pub safe_default: Option<Vec<f32>>,
    /// What noise is drawn from.
    pub seed: u64,
    /// The share of calls (0 to 1) that [`Agent::validate_slo_compliance`] asks to meet the inference deadline.
    pub required_share: f64,
    /// Elements of one observation, for a file that stands alone and does not say.
    pub observation: Option<usize>,
}

impl Default for Options {
    /// 100 µs for both layers, enforced; 99 % of calls; no signature required.
    fn default() -> Self {
        let limit = Nanos::from_micros(100);
        Self {
            backend: Backend::Auto,
            weights: Precision::F32,
            trust: Trust::default(),
            deadlines: Deadlines { inference: limit, end_to_end: limit, max_age: None },
            enforce: true,
            safe_default: None,
            seed: 0,
            required_share: 0.99,
            observation: None,
        }
    }
}

/// What a call did beside giving an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Policy called to policy returned; zero where it was not called.
    pub inference_ns: u64,
    /// [`Agent::predict`] called to the verdict.
    pub end_to_end_ns: u64,
    /// The policy's own action, or the safe default.
    pub outcome: Outcome,
    /// Why it is the safe default.
    pub reason: Reason,
    /// The layer whose limit was exceeded, where that is not enforced.
    pub late: Option<Layer>,
}

/// A layer of deadlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Policy called to policy returned.
    Inference,
    /// [`Agent::predict`] called to the verdict.
    EndToEnd,
}

/// A deadline was missed: there is no action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} took {} ns, its deadline is {} ns", self.layer.name(), self.taken.0, self.limit.0)]
pub struct Violation {
    /// Which deadline.
    pub layer: Layer,
    /// How long it took.
    pub taken: Nanos,
    /// How long it may take.
    pub limit: Nanos,
    /// The policy's own time.
    pub inference_ns: u64,
}

impl Layer {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::EndToEnd => "the call from end to end",
        }
    }
}

/// Why an agent cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its bundle or file.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its policy cannot serve on this thread.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The safe default is none.
    #[error("safe_default: {0}")]
    SafeDefault(String),
}

/// A policy with its deadlines. It belongs to the thread that loaded it: backends keep state per thread.
pub struct Agent<C = MachineClock> {
    policy: Box<dyn Policy>,
    clock: C,
    deadlines: Deadlines,
    enforce: bool,
    required_share: f64,
    bounds: Option<Bounds>,
    safe_default: Box<[f32]>,
    action: Box<[f32]>,
    noise: Option<Noise>,
    carried: Option<Carried>,
    calls: u64,
    examples: Vec<Vec<f32>>,
    of_this_thread: PhantomData<*const ()>,
}

/// Observations that [`Agent::validate_slo_compliance`] calls the policy with.
const EXAMPLES: usize = 256;

impl Agent {
    /// Loads a bundle, verified and proven, or a TorchScript file that stands alone.
    ///
    /// # Errors
    /// When it is refused, when it cannot serve on this thread, and when the safe default is not an action of it.
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
            Candidate::Unproven(_) => made_up_observations(policy.dimensions().observation, EXAMPLES),
        };
        Self::new(policy, candidate.manifest(), examples, options, MachineClock::new())
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
        let suggested = || manifest.and_then(|manifest| manifest.safe_default.clone());
        let safe_default = options.safe_default.or_else(suggested).unwrap_or_else(|| vec![0.0; width]);
        if safe_default.len() != width {
            let reason = format!("{} elements; an action has {width}", safe_default.len());
            return Err(AgentError::SafeDefault(reason));
        }
        if !all_finite(&safe_default) || bounds.as_ref().is_some_and(|bounds| !bounds.contain(&safe_default))
        {
            return Err(AgentError::SafeDefault(format!("{safe_default:?} is out of the action's bounds")));
        }
        let noise = manifest.and_then(|manifest| manifest.noise);
        let noise = noise.map(|noise| Noise::new(options.seed, noise.kind.into()));
        let rule = |rule| match rule {
            StateRule::Keep => Carry::Keep,
            StateRule::Reset => Carry::Reset,
            StateRule::BurnIn(observations) => Carry::BurnIn(observations),
        };
        let carried = manifest.and_then(|manifest| manifest.recurrent).map(|recurrent| {
            Carried::new(CarryRules { on_miss: rule(recurrent.on_miss), on_gap: rule(recurrent.on_gap) })
        });
        Ok(Self {
            clock,
            deadlines: options.deadlines,
            enforce: options.enforce,
            required_share: options.required_share,
            bounds,
            safe_default: safe_default.into(),
            action: vec![0.0; width].into(),
            noise,
            carried,
            calls: 0,
            examples,
            policy,
            of_this_thread: PhantomData,
        })
    }

    /// The action for one observation: the deterministic one, or with noise where the policy takes any. The state of a
    /// recurrent policy is carried from call to call, see [`Agent::reset`].
    ///
    /// # Errors
    /// A [`Violation`] where a deadline was missed and is enforced. Any other fault gives the safe default.
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
            match (&self.noise, deterministic) {
                (Some(noise), false) => noise.fill(self.calls, self.policy.noise_mut()),
                _ => self.policy.noise_mut().fill(0.0),
            }
            let called = self.clock.now();
            let answer = self.policy.infer(observation, &mut self.action);
            inference = self.clock.now().since(called);
            refused = if answer.is_err() {
                Some(Reason::PolicyError)
            } else if !all_finite(&self.action) {
                Some(Reason::ActionNonFinite)
            } else if self.bounds.as_ref().is_some_and(|bounds| !bounds.contain(&self.action)) {
                Some(Reason::ActionOutOfBounds)
            } else {
                self.carried.as_mut().is_some_and(Carried::is_burning_in).then_some(Reason::BurnIn)
            };
        }
        self.calls += 1;
        let taken = self.clock.now().since(begun);
        let late = if inference > self.deadlines.inference {
            Some((Layer::Inference, inference, self.deadlines.inference))
        } else if taken > self.deadlines.end_to_end {
            Some((Layer::EndToEnd, taken, self.deadlines.end_to_end))
        } else {
            None
        };
        let violation = late.filter(|_| self.enforce);
        let missed = violation.is_some() || refused.is_some_and(|reason| reason != Reason::BurnIn);
        if let Some(carried) = self.carried.as_mut().filter(|_| missed) {
            carried.on_miss(self.policy.as_mut());
        }
        if let Some((layer, taken, limit)) = violation {
            return Err(Violation { layer, taken, limit, inference_ns: inference.0 });
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
            late: late.map(|(layer, ..)| layer),
        };
        Ok((action, info))
    }

    /// Begins an episode: carried state is back at its initial value.
    pub fn reset(&mut self) {
        match &mut self.carried {
            Some(carried) => carried.on_episode(self.policy.as_mut()),
            None => self.policy.reset(),
        }
    }

    /// What the policy said about its latest fault.
    pub fn last_fault(&self) -> Option<&str> {
        self.policy.last_fault()
    }

    /// The widths of the policy's observation and action, in `f32` elements.
    pub fn dimensions(&self) -> Dimensions {
        self.policy.dimensions()
    }

    /// The name of the backend that runs the policy.
    pub fn backend(&self) -> &'static str {
        self.policy.backend()
    }

    /// Measures `trials` calls on this thread, with nothing enforced, against the inference deadline. Carried state is
    /// back at its initial value afterwards.
    ///
    /// # Errors
    /// When a call faults.
    pub fn validate_slo_compliance(&mut self, trials: u64) -> Result<LatencyReport, LatencyError> {
        let objective = Objective { trials, deadline: self.deadlines.inference, share: self.required_share };
        self.policy.noise_mut().fill(0.0);
        let validation = measure_latency(self.policy.as_mut(), &mut self.clock, &self.examples, objective);
        self.reset();
        validation
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
