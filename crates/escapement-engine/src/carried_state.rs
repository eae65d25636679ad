//! What happens to a recurrent policy's carried state if the stream of observations, or of the policy's own
//! actions, is broken.
//!
//! A state was trained on unbroken episodes. After a gap it remembers a market that is gone. After a miss it
//! assumes that an action was sent which was not. The trainer decides which of the two matters, and the
//! bundle's manifest says it.

use escapement_policy::Policy;

/// What happens to the carried state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryRule {
    /// The newest state that the policy completed is kept.
    Keep,
    /// It is reset.
    Reset,
    /// It is reset. Then this number of observations is fed to the policy while the safe default is sent.
    BurnIn(u32),
}

/// The rules of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarryRules {
    /// After a tick whose action was not the policy's.
    pub on_miss: CarryRule,
    /// At a break in the feed's sequence, before the observation is used.
    pub on_gap: CarryRule,
}

/// Whether the state was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateReset {
    /// The state is unchanged.
    NotDone,
    /// The state has its initial value.
    Done,
}

/// Applies the rules to one policy's carried state.
#[derive(Debug, Clone, Copy)]
pub struct CarriedState {
    rules: CarryRules,
    /// Observations that are still to be fed before an action counts.
    burn_in: u32,
}

impl CarriedState {
    /// Creates the state of a policy that has not been called yet.
    pub fn new(rules: CarryRules) -> Self {
        Self { rules, burn_in: 0 }
    }

    /// Returns the same state under other rules.
    #[must_use]
    pub fn with_rules(self, rules: CarryRules) -> Self {
        Self { rules, ..self }
    }

    /// Applies the rule for a break in the sequence before this observation.
    #[inline]
    pub fn on_gap(&mut self, policy: &mut dyn Policy) -> StateReset {
        self.follow(self.rules.on_gap, policy)
    }

    /// Resets the state because an episode begins with this observation: the feed says that it follows no
    /// other one.
    #[inline]
    pub fn on_episode(&mut self, policy: &mut dyn Policy) {
        policy.reset();
        self.burn_in = 0;
    }

    /// Applies the rule for a tick whose action was not the policy's. The caller must leave out the ticks of
    /// a burn-in: they are the consequence of a miss, not misses themselves.
    #[inline]
    pub fn on_miss(&mut self, policy: &mut dyn Policy) -> StateReset {
        self.follow(self.rules.on_miss, policy)
    }

    /// Returns true if the answer just computed belongs to a burn-in, and counts it.
    #[inline]
    pub fn is_burning_in(&mut self) -> bool {
        let burning = self.burn_in > 0;
        self.burn_in = self.burn_in.saturating_sub(1);
        burning
    }

    fn follow(&mut self, rule: CarryRule, policy: &mut dyn Policy) -> StateReset {
        match rule {
            CarryRule::Keep => return StateReset::NotDone,
            CarryRule::Reset => {}
            CarryRule::BurnIn(observations) => self.burn_in = observations,
        }
        policy.reset();
        StateReset::Done
    }
}
