//! Golden vectors: inputs, and the actions that the trained model gave for them when it was exported.
//!
//! They run on the backend that will serve. So they prove what this machine computes, and not only the file.
//! The tolerance is defined in `docs/BUNDLE.md`, "What must match".

use super::manifest::{ActionKind, Manifest};
use super::safetensors::{self, Tensor};
use crate::policy::{Policy, PolicyError};
use escapement_policy::denormals::FlushDenormals;
use std::collections::BTreeMap;

/// The rows of a bundle's golden vectors, checked against its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Golden {
    vectors: usize,
    observation: Matrix,
    noise: Matrix,
    states: Vec<Matrix>,
    action: Matrix,
    next: Vec<Matrix>,
    state_names: Vec<String>,
    tolerance: Tolerance,
}

#[derive(Debug, Clone, PartialEq)]
struct Matrix {
    width: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..][..self.width]
    }
}

/// The tolerance for each element of an action.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerance {
    relative: f64,
    /// The range of each element; infinite if a bound is infinite.
    range: Vec<f64>,
    /// Whether actions are indices, for which only equality counts.
    exact: bool,
}

/// What running golden vectors has shown.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Proof {
    /// Rows that were run.
    pub vectors: usize,
    /// The largest deviation, as a share of the one allowed: 0 is exact, 1 the limit.
    pub worst: f64,
}

impl Golden {
    /// Reads the vectors. They must be the ones that the manifest describes.
    ///
    /// # Errors
    /// Fails with one line: the tensor, and what is wrong with it.
    pub fn read(bytes: &[u8], manifest: &Manifest) -> Result<Self, String> {
        let mut tensors = safetensors::read(bytes)?;
        let vectors = manifest.golden_vectors;
        let mut take = |name: &str, shape: &[usize]| take(&mut tensors, name, vectors, shape);
        let (observation, action) = (manifest.observation.dimension, manifest.action.dimension);
        let golden = Self {
            vectors,
            observation: take("observation", &[observation])?,
            noise: match manifest.noise {
                Some(noise) => take("noise", &[noise.dimension])?,
                None => Matrix { width: 0, values: Vec::new() },
            },
            action: take("action", &[action])?,
            states: manifest
                .states
                .iter()
                .map(|state| take(&format!("state.{}", state.name), &state.shape))
                .collect::<Result<_, _>>()?,
            next: manifest
                .states
                .iter()
                .map(|state| take(&format!("next.{}", state.name), &state.shape))
                .collect::<Result<_, _>>()?,
            tolerance: Tolerance::of(manifest),
            state_names: manifest.states.iter().map(|state| state.name.clone()).collect(),
        };
        match tensors.keys().next() {
            Some(name) => Err(format!("tensor {name:.80?} belongs to no input or output of the policy")),
            None => Ok(golden),
        }
    }

    /// Returns the number of rows.
    pub fn vectors(&self) -> usize {
        self.vectors
    }

    /// Runs every row on `policy` and compares the answers. Afterwards the policy has its initial state and
    /// zero noise. The calling thread is prepared as a thread that the policy serves on.
    ///
    /// # Errors
    /// Fails with the first row that does not match, and its deviation.
    pub fn prove(&self, policy: &mut dyn Policy) -> Result<Proof, String> {
        let _flush = FlushDenormals::enter();
        policy.enter_thread().map_err(|error: PolicyError| error.to_string())?;
        let found = policy.noise_mut().len();
        if found != self.noise.width {
            return Err(format!("the policy takes {found} elements of noise, not {}", self.noise.width));
        }
        let mut action = vec![0.0; self.action.width];
        let mut worst = 0.0f64;
        for row in 0..self.vectors {
            let deviation = self.run_row(row, policy, &mut action)?;
            worst = worst.max(deviation);
        }
        policy.reset();
        policy.noise_mut().fill(0.0);
        Ok(Proof { vectors: self.vectors, worst })
    }

