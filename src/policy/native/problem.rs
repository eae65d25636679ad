//! What stops a file from becoming a native policy, before a path is attached to it.

use std::path::Path;

use crate::policy::PolicyError;

/// A reason to refuse a file. [`Problem::at`] turns it into the error that every backend shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Damaged, hostile, or not a TorchScript archive.
    Malformed(String),
    /// A sound archive with something in it that the native engine does not run.
    Unsupported(String),
    /// The widths do not fit together.
    Shape(String),
}

impl Problem {
    pub(crate) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed(reason.into())
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self::Unsupported(reason.into())
    }

    pub(crate) fn shape(reason: impl Into<String>) -> Self {
        Self::Shape(reason.into())
    }

    /// Puts `context` (an archive member, or a file and line) before the reason.
    pub(crate) fn within(self, context: &str) -> Self {
        let prefix = |reason: String| format!("{context}: {reason}");
        match self {
            Self::Malformed(reason) => Self::Malformed(prefix(reason)),
            Self::Unsupported(reason) => Self::Unsupported(prefix(reason)),
            Self::Shape(reason) => Self::Shape(prefix(reason)),
        }
    }

    /// The public error about the file at `path`.
    pub(crate) fn at(self, path: &Path) -> PolicyError {
        let path = path.to_path_buf();
        match self {
            Self::Malformed(reason) => PolicyError::Malformed { path, reason },
            Self::Unsupported(reason) => PolicyError::Unsupported { path, reason },
            Self::Shape(reason) => PolicyError::Shape { path, reason },
        }
    }
}
