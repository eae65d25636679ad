//! Comparing the answers of two policies to the same observations.

use super::golden::Tolerance;
use crate::policy::{Fault, Policy, PolicyError};
use escapement_policy::denormals::FlushDenormals;

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// Observations that both policies answered.
    pub observations: usize,
    /// Observations with equal answers, within the tolerance.
    pub agreed: usize,
    /// The largest difference between two elements, in the action's unit.
    pub largest_difference: f64,
    /// The mean difference over all elements.
    pub mean_difference: f64,
    /// The index, from 0, of the first observation with different answers.
    pub first_disagreement: Option<usize>,
}

/// Why two policies cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum AgreementError {
    /// Their vectors have different widths.
    #[error("the first has {} → {} elements, the second {} → {}", .0[0].0, .0[0].1, .0[1].0, .0[1].1)]
    Widths([(usize, usize); 2]),
    /// One of them cannot be called on this thread.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// One of them faulted.
    #[error("observation {observation}, {which} policy: {fault}")]
    Fault {
        /// The index of the observation, from 0.
        observation: usize,
        /// `first` or `second`.
        which: &'static str,
        /// The fault.
        fault: Fault,
    },
}

/// Whether carried state passes from one observation to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every observation starts from the initial state.
    Independent,
    /// All observations are one episode.
    Episode,
}

/// Calls both policies with every observation, with zero noise, and compares the answers.
///
/// # Errors
/// Fails if their widths differ, or if one of them faults.
pub fn agreement<'a>(
    policies: [&mut dyn Policy; 2],
    observations: impl Iterator<Item = &'a [f32]>,
    rows: Rows,
    tolerance: &Tolerance,
) -> Result<Agreement, AgreementError> {
    let [first, second] = policies;
    let widths = [first.dimensions(), second.dimensions()];
    if widths[0] != widths[1] {
        return Err(AgreementError::Widths(widths.map(|width| (width.observation, width.action))));
    }
    let _flush = FlushDenormals::enter();
    for policy in [&mut *first, &mut *second] {
        policy.enter_thread()?;
        policy.reset();
        policy.noise_mut().fill(0.0);
    }
    let width = widths[0].action;
    let mut answers = [vec![0.0; width], vec![0.0; width]];
    let mut found = Agreement {
        observations: 0,
        agreed: 0,
        largest_difference: 0.0,
        mean_difference: 0.0,
        first_disagreement: None,
    };
    let mut sum = 0.0;
    for (row, observation) in observations.enumerate() {
        let both = [(&mut *first, "first"), (&mut *second, "second")];
        for ((policy, which), answer) in both.into_iter().zip(&mut answers) {
            if rows == Rows::Independent {
                policy.reset();
            }
            let fault = |fault| AgreementError::Fault { observation: row, which, fault };
            policy.infer(observation, answer).map_err(fault)?;
        }
        let mut alike = true;
        for (index, (a, b)) in answers[0].iter().zip(&answers[1]).enumerate() {
            alike &= tolerance.allows(index, *a, *b);
            let difference = (f64::from(*a) - f64::from(*b)).abs();
            // A NaN from one of them stays in the result.
            found.largest_difference = if difference.is_nan() || difference > found.largest_difference {
                difference
            } else {
                found.largest_difference
            };
            sum += difference;
        }
        found.observations += 1;
        found.agreed += usize::from(alike);
        if !alike && found.first_disagreement.is_none() {
            found.first_disagreement = Some(row);
        }
    }
    found.mean_difference = sum / (found.observations * width).max(1) as f64;
    Ok(found)
}

impl Agreement {
    /// Whether they agree on every observation.
    pub fn is_complete(&self) -> bool {
        self.agreed == self.observations
    }
}
