//! The policy on its way into the engine: read, verified, proven on the backend that will serve, within a time limit.

use super::DaemonError;
use crate::bundle::{
    Candidate, NoiseKind, PassedOver, Proof, Recurrent, Served, SignatureState, StateRule, hex,
};
use crate::clock::{Clock, wall_clock_ns};
use crate::config::{AgentConfig, PolicySource};
use crate::engine::{Carry, CarryRules, Engine, FeatureRange, GuardMode, InputGuard};
use crate::host::{SandboxError, forbid_files};
use crate::noise::{Distribution, Noise};
use crate::policy::{Backend, Execution, Null, Policy, Widths};
use crate::telemetry::FeatureCounts;
use serde::Serialize;
use std::sync::{Arc, OnceLock};

/// What was loaded.
pub(super) struct Loaded {
    pub(super) policy: Box<dyn Policy>,
    pub(super) company: Company,
    /// Of the bundle, or of the file that stands alone; zeros where nothing was loaded.
    pub(super) sha256: [u8; 32],
    pub(super) provenance: Provenance,
}

/// What goes into the engine beside the policy.
pub(super) struct Company {
    input_guard: Option<InputGuard>,
    noise: Option<Noise>,
    carry: Option<CarryRules>,
    /// To be filled in by the thread that serves with libtorch.
    sandbox: Option<Sandbox>,
}

impl Company {
    /// Gives the engine what there is, and confines the calling thread, which will serve, where it is libtorch that does.
    /// Loading has shown that it can be, or that it need not.
    pub(super) fn join<C: Clock>(self, engine: &mut Engine<C>) {
        if let Some(guard) = self.input_guard {
            engine.guard_input(guard);
        }
        if let Some(noise) = self.noise {
            engine.draw_noise(noise);
        }
        if let Some(rules) = self.carry {
            engine.carry_by(rules);
        }
        if let Some(Sandbox(confined)) = self.sandbox {
            let _ = confined.set(forbid_files().is_ok());
        }
    }
}

/// Whether the thread that serves is confined; empty where it need not be. The engine's thread says so once.
#[derive(Debug, Clone, Default)]
struct Sandbox(Arc<OnceLock<bool>>);

impl Serialize for Sandbox {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self.0.get() {
            None => "not_needed",
            Some(true) => "confined",
            Some(false) => "none",
        })
    }
}

/// What status says about the policy.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Provenance {
    /// `bundle`, `unproven` (a file that stands alone) or `none`.
    kind: &'static str,
    name: Option<String>,
    algorithm: Option<String>,
    backend: &'static str,
    /// How the backend holds the weights: `f32` or `bf16`.
    weights: &'static str,
    passed_over: Option<PassedOver>,
    golden: Option<Proof>,
    signature: &'static str,
    public_key: Option<String>,
    input_guard: &'static str,
    /// `deterministic`: with zero noise, or because the policy has no randomness.
    deterministic: bool,
    seed: Option<u64>,
    /// `confined`, `not_needed` (nothing from the file is executed) or `none`.
    sandbox: Sandbox,
    #[serde(skip)]
    counts: Option<Arc<FeatureCounts>>,
    #[serde(skip)]
    feature_names: Option<Vec<String>>,
}

/// How often the input guard found features outside.
#[derive(Debug, Serialize)]
pub(super) struct GuardFigures {
    observations: u64,
    features: Vec<FeatureFigure>,
}

#[derive(Debug, Serialize)]
struct FeatureFigure {
    feature: usize,
    name: Option<String>,
    outside: u64,
}

