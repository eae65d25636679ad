//! The halt: an agent that is halted stays halted until a person re-arms it.
//!
//! # The promise
//! From the moment of a halt, the gateway reads `halted` and sends nothing. The halt outlives the engine, the
//! process, a restart by the service manager and a reboot. Only [`rearm`] lifts it, and [`rearm`] is a
//! person's command. Two reasons are exceptions: a halt for a panic or a truncated file lasts only as long as
//! the process, and a restart answers it.
//!
//! | file | how it keeps the promise |
//! |---|---|
//! | `state_word` | decides which reasons last; a lasting reason replaces a passing one |
//! | `latch` | the file whose presence is the halt; a torn or empty one halts as well |
//! | `audit` | one synced line for every halt and re-arm: who and why |
//! | `kill_switch` | sets the state word inside a signal handler |
//! | `crash` | sets the state word on a panic and on SIGBUS |
//! | `keeper` | refuses to start a halted agent, and writes latch and audit line of each halt |
//! | `caretaker` | ends a process at once that leaves a thread inside a policy |
//! | `operator` | a person's halt and re-arm, with or without a daemon |
//!
//! # Order
//! What halts comes first, what explains comes after: latch file, state word, signal, explanation, audit
//! line. A re-arm works in the opposite order. A crash between any two steps leaves the agent halted.
//!
//! # What a halt does not trust
//! The state word lies in memory that a peer may write. A peer can halt an agent by it, and cannot lift a
//! halt whose latch is written: the latch alone is enough to refuse a start.
//!
//! This module imports neither the daemon nor the commands. Both call it.

mod audit;
mod caretaker;
mod crash;
mod keeper;
mod kill_switch;
mod latch;
mod operator;
mod state_word;
mod user;

pub use audit::{Audit, AuditLine};
pub use caretaker::{dismiss_caretaker, end_at_once, prepare_to_end};
pub use crash::{CrashCodes, end_hung, watch_state_word};
pub use keeper::{AuditDetails, EndedBy, HaltKeeper, StartRefused, report_unkept};
pub use kill_switch::install_kill_switch;
pub use latch::{Engaged, Halt, Latch, LatchState};
pub use operator::{EngageError, Engagement, LatchWriter, RearmError, Target, engage, rearm};
pub use state_word::{halt_for_good, halt_reason, is_halted_for_good, latches, state_of};
pub use user::User;
