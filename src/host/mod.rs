//! L4. The machine: where an agent's files are, its latch and audit, cores, memory, signals, the service manager.

mod audit;
mod control;
mod core;
mod directory;
mod emergency;
mod latch;
mod memory;
mod pipe;
mod process_end;
mod run_file;
mod sandbox;
mod service;
mod signals;
mod state;
mod thread_watch;

pub use audit::{Audit, AuditLine, User};
pub use control::{ControlRequest, ControlSocket, Pending, ReloadTarget, ask_daemon};
pub use core::{CoreError, keep_off, pin_to, use_fifo_scheduler};
pub use directory::{AgentDirectory, DirectoryError, RingFile, Role};
pub use emergency::{Emergency, kill_switch_pulled_by};
pub use latch::{Engaged, Halt, Latch, LatchState, halt_for_good, latches};
pub use memory::{lock_all_memory, prefault_stack};
pub use pipe::{end_quietly_on_closed_pipe, say, unwaiting, write_at_once};
pub use process_end::{dismiss_caretaker, end_at_once, prepare_to_end};
pub use run_file::{LiveDaemon, RunFile};
pub use sandbox::{SandboxError, forbid_files};
pub use service::ServiceManager;
pub use signals::{Request, Requested, Signals};
pub use state::{RearmLock, StateDirectory, StateError};
pub use thread_watch::{ThreadWatch, WatchError, steal_is_accounted};
