//! What runs, where it comes from and what vouches for it: as status and log say it.

use crate::bundle::{Candidate, PassedOver, Proof, Served, SignatureState};
use crate::config::AgentConfig;
use crate::os::forbid_files;
use crate::policy::{Policy, Precision};
use escapement_engine::telemetry::FeatureCounts;
use escapement_engine::{InputCheck, InputCheckMode, PolicyExtras};
use serde::Serialize;
use std::sync::{Arc, OnceLock};

/// Whether the thread that serves is confined; empty where it need not be. The engine's thread says so once.
#[derive(Debug, Clone, Default)]
pub(super) struct Sandbox(Arc<OnceLock<bool>>);

impl Sandbox {
    /// Confines the calling thread, which serves with libtorch. Loading has shown that it can be, or that it need not.
    pub(super) fn confine(&self) {
        let _ = self.0.set(forbid_files().is_ok());
    }
}

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
    /// The policy that stands in, by its bundle's name or its file.
    fallback: Option<String>,
    input_guard: &'static str,
    /// `deterministic`: with zero noise, or because the policy has no randomness.
    deterministic: bool,
    seed: Option<u64>,
    /// The seed that was drawn because none was given. It is kept while noise is off, or another seed is given.
    #[serde(skip)]
    drawn: Option<u64>,
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
    /// Of nothing: the `null` backend.
    pub(super) fn of_nothing(policy: &dyn Policy) -> Self {
        Self {
            kind: "none",
            name: None,
            algorithm: None,
            backend: policy.backend(),
            weights: Precision::F32.name(),
            passed_over: None,
            golden: None,
            signature: SignatureState::Absent.name(),
            public_key: None,
            fallback: None,
            input_guard: InputCheckMode::Off.name(),
            deterministic: true,
            seed: None,
            drawn: None,
            sandbox: Sandbox::default(),
            counts: None,
            feature_names: None,
        }
    }

    /// Of a policy that was loaded.
    pub(super) fn of(
        config: &AgentConfig,
        candidate: &Candidate,
        served: &Served,
        fallback: Option<String>,
    ) -> Self {
        let manifest = candidate.manifest();
        Self {
            kind: if manifest.is_some() { "bundle" } else { "unproven" },
            name: manifest.map(|manifest| manifest.name.clone()),
            algorithm: manifest.map(|manifest| manifest.algorithm.clone()),
            backend: served.policy.backend(),
            weights: config.policy.weights.name(),
            passed_over: served.passed_over.clone(),
            golden: served.proof,
            signature: candidate.signature().name(),
            public_key: public_key(candidate),
            fallback,
            feature_names: manifest.and_then(|manifest| manifest.observation.names.clone()),
            ..Self::of_nothing(served.policy.as_ref())
        }
    }

    /// The same policy, verified anew: what vouches for it may have changed.
    pub(super) fn verified_by(mut self, candidate: &Candidate) -> Self {
        self.signature = candidate.signature().name();
        self.public_key = public_key(candidate);
        self
    }

    /// The same with what stands beside the policy now.
    pub(super) fn beside(mut self, config: &AgentConfig, company: &PolicyExtras, drawn: Option<u64>) -> Self {
        let guard = company.input_check.as_ref();
        self.input_guard = guard.map_or(InputCheckMode::Off, |_| config.policy.guard.mode).name();
        self.counts = guard.map(InputCheck::counts);
        self.deterministic = company.noise.is_none();
        self.seed = company.noise.as_ref().map(|noise| noise.seed());
        self.drawn = if config.policy.seed.is_none() { self.seed.or(drawn) } else { drawn };
        self
    }

    /// The seed that was drawn, where none was given.
    pub(super) fn drawn_seed(&self) -> Option<u64> {
        self.drawn
    }

    /// What the input guard counts into.
    pub(super) fn counts(&self) -> Option<Arc<FeatureCounts>> {
        self.counts.clone()
    }

    /// Where the thread that serves says whether it is confined.
    pub(super) fn sandbox(&self) -> Sandbox {
        self.sandbox.clone()
    }

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

fn public_key(candidate: &Candidate) -> Option<String> {
    match candidate.signature() {
        SignatureState::Good { public_key, .. } => Some(public_key.clone()),
        SignatureState::Absent | SignatureState::Unchecked => None,
    }
}
