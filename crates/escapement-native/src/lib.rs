//! The native policy engine: runs TorchScript policies without libtorch.
//!
//! It reads the archive as data and lowers its `forward` to a fixed plan of SIMD kernels. Nothing from the
//! file is executed. A call allocates nothing, takes no lock and makes no system call.
//!
//! ```
//! use std::path::Path;
//!
//! use escapement_native::{Native, Options};
//! use escapement_policy::{Policy, PolicyError};
//!
//! fn main() -> Result<(), PolicyError> {
//!     let file = Path::new("../../config/example.bundle/policy.pt");
//!     let mut policy = Native::load(file, &Options::default())?;
//!     let observation = vec![0.0; policy.dimensions().observation];
//!     let mut action = vec![f32::NAN; policy.dimensions().action];
//!     policy.infer(&observation, &mut action).expect("this policy has no operation that can fault");
//!     assert!(action.iter().all(|value| value.is_finite()));
//!     println!("{} steps", policy.describe().steps.len());
//!     Ok(())
//! }
//! ```
//!
//! # Features
//! - Files of `torch.jit.save`: frozen or not, traced or scripted. Calls are inlined, conditions are decided
//!   and loops are unrolled. `forward` is `(observation, noise?, state…) -> (action, state…)`.
//! - Operators: linear and matrix products, convolution over one axis, embedding, layer and batch
//!   normalisation, LSTM and GRU (a carried state or a window), arithmetic, activations, comparisons,
//!   reductions, and changes of shape and type. `docs/NATIVE.md` lists them. Any other operator is refused
//!   with its file, line and name.
//! - Element types `f32`, `f64`, `i64` and `bool`. Weights as `f32` or `bf16` ([`kernels::Precision`]).
//! - Kernels for AVX2 with FMA, AVX-512 and AVX-512 BF16, chosen by detection ([`kernels::Isa`]), and a
//!   scalar reference for every other processor.
//! - Bounds on everything that a file can cause the reader to do ([`Limits`]).
//! - A description of the plan ([`Native::describe`]).
//!
//! # Map
//! ```text
//! bytes ─▶ readers ─▶ lower ─▶ ir ◀─ plan ─▶ kernels, reference
//! ```
//! Lowering and the plan both use the intermediate representation, and neither uses the other. Lowering folds
//! constants with a function that this file passes in.
//!
//! | module | holds |
//! |---|---|
//! | `readers` | one module per file format: bounded archive, data tree, tensors, syntax tree of the source |
//! | `lower` | walks `forward` of a TorchScript archive once and builds a graph |
//! | `ir` | the graph of operations on strided views, and typed constant tensors |
//! | `plan` | compiles a graph to steps over one arena per element type, and executes them |
//! | [`kernels`] | vector kernels with their scalar references |
//! | [`choice`] | measures the kernels for weights of a network, and chooses one |
//! | `reference` | scalar kernels of the operators that take little time |
//! | `limits`, `refusal` | the bounds on a file, and the reasons to refuse it |
//! | `meter` | counts the memory and the work that a file causes, before it causes them |

pub mod choice;
mod ir;
pub mod kernels;
mod limits;
mod lower;
mod meter;
mod plan;
mod readers;
mod reference;
mod refusal;

use std::path::Path;

pub use limits::Limits;
pub use meter::Cost;
pub use plan::{Description, StepDescription};
pub use refusal::{Place, Refusal, RefusalKind};

use escapement_policy::file::{self, ReadError};
use escapement_policy::{Dimensions, Fault, Policy, PolicyError, READER_THREAD};
use kernels::{Isa, Precision, WeightKernel};
use lower::Known;
use meter::Meter;
use plan::{Plan, Target};

/// Stack of the thread that loads a file. Its walks must not depend on the caller's stack.
///
/// All recursion is bounded by [`Limits::depth`] (96). The parser nests that deep, and a tree of its
/// expressions is at most 32 times as deep. A walk over `forward` nests four times that deep: every block,
/// call and expression counts. Lists and tuples nest at most 128 deep, so that dropping one is shallow too.
/// A test shows that a quarter of this stack is enough for the deepest of these.
const LOADER_STACK: usize = 64 << 20;

/// How to load a policy.
#[derive(Debug, Clone)]
pub struct Options {
    /// Elements of one observation. `None` infers them from the first weights.
    pub observation: Option<usize>,
    /// Elements of the noise that `forward` takes after the observation. Zero if it takes none.
    pub noise: usize,
    /// Shapes of the carried states, in the order of `forward`'s arguments. If empty, they are inferred.
    pub states: Vec<Vec<usize>>,
    /// The instruction set to pack for. `None` takes the widest one of this machine, which is not always the
    /// fastest for bfloat16 weights; see [`choice`].
    pub isa: Option<Isa>,
    /// How weights are stored.
    pub precision: Precision,
    /// Bounds on what the file can cause the reader to do.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            observation: None,
            noise: 0,
            states: Vec::new(),
            isa: None,
            precision: Precision::F32,
            limits: Limits::default(),
        }
    }
}

