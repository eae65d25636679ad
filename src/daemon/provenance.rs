//! What runs, where it comes from, and what vouches for it. The status page and the log show it.

use crate::bundle::{Candidate, PassedOver, Proof, Served, SignatureState};
use crate::config::AgentConfig;
use crate::evidence::FixedWork;
use crate::os::forbid_files;
use crate::policy::{Policy, Precision, WeightCandidate, WeightChoice};
use crate::status::{
    FeatureStatus, InputCheckStatus, PassedOverStatus, PolicyKind, PolicyStatus, ProofStatus, SandboxStatus,
    WeightCandidateStatus,
};
use escapement_engine::telemetry::FeatureCounts;
use escapement_engine::{InputCheck, InputCheckMode, PolicyExtras};
use std::sync::{Arc, OnceLock};

/// Whether the thread that serves is confined. The engine's thread sets it once, if it has to be confined.
#[derive(Debug, Clone, Default)]
pub(super) struct Sandbox(Arc<OnceLock<bool>>);

impl Sandbox {
    /// Confines the calling thread, which serves with libtorch. Loading has shown that it can be confined, or
    /// that the configuration does not require it.
    pub(super) fn confine(&self) {
        let _ = self.0.set(forbid_files().is_ok());
    }

    fn status(&self) -> SandboxStatus {
        match self.0.get() {
            None => SandboxStatus::NotNeeded,
            Some(true) => SandboxStatus::Confined,
            Some(false) => SandboxStatus::None,
        }
    }
}

/// What is known about the policy that serves.
#[derive(Debug, Clone)]
pub(super) struct Provenance {
    kind: PolicyKind,
    name: Option<String>,
    algorithm: Option<String>,
    backend: &'static str,
    /// How the native engine holds the weights; `None` for another backend.
    weights: Option<WeightChoice>,
    fixed_work: FixedWork,
    passed_over: Option<PassedOver>,
    golden: Option<Proof>,
    signature: &'static str,
    public_key: Option<String>,
    /// The fallback policy, by its bundle's name or its hash.
    fallback: Option<String>,
    input_guard: &'static str,
    /// Whether the policy draws no noise: with zero noise, or because it has no randomness.
    deterministic: bool,
    seed: Option<u64>,
    /// The seed that was drawn because none was given. It is kept while noise is off or another seed is
    /// given.
    drawn: Option<u64>,
    sandbox: Sandbox,
    counts: Option<Arc<FeatureCounts>>,
    feature_names: Option<Vec<String>>,
}

