//! Loads the policies that a configuration names, at the start and at a reload: reads and verifies them, and
//! proves them on the backend that will serve, within a time limit.

use super::error::DaemonError;
use super::planted::misbehaving_if_planted;
use super::provenance::Provenance;
use crate::bundle::{self, Candidate, LoadError, Recurrent, Sandbox, Served, Unconfined, hex};
use crate::config::{AgentConfig, PolicySource, RecurrentConfig};
use crate::os::{SandboxError, keep_off};
use crate::policy::{Backend, Execution, Null, Policy, WeightChoice, Weights, Widths};
use escapement_engine::noise::Noise;
use escapement_engine::{CarryRules, FeatureRange, InputCheck, InputCheckMode, Policies, PolicyExtras};
use escapement_policy::random::mix;
use escapement_ring::clock::wall_clock_ns;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Loaded policies, ready for the engine.
pub(super) struct Loaded {
    pub(super) policies: Policies,
    pub(super) extras: PolicyExtras,
    pub(super) sources: Sources,
    pub(super) provenance: Provenance,
    /// Whether libtorch serves. The thread that serves must be confined then.
    pub(super) served_by_torch: bool,
}

/// The files that a configuration names, read and verified. They stay in memory, so that a rollback uses the
/// same bytes even if the files have changed.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    /// `None` if no policy is loaded.
    pub(super) policy: Option<Arc<Candidate>>,
    fallback: Option<Arc<Candidate>>,
}

/// A configuration with the policies that it names: what runs now, or ran before.
#[derive(Clone)]
pub(super) struct Deployment {
    pub(super) config: AgentConfig,
    pub(super) sources: Sources,
    pub(super) provenance: Provenance,
}

/// Reads, verifies and proves the policies that the configuration names.
pub(super) fn load(config: &AgentConfig) -> Result<Loaded, DaemonError> {
    Sources::read(config)?.load(config, None, None)
}

impl Sources {
    /// Reads and verifies the files that the configuration names.
    pub(super) fn read(config: &AgentConfig) -> Result<Self, DaemonError> {
        // A read may hang too, for example on a network file system that does not answer.
        let read = |path: &Path| {
            let (path, trust) = (path.to_owned(), config.policy.trust.clone());
            let read = move || Candidate::read(&path, &trust).map(Arc::new).map_err(DaemonError::from);
            on_a_thread(config.policy.load_timeout, "policy-read", read)
        };
        let policy = match &config.policy.source {
            PolicySource::Path(path) => Some(read(path)?),
            PolicySource::Null => None,
        };
        let fallback = config.policy.fallback.as_deref().map(read).transpose()?;
        Ok(Self { policy, fallback })
    }

    /// SHA-256 of the bundle, or of a file that stands alone; zeros if no policy is loaded.
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.policy.as_ref().map_or([0; 32], |policy| policy.sha256())
    }

    /// Whether these files under `config` would run like the running ones: the same policies on the same
    /// backend.
    pub(super) fn run_alike(
        &self,
        config: &AgentConfig,
        running: &Self,
        running_config: &AgentConfig,
    ) -> bool {
        let hashes =
            |sources: &Self| (sources.sha256(), sources.fallback.as_ref().map(|fallback| fallback.sha256()));
        let how = |AgentConfig { policy, .. }: &AgentConfig| {
            (policy.backend, policy.weights, policy.allow_unsandboxed_torch)
        };
        hashes(self) == hashes(running) && how(config) == how(running_config)
    }

    /// Makes the parts that go with the policy: input check, noise and carry rules. A seed that was drawn
    /// once is kept.
    pub(super) fn extras(
        &self,
        config: &AgentConfig,
        drawn_seed: Option<u64>,
    ) -> Result<PolicyExtras, DaemonError> {
        let Some(candidate) = &self.policy else { return Ok(PolicyExtras::default()) };
        let manifest = candidate.manifest();
        let seed = || config.policy.seed.or(drawn_seed).unwrap_or_else(fresh_seed);
        let noise = manifest.and_then(|manifest| manifest.noise).filter(|_| !config.policy.deterministic);
        Ok(PolicyExtras {
            input_check: input_check(config, candidate)?,
            noise: noise.map(|noise| Noise::new(seed(), noise.kind.into())),
            carry: carry_rules(config, manifest.and_then(|manifest| manifest.recurrent))?,
        })
    }

    /// Loads the policies. With `ran_with`, what the same policy ran with before, it takes that kernel for
    /// the weights again, so that the same observations lead to the same actions.
    pub(super) fn load(
        self,
        config: &AgentConfig,
        drawn_seed: Option<u64>,
        ran_with: Option<&WeightChoice>,
    ) -> Result<Loaded, DaemonError> {
        let extras = self.extras(config, drawn_seed)?;
        let named = |candidate: &Candidate| candidate.manifest().map(|manifest| manifest.name.clone());
        let (provenance, policy): (_, Box<dyn Policy>) = match &self.policy {
            None => {
                let policy = Box::new(Null::new(config.dimensions));
                (Provenance::of_nothing(policy.as_ref()), policy)
            }
            Some(candidate) => {
                let weights = match ran_with {
                    Some(choice) => Weights::Only(choice.kernel),
                    None => config.policy.weights,
                };
                let mut served = within_time(config, Arc::clone(candidate), weights)?;
                served.weights = ran_with.cloned().or(served.weights);
                let name = self.fallback.as_ref().map(|it| named(it).unwrap_or_else(|| hex(&it.sha256())));
                (Provenance::of(candidate, &served, name), served.policy)
            }
        };
        // The fallback serves when something else has failed, so it always has weights in single precision.
        let load_fallback = |candidate| within_time(config, Arc::clone(candidate), Weights::F32);
        let fallback = self.fallback.as_ref().map(load_fallback).transpose()?.map(|served| served.policy);
        let by_torch = |policy: &dyn Policy| policy.backend() == Backend::Torch.name();
        let served_by_torch = by_torch(policy.as_ref()) || fallback.as_deref().is_some_and(by_torch);
        let policy = misbehaving_if_planted(policy);
        let provenance = provenance
            .with_extras(config, &extras, drawn_seed)
            .with_work_of(policy.as_ref(), fallback.as_deref());
        provenance.log();
        tracing::debug!(sha256 = hex(&self.sha256()), "loaded");
        let policies = Policies::new(policy, fallback);
        Ok(Loaded { policies, extras, sources: self, provenance, served_by_torch })
    }
}

