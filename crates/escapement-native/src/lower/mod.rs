//! Lowers an archive to a graph: finds shapes that work, walks `forward`, and optimises the graph.

mod attributes;
mod builtins;
mod emit;
mod fuse;
mod interpreter;
mod tensors;
mod value;
mod walk;

use std::collections::BTreeSet;

use crate::ir::Evaluate;
use crate::ir::graph::{Graph, View};
use crate::ir::tensor::DType;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::readers::torchscript::archive::Archive;
use crate::readers::torchscript::module::Tree;
use crate::readers::torchscript::source::Library;
use crate::refusal::Refusal;
use interpreter::{Interpreter, Program, Stop};
use value::Value;

/// A lowered `forward` with every shape known.
pub(crate) struct Lowered {
    pub(crate) graph: Graph,
    /// The action, then the states in the order of their arguments.
    pub(crate) outputs: Vec<View>,
    /// The shapes of the observation, of the noise if there is any, and of the states.
    pub(crate) shapes: Vec<Vec<usize>>,
}

/// What the caller knows about the arguments of `forward`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    pub(crate) observation: Option<usize>,
    /// Elements of the noise, if `forward` takes noise after the observation.
    pub(crate) noise: Option<usize>,
    pub(crate) states: Vec<Vec<usize>>,
}

/// Memory of one argument's shape in an attempt and in the attempts that it makes.
const ARGUMENT_BYTES: usize = 2 * size_of::<Option<Vec<usize>>>() + 128;
/// The largest number of shapes to try if the caller gives none.
const ATTEMPTS: usize = 256;

/// Lowers the policy in `bytes`. `evaluate` computes operations whose operands are all constant.
pub(crate) fn lower(
    bytes: &[u8],
    known: &Known,
    limits: &Limits,
    meter: &Meter,
    evaluate: Evaluate,
) -> Result<Lowered, Refusal> {
    let mut archive = Archive::open(bytes, limits, meter)?;
    if let Some(order) = archive.read_if_present("byteorder")?
        && order != b"little"
    {
        return Err(Refusal::unsupported("tensors are stored in big-endian order"));
    }
    let attributes = Tree::read(&mut archive, "data.pkl", "data", limits)?;
    let constants = Tree::read(&mut archive, "constants.pkl", "constants", limits)?;
    let library = Library::read(&mut archive, limits)?;
    let meter = meter.clone();
    let mut program = Program { archive, library, attributes, constants, limits: *limits, meter, evaluate };
    let arguments = program.arguments()?;
    if arguments == 0 {
        return Err(Refusal::unsupported("forward takes no observation"));
    }
    let first_state = 1 + usize::from(known.noise.is_some());
    if arguments < first_state {
        return Err(Refusal::shape("noise is given, forward takes an observation only"));
    }
    Search { program: &mut program, arguments, first_state, attempts: 0, deepest: None }.run(known)
}

/// Finds shapes for the arguments: those that the caller gives, then those that operators imply. For the
/// rest, it tries what the weights allow.
struct Search<'p, 'a> {
    program: &'p mut Program<'a>,
    arguments: usize,
    /// The index of the first state among the arguments.
    first_state: usize,
    attempts: usize,
    /// The refusal from the attempt that came furthest. It says most about the problem.
    deepest: Option<(usize, Refusal)>,
}

impl Search<'_, '_> {
    fn run(mut self, known: &Known) -> Result<Lowered, Refusal> {
        let mut shapes: Vec<Option<Vec<usize>>> = vec![None; self.arguments];
        if let Some(noise) = known.noise {
            shapes[1] = Some(vec![1, noise]);
        }
        for (shape, state) in shapes.iter_mut().skip(self.first_state).zip(&known.states) {
            *shape = Some(state.clone());
        }
        if !known.states.is_empty() && known.states.len() != self.arguments - self.first_state {
            return Err(Refusal::shape(format!(
                "{} states are given, forward takes {}",
                known.states.len(),
                self.arguments - self.first_state
            )));
        }
        let widths: Vec<usize> = match known.observation {
            Some(width) => vec![width],
            None => {
                self.program.meter.work(self.program.stored_shapes().count().saturating_mul(64))?;
                self.program.widths()
            }
        };
        for width in widths {
            shapes[0] = Some(vec![1, width]);
            if let Some(lowered) = self.attempt(&mut shapes.clone())? {
                return Ok(lowered);
            }
        }
        Err(match self.deepest {
            Some((_, problem)) => problem,
            None => Refusal::shape("no width of the observation fits the weights: give it explicitly"),
        })
    }

