//! What the status page says about the policy and the input check.

use serde::{Deserialize, Serialize};

/// What serves, where it comes from and what vouches for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// What was loaded.
    pub kind: PolicyKind,
    /// The bundle's name.
    pub name: Option<String>,
    /// The training algorithm that the bundle names.
    pub algorithm: Option<String>,
    /// The backend that serves.
    pub backend: String,
    /// How the backend holds the weights: `f32` or `bf16`.
    pub weights: String,
    /// The kernel that multiplies them, as `policy.weights` names it; `None` for a backend without a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_kernel: Option<String>,
    /// The kernels that were measured when the policy was loaded. Empty if there was no choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weight_candidates: Vec<WeightCandidateStatus>,
    /// The backend that `auto` would rather have chosen.
    pub passed_over: Option<PassedOverStatus>,
    /// What the golden vectors have shown; `None` if there are none.
    pub golden: Option<ProofStatus>,
    /// The state of the bundle's signature.
    pub signature: String,
    /// The key that a good signature was made with.
    pub public_key: Option<String>,
    /// The fallback policy, by its bundle's name or its hash.
    pub fallback: Option<String>,
    /// What the input check does about a feature outside its range.
    pub input_guard: String,
    /// Whether the policy draws no noise: with zero noise, or because it has no randomness.
    pub deterministic: bool,
    /// The seed of the noise.
    pub seed: Option<u64>,
    /// Whether the thread that serves is confined.
    pub sandbox: SandboxStatus,
}

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// A bundle, with a manifest and golden vectors.
    Bundle,
    /// A file that stands alone.
    Unproven,
    /// Nothing: the `null` backend.
    None,
}

impl PolicyKind {
    /// The word in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Unproven => "unproven",
            Self::None => "none",
        }
    }
}

/// Whether the thread that serves is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxStatus {
    /// It runs no code from a file.
    NotNeeded,
    /// It is confined.
    Confined,
    /// It runs code from a file, and is not confined.
    None,
}

/// A backend that `auto` did not choose, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOverStatus {
    /// Its name.
    pub backend: String,
    /// Why.
    pub reason: String,
}

/// A kernel that was measured for the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightCandidateStatus {
    /// Its name.
    pub kernel: String,
    /// Nanoseconds of one call; `None` if it was not measured.
    pub ns: Option<f64>,
    /// The golden vector that does not agree with it; `None` if all do.
    pub refused: Option<String>,
}

/// What the golden vectors have shown.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ProofStatus {
    /// Vectors that were run.
    pub vectors: usize,
    /// The largest deviation, as a share of the one allowed.
    pub worst: f64,
}

/// What the input check has counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputCheckStatus {
    /// Observations checked.
    pub observations: u64,
    /// The features that were ever outside their range.
    pub features: Vec<FeatureStatus>,
}

/// How often one feature was outside its range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureStatus {
    /// Its index.
    pub feature: usize,
    /// Its name, if the manifest names it.
    pub name: Option<String>,
    /// How often.
    pub outside: u64,
}