/// A seed for a configuration without one: the current time, mixed so that close times give unrelated seeds.
/// The status page shows it, so that a run can be repeated. It is below 2⁶³, the limit of the configuration's
/// numbers.
fn fresh_seed() -> u64 {
    mix(wall_clock_ns()) >> 1
}

/// The rules about carried state: the configuration's, or else the bundle's.
fn carry_rules(
    config: &AgentConfig,
    recurrent: Option<Recurrent>,
) -> Result<Option<CarryRules>, DaemonError> {
    let asked = config.policy.recurrent;
    match recurrent.map(CarryRules::from) {
        Some(of_the_bundle) => Ok(Some(CarryRules {
            on_miss: asked.on_miss.unwrap_or(of_the_bundle.on_miss),
            on_gap: asked.on_gap.unwrap_or(of_the_bundle.on_gap),
        })),
        None if asked == RecurrentConfig::default() => Ok(None),
        None => Err(DaemonError::NoCarriedState),
    }
}

/// Logs what happens on a thread that cannot be confined.
fn log_unconfined(unconfined: Unconfined, reason: &SandboxError) {
    match unconfined {
        Unconfined::Allowed => tracing::warn!(
            %reason,
            "libtorch runs with write access to the filesystem: policy.allow_unsandboxed_torch = true"
        ),
        Unconfined::NativeOnly => {
            tracing::warn!(%reason, "torch cannot be confined, so auto does not choose it");
        }
    }
}

/// Loads a policy on a thread of its own, within the configured time: an unknown policy may hang while it is
/// loaded. A thread that does not return is abandoned, and the process ends.
fn within_time(
    config: &AgentConfig,
    candidate: Arc<Candidate>,
    weights: Weights,
) -> Result<Served, DaemonError> {
    let dimensions = config.dimensions;
    let widths = Widths { observation: Some(dimensions.observation), action: Some(dimensions.action) };
    let limit = config.policy.load_timeout;
    let execution = Execution { backend: config.policy.backend, weights };
    let allow_unconfined = config.policy.allow_unsandboxed_torch;
    let sandbox = Sandbox::Thread { allow_unconfined, tell: log_unconfined };
    let engine_core = config.engine.core;
    on_a_thread(limit, "policy-load", move || {
        // Loading must not use the core of a running engine.
        engine_core.into_iter().for_each(keep_off);
        bundle::load(candidate.as_ref(), execution, widths, sandbox).map_err(|error| match error {
            LoadError::Unconfined(reason) => DaemonError::Unconfined(reason),
            LoadError::Bundle(error) => error.into(),
        })
    })
}

/// Runs `work` on a thread of its own, within `limit`.
pub(super) fn on_a_thread<T: Send + 'static>(
    limit: Duration,
    name: &str,
    work: impl FnOnce() -> Result<T, DaemonError> + Send + 'static,
) -> Result<T, DaemonError> {
    let (results, inbox) = crossbeam::channel::bounded(1);
    std::thread::Builder::new()
        .name(name.to_owned())
        // Sending fails only after the time has run out.
        .spawn(move || drop(results.send(work())))
        .map_err(|source| DaemonError::System { action: "start the thread that loads the policy", source })?;
    match inbox.recv_timeout(limit) {
        Ok(result) => result,
        // A panic on that thread would also end the wait, but its hook has ended the process.
        Err(_) => Err(DaemonError::LoadHung { limit }),
    }
}

/// The input check, made from what the manifest says about the training.
fn input_check(config: &AgentConfig, candidate: &Candidate) -> Result<Option<InputCheck>, DaemonError> {
    let spec = config.policy.guard;
    let Some(manifest) = candidate.manifest() else {
        return match spec.mode {
            InputCheckMode::Off | InputCheckMode::Count => Ok(None),
            mode @ (InputCheckMode::Clamp | InputCheckMode::SafeDefault) => {
                Err(DaemonError::NoStatistics { mode: mode.name() })
            }
        };
    };
    let space = &manifest.observation;
    let range = |index: usize| FeatureRange {
        low: space.low[index],
        high: space.high[index],
        statistics: space.statistics.as_ref().map(|known| (known.mean[index], known.std[index])),
    };
    let features: Vec<_> = (0..space.dimension.min(config.dimensions.observation)).map(range).collect();
    Ok(InputCheck::new(spec, &features))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_an_unconfined_torch_names_the_key() {
        let text = DaemonError::Unconfined(SandboxError::Unavailable).to_string();
        assert!(text.contains("no Landlock") && text.contains("allow_unsandboxed_torch"), "{text}");
    }
}
