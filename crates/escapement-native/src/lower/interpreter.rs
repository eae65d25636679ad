//! The state of a walk over `forward`: the program, the graph so far, and the tensors that names refer to.
//!
//! `walk` executes statements and expressions, and `builtins` executes the operators. `emit` appends to the
//! graph. `tensors` and `attributes` look things up. All of them work on this state.

use std::collections::HashMap;
use std::rc::Rc;

use super::value::{TensorId, Value};
use crate::ir::Evaluate;
use crate::ir::graph::{Graph, View};
use crate::limits::Limits;
use crate::meter::Meter;
use crate::readers::torchscript::archive::Archive;
use crate::readers::torchscript::module::Tree;
use crate::readers::torchscript::pickle::Id;
use crate::readers::torchscript::source::Library;
use crate::refusal::Refusal;

/// The reasons why a walk ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file cannot be run natively.
    Refused(Refusal),
    /// The walk needs the shape of this argument. `suggestion` is the only shape that fits, if there is
    /// exactly one.
    NeedsShape { input: usize, suggestion: Option<Vec<usize>> },
}

impl From<Refusal> for Stop {
    fn from(problem: Refusal) -> Self {
        Self::Refused(problem)
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// Refuses a construct. The place is added while the error is returned.
pub(super) fn unsupported<T>(reason: impl AsRef<str>) -> Step<T> {
    Err(Stop::Refused(Refusal::unsupported(reason)))
}

/// Refuses shapes or types that PyTorch would refuse too.
pub(super) fn mismatch<T>(reason: impl AsRef<str>) -> Step<T> {
    Err(Stop::Refused(Refusal::shape(reason)))
}

/// An archive that is open for lowering. All attempts share its attributes and source.
pub(super) struct Program<'a> {
    pub(super) archive: Archive<'a>,
    pub(super) library: Library,
    pub(super) attributes: Tree,
    pub(super) constants: Tree,
    pub(super) limits: Limits,
    pub(super) meter: Meter,
    pub(super) evaluate: Evaluate,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Attributes,
    Constants,
}

pub(super) struct Interpreter<'p, 'a> {
    pub(super) program: &'p mut Program<'a>,
    pub(super) meter: Meter,
    pub(super) graph: Graph,
    pub(super) tensors: Vec<Tensor>,
    pub(super) loaded: HashMap<(Source, Id), TensorId>,
    pub(super) evaluations: usize,
    /// The current depth of nested calls, blocks and expressions.
    pub(super) depth: usize,
    pub(super) file: Rc<str>,
    pub(super) line: u32,
    pub(super) operator: Rc<str>,
}

pub(super) type Scope = HashMap<Rc<str>, Value>;

/// One entry of the table of tensors.
pub(super) struct Tensor {
    pub(super) view: View,
    /// The operator that has since overwritten some of the elements. Reading them here would return old
    /// values.
    pub(super) overwritten: Option<Rc<str>>,
    /// Whether this is a number of the source that TorchScript stored as a constant without dimensions. In
    /// PyTorch its type yields, as the type of a Python number does.
    pub(super) number: bool,
}

impl<'p, 'a> Interpreter<'p, 'a> {
    pub(super) fn new(program: &'p mut Program<'a>) -> Self {
        let meter = program.meter.clone();
        Self {
            program,
            graph: Graph::new(&meter),
            meter,
            tensors: Vec::new(),
            loaded: HashMap::new(),
            evaluations: 0,
            depth: 0,
            file: "code".into(),
            line: 0,
            operator: "forward".into(),
        }
    }

    /// The graph so far. Everything else is dropped.
    pub(super) fn into_graph(self) -> Graph {
        self.graph
    }
}
