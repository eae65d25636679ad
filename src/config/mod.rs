//! L4. The configuration: what stands in the file (`raw`), what it means (`checked`), what the daemon runs on
//! ([`AgentConfig`]).
//!
//! Nothing falls back silently. An unknown key, a wrong type, a value out of range or a contradiction is refused with
//! the file, line, key, value and what is allowed.

mod built;

pub use built::{AgentConfig, Backend, EngineConfig, PolicyConfig, PolicySource};
