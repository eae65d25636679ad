//! Long short-term memory, in PyTorch's form and gate order (input, forget, cell, output):
//! `c' = σ(f) c + σ(i) tanh(g)`, `h' = σ(o) tanh(c')`.

use super::blocks::{Blocks, Place, Weights};
use super::{Cell, Layer, Step, block, dot, layer_facts, logistic};
use crate::kernels::functions::{sigmoid, tanh};
use crate::kernels::isa::{Isa, Precision};
use crate::kernels::lanes::Lanes;
use crate::kernels::panel::{load_first_or_all, store_first_or_all};
use crate::kernels::storage::Stored;

/// A packed layer.
#[derive(Debug, Clone)]
pub struct Lstm {
    layer: Layer<LstmCell>,
}

impl Lstm {
    /// Packs a layer from the layout of `nn.LSTM` or `nn.LSTMCell`: `w_ih` is `[4 * hidden][inputs]`, `w_hh`
    /// is `[4 * hidden][hidden]`, each bias `[4 * hidden]`.
    ///
    /// # Panics
    /// Panics if a dimension is zero, or if a length does not match the dimensions.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "they are the layer's own parameters, in PyTorch's order")]
    pub fn pack(
        isa: Isa,
        precision: Precision,
        w_ih: &[f32],
        w_hh: &[f32],
        bias_ih: Option<&[f32]>,
        bias_hh: Option<&[f32]>,
        inputs: usize,
        hidden: usize,
    ) -> Lstm {
        let weights = Weights { ih: w_ih, hh: w_hh, bias_ih, bias_hh, inputs, hidden };
        let bias = |gate, unit| {
            let (ih, hh) = weights.biases(gate * hidden + unit);
            ih + hh
        };
        Lstm { layer: Layer::pack(isa, precision, &weights, bias) }
    }

    /// Takes one step. `input` holds the layer's inputs. `h` and `c` hold its hidden units; they are read and
    /// replaced.
    ///
    /// # Panics
    /// Panics if a length is wrong, or if the scratch memory is too short.
    pub fn step(&self, input: &[f32], h: &mut [f32], c: &mut [f32], scratch: &mut [f32]) {
        self.layer.step(input, h, c, scratch);
    }

    /// Takes `steps` steps over `[steps][inputs]` and writes every hidden state to `output`,
    /// `[steps][hidden]`. `h` and `c` are read before the first step and hold the state after the last one.
    ///
    /// # Panics
    /// Panics if `steps` is zero, if a length is wrong, or if the scratch memory is too short.
    pub fn window(
        &self,
        steps: usize,
        input: &[f32],
        h: &mut [f32],
        c: &mut [f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.layer.window(steps, input, h, c, output, scratch);
    }
}

layer_facts!(Lstm);

#[derive(Debug, Clone, Copy)]
struct LstmCell;

impl Cell for LstmCell {
    const NAME: &'static str = "lstm";
    const GATES: usize = 4;
    const HAS_CELL_STATE: bool = true;

    /// Sets nothing aside: every gate is a plain sum.
    #[inline(always)]
    unsafe fn set_aside<L: Lanes, const K: usize, const U: usize>(
        l: L,
        _place: &Place,
        _gates: &mut [L::Vector; K],
    ) -> [L::Vector; U] {
        [l.splat(0.0); U]
    }

    #[inline(always)]
    unsafe fn conclude<L: Lanes, const K: usize, const U: usize>(
        l: L,
        blocks: &Blocks,
        place: &Place,
        gates: &[L::Vector; K],
        _aside: &[L::Vector; U],
        call: &mut Step<'_>,
    ) {
        for u in 0..U {
            let first = place.first + u * L::LANES;
            let count = (blocks.hidden - first).min(L::LANES);
            // SAFETY: only the units of the states that exist are read or written.
            unsafe {
                let before = load_first_or_all(l, call.c.as_ptr().add(first), count);
                let kept = l.mul(sigmoid(l, gates[U + u]), before);
                let cell = l.mul_add(sigmoid(l, gates[u]), tanh(l, gates[2 * U + u]), kept);
                let hidden = l.mul(sigmoid(l, gates[3 * U + u]), tanh(l, cell));
                store_first_or_all(l, call.c.as_mut_ptr().add(first), count, cell);
                store_first_or_all(l, call.next.as_mut_ptr().add(first), count, hidden);
            }
        }
    }

    #[inline(always)]
    unsafe fn block<L: Lanes, S: Stored>(l: L, blocks: &Blocks, place: &Place, call: &mut Step<'_>) {
        // SAFETY: the block has one or two vectors of each of the four gates.
        unsafe {
            if place.is_wide {
                block::<Self, L, S, 8, 2>(l, blocks, place, call);
            } else {
                block::<Self, L, S, 4, 1>(l, blocks, place, call);
            }
        }
    }

    #[inline(always)]
    unsafe fn project<L: Lanes, S: Stored>(
        l: L,
        blocks: &Blocks,
        steps: usize,
        input: *const f32,
        projected: *mut f32,
    ) {
        // SAFETY: the caller keeps the same contract; the widths are those of four gates.
        unsafe { blocks.project::<L, S, 4, 8>(l, steps, input, projected) };
    }

    fn reference(blocks: &Blocks, input: &[f32], h: &[f32], c: &mut [f32], next: &mut [f32]) {
        let (ih, hh, bias) = blocks.plain();
        let hidden = blocks.hidden;
        for unit in 0..hidden {
            let gate = |gate: usize| {
                let row = gate * hidden + unit;
                f64::from(bias[row])
                    + dot(&ih[row * blocks.inputs..(row + 1) * blocks.inputs], input)
                    + dot(&hh[row * hidden..(row + 1) * hidden], h)
            };
            let cell = logistic(gate(1)) * f64::from(c[unit]) + logistic(gate(0)) * gate(2).tanh();
            c[unit] = cell as f32;
            next[unit] = (logistic(gate(3)) * cell.tanh()) as f32;
        }
    }
}
