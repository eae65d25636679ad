//! Escapement: the TorchScript file through the native backend, called as the daemon calls it.

use std::hint::black_box;

use escapement::policy::Policy;
use escapement::policy::native::kernels::Precision;
use escapement::policy::native::{Native, Options};

use crate::engine::{Engine, Result};
use crate::network::{Files, Network};

pub struct Ours {
    policy: Native,
    precision: Precision,
    observation: Vec<f32>,
    action: Vec<f32>,
}

impl Ours {
    pub fn load(network: &Network, files: &Files, precision: Precision) -> Result<Self> {
        let mut inputs = network.inputs(files).into_iter();
        let (_, observation) = inputs.next().ok_or("a network has an observation")?;
        let states: Vec<(Vec<usize>, Vec<f32>)> = inputs.collect();
        let options = Options {
            observation: Some(observation.len()),
            states: states.iter().map(|(shape, _)| shape.clone()).collect(),
            precision,
            ..Options::default()
        };
        let mut policy = Native::load(&files.policy(), &options)?;
        policy.enter_thread()?;
        for (index, (_, values)) in states.iter().enumerate() {
            policy.state_mut(index).ok_or("the policy has no such state")?.copy_from_slice(values);
        }
        let action = vec![0.0; policy.dimensions().action];
        Ok(Self { policy, precision, observation, action })
    }
}

impl Engine for Ours {
    fn name(&self) -> String {
        format!("escapement {} {}", self.policy.describe().isa, self.precision.name())
    }

    fn call(&mut self) -> Result<()> {
        self.policy.infer(black_box(&self.observation), black_box(&mut self.action))?;
        Ok(())
    }

    fn tolerance(&self) -> f32 {
        match self.precision {
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
