//! L2. How the right to a value passes from one thread to another without a lock.
//!
//! | | sides | when the right passes |
//! |---|---|---|
//! | [`lease()`] | one holder, one claimant | the holder grants a lease with a deadline; after the deadline the claimant may claim it |
//! | [`mailbox`] | one sender, one receiver | the sender offers a box; the receiver takes it when it is ready |
//!
//! Neither depends on the type of the value. The engine grants a lease on what answers a tick, and takes new settings
//! from a mailbox. This module guarantees one thing: only one side at a time has the value that both could reach.
//! `model` checks that for every interleaving within loom's bound.
//!
//! # Synchronisation
//! | label | Release store | Acquire load | makes visible |
//! |---|---|---|---|
//! | GRANTED | the holder grants a lease | the claimant reads the state, and claims | what the holder did to the value, and the deadline |
//! | RETURNED | the claimant is done | the holder recovers | what the claimant did to the value |
//! | OFFERED | the sender offers | the receiver takes | the box |
//! | EMPTIED | the receiver is done | the sender checks | what the receiver put into the box |

mod mailbox;
mod timed;

pub use mailbox::{Receiver, Sender, mailbox};
pub use timed::{LeaseClaimant, LeaseHolder, LeaseState, lease};

#[cfg(all(test, loom))]
mod model;
