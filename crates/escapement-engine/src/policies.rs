//! What answers observations: the policy, the one that stands in for it, and the room that both need.

use escapement_policy::denormals::FlushDenormals;
use escapement_policy::{Policy, PolicyError};

/// What answers observations, and the room it needs.
pub struct Policies {
    pub(super) policy: Box<dyn Policy>,
    /// A second, cheap policy, whose action is sent where the first one fails.
    pub(super) fallback: Option<Box<dyn Policy>>,
    pub(super) observation: Box<[f32]>,
    pub(super) action: Box<[f32]>,
    /// Where the fallback's action is made.
    pub(super) spare: Box<[f32]>,
}

impl Policies {
    /// The policy, and the one that stands in for it; both of the same widths.
    ///
    /// # Panics
    /// When the widths differ; who loads the two checks that.
    pub fn new(policy: Box<dyn Policy>, fallback: Option<Box<dyn Policy>>) -> Self {
        let dimensions = policy.dimensions();
        assert!(fallback.as_ref().is_none_or(|fallback| fallback.dimensions() == dimensions));
        let action = || vec![0.0; dimensions.action].into();
        let observation = vec![0.0; dimensions.observation].into();
        Self { policy, fallback, observation, action: action(), spare: action() }
    }
}

impl Policies {
    /// Prepares the calling thread, which will serve, and calls the policies a few times.
    pub(super) fn enter_thread(&mut self, calls: u32) -> Result<(), PolicyError> {
        let _flush = FlushDenormals::enter();
        let Self { policy, fallback, observation, action, .. } = self;
        for policy in [Some(policy), fallback.as_mut()].into_iter().flatten() {
            policy.enter_thread()?;
            observation.fill(0.0);
            for _ in 0..calls {
                // What it says to zeros is of no interest.
                let _ = policy.infer(observation, action);
            }
            if calls > 0 {
                policy.reset();
            }
        }
        Ok(())
    }
}
