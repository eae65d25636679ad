//! Escapement: a trading agent daemon that never acts late.
//!
//! A feed handler commits observations into a ring in shared memory. A pinned thread busy-polls that ring,
//! runs a trained policy, checks the clock, and commits one action for each observation into a second ring,
//! which an order gateway polls. A late action never leaves: the safe default leaves in its place, or the
//! agent halts.
//!
//! # What to use
//! - To run an agent: the program `escapement`; see `docs/GETTING_STARTED.md`.
//! - To call a policy with its deadlines from your own program: [`agent::Agent`].
//! - To write a feed or a gateway in Rust: the crate `escapement-ring` alone, re-exported here as [`feed`]
//!   and [`gateway`].
//! - To check or compare policies: [`bundle::Bundle`], [`policy`], [`latency`].
//!
//! ```
//! use escapement::agent::{Agent, Options};
//!
//! let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/config/example.bundle");
//! let mut agent = Agent::load(bundle, Options { enforce: false, ..Options::default() })?;
//! let observation = vec![0.0; agent.dimensions().observation];
//! let (action, info) = agent.predict(&observation, true)?;
//! assert_eq!((action.len(), info.reason.name()), (3, "policy"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! | feature | effect |
//! |---|---|
//! | `torch` | the libtorch backend; run `scripts/libtorch.sh` before building |
//! | `planted-faults` | faults that tests order by environment variables; never in what ships |
//!
//! # Map
//! Imports point down only. Cargo enforces it between the packages, and the test `tidy` between the modules.
//!
//! | package | modules | holds |
//! |---|---|---|
//! | `escapement-ring` | [`clock`], [`wire`], [`ring`], [`shm`] | time, frames, the SPSC ring, shared files |
//! | | [`directory`], [`feed`], [`gateway`] | the agent's rings, and the ends that other programs hold |
//! | `escapement-policy` | [`denormals`] | what every backend implements; the float mode that it runs in |
//! | `escapement-engine` | [`engine`], [`lease`] | the tick, the deadline guard, and the lease between them |
//! | | [`noise`], [`telemetry`] | what stochastic policies draw; counters and histograms |
//! | `escapement-native` | [`policy::native`] | the native engine |
//! | `escapement` | [`policy`], [`bundle`], [`latency`] | backends, bundles, what a policy takes on a core |
//! | | [`os`], [`evidence`] | the machine; why a tick missed |
//! | | [`config`], [`agent_files`], [`status`] | checked settings, the agent's own files, its status page |
//! | | [`halt`] | the promise that a halt stays, and every part that keeps it |
//! | | [`agent`] | a policy with its deadlines as a call |
//! | | [`daemon`], [`cli`] | the process, its commands |

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