    fn run_row(&self, row: usize, policy: &mut dyn Policy, action: &mut [f32]) -> Result<f64, String> {
        let state_of = |index: usize| format!("the policy has no carried state {index}");
        for (index, states) in self.states.iter().enumerate() {
            let state = policy.state_mut(index).ok_or_else(|| state_of(index))?;
            state.copy_from_slice(states.row(row));
        }
        policy.noise_mut().copy_from_slice(if self.noise.width == 0 { &[] } else { self.noise.row(row) });
        policy.infer(self.observation.row(row), action).map_err(|fault| {
            let detail = policy.last_fault().map_or_else(String::new, |text| format!(": {text}"));
            format!("golden vector {row}: {fault}{detail}")
        })?;
        let mut worst = 0.0f64;
        for (index, (found, expected)) in action.iter().zip(self.action.row(row)).enumerate() {
            let deviation = self.tolerance.action_deviation(index, *found, *expected);
            if !is_within(deviation) {
                return Err(format!(
                    "golden vector {row}: action[{index}] is {found}, expected {expected} within {:e}",
                    self.tolerance.relative
                ));
            }
            worst = worst.max(deviation);
        }
        for (index, next) in self.next.iter().enumerate() {
            let state = policy.state_mut(index).ok_or_else(|| state_of(index))?;
            for (element, (found, expected)) in state.iter().zip(next.row(row)).enumerate() {
                let deviation = self.tolerance.state_deviation(*found, *expected);
                if !is_within(deviation) {
                    return Err(format!(
                        "golden vector {row}: next state {}[{element}] is {found}, expected {expected} within {:e}",
                        self.state_names[index], self.tolerance.relative
                    ));
                }
                worst = worst.max(deviation);
            }
        }
        Ok(worst)
    }

    /// Returns every observation. Other measurements use them as realistic inputs.
    pub fn observations(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.vectors).map(|row| self.observation.row(row))
    }
}

/// A deviation is NaN if one of the two numbers is NaN. Then no tolerance allows it.
fn is_within(deviation: f64) -> bool {
    deviation <= 1.0
}

impl Tolerance {
    /// Returns the tolerance that a manifest defines.
    pub fn of(manifest: &Manifest) -> Self {
        let action = &manifest.action;
        Self {
            relative: manifest.tolerance,
            range: action.low.iter().zip(&action.high).map(|(low, high)| high - low).collect(),
            exact: action.kind != ActionKind::Box,
        }
    }

    /// Whether two values of the element `index` of an action are equal within the tolerance.
    pub fn allows(&self, index: usize, found: f32, expected: f32) -> bool {
        is_within(self.action_deviation(index, found, expected))
    }

    fn action_deviation(&self, index: usize, found: f32, expected: f32) -> f64 {
        if self.exact {
            return if found == expected { 0.0 } else { f64::NAN };
        }
        let range = self.range[index];
        let scale = if range.is_finite() { range } else { f64::from(expected.abs()).max(1.0) };
        share(found, expected, self.relative * scale)
    }

    fn state_deviation(&self, found: f32, expected: f32) -> f64 {
        share(found, expected, self.relative * f64::from(expected.abs()).max(1.0))
    }
}

/// Returns the distance as a share of the allowed one. If no distance is allowed (an element with only one
/// possible value), the result is zero for equal values and infinite for others.
fn share(found: f32, expected: f32, allowed: f64) -> f64 {
    if found == expected {
        return 0.0;
    }
    (f64::from(found) - f64::from(expected)).abs() / allowed
}

fn take(
    tensors: &mut BTreeMap<String, Tensor>,
    name: &str,
    vectors: usize,
    shape: &[usize],
) -> Result<Matrix, String> {
    let tensor = tensors.remove(name).ok_or_else(|| format!("there is no tensor {name:?}"))?;
    let expected: Vec<usize> = std::iter::once(vectors).chain(shape.iter().copied()).collect();
    if tensor.shape != expected {
        return Err(format!("tensor {name:?} has the shape {:?}; expected {expected:?}", tensor.shape));
    }
    Ok(Matrix { width: shape.iter().product(), values: tensor.values })
}