impl Provenance {
    pub(super) fn backend(&self) -> &'static str {
        self.backend
    }

    /// What the input guard has counted; `None` where there is none.
    pub(super) fn guard_figures(&self) -> Option<GuardFigures> {
        let counts = self.counts.as_ref()?;
        let name = |feature: usize| self.feature_names.as_ref()?.get(feature).cloned();
        let outside = counts.outside().into_iter();
        let features = outside
            .map(|(feature, outside)| FeatureFigure { feature, name: name(feature), outside })
            .collect();
        Some(GuardFigures { observations: counts.observations(), features })
    }

    /// Says in the log what runs, and why not something else.
    pub(super) fn log(&self) {
        if let Some(PassedOver { backend, reason }) = &self.passed_over {
            tracing::warn!(backend, reason, "passed over");
        }
        match (&self.golden, self.kind) {
            (Some(proof), _) => tracing::info!(
                backend = self.backend,
                weights = self.weights,
                vectors = proof.vectors,
                worst = proof.worst,
                signature = self.signature,
                "the policy agrees with its golden vectors"
            ),
            (None, "none") => {}
            (None, _) => tracing::warn!(
                backend = self.backend,
                "unproven: the policy has no manifest and no golden vectors"
            ),
        }
    }
}

/// Reads, verifies and proves what the configuration names. A policy may hang while it is loaded, for all that is
/// known about it yet, so that this happens on a thread of its own; one that does not come back is left behind, and the
/// process ends.
pub(super) fn load(config: &AgentConfig) -> Result<Loaded, DaemonError> {
    let PolicySource::Path(path) = &config.policy.source else {
        let policy = Box::new(Null::new(config.dimensions));
        let provenance = Provenance {
            kind: "none",
            name: None,
            algorithm: None,
            backend: policy.backend(),
            weights: config.policy.weights.name(),
            passed_over: None,
            golden: None,
            signature: SignatureState::Absent.name(),
            public_key: None,
            input_guard: GuardMode::Off.name(),
            deterministic: true,
            seed: None,
            sandbox: Sandbox::default(),
            counts: None,
            feature_names: None,
        };
        let company = Company { input_guard: None, noise: None, carry: None, sandbox: None };
        return Ok(Loaded { policy, company, sha256: [0; 32], provenance });
    };
    let candidate = Candidate::read(path, &config.policy.trust)?;
    let input_guard = input_guard(config, &candidate)?;
    let widths =
        Widths { observation: Some(config.dimensions.observation), action: Some(config.dimensions.action) };
    let (candidate, served) = within_time(config, candidate, widths)?;
    let Served { policy, proof, passed_over } = served;
    let manifest = candidate.manifest();
    let public_key = match candidate.signature() {
        SignatureState::Good { public_key, .. } => Some(public_key.clone()),
        SignatureState::Absent | SignatureState::Unchecked => None,
    };
    let noise = manifest.and_then(|manifest| manifest.noise).filter(|_| !config.policy.deterministic);
    let noise = noise
        .map(|noise| Noise::new(config.policy.seed.unwrap_or_else(fresh_seed), distribution(noise.kind)));
    let served_by_torch = policy.backend() == Backend::Torch.name();
    let sandbox = Sandbox::default();
    let provenance = Provenance {
        kind: if manifest.is_some() { "bundle" } else { "unproven" },
        name: manifest.map(|manifest| manifest.name.clone()),
        algorithm: manifest.map(|manifest| manifest.algorithm.clone()),
        backend: policy.backend(),
        weights: config.policy.weights.name(),
        passed_over,
        golden: proof,
        signature: candidate.signature().name(),
        public_key,
        input_guard: input_guard.as_ref().map_or(GuardMode::Off, |_| config.policy.guard.mode).name(),
        deterministic: noise.is_none(),
        sandbox: sandbox.clone(),
        seed: noise.map(|noise| noise.seed()),
        counts: input_guard.as_ref().map(InputGuard::counts),
        feature_names: manifest.and_then(|manifest| manifest.observation.names.clone()),
    };
    provenance.log();
    let carry = manifest.and_then(|manifest| manifest.recurrent).map(carry_rules);
    let sha256 = candidate.sha256();
    tracing::debug!(sha256 = hex(&sha256), "loaded");
    Ok(Loaded {
        policy,
        company: Company { input_guard, noise, carry, sandbox: served_by_torch.then_some(sandbox) },
        sha256,
        provenance,
    })
}

