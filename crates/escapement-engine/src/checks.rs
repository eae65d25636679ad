//! The checks on numbers: which observations a policy may see, and which of its answers may leave. The engine
//! and the embedded agent use the same ones.

use escapement_policy::Fault;
use escapement_ring::wire::Reason;

/// Inclusive limits, one pair for each element.
#[derive(Debug, Clone, PartialEq)]
pub struct Bounds {
    low: Box<[f32]>,
    high: Box<[f32]>,
}

impl Bounds {
    /// Creates limits from two vectors. Returns `None` unless they have the same length and
    /// `low[i] <= high[i]`.
    pub fn new(low: Vec<f32>, high: Vec<f32>) -> Option<Self> {
        let paired = low.len() == high.len() && low.iter().zip(&high).all(|(low, high)| low <= high);
        paired.then(|| Self { low: low.into(), high: high.into() })
    }

    /// Creates infinite limits for `dimension` elements.
    pub fn unlimited(dimension: usize) -> Self {
        Self { low: vec![f32::NEG_INFINITY; dimension].into(), high: vec![f32::INFINITY; dimension].into() }
    }

    /// Returns the number of elements.
    pub fn dimension(&self) -> usize {
        self.low.len()
    }

    /// Returns true if every element lies within its limits. Does not branch on the data, so the time that it
    /// takes does not depend on the values.
    #[inline]
    pub fn contain(&self, values: &[f32]) -> bool {
        values
            .iter()
            .zip(self.low.iter().zip(self.high.iter()))
            .fold(true, |within, (value, (low, high))| within & (low <= value) & (value <= high))
    }

    /// Returns the lower and the upper limit of an element.
    ///
    /// # Panics
    /// Panics if there is no such element.
    pub fn of(&self, index: usize) -> (f32, f32) {
        (self.low[index], self.high[index])
    }
}

/// Returns true if every element is a finite number. Does not branch on the data.
#[inline]
pub fn all_finite(values: &[f32]) -> bool {
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

/// Returns why a policy's answer may not leave, or `None` if it may. Lateness is not checked here.
#[inline]
pub fn check_answer(answer: Result<(), Fault>, action: &[f32], bounds: &Bounds) -> Option<Reason> {
    if answer.is_err() {
        Some(Reason::PolicyError)
    } else if !all_finite(action) {
        Some(Reason::ActionNonFinite)
    } else if !bounds.contain(action) {
        Some(Reason::ActionOutOfBounds)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_refused_for_the_first_reason_found() {
        let bounds = Bounds::new(vec![-1.0; 2], vec![1.0; 2]).expect("low is below high");
        let answer = |action: [f32; 2]| check_answer(Ok(()), &action, &bounds);
        assert_eq!(answer([-1.0, 1.0]), None);
        assert_eq!(answer([0.0, 1.001]), Some(Reason::ActionOutOfBounds));
        assert_eq!(answer([2.0, f32::NAN]), Some(Reason::ActionNonFinite));
        assert_eq!(check_answer(Err(Fault::Raised), &[f32::NAN; 2], &bounds), Some(Reason::PolicyError));
        assert_eq!(check_answer(Ok(()), &[f32::MAX; 2], &Bounds::unlimited(2)), None);
    }
}
