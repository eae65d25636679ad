//! Why a bundle is not loaded.

use crate::policy::PolicyError;
use std::path::{Path, PathBuf};

/// Why a bundle, or a policy that stands alone, is not loaded. Nothing of it stays in use.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is nothing at the path, or it may not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bundle is not what it says it is, or not what is asked for.
    #[error("{}: {reason}", file.display())]
    Refused {
        /// The file of the bundle that is wrong, or the bundle itself.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The backend says no.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl BundleError {
    pub(super) fn refused(file: &Path, reason: impl Into<String>) -> Self {
        Self::Refused { file: file.to_owned(), reason: reason.into() }
    }
}
