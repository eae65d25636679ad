//! Errors of a policy: detailed ones while loading, and one-word faults of a call.

use std::path::PathBuf;

use crate::escape::escaped;

/// Why a call returned no action. Plain data, so that reporting it costs the hot path nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The policy raised an error of its own, for example a TorchScript exception.
    #[error("the policy raised an error")]
    Raised,
    /// The policy returned something other than one tensor of the action's width.
    #[error("the policy returned something that is not an action")]
    NotAnAction,
}

/// Why a policy cannot be loaded or prepared.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file does not exist or cannot be read.
    #[error("{}: {source}", escaped(&path.to_string_lossy()))]
    Unreadable {
        /// The file that was asked for.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file is not a policy: it is damaged, hostile, or not TorchScript at all.
    #[error("{}: {}", escaped(&path.to_string_lossy()), escaped(reason))]
    Malformed {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// The policy's widths are not those that were asked for.
    #[error("{}: {}", escaped(&path.to_string_lossy()), escaped(reason))]
    Shape {
        /// The file that was read.
        path: PathBuf,
        /// The expected and the found widths.
        reason: String,
    },
    /// The file is a policy, but this backend cannot run it, for example because it has an operator that the
    /// native backend does not support.
    #[error("{}: {}", escaped(&path.to_string_lossy()), escaped(reason))]
    Unsupported {
        /// The file that was read.
        path: PathBuf,
        /// The construct, and where it is in the file.
        reason: String,
    },
    /// The backend is not part of this build, or the thread could not be prepared for it.
    #[error("backend {backend}: {}", escaped(reason))]
    Backend {
        /// The backend's name.
        backend: &'static str,
        /// What is missing, and how to get it.
        reason: String,
    },
}
