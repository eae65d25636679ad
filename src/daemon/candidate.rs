//! The policy on its way into the engine: read, verified, proven on the backend that will serve, within a time limit. At
//! the start, and again when a running agent is told to reload.

use super::DaemonError;
use super::planted::misbehaving_if_planted;
use super::provenance::Provenance;
use crate::bundle::{self, Candidate, LoadError, Recurrent, Sandbox, Served, StateRule, Unconfined, hex};
use crate::config::{AgentConfig, PolicySource, RecurrentConfig};
use crate::os::{SandboxError, forbid_files, keep_off};
use crate::policy::{Backend, Execution, Null, Policy, Precision, Widths};
use escapement_engine::noise::Noise;
use escapement_engine::{
    Carry, CarryRules, Company, FeatureRange, GuardMode, InputGuard, OnMiss, PolicyChange, Serving,
};
use escapement_ring::clock::{MachineClock, Nanos, wall_clock_ns};
use std::path::Path;
use std::sync::Arc;

/// What was loaded.
pub(super) struct Loaded {
    pub(super) serving: Serving,
    pub(super) company: Company,
    pub(super) sources: Sources,
    pub(super) provenance: Provenance,
    /// Whether libtorch serves: the thread that it serves on is to be confined.
    pub(super) served_by_torch: bool,
}

/// What a reload leads to.
pub(super) struct Reloaded {
    pub(super) company: Company,
    pub(super) sources: Sources,
    pub(super) provenance: Provenance,
    /// The policy, where it is another one.
    pub(super) change: Option<PolicyChange>,
    /// The tail of its latencies, measured where it was made ready; that of the running one, where it stays.
    pub(super) tail: Option<Nanos>,
}

/// What the configuration names, read and verified. Kept in memory: a rollback leads to the very bytes that ran before,
/// whatever lies at their path by then.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    /// `None` where nothing is loaded.
    policy: Option<Arc<Candidate>>,
    fallback: Option<Arc<Candidate>>,
}

/// Calls of a new policy on the engine's thread before it answers. libtorch prepares each thread that it runs on.
const TORCH_WARM_UP_CALLS: u32 = 8;

/// Reads, verifies and proves what the configuration names.
pub(super) fn load(config: &AgentConfig) -> Result<Loaded, DaemonError> {
    Sources::read(config)?.load(config, None)
}

/// What runs while a reload is made ready.
pub(super) struct Beside<'a> {
    pub(super) config: &'a AgentConfig,
    pub(super) sources: &'a Sources,
    pub(super) provenance: &'a Provenance,
    /// The tail of the policy's latencies, as it was last measured.
    pub(super) tail: Option<Nanos>,
    /// The seed that was drawn when what is asked for ran before.
    pub(super) drawn_seed: Option<u64>,
}

/// Makes ready what a configuration names beside what runs; loads and proves the policy where it is another one. A policy that does
/// not fit the deadline is refused like at the start: it would halt the agent at its first slow call.
pub(super) fn reload(
    config: &AgentConfig,
    sources: Sources,
    beside: Beside<'_>,
) -> Result<Reloaded, DaemonError> {
    let Beside { provenance, drawn_seed, .. } = beside;
    if sources.run_alike(config, beside.sources, beside.config) {
        fits(config, beside.tail)?;
        let mut company = sources.company(config, drawn_seed)?;
        // The same features are counted on.
        if let (Some(guard), Some(counts)) = (&mut company.input_guard, provenance.counts()) {
            guard.count_into(counts);
        }
        let provenance = match &sources.policy {
            Some(candidate) => provenance.clone().verified_by(candidate),
            None => provenance.clone(),
        };
        let provenance = provenance.beside(config, &company, drawn_seed);
        return Ok(Reloaded { company, sources, provenance, change: None, tail: beside.tail });
    }
    let sha256 = sources.sha256();
    let Loaded { mut serving, company, sources, provenance, served_by_torch } =
        sources.load(config, drawn_seed)?;
    let sandbox = provenance.sandbox();
    if served_by_torch {
        // This thread has nothing left to do with files. That it can be confined, loading has shown, or that it need not.
        let _ = forbid_files();
    }
    let bounds = &config.settings.observation_bounds;
    let tail = Some(serving.measure(&MachineClock::new(), config.warm_up, bounds)?);
    fits(config, tail)?;
    let change = PolicyChange {
        serving,
        sha256,
        warm_up_calls: if served_by_torch { TORCH_WARM_UP_CALLS } else { 0 },
        on_thread: served_by_torch
            .then(|| -> Box<dyn FnMut() + Send> { Box::new(move || sandbox.confine()) }),
    };
    Ok(Reloaded { company, sources, provenance, change: Some(change), tail })
}

