//! libtorch through `tch`: the frozen TorchScript module, one thread, no gradients, profiling executor off.

use tch::{CModule, IValue, Tensor};

use crate::engine::{Engine, Result};
use crate::network::{Files, Network};

pub struct LibTorch {
    module: CModule,
    inputs: Vec<IValue>,
    output: Option<IValue>,
    _no_grad: tch::NoGradGuard,
}

impl LibTorch {
    pub fn load(network: &Network, files: &Files) -> Result<Self> {
        tch::set_num_threads(1);
        tch::jit::set_profiling_mode(false);
        let no_grad = tch::no_grad_guard();
        let module = CModule::load(files.torchscript())?;
        let mut inputs = Vec::new();
        for (shape, values) in network.inputs(files) {
            let shape: Vec<i64> = shape.into_iter().map(|size| size as i64).collect();
            inputs.push(IValue::Tensor(Tensor::f_from_slice(&values)?.f_reshape(&shape[..])?));
        }
        Ok(Self { module, inputs, output: None, _no_grad: no_grad })
    }
}

impl Engine for LibTorch {
    fn name(&self) -> String {
        "libtorch (tch)".to_owned()
    }

    fn call(&mut self) -> Result<()> {
        self.output = Some(self.module.forward_is(&self.inputs)?);
        Ok(())
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        let tensors = match self.output.as_ref().ok_or("not called yet")? {
            IValue::Tensor(tensor) => vec![tensor],
            IValue::Tuple(values) => values
                .iter()
                .map(|value| match value {
                    IValue::Tensor(tensor) => Ok(tensor),
                    other => Err(format!("{other:?} is not a tensor")),
                })
                .collect::<std::result::Result<_, _>>()?,
            other => return Err(format!("{other:?} is not a tensor").into()),
        };
        let mut all = Vec::new();
        for tensor in tensors {
            all.extend(Vec::<f32>::try_from(tensor.f_reshape([-1])?)?);
        }
        Ok(all)
    }
}
