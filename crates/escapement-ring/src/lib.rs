//! The rings of Escapement: what a feed handler, an order gateway and the daemon itself stand on.
//!
//! A feed commits observations into one ring in shared memory, and a gateway takes actions from another. This
//! crate holds everything that both sides need, and nothing of the daemon.
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | observation and action frames, outcomes and reasons, byte by byte |
//! | [`ring`] | the single-producer single-consumer ring, on any memory |
//! | [`shm`] | files in shared memory, and the locks that say who may attach |
//! | [`clock`] | time as a parameter; the only file that asks the machine for it |
//! | [`directory`] | the files of one agent: two rings and three role locks |
//! | [`feed`] | the producing end of an observation ring |
//! | [`gateway`] | the consuming end of an action ring |

pub mod backing;
pub mod clock;
#[cfg(not(loom))]
pub mod directory;
#[cfg(not(loom))]
pub mod feed;
#[cfg(not(loom))]
pub mod gateway;
pub mod ring;
#[cfg(not(loom))]
pub mod shm;
#[doc(hidden)]
pub mod sync;
pub mod wire;