/// Whether a policy with this tail may go under these deadlines.
fn fits(config: &AgentConfig, tail: Option<Nanos>) -> Result<(), DaemonError> {
    let settings = &config.settings;
    let limit = settings.deadlines.inference;
    match tail {
        Some(tail) if settings.enforce && settings.on_miss == OnMiss::Halt && tail > limit => {
            Err(DaemonError::TooSlow { tail, limit })
        }
        _ => Ok(()),
    }
}

impl Sources {
    /// Reads and verifies what the configuration names.
    pub(super) fn read(config: &AgentConfig) -> Result<Self, DaemonError> {
        let read = |path: &Path| Candidate::read(path, &config.policy.trust).map(Arc::new);
        let policy = match &config.policy.source {
            PolicySource::Path(path) => Some(read(path)?),
            PolicySource::Null => None,
        };
        let fallback = config.policy.fallback.as_deref().map(read).transpose()?;
        Ok(Self { policy, fallback })
    }

    /// Of the bundle, or of the file that stands alone; zeros where nothing is loaded.
    pub(super) fn sha256(&self) -> [u8; 32] {
        self.policy.as_ref().map_or([0; 32], |policy| policy.sha256())
    }

    /// Whether these bytes under that configuration are what runs already: the same policies by the same backend.
    fn run_alike(&self, config: &AgentConfig, running: &Self, running_config: &AgentConfig) -> bool {
        let hashes =
            |sources: &Self| (sources.sha256(), sources.fallback.as_ref().map(|fallback| fallback.sha256()));
        let how = |AgentConfig { policy, .. }: &AgentConfig| {
            (policy.backend, policy.weights, policy.allow_unsandboxed_torch)
        };
        hashes(self) == hashes(running) && how(config) == how(running_config)
    }

    /// What goes beside the policy. A seed that was drawn once is kept.
    fn company(&self, config: &AgentConfig, drawn_seed: Option<u64>) -> Result<Company, DaemonError> {
        let Some(candidate) = &self.policy else { return Ok(Company::default()) };
        let manifest = candidate.manifest();
        let seed = || config.policy.seed.or(drawn_seed).unwrap_or_else(fresh_seed);
        let noise = manifest.and_then(|manifest| manifest.noise).filter(|_| !config.policy.deterministic);
        Ok(Company {
            input_guard: input_guard(config, candidate)?,
            noise: noise.map(|noise| Noise::new(seed(), noise.kind.into())),
            carry: carry_rules(config, manifest.and_then(|manifest| manifest.recurrent))?,
        })
    }

    fn load(self, config: &AgentConfig, drawn_seed: Option<u64>) -> Result<Loaded, DaemonError> {
        let company = self.company(config, drawn_seed)?;
        let named = |candidate: &Candidate| candidate.manifest().map(|manifest| manifest.name.clone());
        let (provenance, policy): (_, Box<dyn Policy>) = match &self.policy {
            None => {
                let policy = Box::new(Null::new(config.dimensions));
                (Provenance::of_nothing(policy.as_ref()), policy)
            }
            Some(candidate) => {
                let served = within_time(config, Arc::clone(candidate), config.policy.weights)?;
                let name = self.fallback.as_ref().map(|it| named(it).unwrap_or_else(|| hex(&it.sha256())));
                (Provenance::of(config, candidate, &served, name), served.policy)
            }
        };
        // The fallback is what is still right when something is not: in full precision.
        let load_fallback = |candidate| within_time(config, Arc::clone(candidate), Precision::F32);
        let fallback = self.fallback.as_ref().map(load_fallback).transpose()?.map(|served| served.policy);
        let by_torch = |policy: &dyn Policy| policy.backend() == Backend::Torch.name();
        let served_by_torch = by_torch(policy.as_ref()) || fallback.as_deref().is_some_and(by_torch);
        let provenance = provenance.beside(config, &company, drawn_seed);
        provenance.log();
        tracing::debug!(sha256 = hex(&self.sha256()), "loaded");
        let serving = Serving::new(misbehaving_if_planted(policy), fallback);
        Ok(Loaded { serving, company, sources: self, provenance, served_by_torch })
    }
}

