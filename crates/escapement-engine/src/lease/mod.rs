//! L2. How a right passes from one thread to another without a lock.
//!
//! | | who | when it passes |
//! |---|---|---|
//! | [`turn`] | one holder, one deputy | the holder lends its right with a deadline; once that has passed, the deputy may take it |
//! | [`mailbox`] | one sender, one receiver | the sender offers a box; the receiver takes what is in it at a time of its own |
//!
//! Neither knows what the right is about. The engine lends the right to answer a tick, and takes new settings out of a
//! mailbox; what is promised here is only that one side at a time has what both could reach. `model` shows it for every
//! interleaving within loom's bound.
//!
//! # Synchronisation
//! | label | Release store | Acquire load | makes visible |
//! |---|---|---|---|
//! | LENT | the holder lends | the deputy looks, and takes | what the holder did to the value, and the deadline |
//! | RETURNED | the deputy is done | the holder looks whether it may go on | what the deputy did to the value |
//! | OFFERED | the sender offers | the receiver takes | the box |
//! | EMPTIED | the receiver is done | the sender looks | what the receiver put into the box |

mod mailbox;
mod turn;

pub use mailbox::{Receiver, Sender, mailbox};
pub use turn::{Deputy, Holder, View, turn};

#[cfg(all(test, loom))]
mod model;
