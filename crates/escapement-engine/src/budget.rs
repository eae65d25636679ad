//! A budget of failures over a sliding window of ticks. It takes constant time for each tick, and allocates
//! only when it is built.

/// How many failures are forgiven in how many ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSpec {
    /// The number of failures forgiven within the window. One more exceeds the budget.
    pub misses: u32,
    /// The length of the window in ticks, including the current one.
    pub window: u32,
}

impl BudgetSpec {
    /// The largest window.
    pub const MAX_WINDOW: u32 = 1 << 20;
    /// A budget that the first failure exceeds.
    pub const NONE: Self = Self { misses: 0, window: 1 };
}

/// The window: one bit for each tick, and the number of bits that are set.
#[derive(Debug, Clone)]
pub struct Budget {
    spec: BudgetSpec,
    bits: Box<[u64]>,
    next: u32,
    failures: u32,
}

impl Budget {
    /// Creates an unspent budget.
    pub fn new(spec: BudgetSpec) -> Self {
        let window = spec.window.clamp(1, BudgetSpec::MAX_WINDOW);
        let bits = vec![0; window.div_ceil(64) as usize].into();
        Self { spec: BudgetSpec { window, ..spec }, bits, next: 0, failures: 0 }
    }

    /// Notes one tick. Returns true if the failures in the window now exceed the budget.
    #[inline]
    pub fn note(&mut self, failed: bool) -> bool {
        let word = &mut self.bits[(self.next / 64) as usize];
        let shift = self.next % 64;
        let leaving = (*word >> shift) & 1;
        *word = *word & !(1 << shift) | u64::from(failed) << shift;
        self.failures = self.failures - leaving as u32 + u32::from(failed);
        self.next = if self.next + 1 == self.spec.window { 0 } else { self.next + 1 };
        self.failures > self.spec.misses
    }

    /// Returns what it forgives.
    pub fn spec(&self) -> BudgetSpec {
        self.spec
    }

    /// Returns the number of failures in the window.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_counting(
            misses in 0u32..5,
            window in 1u32..200,
            ticks in prop::collection::vec(any::<bool>(), 0..600),
        ) {
            let mut budget = Budget::new(BudgetSpec { misses, window });
            for (index, failed) in ticks.iter().enumerate() {
                let exceeded = budget.note(*failed);
                let from = (index + 1).saturating_sub(window as usize);
                let counted = ticks[from..=index].iter().filter(|failed| **failed).count();
                prop_assert_eq!(budget.failures() as usize, counted);
                prop_assert_eq!(exceeded, counted > misses as usize);
            }
        }
    }
}
