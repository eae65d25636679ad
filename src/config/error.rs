//! Errors of a configuration: one line for each problem, in the order of the file.

use escapement_policy::escape::escaped;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist, or cannot be read.
    #[error("{}: {source}", escaped(&path.to_string_lossy()))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file was read, and has problems.
    #[error("{}", Lines(problems))]
    Refused {
        /// The problems, by line. Never empty.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// A file that cannot be understood from `line` on.
    pub(super) fn unintelligible(file: &Path, line: usize, what: String) -> Self {
        let file = file.to_owned();
        Self::Refused { problems: vec![Problem { file, line, key: None, value: None, what, allowed: None }] }
    }

    /// Returns the problems in the file; empty if it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Refused { problems } => problems,
        }
    }
}

/// One problem in a file. Displays as `FILE:LINE: KEY = VALUE: WHAT; allowed: RANGE`, always on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1: of the value, of an unknown key, or of the table that lacks a key.
    pub line: usize,
    /// The key with its table, as in `deadline.inference_us`; `None` if the text is not TOML.
    pub key: Option<String>,
    /// The value as it is written in the file, shortened; `None` if there is none.
    pub value: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What the key may hold.
    pub allowed: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}: ", file_name(&self.file), self.line)?;
        match (&self.key, &self.value) {
            (Some(key), Some(value)) => write!(out, "{key} = {value}: ")?,
            (Some(key), None) => write!(out, "{key}: ")?,
            (None, _) => {}
        }
        write!(out, "{}", self.what)?;
        match &self.allowed {
            Some(allowed) => write!(out, "; allowed: {allowed}"),
            None => Ok(()),
        }
    }
}

fn file_name(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

struct Lines<'p>(&'p [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{problem}")?;
        }
        Ok(())
    }
}
