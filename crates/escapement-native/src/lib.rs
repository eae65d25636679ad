//! The native backend: reads the TorchScript archive, lowers its `forward` to a fixed plan of SIMD kernels, and runs
//! that. No libtorch, nothing from the file is executed, nothing is allocated per call.
//!
//! ```text
//! bytes ─▶ archive ─▶ pickle ─▶ module ──┐
//!              └────▶ source ────────────┴─▶ lower ─▶ plan ─▶ kernels, reference
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `archive`, `pickle`, `module` | the file: bounded zip, a data tree, tensors |
//! | `source` | lexer and parser of the code inside |
//! | `lower` | `forward` to a graph on strided views, by walking it once |
//! | `plan` | the graph to steps over one arena, and their execution |
//! | [`kernels`] | vector kernels with their scalar references |
//! | `reference` | scalar kernels of the operators that need no speed |

mod ir;
pub mod kernels;
mod limits;
mod lower;
mod plan;
mod readers;
mod reference;
mod refusal;

use std::path::Path;

pub use limits::Limits;
pub use plan::{Description, StepDescription};
pub use refusal::{Place, Refusal, RefusalKind};

use escapement_policy::{Dimensions, Fault, Policy, PolicyError};
use kernels::{Isa, Precision};
use lower::Known;
use plan::{Plan, Target};

/// Stack of the thread that loads a file. Its walks recurse as deep as [`Limits::depth`] allows, which must hold
/// whatever the stack of the caller is.
const LOADER_STACK: usize = 64 << 20;

/// How to load a policy.
#[derive(Debug, Clone)]
pub struct Options {
    /// Elements of one observation; inferred from the first weights where `None`.
    pub observation: Option<usize>,
    /// Elements of the noise that `forward` takes after the observation; zero where it takes none.
    pub noise: usize,
    /// Shapes of the carried states, in the order of `forward`'s arguments; inferred where empty.
    pub states: Vec<Vec<usize>>,
    /// The instruction set to pack for; the widest one of this machine where `None`.
    pub isa: Option<Isa>,
    /// How weights are held.
    pub precision: Precision,
    /// Bounds on what the file may make the reader do.
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
/// `forward` takes an observation of shape `[1, observation]`, noise of shape `[1, noise]` if there is any, and any
/// number of states, and returns the action and as many states of the same shapes. Noise and states start at zero;
/// states are carried from call to call.
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
    /// [`PolicyError::Unreadable`], [`PolicyError::Malformed`] for damaged or hostile files,
    /// [`PolicyError::Unsupported`] with file, line and operator for what only torch can run, and
    /// [`PolicyError::Shape`] where the widths do not fit.
    pub fn load(path: &Path, options: &Options) -> Result<Self, PolicyError> {
        let unreadable = |source| PolicyError::Unreadable { path: path.to_path_buf(), source };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > options.limits.archive_bytes {
            let limit = options.limits.archive_bytes;
            return Err(Refusal::malformed(format!("{length} bytes, at most {limit} are read")).at(path));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        Self::from_bytes(&bytes, path, options)
    }

    /// Loads an archive from memory; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Native::load`].
    pub fn from_bytes(bytes: &[u8], name: &Path, options: &Options) -> Result<Self, PolicyError> {
        Self::lower(bytes, options)?.map_err(|refusal| refusal.at(name))
    }

    /// Loads an archive from memory; where it is refused, says what stopped it and where.
    ///
    /// # Errors
    /// [`PolicyError::Backend`] where there is no thread to load on.
    pub fn lower(bytes: &[u8], options: &Options) -> Result<Result<Self, Refusal>, PolicyError> {
        let loaded = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("policy-loader".to_owned())
                .stack_size(LOADER_STACK)
                .spawn_scoped(scope, || Self::build(bytes, options))
                .map(|thread| thread.join())
        });
        match loaded {
            Ok(Ok(built)) => Ok(built),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(source) => Err(PolicyError::Backend {
                backend: "native",
                reason: format!("no thread to load on: {source}"),
            }),
        }
    }

    fn build(bytes: &[u8], options: &Options) -> Result<Self, Refusal> {
        let known = Known {
            observation: options.observation,
            noise: (options.noise > 0).then_some(options.noise),
            states: options.states.clone(),
        };
        let lowered = lower::lower(bytes, &known, &options.limits, plan::evaluate)?;
        let precision = options.precision;
        let isa = options.isa.unwrap_or_else(|| Isa::detect_for(precision));
        let target = Target { isa, precision };
        let inputs: Vec<usize> = lowered.shapes.iter().map(|shape| shape.iter().product()).collect();
        let plan = Plan::compile(&lowered.graph, &lowered.outputs, &inputs, target)?;
        let dimensions = Dimensions { observation: inputs[0], action: lowered.outputs[0].len() };
        let states = lowered.shapes[1 + usize::from(options.noise > 0)..].to_vec();
        Ok(Self { plan, dimensions, noise: options.noise, states, faulted: false })
    }

    /// What the plan consists of, for reports.
    #[must_use]
    pub fn describe(&self) -> Description {
        let target = self.plan.target();
        let steps = self.plan.steps().to_vec();
        Description {
            isa: target.isa.name(),
            precision: target.precision.name(),
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

    /// The argument of `forward` that the first carried state is.
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

    fn infer(&mut self, observation: &[f32], action: &mut [f32]) -> Result<(), Fault> {
        self.plan.input_mut(0).copy_from_slice(observation);
        if let Err(fault) = self.plan.run() {
            self.faulted = true;
            return Err(fault);
        }
        action.copy_from_slice(self.plan.output(0));
        // Only now: a call that faults leaves the states as they were.
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

    fn last_fault(&self) -> Option<&str> {
        // The only fault that a plan has, besides those checked when it was loaded.
        self.faulted.then_some("an index computed by the network lies outside its table")
    }
}
