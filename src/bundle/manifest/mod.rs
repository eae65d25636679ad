//! The manifest of a bundle, `bundle.toml`: what the policy is, what it takes and gives, and the hashes of
//! its files. `docs/BUNDLE.md` is its specification.

mod check;
mod raw;

pub use raw::{NoiseKind, SegmentKind, Versions};

use crate::hex::hex;
use crate::policy::Signature;
use escapement_engine::{CarryRule, CarryRules};
use sha2::{Digest, Sha256};

/// A manifest that follows the specification.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The bundle's name.
    pub name: String,
    /// What trained it.
    pub algorithm: String,
    /// When it was exported, RFC 3339.
    pub created: String,
    /// When the model file was written, RFC 3339.
    pub trained: Option<String>,
    /// What wrote it.
    pub versions: Versions,
    /// `policy.pt`.
    pub policy: FileEntry,
    /// `golden.safetensors`.
    pub golden: FileEntry,
    /// What the feed publishes.
    pub observation: ObservationSpace,
    /// What the policy returns.
    pub action: ActionSpace,
    /// The noise that `forward` takes; `None` if it has no randomness.
    pub noise: Option<Noise>,
    /// The states that `forward` carries, in the order of its arguments; empty if it is not recurrent.
    pub states: Vec<State>,
    /// What happens to the states when the policy's action was not used; `None` if and only if there are no
    /// states.
    pub recurrent: Option<Recurrent>,
    /// A suggested safe default. The configuration decides.
    pub safe_default: Option<Vec<f32>>,
    /// Rows of the golden vectors.
    pub golden_vectors: usize,
    /// The allowed distance of an action from the expected one; see [`super::Golden`].
    pub tolerance: f64,
    /// The latency that the author claims.
    pub slo: Option<Slo>,
}

/// A file as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its plain name.
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: [u8; 32],
}

/// The raw observation.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservationSpace {
    /// Its elements.
    pub dimension: usize,
    /// A name for each element.
    pub names: Option<Vec<String>>,
    /// The space's lower bounds, `-inf` for none.
    pub low: Vec<f64>,
    /// The space's upper bounds, `inf` for none.
    pub high: Vec<f64>,
    /// Mean and standard deviation of each element during training.
    pub statistics: Option<Statistics>,
    /// The parts of the vector, in order; empty if the manifest does not list them.
    pub segments: Vec<Segment>,
    /// The frames in the vector, if it holds several.
    pub stack: Option<Stack>,
}

/// Training statistics of the raw observation, one number for each element.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviations, zero or more.
    pub std: Vec<f64>,
}

/// A part of the observation vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its key in a Dict space; empty for other spaces.
    pub key: String,
    /// What it holds.
    pub kind: SegmentKind,
    /// Its first element.
    pub offset: usize,
    /// Its elements.
    pub dimension: usize,
    /// Its shape before it was flattened.
    pub shape: Vec<usize>,
    /// Counts of its categories.
    pub nvec: Vec<usize>,
    /// Whether the graph normalises it.
    pub normalized: bool,
}

/// Several frames in one observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// How many.
    pub frames: usize,
    /// The padding for frames that do not exist yet.
    pub fill: Vec<f64>,
}

/// What an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionKind {
    /// Real numbers.
    Box,
    /// One index.
    Discrete,
    /// One index for each component.
    MultiDiscrete,
    /// Zeros and ones.
    MultiBinary,
}

/// The action.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionSpace {
    /// What it is.
    pub kind: ActionKind,
    /// Its elements.
    pub dimension: usize,
    /// Lower bounds.
    pub low: Vec<f64>,
    /// Upper bounds.
    pub high: Vec<f64>,
    /// Counts of the categories; empty if there are none.
    pub nvec: Vec<usize>,
    /// A name for each element.
    pub names: Option<Vec<String>>,
}

/// The randomness that `forward` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    /// Its elements.
    pub dimension: usize,
    /// Its distribution.
    pub kind: NoiseKind,
}

/// A carried state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The rules for carried states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurrent {
    /// At a tick whose action was not the policy's.
    pub on_miss: StateRule,
    /// At a gap in the feed's sequence.
    pub on_gap: StateRule,
}

/// What becomes of carried states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateRule {
    /// The newest state that the policy completed is carried on.
    Keep,
    /// Zeros.
    Reset,
    /// Zeros. Then this many observations are fed to the policy while the safe default is sent.
    BurnIn(u32),
}

/// The longest burn-in, in observations. It holds for bundles and for configurations.
pub const MAX_BURN_IN: u32 = 100_000;

impl From<StateRule> for CarryRule {
    fn from(rule: StateRule) -> Self {
        match rule {
            StateRule::Keep => Self::Keep,
            StateRule::Reset => Self::Reset,
            StateRule::BurnIn(observations) => Self::BurnIn(observations),
        }
    }
}

impl From<Recurrent> for CarryRules {
    fn from(recurrent: Recurrent) -> Self {
        Self { on_miss: recurrent.on_miss.into(), on_gap: recurrent.on_gap.into() }
    }
}

/// A claim about the time that a call takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slo {
    /// The time.
    pub inference_us: f64,
    /// The percentile that stays within it.
    pub percentile: f64,
}

impl ActionKind {
    /// The name in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Discrete => "discrete",
            Self::MultiDiscrete => "multi_discrete",
            Self::MultiBinary => "multi_binary",
        }
    }
}

/// The prefix of a manifest's last line.
const SEAL: &[u8] = b"# sha256 ";
/// The length of that line: the prefix, 64 digits, and the newline.
const SEAL_BYTES: usize = SEAL.len() + 64 + 1;

/// Returns the text above the seal, whose hash the seal holds. The seal is checked before the text is parsed,
/// because a damaged manifest can still parse, with another number in it.
fn unsealed(bytes: &[u8]) -> Result<&[u8], String> {
    let split = bytes.len().checked_sub(SEAL_BYTES).and_then(|at| bytes.split_at_checked(at));
    let (above, seal) = split.ok_or("too short for a manifest")?;
    let digits = seal
        .strip_prefix(SEAL)
        .and_then(|rest| rest.strip_suffix(b"\n"))
        .ok_or("its last line is not \"# sha256 …\", the hash of the lines above")?;
    if above.last() == Some(&b'\n') && digits == hex(&Sha256::digest(above).into()).as_bytes() {
        Ok(above)
    } else {
        Err("damaged, or edited: the hash in its last line is not that of the lines above".to_owned())
    }
}

impl Manifest {
    /// Parses and checks the bytes of a manifest.
    ///
    /// # Errors
    /// Fails with one line: where, what, and what is allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text =
            std::str::from_utf8(unsealed(bytes)?).map_err(|error| format!("not UTF-8 text: {error}"))?;
        check::check(raw::Manifest::parse(text)?)
    }

    /// Returns what `forward` takes after the observation.
    pub fn signature(&self) -> Signature {
        Signature {
            noise: self.noise.map_or(0, |noise| noise.dimension),
            states: self.states.iter().map(|state| state.shape.clone()).collect(),
        }
    }
}
