//! The halt: once an agent is halted, it stays halted until a person re-arms it.

mod audit;
mod caretaker;
mod emergency;
mod latch;

pub use audit::{Audit, AuditLine, User};
pub use caretaker::{dismiss_caretaker, end_at_once, prepare_to_end};
pub use emergency::{Emergency, install_kill_switch, kill_switch_pulled_by};
pub use latch::{Engaged, Halt, Latch, LatchState, halt_for_good, latches};
