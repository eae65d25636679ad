//! A policy: a pure function from an observation to an action, slices in and slices out.
//!
//! A backend knows nothing of rings, clocks or deadlines; that is what lets one conformance suite compare all of
//! them. Shapes are fixed when a policy is loaded and never change afterwards.

pub mod denormals;
mod error;
mod null;
pub mod words;

pub use error::{Fault, PolicyError};
pub use null::Null;

/// The widths of a policy's two vectors, in `f32` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dimensions {
    /// Elements of one observation.
    pub observation: usize,
    /// Elements of one action.
    pub action: usize,
}

/// What `forward` takes after the observation, in this order: noise if there is any, then the carried states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    /// Elements of the noise, `[1, noise]`; zero where there is no such argument.
    pub noise: usize,
    /// The shape of each carried state, which is also that of the state returned in its place.
    pub states: Vec<Vec<usize>>,
}

/// A loaded policy, ready to be called once per observation by a single thread.
///
/// It may be loaded on any thread and is then moved to the one that serves; [`Policy::enter_thread`] is called there
/// before the first [`Policy::infer`].
pub trait Policy: Send {
    /// The widths this policy was checked against when it was loaded.
    fn dimensions(&self) -> Dimensions;

    /// The backend's name as it appears in config files, reports and JSON: `native`, `torch` or `null`.
    fn backend(&self) -> &'static str;

    /// Prepares the calling thread, which will make every later call. Backends that keep per-thread state (libtorch's
    /// grad mode and executor caches) set it up here, for the thread's life.
    ///
    /// # Errors
    /// When the thread cannot be prepared; the policy must not be called then.
    fn enter_thread(&mut self) -> Result<(), PolicyError> {
        Ok(())
    }

    /// Computes one action.
    ///
    /// `observation` and `action` have exactly the lengths that [`Policy::dimensions`] names; the caller keeps that.
    /// On success every element of `action` has been written; on a fault its content is unspecified. The result is
    /// not checked for finiteness or bounds: the engine does that for every backend alike.
    ///
    /// # Errors
    /// A [`Fault`] when the policy raised an error or returned something that is not an action. The text of it is
    /// kept for [`Policy::last_fault`].
    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault>;

    /// Puts carried state (of a recurrent policy) back to its initial value. Stateless policies do nothing.
    fn reset(&mut self) {}

    /// The noise that the following calls take, zeros at first: with zeros the action is the deterministic one. Empty
    /// where the policy has no randomness.
    fn noise_mut(&mut self) -> &mut [f32] {
        &mut []
    }

    /// The carried state `index`, row-major, in the order of `forward`'s arguments; `None` beyond the last one.
    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        let _ = index;
        None
    }

    /// What the most recent fault said, for the log. Never called on the hot path.
    fn last_fault(&self) -> Option<&str> {
        None
    }
}
