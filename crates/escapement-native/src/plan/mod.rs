//! A fixed plan: steps over preallocated buffers, in the order of execution.

mod arena;
mod charge;
mod compile;
mod describe;
mod execute;
mod place;
mod step;

pub use describe::{Description, StepDescription};

use crate::ir::graph::{Graph, Origin, View};
use crate::ir::tensor::{DType, Data};
use crate::kernels::{Isa, Precision};
use crate::refusal::Refusal;
use arena::Arenas;
use escapement_policy::Fault;
use step::{Span, Step};

/// The instruction set and precision that a plan is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) isa: Isa,
    pub(crate) precision: Precision,
}

/// A network that is ready to run. After compilation, it allocates nothing.
pub(crate) struct Plan {
    target: Target,
    arenas: Arenas,
    steps: Vec<Step>,
    descriptions: Vec<StepDescription>,
    inputs: Vec<Span>,
    /// Each result with its element type. The results of a policy are all `f32`.
    outputs: Vec<(Span, DType)>,
}

impl Plan {
    /// Compiles the computation of `outputs`. `inputs` holds the lengths of all arguments of `forward`, used
    /// or not.
    pub(crate) fn compile(
        graph: &Graph,
        outputs: &[View],
        inputs: &[usize],
        target: Target,
    ) -> Result<Self, Refusal> {
        compile::compile(graph, outputs, inputs, target)
    }

    /// The argument `index`. The caller must write it before [`Plan::run`].
    pub(crate) fn input_mut(&mut self, index: usize) -> &mut [f32] {
        let span = self.inputs[index];
        &mut self.arenas.f32.slice_mut()[span.range()]
    }

    /// The result `index` of the last [`Plan::run`].
    pub(crate) fn output(&self, index: usize) -> &[f32] {
        let (span, _) = self.outputs[index];
        &self.arenas.f32.slice()[span.range()]
    }

    /// Copies the result `output` over the argument `input`. This carries a state to the next call.
    pub(crate) fn carry(&mut self, output: usize, input: usize) {
        let (from, to) = (self.outputs[output].0, self.inputs[input]);
        self.arenas.f32.slice_mut().copy_within(from.range(), to.start);
    }

    /// Executes every step. Fails if a step faults.
    pub(crate) fn run(&mut self) -> Result<(), Fault> {
        for step in &mut self.steps {
            execute::execute(step, &mut self.arenas, self.target.isa)?;
        }
        Ok(())
    }

    pub(crate) fn target(&self) -> Target {
        self.target
    }

    /// One entry per step, in order.
    pub(crate) fn steps(&self) -> &[StepDescription] {
        &self.descriptions
    }

    /// Bytes of all buffers that a call may use, without the weights.
    pub(crate) fn arena_bytes(&self) -> usize {
        self.arenas.bytes()
    }
}

/// Computes `views` of a graph in which everything is constant.
pub(crate) fn evaluate(graph: &Graph, views: &[View]) -> Result<Vec<Data>, Refusal> {
    debug_assert!(graph.roots.iter().all(|root| !matches!(root.origin, Origin::Input(_))));
    let target = Target { isa: Isa::Scalar, precision: Precision::F32 };
    let mut plan = Plan::compile(graph, views, &[], target)?;
    for &(span, dtype) in &plan.outputs {
        graph.meter.bytes(span.len.saturating_mul(dtype.size()))?;
    }
    let _flush = escapement_policy::denormals::FlushDenormals::enter();
    plan.run().map_err(|_| Refusal::shape("an operation on constants fails"))?;
    Ok(plan
        .outputs
        .iter()
        .map(|&(span, dtype)| match dtype {
            DType::F32 => Data::F32(plan.arenas.f32.slice()[span.range()].to_vec()),
            DType::F64 => Data::F64(plan.arenas.f64.slice()[span.range()].to_vec()),
            DType::I64 => Data::I64(plan.arenas.i64.slice()[span.range()].to_vec()),
            DType::Bool => Data::Bool(plan.arenas.bool.slice()[span.range()].to_vec()),
        })
        .collect())
}
