//! L4. The configuration of an agent.
//!
//! Nothing falls back silently. An unknown key, a wrong type, a value out of range or a contradiction is
//! refused with the file, line, key, value and what is allowed. One run reports everything that is wrong.
//! `config/agent.toml` explains every key.
//!
//! # Design: one entry for each key
//! Everything that is decided for one key alone stands in its entry in the table in `keys`. The macro in
//! `entry` makes the rest from the table:
//!
//! | what | made from the entry's | forgetting it |
//! |---|---|---|
//! | reading and range, `Setting` in `Raw` | type, presence, rule, default | does not compile |
//! | list of keys, for messages and tests | name, rule | does not compile |
//! | JSON of `check` | `json` | does not compile |
//! | what a reload takes over, keeps or refuses | `reload` | does not compile |
//! | the value's place in [`AgentConfig`] | used in `checked` | unused field; a test of the JSON |
//! | text of `check` | `text` | a test that changes every key |
//! | explanation in `config/agent.toml` | name, rule, default | a test that reads that file |
//!
//! | module | holds |
//! |---|---|
//! | `document` | the parser's tree with places, and the problems found so far |
//! | `rule`, `form` | types and ranges, and the forms of texts |
//! | `words` | words for values that consist of two keys |
//! | `entry`, `keys` | the macro, and the table of keys |
//! | `checked` | what keys must be to each other |
//! | `built` | [`AgentConfig`], which the daemon runs on |
//! | `json`, `shown` | a configuration as JSON, and numbers in it |
//!
//! Keys are read one by one from the parser's tree, not through `serde`'s derive: the derive stops at the
//! first error, and knows neither the key nor its range.

mod built;
mod checked;
mod document;
mod entry;
mod error;
mod form;
mod json;
mod keys;
mod rule;
mod shown;
mod words;

pub use built::{
    AgentConfig, Backend, DeadlineGuardConfig, EngineConfig, GatewayConfig, OnFilesLost, OnGatewayLost,
    PolicyConfig, PolicySource, RecurrentConfig,
};
pub use entry::{CheckText, Key, Presence, Reload};
pub use error::{ConfigError, Problem};
pub use json::to_json;
pub use keys::keys;
pub use rule::Allowed;

use document::Document;
use escapement_policy::file::{self, ReadError};
use std::path::Path;

/// The largest file that is read, in bytes: about ten times a file with the limits of 4096 features.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// Reads and checks the file at `path`. It touches no other file.
///
/// # Errors
/// Fails if the file cannot be read, and if anything in it is wrong.
pub fn load(path: &Path) -> Result<AgentConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = match file::read(path, MAX_FILE_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(ReadError::System(source)) => return Err(unreadable(source)),
        Err(ReadError::TooLarge { .. } | ReadError::Grew { .. }) => {
            let what = format!("the file has more than {MAX_FILE_BYTES} bytes");
            return Err(ConfigError::unintelligible(path, 1, what));
        }
        Err(other @ ReadError::NotAFile) if path.is_dir() => return Err(unreadable(other.into())),
        Err(other @ ReadError::NotAFile) => {
            return Err(ConfigError::unintelligible(path, 1, other.to_string()));
        }
    };
    let text = str::from_utf8(&bytes).map_err(|error| {
        let whole_lines = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        ConfigError::unintelligible(path, 1 + whole_lines, "not UTF-8 text".to_owned())
    });
    parse(text?, path)
}

/// Checks `text`. Errors name `path` as the file. Paths in the text are relative to the directory of `path`.
///
/// # Errors
/// Fails if anything in it is wrong.
pub fn parse(text: &str, path: &Path) -> Result<AgentConfig, ConfigError> {
    let document = Document::parse(text, path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let config = keys::read(&document).and_then(|raw| checked::check(&document, &raw, directory));
    config.ok_or_else(|| ConfigError::Refused { problems: document.into_problems() })
}
