//! The contract of a policy: a function from an observation to an action, slices in and slices out.
//!
//! A backend knows nothing of rings, clocks or deadlines, so one conformance suite can compare all backends.
//! Shapes are fixed when a policy is loaded and never change afterwards.
//!
//! # Example
//! A policy that answers with the mean of its features:
//! ```
//! use escapement_policy::{Dimensions, Fault, Policy};
//!
//! struct Mean;
//!
//! impl Policy for Mean {
//!     fn dimensions(&self) -> Dimensions {
//!         Dimensions { observation: 4, action: 1 }
//!     }
//!
//!     fn backend(&self) -> &'static str {
//!         "mean"
//!     }
//!
//!     fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
//!         action[0] = observation.iter().sum::<f32>() / observation.len() as f32;
//!         Ok(())
//!     }
//! }
//!
//! let mut action = [0.0];
//! Mean.infer(&[1.0, 2.0, 3.0, 6.0], &mut action)?;
//! assert_eq!(action, [3.0]);
//! # Ok::<(), Fault>(())
//! ```
//!
//! # Map
//! | module | what it holds |
//! |---|---|
//! | `error` | [`Fault`], the failure of a call, and [`PolicyError`], the failure to load or prepare |
//! | `null` | [`Null`], the policy that answers zeros |
//! | [`escape`] | makes text from a file safe for a terminal and a log |
//! | [`file`] | reads a regular file of bounded size, without waiting |
//! | [`denormals`] | flushes denormal floats while a policy runs |
//! | [`random`] | the seeded generator behind synthetic observations and test values |

pub mod denormals;
mod error;
pub mod escape;
pub mod file;
mod null;
pub mod random;
pub mod words;

pub use error::{Fault, PolicyError};
pub use null::Null;

/// The name of the thread on which a backend reads a foreign file and executes nothing of it.
///
/// That thread shares nothing with the rest of the process. A panic there is a defect of the reader, and
/// refuses the file; it does not end the process.
pub const READER_THREAD: &str = "policy-loader";

/// The widths of a policy's two vectors, in `f32` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Elements of one observation.
    pub observation: usize,
    /// Elements of one action.
    pub action: usize,
}

/// The arguments of `forward` after the observation, in this order: noise, if any, then the carried states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// Elements of the noise, `[1, noise]`; zero if there is no such argument.
    pub noise: usize,
    /// The shape of each carried state. The state returned in its place has the same shape.
    pub states: Vec<Vec<usize>>,
}

/// A loaded policy, ready to be called once for each observation by a single thread.
///
/// It may be loaded on any thread, and is then moved to the one that serves. The caller must call
/// [`Policy::enter_thread`] there before the first [`Policy::infer`].
pub trait Policy: Send {
    /// Returns the widths that this policy was checked against when it was loaded.
    fn dimensions(&self) -> Dimensions;

    /// Returns the backend's name as it appears in config files, reports and JSON: `native`, `torch` or
    /// `null`.
    fn backend(&self) -> &'static str;

    /// Returns whether every call does the same work, whatever the observation: no branch on data, no
    /// allocation, no system call. A late call of such a policy is the fault of the machine, unless its usual
    /// time does not fit the deadline.
    fn has_fixed_work(&self) -> bool {
        false
    }

    /// Prepares the calling thread, which must make every later call. A backend that keeps state for each
    /// thread, like libtorch's grad mode and executor caches, sets it up here for the thread's life.
    ///
    /// # Errors
    /// Fails if the thread cannot be prepared. The caller must not call the policy then.
    fn enter_thread(&mut self) -> Result<(), PolicyError> {
        Ok(())
    }

    /// Computes one action.
    ///
    /// The caller must pass slices of exactly the lengths that [`Policy::dimensions`] returns. On success
    /// every element of `action` is written; on a fault its content is unspecified. The result is not checked
    /// for finiteness or bounds: the engine does that for every backend alike.
    ///
    /// # Errors
    /// Returns a [`Fault`] if the policy raised an error or returned something that is not an action. Its
    /// text is kept for [`Policy::last_fault`].
    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault>;

    /// Resets the carried state of a recurrent policy to its initial value. Stateless policies do nothing.
    fn reset(&mut self) {}

    /// Returns the noise that the following calls use. It is zero at first, and with zeros the action is the
    /// deterministic one. Empty if the policy has no randomness.
    fn noise_mut(&mut self) -> &mut [f32] {
        &mut []
    }

    /// Returns the carried state `index`, row-major, in the order of `forward`'s arguments; `None` beyond the
    /// last one.
    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        let _ = index;
        None
    }

    /// Returns true if a call leaves nothing behind but its answer, the noise and the carried states that
    /// [`Policy::state_mut`] returns. Only then may the engine call the policy to stay warm while no
    /// observation waits: it saves the states before such a call and puts them back after.
    fn can_run_dry(&self) -> bool {
        false
    }

    /// Returns the text of the most recent fault, for the log. The caller must not call this on the hot path.
    fn last_fault(&self) -> Option<&str> {
        None
    }
}