/// A seed for those who name none: the instant, mixed so that neighbours have nothing in common. It is in status, so that
/// a run can be repeated. Below 2⁶³, as far as the configuration's own numbers go.
fn fresh_seed() -> u64 {
    let mut mixed = wall_clock_ns();
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) >> 1
}

fn distribution(kind: NoiseKind) -> Distribution {
    match kind {
        NoiseKind::Gaussian => Distribution::Gaussian,
        NoiseKind::Gumbel => Distribution::Gumbel,
    }
}

fn carry_rules(recurrent: Recurrent) -> CarryRules {
    let rule = |rule| match rule {
        StateRule::Keep => Carry::Keep,
        StateRule::Reset => Carry::Reset,
        StateRule::BurnIn(observations) => Carry::BurnIn(observations),
    };
    CarryRules { on_miss: rule(recurrent.on_miss), on_gap: rule(recurrent.on_gap) }
}

/// Confines the calling thread before libtorch may see a file on it, and gives the backend to load with.
fn confined(backend: Backend, allow_unsandboxed: bool) -> Result<Backend, DaemonError> {
    if !cfg!(feature = "torch") || !matches!(backend, Backend::Torch | Backend::Auto) {
        return Ok(backend);
    }
    permitted(backend, forbid_files(), allow_unsandboxed)
}

/// What may run where a thread could not be confined: `auto` still has the native engine, which runs nothing from the
/// file.
fn permitted(
    backend: Backend,
    sandbox: Result<(), SandboxError>,
    allow_unsandboxed: bool,
) -> Result<Backend, DaemonError> {
    match sandbox {
        Ok(()) => Ok(backend),
        Err(reason) if allow_unsandboxed => {
            tracing::warn!(%reason, "libtorch runs with write access to the filesystem, as policy.allow_unsandboxed_torch says");
            Ok(backend)
        }
        Err(reason) if backend == Backend::Auto => {
            tracing::warn!(%reason, "torch cannot be confined, and so is no choice for auto");
            Ok(Backend::Native)
        }
        Err(reason) => Err(DaemonError::Unconfined(reason)),
    }
}

fn within_time(
    config: &AgentConfig,
    candidate: Candidate,
    widths: Widths,
) -> Result<(Candidate, Served), DaemonError> {
    let limit = config.policy.load_timeout;
    let Execution { backend, weights } =
        Execution { backend: config.policy.backend, weights: config.policy.weights }.settled();
    let allow_unsandboxed = config.policy.allow_unsandboxed_torch;
    let (results, inbox) = crossbeam::channel::bounded(1);
    std::thread::Builder::new()
        .name("policy-load".to_owned())
        .spawn(move || {
            let served = confined(backend, allow_unsandboxed)
                .and_then(|backend| Ok(candidate.load(Execution { backend, weights }, widths)?))
                .map(|served| (candidate, served));
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
    fn an_unconfined_torch_needs_permission() {
        let unavailable = || Err(SandboxError::Unavailable);
        let refused = permitted(Backend::Torch, unavailable(), false);
        let text = refused.expect_err("nobody allowed it").to_string();
        assert!(text.contains("no Landlock") && text.contains("allow_unsandboxed_torch"), "{text}");
        assert_eq!(permitted(Backend::Torch, unavailable(), true).ok(), Some(Backend::Torch));
        assert_eq!(permitted(Backend::Auto, unavailable(), true).ok(), Some(Backend::Auto));
        assert_eq!(permitted(Backend::Auto, unavailable(), false).ok(), Some(Backend::Native));
        assert_eq!(permitted(Backend::Torch, Ok(()), false).ok(), Some(Backend::Torch));
    }
}
