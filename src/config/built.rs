//! The configuration that the daemon runs on: every value is checked, every default is filled in.

use crate::bundle::Trust;
use crate::policy::{Dimensions, Weights};
use escapement_engine::{CarryRule, GuardWake, IdleStrategy, InputCheckSpec, Settings, WarmUpSpec};
use escapement_policy::words;
use escapement_ring::clock::Nanos;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfig {
    /// The agent's name: its directory below [`AgentConfig::root`], and the systemd instance.
    pub name: String,
    /// The directory that holds the agents' directories; `None` for the machine's default.
    pub root: Option<PathBuf>,
    /// The directory that holds the agents' state directories; `None` for the machine's or the user's
    /// default.
    pub state_root: Option<PathBuf>,
    /// Whether a missing permission or an unsuitable machine refuses the start, instead of degrading it.
    pub strict: bool,
    /// The policy, which answers observations.
    pub policy: PolicyConfig,
    /// Widths of the two vectors.
    pub dimensions: Dimensions,
    /// Slots of the observation ring.
    pub observation_capacity: u64,
    /// Slots of the action ring.
    pub action_capacity: u64,
    /// How the engine's thread runs.
    pub engine: EngineConfig,
    /// How the deadline guard runs.
    pub guard: DeadlineGuardConfig,
    /// How long a call of the policy may take before the process ends as hung.
    pub hang_timeout: Nanos,
    /// How the agent warms up.
    pub warm_up: WarmUpSpec,
    /// The settings of a tick.
    pub settings: Settings,
    /// How long a drain may take. Then the rest stays in the ring.
    pub drain_timeout: Nanos,
    /// What a removed or replaced file of the running agent leads to.
    pub on_files_lost: OnFilesLost,
    /// When the gateway counts as lost, and what that leads to.
    pub gateway: GatewayConfig,
    /// The log filter, in the syntax of `tracing-subscriber`.
    pub log: String,
}

/// The policy and what runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyConfig {
    /// The policy's file; relative paths in the file are relative to the file.
    pub source: PolicySource,
    /// What runs it.
    pub backend: Backend,
    /// How it holds the weights. Only the native backend has a choice.
    pub weights: Weights,
    /// Which bundles are trusted.
    pub trust: Trust,
    /// Whether actions are the deterministic ones, without noise.
    pub deterministic: bool,
    /// The seed of the noise; `None` draws a new one at every start.
    pub seed: Option<u64>,
    /// How long loading may take, golden vectors included.
    pub load_timeout: Duration,
    /// Whether libtorch may run where the kernel cannot take write access away from it.
    pub allow_unsandboxed_torch: bool,
    /// What happens with features unlike those of the training.
    pub guard: InputCheckSpec,
    /// The policy that answers if the main one fails, before the constant default: a bundle or a TorchScript
    /// file.
    pub fallback: Option<PathBuf>,
    /// The rules for carried state that replace the bundle's.
    pub recurrent: RecurrentConfig,
}

/// The file's rules for carried state; `None` leaves the rule to the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecurrentConfig {
    /// At a tick whose action did not come from the policy.
    pub on_miss: Option<CarryRule>,
    /// At a break in the feed's sequence, or if observations were skipped.
    pub on_gap: Option<CarryRule>,
}

/// What a removed or replaced file of the running agent leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFilesLost {
    /// Halt: no new peer can find the agent, and its next halt may not be kept.
    Halt,
    /// Log it, count it, and go on.
    Report,
}

words!(OnFilesLost { Halt = "halt", Report = "report" });

/// What a lost gateway leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGatewayLost {
    /// Log it, count it, and go on.
    Keep,
    /// Halt.
    Halt,
}

words!(OnGatewayLost { Keep = "keep", Halt = "halt" });

/// When the gateway counts as lost, and what that leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayConfig {
    /// What it leads to.
    pub on_lost: OnGatewayLost,
    /// The age of its heartbeat at which it counts as lost.
    pub lost_after: Nanos,
}

/// How the deadline guard runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineGuardConfig {
    /// The core it is pinned to; `None` for any but the engine's.
    pub core: Option<usize>,
    /// How it waits.
    pub wake: GuardWake,
}

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicySource {
    /// A bundle directory, or a TorchScript file.
    Path(PathBuf),
    /// Nothing is loaded: the `null` backend answers zeros.
    Null,
}

impl PolicySource {
    /// Returns the path that the policy is loaded from; `None` if nothing is loaded.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Null => None,
        }
    }
}

pub use crate::policy::Backend;

/// How the engine's thread runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// The core it is pinned to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// How it waits for the next observation.
    pub idle: IdleStrategy,
    /// Priority of `SCHED_FIFO`, 1 to 99; `None` keeps the ordinary scheduler.
    pub realtime_priority: Option<u8>,
    /// Whether all memory is locked and prefaulted.
    pub lock_memory: bool,
}
