//! The lowered form: operations on strided views of flat buffers, in single static assignment.
//!
//! A *root* is a flat buffer that is written once: an input, a constant, or the result of an operation. An
//! operation that only rearranges (reshape, transpose, slice, expand) makes a new [`View`] of the same root
//! and costs nothing. Every other operation reads views and writes roots.

use std::rc::Rc;

use crate::ir::tensor::{DType, Data, Positions, contiguous_strides, count};
use crate::kernels::Activation;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::refusal::Refusal;

pub(crate) type RootId = usize;

/// The most axes of a view, as in PyTorch. Views are copied often, so that their size must be small.
pub(crate) const MAX_RANK: usize = 64;
/// Memory of a node beside its operands: its place, its results and its parameters.
const NODE_BYTES: usize = 2 * size_of::<Node>() + 512;

/// A strided window into a root.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    pub(crate) root: RootId,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) offset: usize,
}

impl View {
    /// A view of all elements of a new root.
    pub(crate) fn whole(root: RootId, dtype: DType, shape: &[usize]) -> Self {
        Self { root, dtype, shape: shape.to_vec(), strides: contiguous_strides(shape), offset: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of a copy of a view of that rank, in a vector that grows by doubling.
    pub(crate) const fn bytes(rank: usize) -> usize {
        2 * size_of::<Self>() + 2 * rank * size_of::<usize>() + 64
    }

    pub(crate) fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Whether the elements lie side by side in row-major order. Axes of one element may have any stride.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return self.len() == 0;
            }
            expected *= size;
        }
        true
    }

    /// Whether every element of the view is the same element of the root.
    pub(crate) fn is_uniform(&self) -> bool {
        self.shape.iter().zip(&self.strides).all(|(&size, &stride)| size == 1 || stride == 0)
    }

    pub(crate) fn positions(&self) -> Positions<'_> {
        Positions::new(&self.shape, &self.strides, self.offset)
    }

    /// The same elements in another shape. Returns `None` if strides cannot express it.
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        if self.is_contiguous() {
            return Some(Self { shape: shape.to_vec(), strides: contiguous_strides(shape), ..self.clone() });
        }
        // Only axes of one element may differ. The strides of the others are kept.
        let proper = |shape: &[usize]| shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
        if proper(&self.shape) != proper(shape) {
            return None;
        }
        let mut kept =
            self.shape.iter().zip(&self.strides).filter(|(size, _)| **size != 1).map(|(_, stride)| *stride);
        let strides =
            shape.iter().map(|&size| if size == 1 { 0 } else { kept.next().unwrap_or(0) }).collect();
        Some(Self { shape: shape.to_vec(), strides, ..self.clone() })
    }

    /// Takes `count` elements of `axis`, from `start`, `step` apart.
    pub(crate) fn narrowed(&self, axis: usize, start: usize, step: usize, count: usize) -> Self {
        let mut view = self.clone();
        if count > 0 {
            view.offset += start * self.strides[axis];
        }
        view.strides[axis] *= step;
        view.shape[axis] = count;
        view
    }

    /// Takes the element `index` of `axis` and removes that axis.
    pub(crate) fn selected(&self, axis: usize, index: usize) -> Self {
        let mut view = self.narrowed(axis, index, 1, 1);
        view.shape.remove(axis);
        view.strides.remove(axis);
        view
    }

    pub(crate) fn permuted(&self, order: &[usize]) -> Self {
        Self {
            shape: order.iter().map(|&axis| self.shape[axis]).collect(),
            strides: order.iter().map(|&axis| self.strides[axis]).collect(),
            ..self.clone()
        }
    }

    /// Inserts an axis of one element before `axis`.
    pub(crate) fn unsqueezed(&self, axis: usize) -> Self {
        let mut view = self.clone();
        view.shape.insert(axis, 1);
        view.strides.insert(axis, 0);
        view
    }

    /// Broadcasts to `shape` by PyTorch's rules. Returns `None` if they do not allow it.
    pub(crate) fn expanded(&self, shape: &[usize]) -> Option<Self> {
        let missing = shape.len().checked_sub(self.rank())?;
        let mut strides = vec![0; shape.len()];
        for axis in 0..self.rank() {
            match (self.shape[axis], shape[missing + axis]) {
                (from, to) if from == to => strides[missing + axis] = self.strides[axis],
                (1, _) => {}
                _ => return None,
            }
        }
        Some(Self { shape: shape.to_vec(), strides, ..self.clone() })
    }
}

/// Operations between two operands of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Pow,
    Remainder,
    Fmod,
    FloorDivide,
    Atan2,
    And,
    Or,
    Xor,
}

