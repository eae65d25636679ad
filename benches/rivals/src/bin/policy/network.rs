//! The networks of the comparison and the files that `models.py` wrote for them.

use std::path::{Path, PathBuf};

/// What a network is made of, for those engines that are told its shapes.
pub enum Kind {
    /// Layer sizes.
    Mlp { sizes: &'static [usize] },
    /// An LSTM over this many steps.
    Lstm { inputs: usize, hidden: usize, steps: usize },
}

pub struct Network {
    pub name: &'static str,
    pub kind: Kind,
}

/// The five rows of the table.
pub const NETWORKS: [Network; 5] = [
    Network { name: "mlp-32-64-64-3-tanh", kind: Kind::Mlp { sizes: &[32, 64, 64, 3] } },
    Network { name: "mlp-128-256-256-3-relu", kind: Kind::Mlp { sizes: &[128, 256, 256, 3] } },
    Network { name: "lstm-32-64-step", kind: Kind::Lstm { inputs: 32, hidden: 64, steps: 1 } },
    Network { name: "lstm-32-256-step", kind: Kind::Lstm { inputs: 32, hidden: 256, steps: 1 } },
    Network { name: "lstm-32-64-window-20", kind: Kind::Lstm { inputs: 32, hidden: 64, steps: 20 } },
];

/// A network's files.
pub struct Files {
    base: PathBuf,
}

impl Files {
    pub fn new(directory: &Path, network: &Network) -> Self {
        Self { base: directory.join(network.name) }
    }

    /// The network under the signature of a policy: what Escapement takes.
    pub fn policy(&self) -> PathBuf {
        self.base.with_added_extension("policy.pt")
    }

    /// The bare network.
    #[cfg(feature = "torch")]
    pub fn torchscript(&self) -> PathBuf {
        self.base.with_added_extension("pt")
    }

    pub fn onnx(&self) -> PathBuf {
        self.base.with_added_extension("onnx")
    }

    /// `weights`, `input`, `output` or `settled`, all little-endian `f32`.
    pub fn floats(&self, extension: &str) -> Vec<f32> {
        let path = self.base.with_added_extension(extension);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    }
}

impl Network {
    /// The shapes of the network's inputs: the observation, and the state where it is carried.
    pub fn input_shapes(&self) -> Vec<Vec<usize>> {
        match self.kind {
            Kind::Mlp { sizes } => vec![vec![1, sizes[0]]],
            Kind::Lstm { inputs, hidden, steps: 1 } => {
                vec![vec![1, 1, inputs], vec![1, 1, hidden], vec![1, 1, hidden]]
            }
            Kind::Lstm { inputs, steps, .. } => vec![vec![steps, 1, inputs]],
        }
    }

    /// Elements of each of the network's outputs.
    pub fn output_shapes(&self) -> Vec<Vec<usize>> {
        match self.kind {
            Kind::Mlp { sizes } => vec![vec![1, sizes[sizes.len() - 1]]],
            Kind::Lstm { hidden, steps: 1, .. } => vec![vec![1, 1, hidden]; 2],
            Kind::Lstm { hidden, .. } => vec![vec![1, 1, hidden]],
        }
    }

    /// The content of the `input` file, cut into the network's inputs.
    pub fn inputs(&self, files: &Files) -> Vec<(Vec<usize>, Vec<f32>)> {
        let all = files.floats("input");
        let mut rest = &all[..];
        let inputs = self.input_shapes().into_iter().map(|shape| {
            let (input, after) = rest.split_at(shape.iter().product());
            rest = after;
            (shape, input.to_vec())
        });
        inputs.collect()
    }
}
