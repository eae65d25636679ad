//! Escapement: a trading agent daemon that never acts late.
//!
//! A feed handler commits observations into a ring in shared memory; a pinned thread busy-polls that ring, runs a
//! trained policy, checks the clock, and commits one action per observation into a second ring, which an order
//! gateway polls. A late action never leaves: the safe default does, or the agent halts.
//!
//! # Map
//! Imports point down only; `tests/tidy.rs` reads the `use` lines and fails otherwise.
//!
//! | layer | module | holds |
//! |---|---|---|
//! | L0 | `sync`, [`clock`], [`denormals`], [`backing`] | atomics and cells, time, float mode, stable bytes |
//! | L1 | [`wire`], [`noise`] | observation and action frames, outcomes and reasons, byte by byte; what stochastic policies draw |
//! | L2 | [`ring`], [`shm`], [`policy`], [`bundle`], [`telemetry`] | the SPSC ring on any memory, named regions, backends, bundles, histograms |
//! | L2 | [`handover`] | how a right passes from one thread to another |
//! | L3 | [`engine`], [`validation`] | the hot loop: tick, deadline, idle strategy; what a policy takes on a core |
//! | L3 | [`attribution`] | why a tick missed |
//! | L4 | [`config`], [`host`] | checked settings, the machine |
//! | L4 | [`feed`], [`gateway`] | the other ends of the rings: for producers and consumers written in Rust |
//! | L4 | [`agent`] | a policy with its deadlines as a call, for those who embed it |
//! | L5 | [`daemon`], [`cli`] | the process, its commands |

pub mod agent;
pub mod agent_files;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod evidence;
pub mod halt;
mod hex;
pub mod latency;
pub mod os;
pub mod policy;
pub mod status;

pub use escapement_engine::{self as engine, lease, noise, telemetry};
pub use escapement_policy::denormals;
pub use escapement_ring::{backing, clock, directory, feed, gateway, ring, shm, wire};
