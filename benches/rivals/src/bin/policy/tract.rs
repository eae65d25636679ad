//! tract: the optimised model with one state that is kept between calls.

use tract_onnx::prelude::*;

use crate::engine::{Engine, Result};
use crate::network::{Files, Network};

pub struct Tract {
    state: TypedSimpleState,
    inputs: TVec<TValue>,
    outputs: TVec<TValue>,
}

impl Tract {
    pub fn load(network: &Network, files: &Files) -> Result<Self> {
        let mut model = tract_onnx::onnx().model_for_path(files.onnx())?;
        let mut inputs = tvec![];
        for (i, (shape, values)) in network.inputs(files).into_iter().enumerate() {
            model.set_input_fact(i, f32::fact(&shape).into())?;
            inputs.push(Tensor::from_shape(&shape, &values)?.into_tvalue());
        }
        let state = model.into_optimized()?.into_runnable()?.spawn()?;
        Ok(Self { state, inputs, outputs: tvec![] })
    }
}

impl Engine for Tract {
    fn name(&self) -> String {
        "tract".to_owned()
    }

    fn call(&mut self) -> Result<()> {
        self.outputs = self.state.run(self.inputs.clone())?;
        Ok(())
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for output in &self.outputs {
            all.extend_from_slice(output.try_as_plain_ram()?.as_slice::<f32>()?);
        }
        Ok(all)
    }
}
