//! L4. The configuration: what stands in the file (`raw`), what it means together (`checked`), what the daemon runs on
//! ([`AgentConfig`]).
//!
//! Nothing falls back silently. An unknown key, a wrong type, a value out of range or a contradiction is refused with
//! the file, line, key, value and what is allowed; one run reports everything that is wrong. `config/agent.toml`
//! explains every key.
//!
//! The keys are read one by one from the parser's tree and not through `serde`'s derive, which stops at the first
//! error and knows neither the key nor the range of it.

mod built;
mod checked;
mod document;
mod error;
mod raw;
mod rule;

pub use built::{
    AgentConfig, Backend, DeadlineGuardConfig, EngineConfig, PolicyConfig, PolicySource, RecurrentConfig,
};
pub use document::{Key, Presence};
pub use error::{ConfigError, Problem};
pub use rule::Allowed;

use document::Document;
use std::io::Read;
use std::path::Path;

/// The largest file that is read, in bytes: some ten times one with the limits of 4096 features.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// Reads and checks the file at `path`. Nothing but that file is touched.
///
/// # Errors
/// When it cannot be read, and when anything in it is wrong.
pub fn load(path: &Path) -> Result<AgentConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let whole_lines = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        ConfigError::unintelligible(path, 1 + whole_lines, "not UTF-8 text".to_owned())
    });
    if bytes.len() > MAX_FILE_BYTES {
        return Err(ConfigError::unintelligible(
            path,
            1,
            format!("the file has more than {MAX_FILE_BYTES} bytes"),
        ));
    }
    parse(text?, path)
}

/// Checks `text`, which errors call `path`; relative paths in it are relative to the directory of `path`.
///
/// # Errors
/// When anything in it is wrong.
pub fn parse(text: &str, path: &Path) -> Result<AgentConfig, ConfigError> {
    let document = Document::parse(text, path)?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let config = raw::read(&document).and_then(|raw| checked::check(&document, &raw, directory));
    config.ok_or_else(|| ConfigError::Refused { problems: document.into_problems() })
}

/// Every key of the file format, in the order in which it is read.
pub fn keys() -> Vec<Key> {
    match Document::parse("", Path::new("")) {
        Ok(document) => {
            // An empty file lacks keys, and all of them are asked for.
            let _ = raw::read(&document);
            document.into_keys()
        }
        Err(_) => Vec::new(),
    }
}
