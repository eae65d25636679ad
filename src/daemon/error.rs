//! Why an agent could not start. Each error is one line; `cli::exit` maps it to an exit code.

use crate::agent_files::StateError;
use crate::bundle::BundleError;
use crate::halt::StartRefused;
use crate::os::SandboxError;
use crate::policy::PolicyError;
use escapement_engine::EngineError;
use escapement_ring::clock::Nanos;
use escapement_ring::directory::DirectoryError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why existing rings can be neither taken over nor replaced.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: the rings there have {found}, the configuration asks for {asked}, and {unread}; drain them, or \
     remove the directory if their content is not needed",
    directory.display()
)]
pub struct RingsError {
    pub(super) directory: PathBuf,
    pub(super) found: String,
    pub(super) asked: String,
    pub(super) unread: String,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It is halted, and no person has re-armed it.
    #[error(
        "halted {summary}; nothing starts until a person lifts it: escapement rearm -c {} --reason TEXT",
        config.display()
    )]
    Latched {
        /// Since when, why and by whom; or why that cannot be read.
        summary: String,
        /// The configuration file.
        config: PathBuf,
    },
    /// Its state directory cannot be used, so a halt could not be kept.
    #[error("{0}; without it no halt could be kept")]
    State(#[from] StateError),
    /// Its directory, a lock or a ring cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its rings cannot be taken over.
    #[error(transparent)]
    Rings(#[from] RingsError),
    /// Its policy is refused.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The rings contradict each other.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its bundle, or the file in its place, is refused.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The input check must act on statistics, and the policy has none.
    #[error(
        "observation.guard.mode = {mode:?}: the policy stands alone, without a manifest that says what its \
         training saw; allowed: \"off\" or \"count\""
    )]
    NoStatistics {
        /// The mode.
        mode: &'static str,
    },
    /// Rules about carried state for a policy that carries none.
    #[error("policy.recurrent: the policy carries no state; allowed: none of its keys")]
    NoCarriedState,
    /// libtorch cannot be confined, and the configuration does not allow it to run unconfined.
    #[error(
        "backend torch is refused, since its write access to the filesystem cannot be taken away: {0}; \
         policy.allow_unsandboxed_torch = true runs it all the same"
    )]
    Unconfined(SandboxError),
    /// The policy's tail is so long that the agent would halt at once.
    #[error(
        "the policy's tail on this machine is {} us, deadline.inference_us = {}: \
         with deadline.on_miss = \"halt\" it would halt the agent",
        tail.0.div_ceil(1_000),
        limit.0 / 1_000
    )]
    TooSlow {
        /// The tail, at `warm_up.quantile`.
        tail: Nanos,
        /// The deadline.
        limit: Nanos,
    },
    /// The policy was not loaded in time.
    #[error("the policy was not loaded within policy.load_timeout_ms = {}: it hangs", limit.as_millis())]
    LoadHung {
        /// The time limit.
        limit: Duration,
    },
    /// The machine refuses what a strict configuration asks for.
    #[error("refused, since the configuration is strict: {0}")]
    Strict(String),
    /// A thread or a signal handler cannot be set up.
    #[error("{action}: {source}")]
    System {
        /// The action that failed.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl DaemonError {
    /// The refusal to start an agent with the configuration in `config`.
    pub(super) fn refused(config: &Path) -> impl Fn(StartRefused) -> Self + '_ {
        |refused| match refused {
            StartRefused::Halted { summary } => Self::Latched { summary, config: config.to_owned() },
            StartRefused::State(error) => error.into(),
            StartRefused::StateKeepsChanging => Self::System {
                action: "begin an epoch on the action ring",
                source: io::Error::other("its state word keeps changing"),
            },
        }
    }

    /// Whether a thread is still inside a policy that does not return. The process must end without
    /// destructors then.
    pub const fn leaves_a_thread(&self) -> bool {
        matches!(self, Self::LoadHung { .. })
    }

    /// The failure of an action that sets up a thread, a file or a signal handler.
    pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}