/// A policy lowered from a TorchScript archive.
///
/// `forward` takes an observation of shape `[1, observation]`, noise of shape `[1, noise]` if there is any,
/// and any number of states. It returns the action and as many states of the same shapes. Noise and states
/// start at zero. States are carried from call to call.
pub struct Native {
    plan: Plan,
    dimensions: Dimensions,
    noise: usize,
    states: Vec<Vec<usize>>,
    faulted: bool,
}

impl Native {
    /// Loads the file at `path`.
    ///
    /// # Errors
    /// - [`PolicyError::Unreadable`] if the file cannot be read.
    /// - [`PolicyError::Malformed`] if the file is damaged or hostile.
    /// - [`PolicyError::Unsupported`], with file, line and operator, if only torch can run the file.
    /// - [`PolicyError::Shape`] if the widths do not fit.
    pub fn load(path: &Path, options: &Options) -> Result<Self, PolicyError> {
        let unreadable = |source| PolicyError::Unreadable { path: path.to_path_buf(), source };
        let bytes = file::read(path, options.limits.archive_bytes).map_err(|error| match error {
            ReadError::System(source) => unreadable(source),
            refused => Refusal::malformed(refused.to_string()).at(path),
        })?;
        Self::from_bytes(&bytes, path, options)
    }

    /// Loads an archive from memory. Errors name it `name`.
    ///
    /// # Errors
    /// As [`Native::load`].
    pub fn from_bytes(bytes: &[u8], name: &Path, options: &Options) -> Result<Self, PolicyError> {
        Self::lower(bytes, options)?.map_err(|refusal| refusal.at(name))
    }

    /// Loads an archive from memory. If it is refused, the inner error says why and where.
    ///
    /// # Errors
    /// [`PolicyError::Backend`] if the loader thread cannot be started.
    pub fn lower(bytes: &[u8], options: &Options) -> Result<Result<Self, Refusal>, PolicyError> {
        Self::lower_counted(bytes, options).map(|(built, _)| built)
    }

    /// As [`Native::lower`]. Also returns the memory and the work that were counted.
    ///
    /// # Errors
    /// As [`Native::lower`].
    pub fn lower_counted(
        bytes: &[u8],
        options: &Options,
    ) -> Result<(Result<Self, Refusal>, Cost), PolicyError> {
        let precision = options.precision;
        let isa = options.isa.unwrap_or_else(|| Isa::detect_for(precision));
        let single = |mut policies: Vec<Self>| policies.pop().expect("there is a policy for each target");
        let (built, cost) = Self::lower_for(bytes, options, &[Target { isa, precision }])?;
        Ok((built.map(single), cost))
    }

    /// Loads an archive from memory once for each of `kernels`, in their order. The archive is read once. The
    /// instruction set and precision in `options` do not matter.
    ///
    /// # Errors
    /// [`PolicyError::Backend`] if this processor does not have a kernel, or if the loader thread cannot be
    /// started.
    pub fn lower_each(
        bytes: &[u8],
        options: &Options,
        kernels: &[WeightKernel],
    ) -> Result<Result<Vec<Self>, Refusal>, PolicyError> {
        let target = |kernel: &WeightKernel| match kernel.isa() {
            Some(isa) => Ok(Target { isa, precision: kernel.precision() }),
            None => {
                let available: Vec<_> = WeightKernel::available().iter().map(|it| it.name()).collect();
                let (kernel, available) = (kernel.name(), available.join(", "));
                let reason = format!("this processor cannot run {kernel} weights; it can run {available}");
                Err(PolicyError::Backend { backend: "native", reason })
            }
        };
        let targets = kernels.iter().map(target).collect::<Result<Vec<_>, _>>()?;
        Self::lower_for(bytes, options, &targets).map(|(built, _)| built)
    }

