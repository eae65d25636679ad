//! What can go wrong with a policy: cold errors while loading, and the one-word faults of a call.

use std::path::PathBuf;

/// Why a call gave no action. Plain data, so that reporting one costs the hot path nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The policy raised an error of its own (a TorchScript exception, for one).
    #[error("the policy raised an error")]
    Raised,
    /// The policy returned something other than one tensor of the action's width.
    #[error("the policy returned something that is not an action")]
    NotAnAction,
}

/// Why a policy cannot be loaded or prepared.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// There is no such file, or it cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a policy: damaged, hostile, or not TorchScript at all.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// The policy's widths are not those that were asked for.
    #[error("{}: {reason}", path.display())]
    Shape {
        /// The file that was read.
        path: PathBuf,
        /// Expected and found widths.
        reason: String,
    },
    /// The file is a policy, but this backend cannot run it (an operator the native backend does not know).
    #[error("{}: {reason}", path.display())]
    Unsupported {
        /// The file that was read.
        path: PathBuf,
        /// The construct, and where in the file it stands.
        reason: String,
    },
    /// The backend is not part of this build, or the thread could not be prepared for it.
    #[error("backend {backend}: {reason}")]
    Backend {
        /// The backend's name.
        backend: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
}
