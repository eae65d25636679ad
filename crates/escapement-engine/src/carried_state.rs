//! What becomes of a recurrent policy's carried state where the stream of observations, or of the policy's own actions,
//! is broken.
//!
//! A state was trained on unbroken episodes. After a gap it remembers a market that is gone; after a miss it takes for
//! done what was never sent. Which of that matters is the trainer's to say, and the bundle's manifest does.

use escapement_policy::Policy;

/// What becomes of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CarryRule {
    /// The newest one that the policy completed is carried on.
    Keep,
    /// It begins anew.
    Reset,
    /// It begins anew, and so many observations are fed to the policy while the safe default is sent.
    BurnIn(u32),
}

/// The rules of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarryRules {
    /// At a tick whose action was not the policy's.
    pub on_miss: CarryRule,
    /// At a break in the feed's sequence, before the observation is used.
    pub on_gap: CarryRule,
}

/// Whether the state began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateReset {
    /// It is what it was.
    No,
    /// It has its initial value.
    Anew,
}

/// The rules at work.
#[derive(Debug, Clone, Copy)]
pub struct CarriedState {
    rules: CarryRules,
    /// Observations that are still to be fed before an action counts.
    burn_in: u32,
}

impl CarriedState {
    /// Nothing has happened yet.
    pub fn new(rules: CarryRules) -> Self {
        Self { rules, burn_in: 0 }
    }

    /// The same, by other rules from now on.
    #[must_use]
    pub fn with_rules(self, rules: CarryRules) -> Self {
        Self { rules, ..self }
    }

    /// The sequence broke before this observation.
    #[inline]
    pub fn on_gap(&mut self, policy: &mut dyn Policy) -> StateReset {
        self.follow(self.rules.on_gap, policy)
    }

    /// An episode begins with this observation: the feed says that it follows none.
    #[inline]
    pub fn on_episode(&mut self, policy: &mut dyn Policy) {
        policy.reset();
        self.burn_in = 0;
    }

    /// This tick's action was not the policy's. Ticks of a burn-in are no misses: they are what a miss led to.
    #[inline]
    pub fn on_miss(&mut self, policy: &mut dyn Policy) -> StateReset {
        self.follow(self.rules.on_miss, policy)
    }

    /// Whether the answer just computed only warmed the state up.
    #[inline]
    pub fn is_burning_in(&mut self) -> bool {
        let burning = self.burn_in > 0;
        self.burn_in = self.burn_in.saturating_sub(1);
        burning
    }

    fn follow(&mut self, rule: CarryRule, policy: &mut dyn Policy) -> StateReset {
        match rule {
            CarryRule::Keep => return StateReset::No,
            CarryRule::Reset => {}
            CarryRule::BurnIn(observations) => self.burn_in = observations,
        }
        policy.reset();
        StateReset::Anew
    }
}
