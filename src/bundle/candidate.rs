//! A policy that was read and verified, and not loaded yet.

use super::error::BundleError;
use super::trust::{SignatureState, Trust};
use super::{Bundle, Manifest};
use crate::policy::PolicyFile;
use std::path::Path;

/// What was read at a path: a verified bundle, or a TorchScript file that nothing verifies.
#[derive(Debug, Clone)]
pub enum Candidate {
    /// A bundle.
    Bundle(Box<Bundle>),
    /// A TorchScript file without a manifest and golden vectors. It can run, and reports call it unproven.
    Unproven(PolicyFile),
}

impl Candidate {
    /// Reads what is at `path`. A directory is a bundle, anything else a TorchScript file.
    ///
    /// # Errors
    /// As [`Bundle::open`]. Refuses a TorchScript file if `trust` requires a signature.
    pub fn read(path: &Path, trust: &Trust) -> Result<Self, BundleError> {
        let unreadable = |source| BundleError::Unreadable { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            return Bundle::open(path, trust).map(|bundle| Self::Bundle(Box::new(bundle)));
        }
        if trust.require_signature {
            let reason = "a signature is required, and only a bundle can have one";
            return Err(BundleError::refused(path, reason));
        }
        Ok(Self::Unproven(PolicyFile::read(path)?))
    }

    /// Returns the hash that identifies it: of the bundle's manifest, or of the file.
    pub fn sha256(&self) -> [u8; 32] {
        match self {
            Self::Bundle(bundle) => bundle.sha256(),
            Self::Unproven(file) => file.sha256(),
        }
    }

    /// Returns the TorchScript file, which is read and not loaded.
    pub fn policy_file(&self) -> &PolicyFile {
        match self {
            Self::Bundle(bundle) => bundle.policy_file(),
            Self::Unproven(file) => file,
        }
    }

    /// Returns the manifest; `None` for a file without one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Bundle(bundle) => Some(bundle.manifest()),
            Self::Unproven(_) => None,
        }
    }

    /// Returns the state of its signature.
    pub fn signature(&self) -> &SignatureState {
        match self {
            Self::Bundle(bundle) => bundle.signature(),
            Self::Unproven(_) => &SignatureState::Absent,
        }
    }
}
