//! The reason why a file cannot become a native policy, before a path is attached to it.

use std::path::Path;

use serde::Serialize;

use escapement_policy::PolicyError;
use escapement_policy::escape::escaped;

/// A reason to refuse a file. [`Refusal::at`] turns it into the error type that all backends share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The kind of the reason.
    pub kind: RefusalKind,
    /// Where in `forward` lowering stopped. `None` if the reason is not about a place in the source.
    pub place: Option<Place>,
    /// The reason, on one line.
    pub reason: String,
}

/// The kinds of reasons to refuse a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// Damaged, hostile, or not a TorchScript archive.
    Malformed,
    /// A sound archive with a part that the native engine does not run.
    Unsupported,
    /// The widths do not fit together.
    Shape,
    /// Reading or lowering it takes more memory than a file of its size may take.
    TooMuchMemory,
    /// Reading or lowering it takes more work than a file of its size may take.
    TooMuchWork,
}

/// A place in the source inside an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The member of the archive.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The operator or function at that line.
    pub operator: String,
}

impl Refusal {
    /// A reason may quote the file, so it is escaped.
    pub(crate) fn new(kind: RefusalKind, reason: impl AsRef<str>) -> Self {
        Self { kind, place: None, reason: escaped(reason.as_ref()) }
    }

    pub(crate) fn malformed(reason: impl AsRef<str>) -> Self {
        Self::new(RefusalKind::Malformed, reason)
    }

    pub(crate) fn unsupported(reason: impl AsRef<str>) -> Self {
        Self::new(RefusalKind::Unsupported, reason)
    }

    /// Whether other shapes of the arguments could not help.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.kind, RefusalKind::Unsupported | RefusalKind::Shape)
    }

    /// A refusal because widths or shapes are not the expected ones.
    pub fn shape(reason: impl AsRef<str>) -> Self {
        Self::new(RefusalKind::Shape, reason)
    }

    /// Adds `context` (an archive member) before the reason.
    pub(crate) fn within(self, context: &str) -> Self {
        Self { reason: escaped(&format!("{context}: {}", self.reason)), ..self }
    }

    /// Sets the place, unless one is already set. The innermost place is the one to report.
    pub(crate) fn found_at(self, place: impl FnOnce() -> Place) -> Self {
        Self { place: self.place.or_else(|| Some(place())), ..self }
    }

    /// Converts the refusal to the public error about the file at `path`.
    pub fn at(self, path: &Path) -> PolicyError {
        let path = path.to_path_buf();
        let reason = self.to_string();
        match self.kind {
            RefusalKind::Malformed | RefusalKind::TooMuchMemory | RefusalKind::TooMuchWork => {
                PolicyError::Malformed { path, reason }
            }
            RefusalKind::Unsupported => PolicyError::Unsupported { path, reason },
            RefusalKind::Shape => PolicyError::Shape { path, reason },
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Some(Place { file, line, operator }) => write!(out, "{file}:{line}: {operator}: {}", self.reason),
            None => out.write_str(&self.reason),
        }
    }
}