    /// Lowers with these shapes and fills in the missing ones. Returns `None` if the shapes do not fit.
    fn attempt(&mut self, shapes: &mut [Option<Vec<usize>>]) -> Result<Option<Lowered>, Refusal> {
        loop {
            self.attempts += 1;
            if self.attempts > ATTEMPTS {
                return Err(Refusal::unsupported(format!(
                    "no shapes found for the arguments of forward in {ATTEMPTS} attempts: \
                     give them explicitly"
                )));
            }
            // The memory of an attempt is free again when it has failed. Its work is not given back.
            let meter = self.program.meter.clone();
            meter.bytes(shapes.len().saturating_mul(ARGUMENT_BYTES))?;
            let stage = meter.mark();
            let mut interpreter = Interpreter::new(self.program);
            let walked = interpreter.forward(shapes);
            let collected =
                walked.and_then(|value| Ok(collect(&mut interpreter, &value, shapes, self.first_state)?));
            let graph = interpreter.into_graph();
            let operations = graph.nodes.len();
            let stop = match collected {
                Ok(outputs) => return optimised(graph, outputs, shapes).map(Some),
                Err(stop) => stop,
            };
            drop(graph);
            meter.release(stage);
            match stop {
                Stop::NeedsShape { input, suggestion: Some(shape) } => shapes[input] = Some(shape),
                Stop::NeedsShape { input, suggestion: None } => {
                    meter.work(self.program.stored_shapes().count())?;
                    for shape in self.program.state_shapes() {
                        let mut tried = shapes.to_vec();
                        tried[input] = Some(shape);
                        if let Some(lowered) = self.attempt(&mut tried)? {
                            return Ok(Some(lowered));
                        }
                    }
                    let problem = Refusal::shape(format!(
                        "the shape of argument {input} of forward does not follow from the weights: \
                         give it explicitly"
                    ));
                    return self.refused(0, problem);
                }
                Stop::Refused(problem) => return self.refused(operations, problem),
            }
        }
    }

    /// Keeps a refusal for the report. Other shapes can help only if the refusal is about shapes.
    fn refused(&mut self, operations: usize, problem: Refusal) -> Result<Option<Lowered>, Refusal> {
        if problem.is_final() {
            return Err(problem);
        }
        if self.deepest.as_ref().is_none_or(|(deepest, _)| operations > *deepest) {
            self.deepest = Some((operations, problem));
        }
        Ok(None)
    }
}

fn optimised(
    mut graph: Graph,
    mut outputs: Vec<View>,
    shapes: &[Option<Vec<usize>>],
) -> Result<Lowered, Refusal> {
    fuse::optimise(&mut graph, &mut outputs)?;
    let shapes = shapes.iter().map(|shape| shape.clone().unwrap_or_default()).collect();
    Ok(Lowered { graph, outputs, shapes })
}