impl Provenance {
    /// The provenance of the `null` backend, which loads nothing.
    pub(super) fn of_nothing(policy: &dyn Policy) -> Self {
        Self {
            kind: PolicyKind::None,
            name: None,
            algorithm: None,
            backend: policy.backend(),
            weights: None,
            fixed_work: FixedWork { in_call: policy.has_fixed_work(), around_call: true },
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

    /// The provenance of a policy that was loaded.
    pub(super) fn of(candidate: &Candidate, served: &Served, fallback: Option<String>) -> Self {
        let manifest = candidate.manifest();
        Self {
            kind: if manifest.is_some() { PolicyKind::Bundle } else { PolicyKind::Unproven },
            name: manifest.map(|manifest| manifest.name.clone()),
            algorithm: manifest.map(|manifest| manifest.algorithm.clone()),
            backend: served.policy.backend(),
            weights: served.weights.clone(),
            passed_over: served.passed_over.clone(),
            golden: served.proof,
            signature: candidate.signature().name(),
            public_key: public_key(candidate),
            fallback,
            feature_names: manifest.and_then(|manifest| manifest.observation.names.clone()),
            ..Self::of_nothing(served.policy.as_ref())
        }
    }

    /// The same policy after it was verified again: what vouches for it may have changed.
    pub(super) fn verified_by(mut self, candidate: &Candidate) -> Self {
        self.signature = candidate.signature().name();
        self.public_key = public_key(candidate);
        self
    }

    /// The same policy with its current input check and noise.
    pub(super) fn with_extras(
        mut self,
        config: &AgentConfig,
        extras: &PolicyExtras,
        drawn: Option<u64>,
    ) -> Self {
        let guard = extras.input_check.as_ref();
        self.input_guard = guard.map_or(InputCheckMode::Off, |_| config.policy.guard.mode).name();
        self.counts = guard.map(InputCheck::counts);
        self.deterministic = extras.noise.is_none();
        self.seed = extras.noise.as_ref().map(|noise| noise.seed());
        self.drawn = if config.policy.seed.is_none() { self.seed.or(drawn) } else { drawn };
        self
    }

    /// The seed that was drawn because none was given.
    pub(super) fn drawn_seed(&self) -> Option<u64> {
        self.drawn
    }

    /// The counters of the input check.
    pub(super) fn counts(&self) -> Option<Arc<FeatureCounts>> {
        self.counts.clone()
    }

    /// How the native engine holds the weights.
    pub(super) fn weights(&self) -> Option<&WeightChoice> {
        self.weights.as_ref()
    }

    /// The sandbox of the thread that serves.
    pub(super) fn sandbox(&self) -> Sandbox {
        self.sandbox.clone()
    }

    /// The same policy, with what it and its fallback say about their work.
    pub(super) fn with_work_of(mut self, policy: &dyn Policy, fallback: Option<&dyn Policy>) -> Self {
        self.fixed_work = FixedWork {
            in_call: policy.has_fixed_work(),
            around_call: fallback.is_none_or(|fallback| fallback.has_fixed_work()),
        };
        self
    }

    /// Which work of a tick is the same for every observation.
    pub(super) fn fixed_work(&self) -> FixedWork {
        self.fixed_work
    }

    fn precision(&self) -> Precision {
        self.weights.as_ref().map_or(Precision::F32, |choice| choice.kernel.precision())
    }

    pub(super) fn backend(&self) -> &'static str {
        self.backend
    }

    /// What the status page says about the policy.
    pub(super) fn status(&self) -> PolicyStatus {
        let passed_over = self.passed_over.as_ref().map(|PassedOver { backend, reason }| PassedOverStatus {
            backend: (*backend).to_owned(),
            reason: reason.clone(),
        });
        let candidates = self.weights.iter().flat_map(|choice| &choice.candidates);
        let candidate = |it: &WeightCandidate| WeightCandidateStatus {
            kernel: it.kernel.name().to_owned(),
            ns: it.ns,
            refused: it.refused.clone(),
        };
        PolicyStatus {
            kind: self.kind,
            name: self.name.clone(),
            algorithm: self.algorithm.clone(),
            backend: self.backend.to_owned(),
            weights: self.precision().name().to_owned(),
            weight_kernel: self.weights.as_ref().map(|choice| choice.kernel.name().to_owned()),
            weight_candidates: candidates.map(candidate).collect(),
            passed_over,
            golden: self.golden.map(|Proof { vectors, worst }| ProofStatus { vectors, worst }),
            signature: self.signature.to_owned(),
            public_key: self.public_key.clone(),
            fallback: self.fallback.clone(),
            input_guard: self.input_guard.to_owned(),
            deterministic: self.deterministic,
            seed: self.seed,
            sandbox: self.sandbox.status(),
        }
    }

    /// What the input check has counted; `None` if there is no check.
    pub(super) fn input_check_status(&self) -> Option<InputCheckStatus> {
        let counts = self.counts.as_ref()?;
        let name = |feature: usize| self.feature_names.as_ref()?.get(feature).cloned();
        let outside = counts.outside().into_iter();
        let features = outside
            .map(|(feature, outside)| FeatureStatus { feature, name: name(feature), outside })
            .collect();
        Some(InputCheckStatus { observations: counts.observations(), features })
    }

    /// Logs what runs, and why another backend does not.
    pub(super) fn log(&self) {
        if let Some(PassedOver { backend, reason }) = &self.passed_over {
            tracing::warn!(backend, reason, "passed over");
        }
        let weights = self
            .weights
            .as_ref()
            .map_or_else(|| self.precision().name().to_owned(), |choice| choice.to_string());
        match (&self.golden, self.kind) {
            (Some(proof), _) => tracing::info!(
                backend = self.backend,
                weights,
                vectors = proof.vectors,
                worst = proof.worst,
                signature = self.signature,
                "the policy agrees with its golden vectors"
            ),
            (None, PolicyKind::None) => {}
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
