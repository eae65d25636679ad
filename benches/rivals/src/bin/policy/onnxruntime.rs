//! ONNX Runtime through `ort`: all optimisations, one thread, inputs and outputs bound beforehand.

use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session};
use ort::value::Tensor;

use crate::engine::{Engine, Result};
use crate::network::{Files, Network};

pub struct OnnxRuntime {
    session: Session,
    binding: IoBinding,
    /// The binding refers to these.
    _inputs: Vec<Tensor<f32>>,
    last: Vec<f32>,
    outputs: usize,
}

impl OnnxRuntime {
    pub fn load(environment: &Environment, network: &Network, files: &Files) -> Result<Self> {
        let session = Session::builder(environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .commit_from_file(files.onnx())?;
        let mut binding = session.create_binding()?;
        let mut inputs = Vec::new();
        for (i, (shape, values)) in network.inputs(files).into_iter().enumerate() {
            let tensor = Tensor::from_array((shape, values))?;
            binding.bind_input(format!("input{i}"), &tensor)?;
            inputs.push(tensor);
        }
        let outputs = network.output_shapes();
        for (i, shape) in outputs.iter().enumerate() {
            let tensor = Tensor::<f32>::new(&Allocator::default(), shape.clone())?;
            binding.bind_output(format!("output{i}"), tensor)?;
        }
        let mut engine = Self { session, binding, _inputs: inputs, last: Vec::new(), outputs: outputs.len() };
        // Outputs can be looked at only after a run, and belong to it: the first one is kept to be checked.
        let results = engine.session.run_binding(&engine.binding)?;
        for i in 0..engine.outputs {
            engine
                .last
                .extend_from_slice(results[format!("output{i}").as_str()].try_extract_tensor::<f32>()?.1);
        }
        drop(results);
        Ok(engine)
    }
}

impl Engine for OnnxRuntime {
    fn name(&self) -> String {
        "ONNX Runtime".to_owned()
    }

    fn call(&mut self) -> Result<()> {
        self.session.run_binding(&self.binding)?;
        Ok(())
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        Ok(self.last.clone())
    }
}