/// Checks the tensors that `forward` returned: one action, and one result for each state.
fn collect(
    interpreter: &mut Interpreter<'_, '_>,
    value: &Value,
    shapes: &[Option<Vec<usize>>],
    first_state: usize,
) -> Result<Vec<View>, Refusal> {
    let mut flat = Vec::new();
    flatten(value, 0, &mut flat)?;
    let states = shapes.len() - first_state;
    if flat.len() != states + 1 {
        return Err(Refusal::unsupported(format!(
            "forward takes {} arguments and returns {} tensors: \
             it must be (observation, state…) → (action, state…)",
            shapes.len(),
            flat.len()
        )));
    }
    let problem = |stop| match stop {
        Stop::Refused(problem) => problem,
        Stop::NeedsShape { input, .. } => Refusal::shape(format!(
            "the shape of argument {input} of forward is not known: give it explicitly"
        )),
    };
    let mut views = Vec::with_capacity(flat.len());
    for (index, value) in flat.into_iter().enumerate() {
        let view = match value {
            Value::Tensor(id) => interpreter.view(id).map_err(problem)?,
            Value::Unshaped(input) => {
                return Err(problem(Stop::NeedsShape { input, suggestion: None }));
            }
            other => return Err(Refusal::unsupported(format!("forward returns a {}", other.kind()))),
        };
        if index == 0 && view.len() == 0 {
            return Err(Refusal::shape("the action has no elements"));
        }
        let argument = index.checked_sub(1).map(|state| shapes[first_state + state].as_ref());
        if let Some(argument) = argument
            && argument != Some(&view.shape)
        {
            return Err(Refusal::shape(format!(
                "state {index} has shape {:?} as an argument and {:?} as a result",
                argument, view.shape
            )));
        }
        // An action may be computed in another type. The engine takes single precision.
        views.push(interpreter.cast(&view, DType::F32).map_err(problem)?);
    }
    Ok(views)
}

fn flatten(value: &Value, depth: usize, flat: &mut Vec<Value>) -> Result<(), Refusal> {
    match value.members() {
        Some(members) if depth < 4 && flat.len() + members.len() <= 256 => {
            members.iter().try_for_each(|member| flatten(member, depth + 1, flat))
        }
        Some(_) => Err(Refusal::unsupported("forward returns nested or very long lists")),
        None => {
            flat.push(value.clone());
            Ok(())
        }
    }
}

impl Program<'_> {
    /// The number of tensors that the root's `forward` takes.
    fn arguments(&self) -> Result<usize, Refusal> {
        let pickle = self.attributes.pickle();
        let class = match pickle.get(pickle.root()) {
            crate::readers::torchscript::pickle::Node::Object { class, .. } => pickle.global(*class),
            _ => None,
        };
        let forward =
            class.and_then(|class| self.library.class(class)).and_then(|class| class.method("forward"));
        match forward {
            Some(forward) => Ok(forward.parameters.len().saturating_sub(1)),
            None => Err(Refusal::malformed("data.pkl holds no module with a forward method in code/")),
        }
    }

    /// The shapes of all stored tensors, in storage order.
    fn stored_shapes(&self) -> impl Iterator<Item = &[usize]> + Clone {
        self.constants.shapes().chain(self.attributes.shapes())
    }

    /// The widths that an observation could have, from the stored tensors that could be applied to it.
    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        let shapes = self.stored_shapes();
        let candidates = shapes
            .clone()
            .filter_map(|shape| match *shape {
                [_, inputs] => Some(inputs),
                _ => None,
            })
            .chain(shapes.filter_map(|shape| match *shape {
                [only] => Some(only),
                [channels, inputs, _] => Some(channels.max(inputs)),
                _ => None,
            }));
        for width in candidates {
            if width > 0 && width <= 1 << 20 && !widths.contains(&width) && widths.len() < 32 {
                widths.push(width);
            }
        }
        widths
    }

    /// The shapes that a recurrent state could have, from weights between a layer's states: `[4 h, h]` or
    /// `[3 h, h]`.
    fn state_shapes(&self) -> Vec<Vec<usize>> {
        let units: BTreeSet<usize> = self
            .stored_shapes()
            .filter_map(|shape| match *shape {
                [rows, units]
                    if units > 0
                        && (units.checked_mul(4) == Some(rows) || units.checked_mul(3) == Some(rows)) =>
                {
                    Some(units)
                }
                _ => None,
            })
            .take(4)
            .collect();
        let mut shapes = Vec::new();
        for &units in &units {
            shapes.push(vec![1, 1, units]);
            shapes.push(vec![1, units]);
        }
        for &units in &units {
            shapes.extend((2..=3).map(|layers| vec![layers, 1, units]));
        }
        shapes
    }
}