/// A seed for those who name none: the instant, mixed so that neighbours have nothing in common. It is in status, so that
/// a run can be repeated. Below 2⁶³, as far as the configuration's own numbers go.
fn fresh_seed() -> u64 {
    let mut mixed = wall_clock_ns();
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 1
}

/// The bundle's rules about carried state, or the configuration's where it says otherwise.
fn carry_rules(
    config: &AgentConfig,
    recurrent: Option<Recurrent>,
) -> Result<Option<CarryRules>, DaemonError> {
    let rule = |rule| match rule {
        StateRule::Keep => Carry::Keep,
        StateRule::Reset => Carry::Reset,
        StateRule::BurnIn(observations) => Carry::BurnIn(observations),
    };
    let asked = config.policy.recurrent;
    match recurrent {
        Some(recurrent) => Ok(Some(CarryRules {
            on_miss: asked.on_miss.unwrap_or_else(|| rule(recurrent.on_miss)),
            on_gap: asked.on_gap.unwrap_or_else(|| rule(recurrent.on_gap)),
        })),
        None if asked == RecurrentConfig::default() => Ok(None),
        None => Err(DaemonError::NoCarriedState),
    }
}

/// Logs what a thread that cannot be confined leads to.
fn tell_unconfined(unconfined: Unconfined, reason: &SandboxError) {
    match unconfined {
        Unconfined::Allowed => tracing::warn!(
            %reason,
            "libtorch runs with write access to the filesystem, as policy.allow_unsandboxed_torch says"
        ),
        Unconfined::NativeOnly => {
            tracing::warn!(%reason, "torch cannot be confined, and so is no choice for auto");
        }
    }
}

/// A policy may hang while it is loaded, for all that is known about it yet, so that this happens on a thread of its own;
/// one that does not come back is left behind, and the process ends.
fn within_time(
    config: &AgentConfig,
    candidate: Arc<Candidate>,
    weights: Precision,
) -> Result<Served, DaemonError> {
    let dimensions = config.dimensions;
    let widths = Widths { observation: Some(dimensions.observation), action: Some(dimensions.action) };
    let limit = config.policy.load_timeout;
    let execution = Execution { backend: config.policy.backend, weights };
    let allow_unconfined = config.policy.allow_unsandboxed_torch;
    let sandbox = Sandbox::Thread { allow_unconfined, tell: tell_unconfined };
    let engine_core = config.engine.core;
    let (results, inbox) = crossbeam::channel::bounded(1);
    std::thread::Builder::new()
        .name("policy-load".to_owned())
        .spawn(move || {
            // Beside a running engine, its core is left alone.
            engine_core.into_iter().for_each(keep_off);
            let served =
                bundle::load(candidate.as_ref(), execution, widths, sandbox).map_err(|error| match error {
                    LoadError::Unconfined(reason) => DaemonError::Unconfined(reason),
                    LoadError::Bundle(error) => error.into(),
                });
            // Nobody listens any more where the time has run out.
            drop(results.send(served));
        })
        .map_err(|source| DaemonError::System { action: "start the thread that loads the policy", source })?;
    match inbox.recv_timeout(limit) {
        Ok(result) => result,
        // The other way to hear nothing is a panic on that thread, whose hook has ended the process.
        Err(_) => Err(DaemonError::LoadHung { limit }),
    }
}

/// The guard for what the manifest says about the training.
fn input_guard(config: &AgentConfig, candidate: &Candidate) -> Result<Option<InputGuard>, DaemonError> {
    let spec = config.policy.guard;
    let Some(manifest) = candidate.manifest() else {
        return match spec.mode {
            GuardMode::Off | GuardMode::Count => Ok(None),
            mode @ (GuardMode::Clamp | GuardMode::SafeDefault) => {
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
    Ok(InputGuard::new(spec, &features))
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
