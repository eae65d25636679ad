//! The policy that returns at once. It serves to measure the cost of everything around a policy.

use super::{Dimensions, Fault, Policy};

/// Answers every observation with zeros.
#[derive(Debug, Clone, Copy)]
pub struct Null {
    dimensions: Dimensions,
}

impl Null {
    /// Creates a null policy of the given widths.
    #[inline]
    pub const fn new(dimensions: Dimensions) -> Self {
        Self { dimensions }
    }
}

impl Policy for Null {
    fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    fn backend(&self) -> &'static str {
        "null"
    }

    fn has_fixed_work(&self) -> bool {
        true
    }

    #[inline]
    fn infer(&mut self, _observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        action.fill(0.0);
        Ok(())
    }

    fn can_run_dry(&self) -> bool {
        true
    }
}
