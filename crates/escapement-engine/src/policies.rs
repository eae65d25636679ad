//! The policies that answer observations, and the buffers that they need.

use escapement_policy::denormals::FlushDenormals;
use escapement_policy::{Policy, PolicyError};

/// A policy, its fallback if there is one, and their buffers.
pub struct Policies {
    pub(super) policy: Box<dyn Policy>,
    /// A second, cheap policy. Its action is sent if the first one fails or is late.
    pub(super) fallback: Option<Box<dyn Policy>>,
    pub(super) observation: Box<[f32]>,
    pub(super) action: Box<[f32]>,
    /// The buffer for the fallback's action.
    pub(super) spare: Box<[f32]>,
}

impl Policies {
    /// Creates the buffers for a policy and its fallback.
    ///
    /// # Panics
    /// Panics if the two policies have different widths. The caller must have checked that.
    pub fn new(policy: Box<dyn Policy>, fallback: Option<Box<dyn Policy>>) -> Self {
        let dimensions = policy.dimensions();
        assert!(fallback.as_ref().is_none_or(|fallback| fallback.dimensions() == dimensions));
        let action = || vec![0.0; dimensions.action].into();
        let observation = vec![0.0; dimensions.observation].into();
        Self { policy, fallback, observation, action: action(), spare: action() }
    }

    /// Returns the policy and the fallback, if there is one.
    pub(super) fn both(&mut self) -> impl Iterator<Item = &mut (dyn Policy + 'static)> {
        std::iter::once(self.policy.as_mut()).chain(self.fallback.as_deref_mut())
    }

    /// Returns whether calls of both policies leave nothing behind but the carried states.
    pub(super) fn can_run_dry(&self) -> bool {
        self.policy.can_run_dry() && self.fallback.as_ref().is_none_or(|fallback| fallback.can_run_dry())
    }

    /// Prepares the calling thread, which must be the one that serves, and calls each policy `calls` times.
    pub(super) fn enter_thread(&mut self, calls: u32) -> Result<(), PolicyError> {
        let _flush = FlushDenormals::enter();
        let Self { policy, fallback, observation, action, .. } = self;
        for policy in [Some(policy), fallback.as_mut()].into_iter().flatten() {
            policy.enter_thread()?;
            observation.fill(0.0);
            for _ in 0..calls {
                // The answer to zeros is not used.
                let _ = policy.infer(observation, action);
            }
            if calls > 0 {
                policy.reset();
            }
        }
        Ok(())
    }
}
