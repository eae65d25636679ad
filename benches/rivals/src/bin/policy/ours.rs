//! Escapement's own kernels, on the weights that PyTorch had.

use std::hint::black_box;

use escapement::policy::native::kernels::{Activation, Dense, Isa, Lstm, Precision};

use crate::engine::{Engine, Result};
use crate::network::{Files, Kind, Network};

pub enum Layers {
    Mlp(Vec<Dense>),
    Lstm { layer: Lstm, steps: usize },
}

pub struct Ours {
    precision: Precision,
    layers: Layers,
    inputs: Vec<Vec<f32>>,
    /// The outputs of each layer; for an LSTM `h`, `c` and all hidden states.
    values: Vec<Vec<f32>>,
    scratch: Vec<f32>,
}

impl Ours {
    pub fn load(network: &Network, files: &Files, precision: Precision) -> Self {
        let isa = Isa::detect();
        let weights = files.floats("weights");
        let mut rest = &weights[..];
        let mut take = |len: usize| {
            let (taken, after) = rest.split_at(len);
            rest = after;
            taken
        };
        let inputs: Vec<Vec<f32>> = network.inputs(files).into_iter().map(|(_, input)| input).collect();
        let (layers, values, scratch) = match network.kind {
            Kind::Mlp { sizes, tanh } => {
                let between = if tanh { Activation::Tanh } else { Activation::Relu };
                let layers: Vec<Dense> = sizes
                    .windows(2)
                    .enumerate()
                    .map(|(i, pair)| {
                        let activation = if i + 2 < sizes.len() { between } else { Activation::Identity };
                        let (weights, bias) = (take(pair[0] * pair[1]), take(pair[1]));
                        Dense::pack(isa, precision, weights, Some(bias), pair[0], pair[1], activation)
                    })
                    .collect();
                let values = layers.iter().map(|layer| vec![0.0; layer.outputs()]).collect();
                (Layers::Mlp(layers), values, Vec::new())
            }
            Kind::Lstm { inputs, hidden, steps } => {
                let gates = 4 * hidden;
                let (ih, hh, bias_ih, bias_hh) =
                    (take(gates * inputs), take(gates * hidden), take(gates), take(gates));
                let layer = Lstm::pack(isa, precision, ih, hh, Some(bias_ih), Some(bias_hh), inputs, hidden);
                let scratch = vec![0.0; layer.scratch_len(steps)];
                let values = vec![vec![0.0; hidden], vec![0.0; hidden], vec![0.0; steps * hidden]];
                (Layers::Lstm { layer, steps }, values, scratch)
            }
        };
        Self { precision, layers, inputs, values, scratch }
    }
}

impl Engine for Ours {
    fn name(&self) -> String {
        format!("escapement {} {}", Isa::detect().name(), self.precision.name())
    }

    fn call(&mut self) -> Result<()> {
        match &self.layers {
            Layers::Mlp(layers) => {
                layers[0].run(black_box(&self.inputs[0]), &mut self.values[0]);
                for (i, layer) in layers.iter().enumerate().skip(1) {
                    let (before, after) = self.values.split_at_mut(i);
                    layer.run(&before[i - 1], &mut after[0]);
                }
            }
            Layers::Lstm { layer, steps } => {
                let [h, c, states] = &mut self.values[..] else {
                    unreachable!("three buffers are made by load")
                };
                if let [input, h0, c0] = &self.inputs[..] {
                    h.copy_from_slice(h0);
                    c.copy_from_slice(c0);
                    layer.step(black_box(input), h, c, &mut self.scratch);
                } else {
                    h.fill(0.0);
                    c.fill(0.0);
                    layer.window(*steps, black_box(&self.inputs[0]), h, c, states, &mut self.scratch);
                }
            }
        }
        black_box(&self.values);
        Ok(())
    }

    fn output(&self) -> Result<Vec<f32>> {
        Ok(match &self.layers {
            Layers::Mlp(layers) => self.values[layers.len() - 1].clone(),
            Layers::Lstm { steps: 1, .. } => [&self.values[0][..], &self.values[1]].concat(),
            Layers::Lstm { .. } => self.values[0].clone(),
        })
    }
}
