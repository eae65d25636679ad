//! The reference feed: where observations come from, when they are due, how they are spoiled, and the
//! publishing loop.

mod arrivals;
mod fault;
mod features;
mod market;
mod publisher;
mod random;
mod recording;
mod schedule;
mod source;

pub use arrivals::Arrivals;
pub use fault::{FaultRates, Injector};
pub use publisher::{FeedReport, OnFull, Plan, Publisher};
pub use recording::{Recording, RecordingError};
pub use schedule::{Pace, Rate, Schedule};
pub use source::{MARKET_DIMENSION, Source};
