//! Compiles a graph to steps: lays views out, packs weights, and assigns a buffer to every value.

use super::charge::{padded_matrix, place_of};
use super::describe::StepDescription;
use super::execute::padded;
use super::step::{Piece, Span, Step};
use super::{Plan, Target};
use crate::ir::graph::{BinaryOp, Graph, Node, Op, Origin, RecurrentWeights, UnaryOp, View};
use crate::ir::tensor::{DType, Data};
use crate::kernels::{Binary, Conv1d, Conv1dShape, Dense, Gru, Lstm};
use crate::refusal::Refusal;

/// A value that needs a place.
pub(super) struct Buffer {
    pub(super) dtype: DType,
    pub(super) len: usize,
    /// Whether the value is kept for the life of the plan: arguments, constants, results.
    pub(super) permanent: bool,
    pub(super) content: Option<Data>,
}

pub(super) struct Compiler<'g> {
    pub(super) graph: &'g Graph,
    pub(super) target: Target,
    pub(super) buffers: Vec<Buffer>,
    /// The buffer and offset of each root.
    places: Vec<Option<(usize, usize)>>,
    pub(super) steps: Vec<Step>,
    pub(super) descriptions: Vec<StepDescription>,
}

pub(super) fn compile(
    graph: &Graph,
    outputs: &[View],
    inputs: &[usize],
    target: Target,
) -> Result<Plan, Refusal> {
    let mut compiler = Compiler {
        graph,
        target,
        buffers: Vec::new(),
        places: vec![None; graph.roots.len()],
        steps: Vec::new(),
        descriptions: Vec::new(),
    };
    graph.meter.room::<Option<(usize, usize)>>(graph.roots.len())?;
    let mut input_spans: Vec<Span> = Vec::with_capacity(inputs.len());
    for &len in inputs {
        let buffer = compiler.buffer(DType::F32, len, true, None)?;
        input_spans.push(Span { buffer, start: 0, len });
    }
    for (root, place) in graph.roots.iter().zip(&mut compiler.places) {
        if let Origin::Input(index) = root.origin {
            *place = Some((input_spans[index].buffer, 0));
        }
    }
    for node in &graph.nodes {
        compiler.node(node)?;
    }
    let mut output_spans = Vec::with_capacity(outputs.len());
    for view in outputs {
        output_spans.push((compiler.result(view)?, view.dtype));
    }
    compiler.finish(input_spans, output_spans)
}

