//! Why a reference program failed.

use crate::feed::RecordingError;
use escapement_ring::directory::DirectoryError;
use escapement_ring::gateway::AttachError;
use escapement_ring::ring::ProtocolViolation;
use std::path::{Path, PathBuf};

/// Why a reference program failed. The command that runs it chooses the exit code.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// What was asked for does not fit together. The text says what is allowed.
    #[error("{0}")]
    Usage(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A recording cannot be used.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The agent's directory or one of its rings cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A gateway cannot attach.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The agent broke the ring's protocol.
    #[error(transparent)]
    Violation(#[from] ProtocolViolation),
    /// A process of the demo failed.
    #[error("{message}")]
    Process {
        /// Its exit code; `None` where it was ended by a signal.
        code: Option<i32>,
        /// Its name and its own last lines.
        message: String,
    },
    /// Something that may work at the next attempt.
    #[error("{0}")]
    Temporary(String),
    /// A defect of this program.
    #[error("{0}")]
    Internal(String),
}

impl ReferenceError {
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }
}
