//! L3. The hot loop of Escapement: one observation in, one action out, and the clock is checked before
//! anything leaves.
//!
//! [`Engine::tick`] answers one observation. The daemon drives it in a busy-poll loop ([`run()`]); tests and
//! replay drive it with a manual clock. [`DeadlineGuard`], on another core, answers the tick if the policy
//! does not return in time. A tick does not allocate, lock, log or make a system call, and every loop in it
//! has the fixed length of a vector. It reports through a ring of [`TickRecord`]s and a page of
//! [`telemetry::Counters`].
//!
//! # Example
//! An engine on rings in ordinary memory answers one observation. [`Null`](escapement_policy::Null) is the
//! policy that answers zeros.
//! ```
//! use escapement_engine::telemetry::Counters;
//! use escapement_engine::{Engine, Parts, Policies, Progress, record_ring};
//! # use escapement_engine::{Backlog, Bounds, BudgetSpec, Deadlines, KeepWarm, OnFull, OnGap, OnMiss};
//! # use escapement_engine::Settings;
//! use escapement_policy::{Dimensions, Null};
//! use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
//! use escapement_ring::ring::{Consumer, HeapRegion, Producer, Spec};
//! use escapement_ring::wire::{
//!     ActionHeader, KIND_ACTION, KIND_OBSERVATION, ObservationHeader, Outcome, payload_bytes,
//! };
//! use std::sync::Arc;
//!
//! let ring = |kind, slot_size: usize, dimension| {
//!     HeapRegion::ring(Spec { kind, slot_size: slot_size as u32, dimension, capacity: 8, generation: 1 })
//! };
//! let observations = ring(KIND_OBSERVATION, ObservationHeader::slot_size(3), 3)?;
//! let actions = ring(KIND_ACTION, ActionHeader::slot_size(2), 2)?;
//! let (records_in, mut records) = record_ring(8);
//! # let limit = Nanos::from_millis(1_000);
//! # let settings = Settings {
//! #     enforce: true,
//! #     deadlines: Deadlines { inference: limit, end_to_end: limit, max_age: None },
//! #     max_skew: Nanos::from_millis(1),
//! #     on_miss: OnMiss::SafeDefault,
//! #     miss_budget: BudgetSpec::NONE,
//! #     error_budget: BudgetSpec::NONE,
//! #     backlog: Backlog::Every,
//! #     on_full: OnFull::Halt,
//! #     on_gap: OnGap::SafeDefault,
//! #     keep_warm: KeepWarm::Off,
//! #     observation_bounds: Bounds::unlimited(3),
//! #     action_bounds: Bounds::unlimited(2),
//! #     safe_default: vec![0.0; 2].into(),
//! #     neutral: vec![0.0; 2].into(),
//! # };
//! let policy = Null::new(Dimensions { observation: 3, action: 2 });
//! let mut engine = Engine::new(Parts {
//!     clock: MonotonicClock,
//!     policies: Policies::new(Box::new(policy), None),
//!     observations: Consumer::attach(observations.clone())?,
//!     observation_header: observations.header(),
//!     actions: Producer::attach(actions.clone())?,
//!     action_header: actions.header(),
//!     records: records_in,
//!     counters: Arc::new(Counters::new()),
//!     settings, // deadlines, limits, and what is sent instead of the policy's action
//!     epoch: 1,
//! })?;
//!
//! // The feed commits an observation.
//! let features = [0.5, -0.25, 1.0];
//! let header = ObservationHeader { ts_publish_ns: MonotonicClock.now().0, ..Default::default() };
//! let mut feed = Producer::attach(observations)?;
//! let mut claim = feed.try_claim()?;
//! claim.write(0, zerocopy::IntoBytes::as_bytes(&header.sealed(&features)));
//! claim.write(ObservationHeader::BYTES, payload_bytes(&features));
//! claim.commit();
//!
//! // The engine answers it, and the gateway's ring holds one action.
//! assert!(matches!(engine.tick(), Progress::Done(_)));
//! assert_eq!(engine.tick(), Progress::Idle);
//! assert_eq!(Consumer::attach(actions)?.committed()?, 1);
//! let record = escapement_engine::TickRecord::take(&mut records).ok_or("a tick has a record")?;
//! assert_eq!(record.outcome, Outcome::Policy.number());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//! From the bottom up. A module imports only from its own line and the lines above it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`lease`] | how a right passes between two threads without a lock; it knows nothing of ticks |
//! | [`telemetry`], [`noise`] | counters and histograms; a policy's reproducible noise |
//! | `deadline`, `budget`, `checks`, `keep_warm`, `settings` | the rules of a tick, and of dry runs |
//! | `admission`, `input_check` | what may reach a policy |
//! | `carried_state`, `state_copy`, `policies` | the policies, and their carried states |
//! | `record`, `verdict`, `responder` | the facts of a tick, and what answers it, which the guard may claim |
//! | `private_responder` | the same on private rings, for runs that only keep code warm |
//! | `progress`, `pipeline`, `guard`, `resume` | a tick's steps, and the guard |
//! | `dry_run`, `update`, `tick` | what an idle engine runs on, new settings, the engine |
//! | `apply_update`, `warm_up`, `run_dry`, `command`, `idle`, `run` | what happens between ticks |

