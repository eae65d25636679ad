//! The manifest's keys and types. An unknown key is an error. `check` checks ranges.

use escapement_engine::noise::Distribution;
use serde::{Deserialize, Serialize};

/// The version that this reader knows.
pub(super) const FORMAT: i64 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    #[serde(rename = "format")]
    pub(super) _format: i64,
    pub(super) bundle: Bundle,
    pub(super) versions: Versions,
    pub(super) file: Vec<File>,
    pub(super) observation: Observation,
    pub(super) action: Action,
    pub(super) signature: Signature,
    pub(super) recurrent: Option<Recurrent>,
    pub(super) default: Option<Default>,
    pub(super) golden: Golden,
    pub(super) slo: Option<Slo>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    pub(super) name: String,
    pub(super) algorithm: String,
    pub(super) created: String,
    pub(super) trained: Option<String>,
}

/// What wrote a bundle, by version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// The exporter.
    pub exporter: String,
    /// Python.
    pub python: String,
    /// PyTorch.
    pub torch: String,
    /// NumPy.
    pub numpy: String,
    /// Stable-Baselines3.
    pub stable_baselines3: Option<String>,
    /// Its contributed algorithms.
    pub sb3_contrib: Option<String>,
    /// Gymnasium.
    pub gymnasium: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Observation {
    pub(super) dimension: usize,
    pub(super) names: Option<Vec<String>>,
    pub(super) low: Numbers,
    pub(super) high: Numbers,
    pub(super) mean: Option<Vec<f64>>,
    pub(super) std: Option<Vec<f64>>,
    #[serde(default)]
    pub(super) segment: Vec<Segment>,
    pub(super) stack: Option<Stack>,
}

/// One number for every element, or one for each.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a number, or an array with a number for each element")]
pub(super) enum Numbers {
    Every(f64),
    Each(Vec<f64>),
}

/// What a part of the observation vector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// Real numbers.
    Box,
    /// One index.
    Discrete,
    /// One index for each component.
    MultiDiscrete,
    /// Zeros and ones.
    MultiBinary,
    /// The action mask of MaskablePPO.
    Mask,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Segment {
    pub(super) key: String,
    pub(super) kind: SegmentKind,
    pub(super) offset: usize,
    pub(super) dimension: usize,
    pub(super) shape: Vec<usize>,
    pub(super) nvec: Option<Vec<usize>>,
    pub(super) normalized: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stack {
    pub(super) frames: usize,
    pub(super) fill: Vec<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActionKind {
    Box,
    Discrete,
    MultiDiscrete,
    MultiBinary,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Action {
    pub(super) space: ActionKind,
    pub(super) dimension: usize,
    pub(super) low: Numbers,
    pub(super) high: Numbers,
    pub(super) nvec: Option<Vec<usize>>,
    pub(super) names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    pub(super) noise: Option<Noise>,
    #[serde(default)]
    pub(super) state: Vec<State>,
}

/// The distribution that noise is drawn from, independently for every element and every tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseKind {
    /// The standard normal one.
    Gaussian,
    /// The standard Gumbel one, −ln(−ln u).
    Gumbel,
}

impl From<NoiseKind> for Distribution {
    fn from(kind: NoiseKind) -> Self {
        match kind {
            NoiseKind::Gaussian => Self::Gaussian,
            NoiseKind::Gumbel => Self::Gumbel,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Noise {
    pub(super) dimension: usize,
    pub(super) kind: NoiseKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recurrent {
    pub(super) on_miss: Rule,
    pub(super) on_gap: Rule,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Rule {
    Keep,
    Reset,
    BurnIn(u32),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Default {
    pub(super) safe_default: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Golden {
    pub(super) vectors: usize,
    pub(super) tolerance: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Slo {
    pub(super) inference_us: f64,
    pub(super) percentile: f64,
}

/// The one key that every version has.
#[derive(Deserialize)]
struct Format {
    format: i64,
}

impl Manifest {
    /// Reads the text. The version is checked first, because another version has other keys.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |error: toml::de::Error| {
            let before = error.span().and_then(|place| text.get(..place.start)).unwrap_or_default();
            let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            format!("line {line}: {}", message.escape_default())
        };
        let Format { format } = toml::from_str(text).map_err(wrong)?;
        if format != FORMAT {
            return Err(format!("format = {format}; this version reads format {FORMAT}"));
        }
        toml::from_str(text).map_err(wrong)
    }
}
