//! Choosing a backend and loading a policy with it.

use super::{Dimensions, Null, Policy, PolicyError};
use std::path::{Path, PathBuf};

/// What runs a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The native engine.
    Native,
    /// libtorch.
    Torch,
    /// Native where the policy lowers, else torch where it is built in.
    Auto,
    /// Answers zeros at once.
    Null,
}

impl Backend {
    /// Every backend, in the order in which help texts name them.
    pub const ALL: &[Self] = &[Self::Auto, Self::Native, Self::Torch, Self::Null];

    /// The name in config files, on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Torch => "torch",
            Self::Auto => "auto",
            Self::Null => "null",
        }
    }

    /// The backend of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|backend| backend.name() == name)
    }
}

/// The TorchScript file that a path means: itself, or the one in a bundle directory.
pub fn policy_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("policy.pt") } else { path.to_owned() }
}

/// Loads the policy at `path` (a TorchScript file or a bundle directory) with the given widths.
///
/// # Errors
/// When the file is missing, damaged, of other widths, or not one that the backend can run; when the backend is not
/// part of this build.
pub fn load(path: &Path, backend: Backend, dimensions: Dimensions) -> Result<Box<dyn Policy>, PolicyError> {
    match backend {
        Backend::Null => Ok(Box::new(Null::new(dimensions))),
        Backend::Native | Backend::Torch | Backend::Auto => Err(PolicyError::Backend {
            backend: backend.name(),
            reason: format!("not part of this build; {} was not read", policy_file(path).display()),
        }),
    }
}