impl Compiler<'_> {
    /// The elements of a constant, contiguous. Fails if the view is not constant single precision.
    fn constant(&self, view: &View) -> Result<Vec<f32>, Refusal> {
        let data = self.graph.constant_data(view)?;
        match data.as_deref().and_then(Data::as_f32) {
            Some(values) => {
                self.meter().room::<f32>(values.len())?;
                Ok(values.to_vec())
            }
            None => Err(Refusal::unsupported("weights that are not constant single-precision numbers")),
        }
    }

    /// The elements of `view` in row-major order. Returns their place, or appends a gather that puts them in
    /// order first.
    fn span(&mut self, view: &View, node: Option<&Node>) -> Result<Span, Refusal> {
        if let Some(data) = self.graph.constant_data(view)? {
            if view.is_contiguous() && view.len() == self.graph.roots[view.root].len {
                let buffer = match self.places[view.root] {
                    Some((buffer, _)) => buffer,
                    None => {
                        let content = self.copied(&data)?;
                        let buffer = self.buffer(view.dtype, data.len(), true, Some(content))?;
                        self.places[view.root] = Some((buffer, 0));
                        buffer
                    }
                };
                return Ok(Span { buffer, start: 0, len: view.len() });
            }
            let content = self.copied(&data)?;
            let buffer = self.buffer(view.dtype, data.len(), true, Some(content))?;
            return Ok(Span { buffer, start: 0, len: view.len() });
        }
        let Some((buffer, start)) = self.places[view.root] else {
            return Err(Refusal::malformed("a value is read before it is computed"));
        };
        if view.is_contiguous() {
            return Ok(Span { buffer, start: start + view.offset, len: view.len() });
        }
        self.meter().room::<u32>(view.len().saturating_mul(2))?;
        self.meter().work(view.len())?;
        let table = view
            .positions()
            .map(|position| {
                u32::try_from(position).map_err(|_| Refusal::malformed("a value is too large to index"))
            })
            .collect::<Result<Box<[u32]>, Refusal>>()?;
        let input = Span { buffer, start, len: self.graph.roots[view.root].len };
        let output = self.fresh(view.dtype, view.len())?;
        // Not the other operands of the node: a join of many has a step for each.
        let mut description = self.describe(None, "layout")?;
        if let Some(node) = node {
            self.meter().bytes(node.place.file.len() + 16)?;
            description.place = place_of(node);
        }
        description.kernel = "gather (scalar)".to_owned();
        description.inputs = vec![view.shape.clone()];
        description.outputs = vec![view.len()];
        self.push(Step::Gather { dtype: view.dtype, table, input, output }, description)?;
        Ok(output)
    }

    /// An elementwise operand. It is one element if all elements are the same.
    fn operand(&mut self, view: &View, node: &Node) -> Result<Span, Refusal> {
        if view.len() > 1 && view.is_uniform() {
            let one = View { shape: Vec::new(), strides: Vec::new(), ..view.clone() };
            return self.span(&one, Some(node));
        }
        self.span(view, Some(node))
    }

    /// A span that outlives the call and is not an argument of `forward`.
    fn result(&mut self, view: &View) -> Result<Span, Refusal> {
        let span = self.span(view, None)?;
        let is_input = matches!(self.graph.roots[view.root].origin, Origin::Input(_));
        if !is_input || !view.is_contiguous() {
            self.buffers[span.buffer].permanent = true;
            return Ok(span);
        }
        let output = self.fresh(view.dtype, view.len())?;
        self.buffers[output.buffer].permanent = true;
        let mut description = self.describe(None, "copy")?;
        description.outputs = vec![view.len()];
        self.push(Step::Copy { dtype: view.dtype, input: span, output }, description)?;
        Ok(output)
    }

    fn node(&mut self, node: &Node) -> Result<(), Refusal> {
        let dtype = node.inputs.first().map_or(DType::F32, |view| view.dtype);
        let mut description = self.describe(Some(node), "")?;
        description.outputs = node.outputs.iter().map(|&root| self.graph.roots[root].len).collect();
        let step = match &node.op {
            Op::Lstm { weights } => return self.lstm(node, weights, description),
            Op::Gru { weights } => return self.gru(node, weights, description),
            Op::Dense { weights, bias, activation } => {
                let (outputs, inputs) = (weights.shape[0], weights.shape[1]);
                let bias = bias.as_ref().map(|bias| self.constant(bias)).transpose()?;
                let rows = node.inputs[0].len() / inputs;
                self.pack(padded_matrix(outputs, inputs))?;
                let layer = Dense::pack(
                    self.target.isa,
                    self.target.precision,
                    &self.constant(weights)?,
                    bias.as_deref(),
                    inputs,
                    outputs,
                    *activation,
                );
                description.multiply_adds = layer.multiply_adds() * rows;
                description.weight_bytes = layer.weight_bytes();
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::Dense { layer, rows, input, output: self.output(node)? }
            }
            Op::Conv1d { weights, bias, geometry, activation } => {
                let (outputs, per_group, kernel) = (weights.shape[0], weights.shape[1], weights.shape[2]);
                let bias = bias.as_ref().map(|bias| self.constant(bias)).transpose()?;
                let shape = Conv1dShape {
                    in_channels: per_group * geometry.groups,
                    out_channels: outputs,
                    kernel,
                    stride: geometry.stride,
                    padding: geometry.padding,
                    dilation: geometry.dilation,
                    groups: geometry.groups,
                };
                let group = padded_matrix(outputs / geometry.groups, per_group.saturating_mul(kernel));
                self.pack(group.and_then(|words| words.checked_mul(geometry.groups)))?;
                let weights = self.constant(weights)?;
                let layer = Conv1d::pack(self.target.isa, &weights, bias.as_deref(), shape, *activation);
                let length = node.inputs[0].shape[1];
                description.multiply_adds = layer.multiply_adds(length);
                description.weight_bytes = layer.weight_bytes();
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::Conv1d { layer, length, input, output: self.output(node)? }
            }
            Op::Unary(op) => {
                let input = self.span(&node.inputs[0], Some(node))?;
                match op {
                    UnaryOp::Activation(activation) if dtype == DType::F32 => {
                        Step::Activate { activation: *activation, input, output: self.output(node)? }
                    }
                    UnaryOp::Not => {
                        return self.negate(node, input, description);
                    }
                    UnaryOp::IsNan => return self.is_nan(node, dtype, input, description),
                    op => Step::Unary { dtype, op: *op, input, output: self.output(node)? },
                }
            }
            Op::Binary(op) => {
                let (a, b) = (self.operand(&node.inputs[0], node)?, self.operand(&node.inputs[1], node)?);
                match vectorised(*op) {
                    Some(op) if dtype == DType::F32 => {
                        Step::Elementwise { op, a, b, output: self.output(node)? }
                    }
                    _ => Step::Binary { dtype, op: *op, a, b, output: self.output(node)? },
                }
            }
            Op::Compare(op) => {
                let (a, b) = (self.operand(&node.inputs[0], node)?, self.operand(&node.inputs[1], node)?);
                Step::Compare { dtype, op: *op, a, b, output: self.output(node)? }
            }
            Op::Where => {
                let condition = self.operand(&node.inputs[0], node)?;
                let (a, b) = (self.operand(&node.inputs[1], node)?, self.operand(&node.inputs[2], node)?);
                Step::Where { dtype: node.inputs[1].dtype, condition, a, b, output: self.output(node)? }
            }
            Op::Reduce(op) => {
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::Reduce {
                    dtype,
                    op: *op,
                    width: node.inputs[0].shape[1],
                    input,
                    output: self.output(node)?,
                }
            }
            Op::Softmax { log } => {
                let (rows, width) = rows_of(&node.inputs[0]);
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::Softmax { log: *log, rows, width, input, output: self.output(node)? }
            }
            Op::LayerNorm { weight, bias, epsilon } => {
                let (rows, width) = rows_of(&node.inputs[0]);
                let weight = weight.as_ref().map(|view| self.span(view, None)).transpose()?;
                let bias = bias.as_ref().map(|view| self.span(view, None)).transpose()?;
                let input = self.span(&node.inputs[0], Some(node))?;
                let epsilon = *epsilon as f32;
                Step::LayerNorm { weight, bias, epsilon, rows, width, input, output: self.output(node)? }
            }
            Op::CumulativeSum => {
                let (_, width) = rows_of(&node.inputs[0]);
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::CumulativeSum { dtype, width, input, output: self.output(node)? }
            }
            Op::Copy => {
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::Copy { dtype, input, output: self.output(node)? }
            }
            Op::Concat => {
                let stride = node.inputs.iter().map(|view| view.shape[1]).sum();
                self.meter().room::<Piece>(node.inputs.len())?;
                let mut pieces = Vec::with_capacity(node.inputs.len());
                let mut at = 0;
                for view in &node.inputs {
                    pieces.push(Piece { input: self.span(view, Some(node))?, width: view.shape[1], at });
                    at += view.shape[1];
                }
                Step::Concat { dtype, stride, pieces: pieces.into(), output: self.output(node)? }
            }
            Op::Cast => {
                let to = self.graph.roots[node.outputs[0]].dtype;
                let input = self.span(&node.inputs[0], Some(node))?;
                Step::Cast { from: dtype, to, input, output: self.output(node)? }
            }
            Op::Embedding { table } => {
                let rows = self.constant(table)?;
                description.weight_bytes = rows.len() * size_of::<f32>();
                let index = self.span(&node.inputs[0], Some(node))?;
                Step::Embedding {
                    table: rows.into(),
                    width: table.shape[1],
                    index,
                    output: self.output(node)?,
                }
            }
            Op::MatMul => {
                let (m, k) = (node.inputs[0].shape[1], node.inputs[0].shape[2]);
                let n = node.inputs[1].shape[2];
                description.multiply_adds = node.inputs[0].shape[0] * m * k * n;
                let (a, b) =
                    (self.span(&node.inputs[0], Some(node))?, self.span(&node.inputs[1], Some(node))?);
                Step::MatMul { dtype, m, k, n, a, b, output: self.output(node)? }
            }
        };
        self.finish_step(step, description)
    }

    fn finish_step(&mut self, step: Step, mut description: StepDescription) -> Result<(), Refusal> {
        let isa = if step.is_vectorised() { self.target.isa.name() } else { "scalar" };
        description.kernel = format!("{} ({isa})", step.kernel());
        self.push(step, description)
    }

    /// The place of a node's only result.
    fn output(&mut self, node: &Node) -> Result<Span, Refusal> {
        let root = node.outputs[0];
        let (dtype, len) = (self.graph.roots[root].dtype, self.graph.roots[root].len);
        let span = self.fresh(dtype, len)?;
        self.places[root] = Some((span.buffer, 0));
        Ok(span)
    }

    /// Compiles `not x` as `x xor true`.
    fn negate(&mut self, node: &Node, input: Span, description: StepDescription) -> Result<(), Refusal> {
        let buffer = self.buffer(DType::Bool, 1, true, Some(Data::Bool(vec![true])))?;
        let one = Span { buffer, start: 0, len: 1 };
        let output = self.output(node)?;
        let step = Step::Binary { dtype: DType::Bool, op: BinaryOp::Xor, a: input, b: one, output };
        self.finish_step(step, description)
    }

    /// Compiles a test for NaN: NaN is the only number that differs from itself.
    fn is_nan(
        &mut self,
        node: &Node,
        dtype: DType,
        input: Span,
        description: StepDescription,
    ) -> Result<(), Refusal> {
        let op = crate::ir::graph::CompareOp::Ne;
        let output = self.output(node)?;
        self.finish_step(Step::Compare { dtype, op, a: input, b: input, output }, description)
    }

    fn recurrent_parts(&self, weights: &RecurrentWeights) -> Result<RecurrentParts, Refusal> {
        let bias = match &weights.bias {
            Some((input, hidden)) => Some((self.constant(input)?, self.constant(hidden)?)),
            None => None,
        };
        // The matrices of up to four gates side by side, each padded to whole vectors.
        let (inputs, units) = (weights.input.shape[1], weights.hidden.shape[1]);
        self.pack(padded_matrix(units, inputs.saturating_add(units)).and_then(|gate| gate.checked_mul(4)))?;
        Ok(RecurrentParts {
            input: self.constant(&weights.input)?,
            hidden: self.constant(&weights.hidden)?,
            bias,
            inputs,
            units,
        })
    }

    /// Returns the spans of a recurrent step: its input, its states, and the block for its results and
    /// `scratch` values of scratch memory. The block begins with the new states.
    fn recurrent_spans<const STATES: usize>(
        &mut self,
        node: &Node,
        units: usize,
        scratch: usize,
    ) -> Result<(Span, [Span; STATES], Span), Refusal> {
        let steps = node.inputs[0].shape[0];
        let input = self.span(&node.inputs[0], Some(node))?;
        let mut states = [input; STATES];
        for (span, view) in states.iter_mut().zip(&node.inputs[1..]) {
            *span = self.span(view, Some(node))?;
        }
        let block = self.fresh(DType::F32, STATES * padded(units) + padded(steps * units) + scratch)?;
        self.places[node.outputs[0]] = Some((block.buffer, STATES * padded(units)));
        for state in 0..STATES {
            self.places[node.outputs[1 + state]] = Some((block.buffer, state * padded(units)));
        }
        Ok((input, states, block))
    }

    fn lstm(
        &mut self,
        node: &Node,
        weights: &RecurrentWeights,
        mut description: StepDescription,
    ) -> Result<(), Refusal> {
        let parts = self.recurrent_parts(weights)?;
        let (steps, units) = (node.inputs[0].shape[0], parts.units);
        let Target { isa, precision } = self.target;
        let (bias_ih, bias_hh) = parts.biases();
        let layer =
            Lstm::pack(isa, precision, &parts.input, &parts.hidden, bias_ih, bias_hh, parts.inputs, units);
        description.multiply_adds = steps * layer.multiply_adds();
        description.weight_bytes = layer.weight_bytes();
        let (input, [h, c], block) = self.recurrent_spans(node, units, layer.scratch_len(steps))?;
        self.finish_step(Step::Lstm { layer, steps, units, input, h, c, block }, description)
    }

    fn gru(
        &mut self,
        node: &Node,
        weights: &RecurrentWeights,
        mut description: StepDescription,
    ) -> Result<(), Refusal> {
        let parts = self.recurrent_parts(weights)?;
        let (steps, units) = (node.inputs[0].shape[0], parts.units);
        let Target { isa, precision } = self.target;
        let (bias_ih, bias_hh) = parts.biases();
        let layer =
            Gru::pack(isa, precision, &parts.input, &parts.hidden, bias_ih, bias_hh, parts.inputs, units);
        description.multiply_adds = steps * layer.multiply_adds();
        description.weight_bytes = layer.weight_bytes();
        let (input, [h], block) = self.recurrent_spans(node, units, layer.scratch_len(steps))?;
        self.finish_step(Step::Gru { layer, steps, units, input, h, block }, description)
    }
}

struct RecurrentParts {
    input: Vec<f32>,
    hidden: Vec<f32>,
    bias: Option<(Vec<f32>, Vec<f32>)>,
    inputs: usize,
    units: usize,
}

impl RecurrentParts {
    /// The biases of the input and of the hidden state.
    fn biases(&self) -> (Option<&[f32]>, Option<&[f32]>) {
        match &self.bias {
            Some((input, hidden)) => (Some(input), Some(hidden)),
            None => (None, None),
        }
    }
}

fn vectorised(op: BinaryOp) -> Option<Binary> {
    Some(match op {
        BinaryOp::Add => Binary::Add,
        BinaryOp::Sub => Binary::Sub,
        BinaryOp::Mul => Binary::Mul,
        BinaryOp::Div => Binary::Div,
        BinaryOp::Min => Binary::Min,
        BinaryOp::Max => Binary::Max,
        _ => return None,
    })
}

/// The number of rows and their width. The last axis is the content of a row.
fn rows_of(view: &View) -> (usize, usize) {
    let width = view.shape.last().copied().unwrap_or(1);
    (view.len() / width.max(1), width)
}