/// Comparisons. The result is a truth value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Elementwise functions of one operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum UnaryOp {
    /// A function that has a vector kernel.
    Activation(Activation),
    Floor,
    Ceil,
    Round,
    Trunc,
    Sign,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Exp2,
    Expm1,
    Log1p,
    Log2,
    Log10,
    Erf,
    Not,
    IsNan,
}

/// Reductions of the last axis of a `[rows, width]` operand to one value per row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ReduceOp {
    Sum,
    Mean,
    Prod,
    Max,
    Min,
    ArgMax,
    ArgMin,
    /// The p-norm.
    Norm(f64),
    /// The variance; this correction is subtracted from the count.
    Variance(f64),
    LogSumExp,
    Any,
    All,
}

/// Weights of one recurrent layer, as PyTorch stores them.
#[derive(Debug, Clone)]
pub(crate) struct RecurrentWeights {
    pub(crate) input: View,
    pub(crate) hidden: View,
    pub(crate) bias: Option<(View, View)>,
}

/// What an operation computes. It holds the sizes that do not follow from the operands' shapes.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// `activation(x Wᵀ + b)` for each row of `[rows, inputs]`.
    Dense {
        weights: View,
        bias: Option<View>,
        activation: Activation,
    },
    Unary(UnaryOp),
    Binary(BinaryOp),
    Compare(CompareOp),
    /// `condition ? a : b`.
    Where,
    /// `[rows, width]` to `[rows]`.
    Reduce(ReduceOp),
    /// Over the last axis.
    Softmax {
        log: bool,
    },
    /// Over the last axis.
    LayerNorm {
        weight: Option<View>,
        bias: Option<View>,
        epsilon: f64,
    },
    /// Running sum over the last axis.
    CumulativeSum,
    /// Operands of shape `[outer, inner_i]` side by side: `[outer, Σ inner_i]`.
    Concat,
    /// A row-major copy of a view.
    Copy,
    Cast,
    /// Rows of a `[count, width]` table, chosen by one integer index each.
    Embedding {
        table: View,
    },
    /// One layer over `[steps, inputs]`; operands input, h, c; results output, h, c.
    Lstm {
        weights: RecurrentWeights,
    },
    /// One layer over `[steps, inputs]`; operands input, h; results output, h.
    Gru {
        weights: RecurrentWeights,
    },
    /// `[channels, length]` with weights `[out, in / groups, kernel]`.
    Conv1d {
        weights: View,
        bias: Option<View>,
        geometry: ConvGeometry,
        activation: Activation,
    },
    /// `[batch, m, k] × [batch, k, n]`; neither operand is constant.
    MatMul,
}

