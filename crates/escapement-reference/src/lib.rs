//! The reference programs around an agent: a feed, a gateway, and a demo that runs all three.
//!
//! Nothing here is part of the daemon. The feed publishes a synthetic market, noise, or a recording; the tap
//! drains the actions as an order gateway would, and accounts for each of them; the demo starts a feed, an
//! agent and a tap as three processes and compares their counts.
//!
//! | module | holds |
//! |---|---|
//! | [`feed`] | market simulator, features, recordings, schedule, arrivals, faults, the publishing loop |
//! | [`tap`] | the receiving loop, its tally and its report |
//! | [`demo`] | three processes, their private directory, their counts compared; a feed for a measurement |
//! | [`stop`], [`progress`] | being told to stop; a line of progress on a terminal |

pub mod demo;
mod error;
pub mod feed;
pub mod progress;
pub mod stop;
pub mod tap;

pub use error::ReferenceError;
