//! A copy of carried states, for calls that must not leave a trace.

use escapement_policy::Policy;

/// Room for the carried states of some policies, in elements of `f32`.
#[derive(Debug, Default)]
pub struct StateCopy {
    values: Box<[f32]>,
}

impl StateCopy {
    /// Allocates room for the states of these policies.
    pub fn for_policies<'a, 'p: 'a>(policies: impl IntoIterator<Item = &'a mut (dyn Policy + 'p)>) -> Self {
        let mut elements = 0;
        for policy in policies {
            each_state(policy, |state| elements += state.len());
        }
        Self { values: vec![0.0; elements].into() }
    }

    /// Copies the states out. The policies must be those that the room is for, in the same order.
    #[inline]
    pub fn save<'a, 'p: 'a>(&mut self, policies: impl IntoIterator<Item = &'a mut (dyn Policy + 'p)>) {
        let mut rest = &mut self.values[..];
        for policy in policies {
            each_state(policy, |state| {
                if let Some((here, after)) = std::mem::take(&mut rest).split_at_mut_checked(state.len()) {
                    here.copy_from_slice(state);
                    rest = after;
                }
            });
        }
    }

    /// Puts back what [`StateCopy::save`] copied.
    #[inline]
    pub fn restore<'a, 'p: 'a>(&self, policies: impl IntoIterator<Item = &'a mut (dyn Policy + 'p)>) {
        let mut rest = &self.values[..];
        for policy in policies {
            each_state(policy, |state| {
                if let Some((here, after)) = rest.split_at_checked(state.len()) {
                    state.copy_from_slice(here);
                    rest = after;
                }
            });
        }
    }
}

#[inline]
fn each_state(policy: &mut dyn Policy, mut each: impl FnMut(&mut [f32])) {
    let mut index = 0;
    while let Some(state) = policy.state_mut(index) {
        each(state);
        index += 1;
    }
}
