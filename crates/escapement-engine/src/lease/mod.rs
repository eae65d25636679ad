//! L2. How the right to a value passes from one thread to another without a lock.
//!
//! | | sides | when the right passes |
//! |---|---|---|
//! | [`lease()`] | one holder, one claimant | the claimant may claim a granted lease after its deadline |
//! | [`mailbox`] | one sender, one receiver | the receiver may take the box that the sender offered |
//!
//! Neither depends on the type of the value. The engine grants a lease on what answers a tick, and takes new
//! settings from a mailbox. This module guarantees one thing: only one side at a time has the value that both
//! could reach. `model` checks that for every interleaving within loom's bound.
//!
//! # Synchronisation
//! | label | Release store | Acquire load | makes visible |
//! |---|---|---|---|
//! | GRANTED | the holder grants | the claimant looks, and claims | the holder's changes, and the deadline |
//! | RETURNED | the claimant is done | the holder recovers | the claimant's changes |
//! | OFFERED | the sender offers | the receiver takes | the box |
//! | EMPTIED | the receiver is done | the sender checks | what the receiver put into the box |

mod mailbox;
mod timed;

pub use mailbox::{Receiver, Sender, mailbox};
pub use timed::{LeaseClaimant, LeaseHolder, LeaseState, lease};

#[cfg(all(test, loom))]
mod model;
