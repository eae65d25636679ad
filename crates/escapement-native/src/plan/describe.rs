//! The data about a plan that `inspect` prints.

use serde::Serialize;

/// A description of a lowered policy, for people and for JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Description {
    /// Instruction set of the kernels: `scalar`, `avx2` or `avx512`.
    pub isa: &'static str,
    /// How weights are stored: `f32` or `bf16`.
    pub precision: &'static str,
    /// Both together: the name of the [`WeightKernel`](crate::kernels::WeightKernel).
    pub weights: &'static str,
    /// Elements of one observation.
    pub observation: usize,
    /// Elements of one action.
    pub action: usize,
    /// Shapes of the carried states, in the order of `forward`'s arguments.
    pub states: Vec<Vec<usize>>,
    /// Multiply-adds of one call.
    pub multiply_adds: usize,
    /// Bytes of packed weights that one call reads.
    pub weight_bytes: usize,
    /// Bytes of all other buffers.
    pub arena_bytes: usize,
    /// The steps, in the order of execution.
    pub steps: Vec<StepDescription>,
}

/// One step of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct StepDescription {
    /// The operator's name in the archive's source.
    pub operator: String,
    /// Later operators that are merged into this step.
    pub fused: Vec<String>,
    /// The operator's position: archive member and line.
    pub place: String,
    /// The kernel and its instruction set.
    pub kernel: String,
    /// Shapes of the operands.
    pub inputs: Vec<Vec<usize>>,
    /// Elements of the result.
    pub outputs: Vec<usize>,
    /// Multiply-adds of the step.
    pub multiply_adds: usize,
    /// Bytes of packed weights.
    pub weight_bytes: usize,
}
