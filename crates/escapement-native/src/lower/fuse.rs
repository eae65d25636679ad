//! Passes over the lowered graph. They merge activations and biases into the layers before them, and drop
//! nodes that no output needs.

use std::rc::Rc;

use crate::ir::graph::{BinaryOp, Graph, Node, Op, RootId, UnaryOp, View};
use crate::ir::tensor::DType;
use crate::kernels::Activation;
use crate::refusal::Refusal;

/// Optimises `graph` for computing `outputs`, whose views may be rewritten.
pub(super) fn optimise(graph: &mut Graph, outputs: &mut [View]) -> Result<(), Refusal> {
    charge_walk(graph)?;
    remove_dead(graph, outputs);
    charge_walk(graph)?;
    while fuse_once(graph, outputs) {
        charge_walk(graph)?;
    }
    remove_dead(graph, outputs);
    Ok(())
}

/// Charges one walk over the graph, with a table of its nodes and roots.
fn charge_walk(graph: &Graph) -> Result<(), Refusal> {
    // A merged node is copied.
    let nodes = graph.nodes.iter().map(|node| 32 + node.inputs.len()).fold(0, usize::saturating_add);
    graph.meter.work(nodes.saturating_add(graph.roots.len()))?;
    graph.meter.bytes(graph.nodes.len().saturating_mul(2 * size_of::<Node>()))?;
    graph.meter.room::<[Option<usize>; 2]>(graph.roots.len())
}

fn remove_dead(graph: &mut Graph, outputs: &[View]) {
    let mut needed = vec![false; graph.roots.len()];
    for view in outputs {
        needed[view.root] = true;
    }
    let mut kept = Vec::with_capacity(graph.nodes.len());
    for node in graph.nodes.drain(..).rev() {
        if node.outputs.iter().any(|&root| needed[root]) {
            for view in &node.inputs {
                needed[view.root] = true;
            }
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
}

/// Merges everything that one walk over the graph can merge. Returns whether it merged anything.
fn fuse_once(graph: &mut Graph, outputs: &mut [View]) -> bool {
    let mut uses = vec![0usize; graph.roots.len()];
    for view in graph.nodes.iter().flat_map(|node| &node.inputs).chain(outputs.iter()) {
        uses[view.root] += 1;
    }
    let mut producer = vec![None; graph.roots.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        for &root in &node.outputs {
            producer[root] = Some(at);
        }
    }
    let mut merged = false;
    let mut gone = vec![false; graph.nodes.len()];
    for at in 0..graph.nodes.len() {
        let Some((from, op, layer_input)) = candidate(graph, &graph.nodes[at], &uses, &producer) else {
            continue;
        };
        if gone[from] {
            continue;
        }
        let node = graph.nodes[at].clone();
        let layer = &mut graph.nodes[from];
        layer.op = op;
        layer.fused.push(short_name(&node.place.operator));
        layer.fused.extend(node.fused.iter().cloned());
        // The layer now writes what the merged operation would have written: the same elements, row-major. So
        // every view of that root stays valid.
        let result = node.outputs[0];
        layer.outputs = vec![result];
        producer[result] = Some(from);
        uses[layer_input] = 0;
        gone[at] = true;
        merged = true;
    }
    let mut position = 0;
    graph.nodes.retain(|_| {
        position += 1;
        !gone[position - 1]
    });
    merged
}

/// Returns the layer that `node` can be merged into, the operation it becomes, and its old result. Returns
/// `None` unless that layer feeds only `node`.
fn candidate(
    graph: &Graph,
    node: &Node,
    uses: &[usize],
    producer: &[Option<usize>],
) -> Option<(usize, Op, RootId)> {
    let whole = |view: &View| {
        view.is_contiguous()
            && view.offset == 0
            && view.len() == graph.roots[view.root].len
            && uses[view.root] == 1
    };
    match &node.op {
        Op::Unary(UnaryOp::Activation(activation)) => {
            let [view] = &*node.inputs else { return None };
            let from = producer[view.root].filter(|_| whole(view))?;
            let op = with_activation(&graph.nodes[from].op, *activation)?;
            Some((from, op, view.root))
        }
        Op::Binary(BinaryOp::Add) => {
            let [a, b] = &*node.inputs else { return None };
            let (layer, bias) = if graph.is_constant(b) { (a, b) } else { (b, a) };
            let from = producer[layer.root].filter(|_| whole(layer) && graph.is_constant(bias))?;
            let Op::Dense { weights, bias: None, activation: Activation::Identity } = &graph.nodes[from].op
            else {
                return None;
            };
            let outputs = weights.shape[0];
            let rows = layer.len() / outputs.max(1);
            let bias = per_output(bias, rows, outputs)?;
            let op =
                Op::Dense { weights: weights.clone(), bias: Some(bias), activation: Activation::Identity };
            Some((from, op, layer.root))
        }
        _ => None,
    }
}

fn with_activation(op: &Op, wanted: Activation) -> Option<Op> {
    let mut op = op.clone();
    match &mut op {
        Op::Dense { activation, .. } | Op::Conv1d { activation, .. }
            if *activation == Activation::Identity =>
        {
            *activation = wanted;
            Some(op)
        }
        _ => None,
    }
}

/// Returns `bias` as one value per output, if it is the same for every row.
fn per_output(bias: &View, rows: usize, outputs: usize) -> Option<View> {
    if bias.dtype != DType::F32 || bias.len() != rows * outputs {
        return None;
    }
    if bias.is_uniform() {
        return Some(View { shape: vec![outputs], strides: vec![0], ..bias.clone() });
    }
    if *bias.shape.last()? != outputs {
        return None;
    }
    let last = bias.rank() - 1;
    let same_rows = (0..last).all(|axis| bias.shape[axis] == 1 || bias.strides[axis] == 0);
    same_rows.then(|| View { shape: vec![outputs], strides: vec![bias.strides[last]], ..bias.clone() })
}

/// Returns `tanh` for `torch.tanh`.
pub(crate) fn short_name(operator: &str) -> Rc<str> {
    operator.rsplit('.').next().unwrap_or(operator).into()
}
