//! L3. The hot loop: one observation in, one action out, the clock checked before anything leaves.
//!
//! [`Engine::tick`] is the whole of it: the daemon drives it in a busy-poll loop ([`run`]), tests drive it with a
//! manual clock, and so will replay. [`DeadlineGuard`] answers, on another core, the tick whose policy does not return in time. A tick makes no allocation, takes no lock, calls no system call, logs nothing and
//! loops over nothing but the fixed lengths of its vectors; what it has to say goes into a record ring and a page of
//! counters.

mod budget;
mod carry;
mod command;
mod deadline;
mod desk;
mod guard;
mod idle;
mod input_guard;
mod intake;
mod record;
mod resume;
mod run;
mod serving;
mod settings;
mod tick;
mod update;
mod warm_up;

pub use budget::{Budget, BudgetSpec};
pub use carry::{Carried, Carry, CarryRules};
pub use command::{Command, CommandWord};
pub use deadline::Deadlines;
pub use guard::{DeadlineGuard, GuardEnd, GuardWake, Look, Moment};
pub use idle::IdleStrategy;
pub use input_guard::{FeatureRange, GuardFinding, GuardMode, GuardSpec, InputGuard};
pub use record::{TickRecord, record_ring};
pub use resume::EngineError;
pub use run::{RunEnd, run};
pub use serving::Serving;
pub(crate) use settings::all_finite;
pub use settings::{Backlog, Bounds, OnFull, OnGap, OnMiss, Settings};
pub use tick::{Engine, Parts, Progress};
pub use update::{Company, Fate, PolicyChange, Update};
pub use warm_up::{WarmUp, WarmUpSpec, made_up_observations};

#[cfg(all(test, not(loom)))]
mod tests;
