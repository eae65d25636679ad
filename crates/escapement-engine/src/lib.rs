//! L3. The hot loop: one observation in, one action out, the clock checked before anything leaves.
//!
//! [`Engine::tick`] is the whole of it: the daemon drives it in a busy-poll loop ([`run`]), tests drive it with a
//! manual clock, and so will replay. [`DeadlineGuard`] answers, on another core, the tick whose policy does not return in time. A tick makes no allocation, takes no lock, calls no system call, logs nothing and
//! loops over nothing but the fixed lengths of its vectors; what it has to say goes into a record ring and a page of
//! counters.

#[cfg(not(loom))]
mod admission;
#[cfg(not(loom))]
mod budget;
#[cfg(not(loom))]
mod carried_state;
#[cfg(not(loom))]
mod command;
#[cfg(not(loom))]
mod deadline;
#[cfg(not(loom))]
mod guard;
#[cfg(not(loom))]
mod idle;
#[cfg(not(loom))]
mod input_check;
pub mod lease;
#[cfg(not(loom))]
pub mod noise;
#[cfg(not(loom))]
mod policies;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
mod responder;
#[cfg(not(loom))]
mod resume;
#[cfg(not(loom))]
mod run;
#[cfg(not(loom))]
mod settings;
#[cfg(not(loom))]
pub mod telemetry;
#[cfg(not(loom))]
mod tick;
#[cfg(not(loom))]
mod update;
#[cfg(not(loom))]
mod warm_up;

#[cfg(not(loom))]
pub use budget::{Budget, BudgetSpec};
#[cfg(not(loom))]
pub use carried_state::{CarriedState, CarryRule, CarryRules};
#[cfg(not(loom))]
pub use command::{Command, CommandWord};
#[cfg(not(loom))]
pub use deadline::Deadlines;
#[cfg(not(loom))]
pub use guard::{DeadlineGuard, GuardEnd, GuardEvent, GuardPoll, GuardWake};
#[cfg(not(loom))]
pub use idle::IdleStrategy;
#[cfg(not(loom))]
pub use input_check::{FeatureRange, InputCheck, InputCheckMode, InputCheckResult, InputCheckSpec};
#[cfg(not(loom))]
pub use policies::Policies;
#[cfg(not(loom))]
pub use record::{TickRecord, record_ring};
#[cfg(not(loom))]
pub use resume::EngineError;
#[cfg(not(loom))]
pub use run::{RunEnd, run};
#[cfg(not(loom))]
pub use settings::{Backlog, Bounds, OnFull, OnGap, OnMiss, Settings, all_finite};
#[cfg(not(loom))]
pub use tick::{Engine, Parts, Progress};
#[cfg(not(loom))]
pub use update::{PolicyChange, PolicyExtras, Update, UpdateOutcome};
#[cfg(not(loom))]
pub use warm_up::{WarmUp, WarmUpSpec, synthetic_observations};

#[cfg(all(test, not(loom)))]
mod tests;