    fn lower_for(
        bytes: &[u8],
        options: &Options,
        targets: &[Target],
    ) -> Result<(Result<Vec<Self>, Refusal>, Cost), PolicyError> {
        let loaded = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name(READER_THREAD.to_owned())
                .stack_size(LOADER_STACK)
                .spawn_scoped(scope, || {
                    let meter = Meter::new(bytes.len(), &options.limits);
                    (Self::build(bytes, options, targets, &meter), meter.cost())
                })
                .map(|thread| thread.join())
        });
        match loaded {
            Ok(Ok(built)) => Ok(built),
            // Nothing of that thread is shared, so that nothing is left in an undefined state.
            Ok(Err(_)) => {
                let refusal = Refusal::malformed("the reader failed on it, which is a defect of the reader");
                Ok((Err(refusal), Cost { memory: 0, work: 0 }))
            }
            Err(source) => Err(PolicyError::Backend {
                backend: "native",
                reason: format!("no thread to load on: {source}"),
            }),
        }
    }

    fn build(
        bytes: &[u8],
        options: &Options,
        targets: &[Target],
        meter: &Meter,
    ) -> Result<Vec<Self>, Refusal> {
        let known = Known {
            observation: options.observation,
            noise: (options.noise > 0).then_some(options.noise),
            states: options.states.clone(),
        };
        let lowered = lower::lower(bytes, &known, &options.limits, meter, plan::evaluate)?;
        let inputs: Vec<usize> = lowered.shapes.iter().map(|shape| shape.iter().product()).collect();
        let dimensions = Dimensions { observation: inputs[0], action: lowered.outputs[0].len() };
        let states = &lowered.shapes[1 + usize::from(options.noise > 0)..];
        let compile = |target: &Target| {
            let plan = Plan::compile(&lowered.graph, &lowered.outputs, &inputs, *target)?;
            Ok(Self { plan, dimensions, noise: options.noise, states: states.to_vec(), faulted: false })
        };
        targets.iter().map(compile).collect()
    }

    /// Returns how the plan holds and multiplies its weights.
    #[must_use]
    pub fn weight_kernel(&self) -> WeightKernel {
        let target = self.plan.target();
        WeightKernel::of(target.isa, target.precision)
    }

    /// Describes the plan, for reports.
    #[must_use]
    pub fn describe(&self) -> Description {
        let target = self.plan.target();
        let steps = self.plan.steps().to_vec();
        Description {
            isa: target.isa.name(),
            precision: target.precision.name(),
            weights: self.weight_kernel().name(),
            observation: self.dimensions.observation,
            action: self.dimensions.action,
            states: self.states.clone(),
            multiply_adds: steps.iter().map(|step| step.multiply_adds).sum(),
            weight_bytes: steps.iter().map(|step| step.weight_bytes).sum(),
            arena_bytes: self.plan.arena_bytes(),
            steps,
        }
    }

    /// Shapes of the carried states, in the order of `forward`'s arguments.
    #[must_use]
    pub fn state_shapes(&self) -> &[Vec<usize>] {
        &self.states
    }

    /// The index of the first carried state among the arguments of `forward`.
    fn first_state(&self) -> usize {
        1 + usize::from(self.noise > 0)
    }
}

impl std::fmt::Debug for Native {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Native")
            .field("dimensions", &self.dimensions)
            .field("states", &self.states)
            .field("steps", &self.plan.steps().len())
            .finish_non_exhaustive()
    }
}

impl Policy for Native {
    fn dimensions(&self) -> Dimensions {
        self.dimensions
    }

    fn backend(&self) -> &'static str {
        "native"
    }

    fn has_fixed_work(&self) -> bool {
        true
    }

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        self.plan.input_mut(0).copy_from_slice(observation);
        if let Err(fault) = self.plan.run() {
            self.faulted = true;
            return Err(fault);
        }
        action.copy_from_slice(self.plan.output(0));
        // States are carried only after success, so that a call that faults leaves them unchanged.
        for state in 0..self.states.len() {
            self.plan.carry(1 + state, self.first_state() + state);
        }
        Ok(())
    }

    fn reset(&mut self) {
        for state in 0..self.states.len() {
            self.plan.input_mut(self.first_state() + state).fill(0.0);
        }
    }

    fn noise_mut(&mut self) -> &mut [f32] {
        if self.noise > 0 { self.plan.input_mut(1) } else { &mut [] }
    }

    fn state_mut(&mut self, index: usize) -> Option<&mut [f32]> {
        (index < self.states.len()).then(|| self.plan.input_mut(self.first_state() + index))
    }

    fn can_run_dry(&self) -> bool {
        // Every call writes the whole arena before it reads it, except for the inputs and the weights.
        true
    }

    fn last_fault(&self) -> Option<&str> {
        // This is the only fault that a plan can have. All others are checked when the file is loaded.
        self.faulted.then_some("an index computed by the network lies outside its table")
    }
}

#[cfg(test)]
mod tests {
    use super::kernels::{Isa, Precision};
    use super::{LOADER_STACK, Meter, Native, Options, Target};
    use escapement_test_support::hostile::deepest;

    #[test]
    fn a_quarter_of_the_stack_is_enough_for_the_deepest_file() {
        for (name, bytes) in deepest() {
            let thread = std::thread::Builder::new().stack_size(LOADER_STACK / 4);
            let load = move || {
                let options = Options { observation: Some(4), ..Options::default() };
                let target = Target { isa: Isa::detect_for(Precision::F32), precision: Precision::F32 };
                let meter = Meter::new(bytes.len(), &options.limits);
                Native::build(&bytes, &options, &[target], &meter).map(drop)
            };
            let built = thread.spawn(load).expect("a thread").join().expect("no panic");
            let text = built.map_or_else(|refusal| refusal.to_string(), |()| "it loads".to_owned());
            assert!(text.contains("deeper") || text == "it loads", "{name}: {text}");
        }
    }
}
