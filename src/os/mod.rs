//! The operating system: cores, memory, the sandbox, signals, pipes, the service manager.

mod core;
mod memory;
mod pipe;
mod sandbox;
mod service;
mod signals;

pub use core::{CoreError, keep_off, on_this_core, pin_to, use_fifo_scheduler};
pub use memory::{lock_all_memory, prefault_stack};
pub use pipe::{end_quietly_on_closed_pipe, open_nonblocking, say, write_without_blocking};
pub use sandbox::{SandboxError, forbid_files};
pub use service::ServiceManager;
pub use signals::{Request, Requested, Signals};
