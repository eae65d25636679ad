//! L4. The machine: where an agent's files are, cores, memory, signals, the service manager.

mod core;
mod directory;
mod emergency;
mod memory;
mod pipe;
mod sandbox;
mod service;

pub use core::{CoreError, pin_to, use_fifo_scheduler};
pub use directory::{AgentDirectory, DirectoryError, RingFile, Role};
pub use emergency::{Emergency, end_at_once};
pub use memory::{lock_all_memory, prefault_stack};
pub use pipe::end_quietly_on_closed_pipe;
pub use sandbox::{SandboxError, forbid_files};
pub use service::ServiceManager;
