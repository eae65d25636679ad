//! Escapement: the TorchScript file through the native backend, called as the daemon calls it.

use std::hint::black_box;

use escapement::clock::{Clock, MonotonicClock};
use escapement::policy::Policy;
use escapement::policy::native::choice::{WeightCandidate, choose, measure};
use escapement::policy::native::kernels::{Precision, WeightKernel};
use escapement::policy::native::{Native, Options};

use crate::engine::{Engine, Result};
use crate::network::{Files, Network};

/// The weights that are asked for.
#[derive(Clone, Copy, PartialEq)]
pub enum Weights {
    /// Single precision.
    Single,
    /// The fastest kernel, as `policy.weights = "bf16"` chooses it.
    Fastest,
}

pub struct Ours {
    policy: Native,
    weights: Weights,
    observation: Vec<f32>,
    action: Vec<f32>,
}

impl Ours {
    pub fn load(network: &Network, files: &Files, weights: Weights) -> Result<Self> {
        let mut inputs = network.inputs(files).into_iter();
        let (_, observation) = inputs.next().ok_or("a network has an observation")?;
        let states: Vec<(Vec<usize>, Vec<f32>)> = inputs.collect();
        let options = Options {
            observation: Some(observation.len()),
            states: states.iter().map(|(shape, _)| shape.clone()).collect(),
            ..Options::default()
        };
        let kernels = match weights {
            Weights::Single => vec![WeightKernel::single()],
            Weights::Fastest => WeightKernel::candidates(),
        };
        let bytes = std::fs::read(files.policy())?;
        let lowered = Native::lower_each(&bytes, &options, &kernels)?;
        let mut policies = lowered.map_err(|refusal| refusal.at(&files.policy()))?;
        let times = measure(&mut policies, &observation, || MonotonicClock.now().0)?;
        let candidate = |(kernel, ns): (&WeightKernel, f64)| WeightCandidate {
            kernel: *kernel,
            ns: Some(ns),
            refused: None,
        };
        let candidates: Vec<_> = kernels.iter().zip(times).map(candidate).collect();
        let chosen = choose(&candidates).ok_or("there is no kernel")?;
        let mut policy = policies.swap_remove(chosen);
        policy.enter_thread()?;
        for (index, (_, values)) in states.iter().enumerate() {
            policy.state_mut(index).ok_or("the policy has no such state")?.copy_from_slice(values);
        }
        let action = vec![0.0; policy.dimensions().action];
        Ok(Self { policy, weights, observation, action })
    }
}

impl Engine for Ours {
    fn name(&self) -> String {
        let kernel = self.policy.weight_kernel().name();
        match self.weights {
            Weights::Single => format!("escapement {kernel}"),
            Weights::Fastest => format!("escapement fastest: {kernel}"),
        }
    }

    fn call(&mut self) -> Result<()> {
        self.policy.infer(black_box(&self.observation), black_box(&mut self.action))?;
        Ok(())
    }

    fn tolerance(&self) -> f32 {
        match self.policy.weight_kernel().precision() {
            Precision::F32 => 1e-5,
            // What rounding the weights allows.
            Precision::Bf16 => 2e-2,
        }
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        let mut all = self.action.clone();
        // The action of a recurrent network is its first state.
        let mut states = 1;
        while let Some(state) = self.policy.state_mut(states) {
            all.extend_from_slice(state);
            states += 1;
        }
        Ok(all)
    }
}
