//! A policy that was read and verified, and not loaded yet.

use super::error::BundleError;
use super::trust::{SignatureState, Trust};
use super::{Bundle, Manifest};
use crate::policy::PolicyFile;
use std::path::Path;

/// What a path led to: a bundle, verified, or a TorchScript file for which nothing vouches.
#[derive(Debug, Clone)]
pub enum Candidate {
    /// A bundle.
    Bundle(Box<Bundle>),
    /// A file that stands alone: no manifest, no golden vectors. It runs, and reports call it unproven.
    Unproven(PolicyFile),
}

impl Candidate {
    /// Reads what is at `path`: a directory is a bundle, anything else a TorchScript file.
    ///
    /// # Errors
    /// As [`Bundle::open`]; a file that stands alone is refused where `trust` requires a signature.
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

    /// The hash that identifies it: of a bundle's manifest, of a file that stands alone.
    pub fn sha256(&self) -> [u8; 32] {
        match self {
            Self::Bundle(bundle) => bundle.sha256(),
            Self::Unproven(file) => file.sha256(),
        }
    }

    /// The TorchScript file, read and not loaded.
    pub fn policy_file(&self) -> &PolicyFile {
        match self {
            Self::Bundle(bundle) => bundle.policy_file(),
            Self::Unproven(file) => file,
        }
    }

    /// The manifest, where there is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match self {
            Self::Bundle(bundle) => Some(bundle.manifest()),
            Self::Unproven(_) => None,
        }
    }

    /// What is known about its signature.
    pub fn signature(&self) -> &SignatureState {
        match self {
            Self::Bundle(bundle) => bundle.signature(),
            Self::Unproven(_) => &SignatureState::Absent,
        }
    }
}