#[cfg(not(loom))]
mod admission;
#[cfg(not(loom))]
mod apply_update;
#[cfg(not(loom))]
mod budget;
#[cfg(not(loom))]
mod carried_state;
#[cfg(not(loom))]
mod checks;
#[cfg(not(loom))]
mod command;
#[cfg(not(loom))]
mod deadline;
#[cfg(not(loom))]
mod dry_run;
#[cfg(not(loom))]
mod guard;
#[cfg(not(loom))]
mod idle;
#[cfg(not(loom))]
mod input_check;
#[cfg(not(loom))]
mod keep_warm;
pub mod lease;
#[cfg(not(loom))]
pub mod noise;
#[cfg(not(loom))]
mod pipeline;
#[cfg(not(loom))]
mod policies;
#[cfg(not(loom))]
mod private_responder;
#[cfg(not(loom))]
mod progress;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
mod responder;
#[cfg(not(loom))]
mod resume;
#[cfg(not(loom))]
mod run;
#[cfg(not(loom))]
mod run_dry;
#[cfg(not(loom))]
mod settings;
#[cfg(not(loom))]
mod state_copy;
#[cfg(not(loom))]
pub mod telemetry;
#[cfg(not(loom))]
mod tick;
#[cfg(not(loom))]
mod update;
#[cfg(not(loom))]
mod verdict;
#[cfg(not(loom))]
mod warm_up;

#[cfg(not(loom))]
pub use budget::{Budget, BudgetSpec};
#[cfg(not(loom))]
pub use carried_state::{CarriedState, CarryRule, CarryRules, StateReset};
#[cfg(not(loom))]
pub use checks::{Bounds, all_finite, check_answer};
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
pub use keep_warm::{DrySpan, KeepWarm, expected_delay_ns};
#[cfg(not(loom))]
pub use policies::Policies;
#[cfg(not(loom))]
pub use progress::Progress;
#[cfg(not(loom))]
pub use record::{TickRecord, record_ring};
#[cfg(not(loom))]
pub use resume::EngineError;
#[cfg(not(loom))]
pub use run::{RunEnd, run};
#[cfg(not(loom))]
pub use settings::{Backlog, OnFull, OnGap, OnMiss, Settings};
#[cfg(not(loom))]
pub use state_copy::StateCopy;
#[cfg(not(loom))]
pub use tick::{Engine, Parts};
#[cfg(not(loom))]
pub use update::{PolicyChange, PolicyExtras, Update, UpdateOutcome};
#[cfg(not(loom))]
pub use warm_up::{Measured, PacedCalls, PacedSpec, WarmUp, WarmUpSpec, synthetic_observations};

#[cfg(all(test, not(loom)))]
mod tests;