impl Op {
    /// The constants that are part of the operation.
    pub(crate) fn parameters_mut(&mut self) -> Vec<&mut View> {
        match self {
            Self::Dense { weights, bias, .. } | Self::Conv1d { weights, bias, .. } => {
                std::iter::once(weights).chain(bias).collect()
            }
            Self::LayerNorm { weight, bias, .. } => weight.iter_mut().chain(bias).collect(),
            Self::Embedding { table } => vec![table],
            Self::Lstm { weights } | Self::Gru { weights } => {
                let RecurrentWeights { input, hidden, bias } = weights;
                let biases = bias.iter_mut().flat_map(|(a, b)| [a, b]);
                [input, hidden].into_iter().chain(biases).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Op {
    /// An upper limit of the steps that one execution takes.
    pub(crate) fn steps(&self, inputs: &[View], results: &[(DType, Vec<usize>)]) -> usize {
        // The slowest elementwise function takes about this many steps for each element.
        const ELEMENT: usize = 16;
        let lens = inputs.iter().map(View::len).chain(results.iter().filter_map(|(_, shape)| count(shape)));
        let elements = lens.fold(0, usize::saturating_add);
        let result = results.first().and_then(|(_, shape)| count(shape)).unwrap_or(0);
        let product = match self {
            Self::Dense { weights, .. } => result.saturating_mul(weights.shape[1]),
            Self::Conv1d { weights, .. } => {
                result.saturating_mul(weights.shape[1]).saturating_mul(weights.shape[2])
            }
            Self::Lstm { weights } | Self::Gru { weights } => {
                let width = weights.input.shape[1] + weights.hidden.shape[1];
                result.saturating_mul(4).saturating_mul(width)
            }
            Self::MatMul => result.saturating_mul(inputs.first().map_or(0, |view| view.shape[2])),
            _ => 0,
        };
        elements.saturating_mul(ELEMENT).saturating_add(product)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvGeometry {
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) dilation: usize,
    pub(crate) groups: usize,
}

/// The position of an operation in the archive's source, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Rc<str>,
    pub(crate) line: u32,
    /// The operator's name in the source.
    pub(crate) operator: Rc<str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<View>,
    pub(crate) outputs: Vec<RootId>,
    pub(crate) place: Place,
    /// Source operators that were merged into this node.
    pub(crate) fused: Vec<Rc<str>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// An argument of `forward`.
    Input(usize),
    /// `stored` is true for the file's own tensors and false for values computed during lowering.
    Constant {
        data: Rc<Data>,
        stored: bool,
    },
    Computed,
}

#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) origin: Origin,
    pub(crate) dtype: DType,
    pub(crate) len: usize,
}

/// Nodes in the order of their execution.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) roots: Vec<Root>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) meter: Meter,
    elements: usize,
    multiply_adds: usize,
}

impl Graph {
    /// A graph without operations. Everything that it holds is charged to `meter`.
    pub(crate) fn new(meter: &Meter) -> Self {
        let (roots, nodes) = (Vec::new(), Vec::new());
        Self { roots, nodes, meter: meter.clone(), elements: 0, multiply_adds: 0 }
    }

    pub(crate) fn input(&mut self, index: usize, shape: &[usize]) -> Result<View, Refusal> {
        self.root(Origin::Input(index), DType::F32, shape)
    }

    /// Adds a constant. The caller has charged its elements.
    pub(crate) fn constant(
        &mut self,
        data: Rc<Data>,
        shape: &[usize],
        stored: bool,
    ) -> Result<View, Refusal> {
        let dtype = data.dtype();
        self.root(Origin::Constant { data, stored }, dtype, shape)
    }

    fn root(&mut self, origin: Origin, dtype: DType, shape: &[usize]) -> Result<View, Refusal> {
        self.meter.bytes(2 * size_of::<Root>() + size_of::<Data>() + View::bytes(shape.len()))?;
        let view = View::whole(self.roots.len(), dtype, shape);
        self.roots.push(Root { origin, dtype, len: view.len() });
        Ok(view)
    }

    /// The constant behind `view`, in the view's own order. Returns `None` if the root is not constant.
    pub(crate) fn constant_data(&self, view: &View) -> Result<Option<Rc<Data>>, Refusal> {
        let Origin::Constant { data, .. } = &self.roots[view.root].origin else { return Ok(None) };
        if view.is_contiguous() && view.len() == data.len() {
            return Ok(Some(data.clone()));
        }
        // A view of strides zero is larger than its root.
        let elements = count(&view.shape).unwrap_or(usize::MAX);
        self.meter.bytes(elements.saturating_mul(view.dtype.size()))?;
        self.meter.work(elements)?;
        Ok(Some(Rc::new(data.gather(view.positions()))))
    }

    pub(crate) fn is_constant(&self, view: &View) -> bool {
        matches!(self.roots[view.root].origin, Origin::Constant { .. })
    }

    /// Counts `added` elements. Fails if the total exceeds the limit.
    pub(crate) fn charge_elements(&mut self, added: Option<usize>, limits: &Limits) -> Result<(), Refusal> {
        let elements = added.and_then(|added| self.elements.checked_add(added));
        self.elements = elements.filter(|&elements| elements <= limits.elements).ok_or_else(|| {
            Refusal::malformed(format!("the values of the plan are beyond {} elements", limits.elements))
        })?;
        Ok(())
    }

    /// Counts the product of `factors` as multiply-adds. Fails if the total exceeds the limit.
    pub(crate) fn charge_arithmetic(&mut self, factors: &[usize], limits: &Limits) -> Result<(), Refusal> {
        let total = count(factors).and_then(|added| self.multiply_adds.checked_add(added));
        self.multiply_adds = total.filter(|&total| total <= limits.multiply_adds).ok_or_else(|| {
            Refusal::malformed(format!("the plan is beyond {} multiply-adds", limits.multiply_adds))
        })?;
        Ok(())
    }

    /// Appends an operation. `results` are the types and shapes of its results. Fails if a limit is exceeded.
    pub(crate) fn push(
        &mut self,
        op: Op,
        inputs: Vec<View>,
        results: &[(DType, Vec<usize>)],
        place: &Place,
        limits: &Limits,
    ) -> Result<Vec<View>, Refusal> {
        for (_, shape) in results {
            self.charge_elements(count(shape), limits)?;
        }
        if self.nodes.len() >= limits.operations {
            return Err(Refusal::malformed(format!("more than {} operations", limits.operations)));
        }
        self.meter.bytes(inputs.iter().map(|view| View::bytes(view.rank())).sum::<usize>() + NODE_BYTES)?;
        let views: Vec<View> = results
            .iter()
            .map(|(dtype, shape)| self.root(Origin::Computed, *dtype, shape))
            .collect::<Result<_, _>>()?;
        self.nodes.push(Node {
            op,
            inputs,
            outputs: views.iter().map(|view| view.root).collect(),
            place: place.clone(),
            fused: Vec::new(),
        });
        Ok(views)
    }
}
