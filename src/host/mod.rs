//! L4. The machine: where an agent's files are, cores, memory, signals, the service manager.

mod directory;

pub use directory::{AgentDirectory, DirectoryError, RingFile, Role};
