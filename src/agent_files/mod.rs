//! The agent's own files: its state directory, its run file, and its control socket.

mod control;
mod lock_holder;
mod replace;
mod run_file;
mod state;

pub use control::{ControlRequest, ControlSocket, Pending, ReloadTarget, ask_daemon};
pub use lock_holder::lock_holder;
pub use replace::replace_file;
pub use run_file::{LiveDaemon, RunFile};
pub use state::{RearmLock, StateDirectory, StateError};
