//! Errors of reading and loading a bundle.

use crate::policy::PolicyError;
use escapement_policy::escape::escaped;
use std::path::{Path, PathBuf};

/// Why a bundle, or a policy without a bundle, is not loaded. No part of it stays in use.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The path does not exist, or cannot be read.
    #[error("{}: {source}", escaped(&path.to_string_lossy()))]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The bundle contradicts its manifest, or does not fit the request.
    #[error("{}: {}", escaped(&file.to_string_lossy()), escaped(reason))]
    Refused {
        /// The faulty file, or the bundle's directory.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The backend refuses the policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl BundleError {
    pub(super) fn refused(file: &Path, reason: impl Into<String>) -> Self {
        Self::Refused { file: file.to_owned(), reason: reason.into() }
    }
}
