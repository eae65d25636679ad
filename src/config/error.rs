//! Why a configuration is refused: one line for each thing that is wrong, in the order of the file.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file, or it cannot be read.
    #[error("{}: {source}", one_line(&path.to_string_lossy()))]
    Unreadable {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read, and something in it is wrong.
    #[error("{}", Lines(problems))]
    Refused {
        /// What is wrong, by line. Never empty.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// A file that cannot be understood from `line` on.
    pub(super) fn unintelligible(file: &Path, line: usize, what: String) -> Self {
        let file = file.to_owned();
        Self::Refused { problems: vec![Problem { file, line, key: None, value: None, what, allowed: None }] }
    }

    /// What is wrong in the file; empty when there was no file to read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Refused { problems } => problems,
        }
    }
}

/// One thing that is wrong in a file. Displays as `FILE:LINE: KEY = VALUE: WHAT; allowed: RANGE`, always on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1: of the value, of an unknown key, or of the table that lacks a key.
    pub line: usize,
    /// The key with its table, as in `deadline.inference_us`; `None` where the text is not TOML.
    pub key: Option<String>,
    /// The value as it is written in the file, shortened; `None` where there is none.
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
    one_line(&path.to_string_lossy())
}

/// The text with whatever would break a line or move a terminal's cursor written as an escape.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
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
