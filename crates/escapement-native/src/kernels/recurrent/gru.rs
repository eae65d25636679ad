//! Gated recurrent unit, in PyTorch's form and gate order (reset, update, new):
//! `n = tanh(W_in x + b_in + σ(r) (W_hn h + b_hn))`, `h' = n + σ(z) (h - n)`.

use super::blocks::{Blocks, Place, Weights};
use super::{Cell, Layer, Step, block, dot, layer_facts, logistic};
use crate::kernels::functions::{sigmoid, tanh};
use crate::kernels::isa::{Isa, Precision};
use crate::kernels::lanes::Lanes;
use crate::kernels::panel::{load_first_or_all, store_first_or_all};
use crate::kernels::storage::Stored;

/// A packed layer.
#[derive(Debug, Clone)]
pub struct Gru {
    layer: Layer<GruCell>,
}

impl Gru {
    /// Packs a layer from the layout of `nn.GRU` or `nn.GRUCell`: `w_ih` is `[3 * hidden][inputs]`, `w_hh` is
    /// `[3 * hidden][hidden]`, each bias `[3 * hidden]`.
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
    ) -> Gru {
        let weights = Weights { ih: w_ih, hh: w_hh, bias_ih, bias_hh, inputs, hidden };
        // The candidate's two biases stay apart, because the reset gate scales only the second.
        let bias = |kind: usize, unit| {
            let (ih, hh) = weights.biases(kind.min(2) * hidden + unit);
            [ih + hh, ih + hh, ih, hh][kind]
        };
        Gru { layer: Layer::pack(isa, precision, &weights, bias) }
    }

    /// Takes one step. `input` holds the layer's inputs. `h` holds its hidden units; it is read and replaced.
    ///
    /// # Panics
    /// Panics if a length is wrong, or if the scratch memory is too short.
    pub fn step(&self, input: &[f32], h: &mut [f32], scratch: &mut [f32]) {
        self.layer.step(input, h, &mut [], scratch);
    }

    /// Takes `steps` steps over `[steps][inputs]` and writes every hidden state to `output`,
    /// `[steps][hidden]`. `h` is read before the first step and holds the state after the last one.
    ///
    /// # Panics
    /// Panics if `steps` is zero, if a length is wrong, or if the scratch memory is too short.
    pub fn window(
        &self,
        steps: usize,
        input: &[f32],
        h: &mut [f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.layer.window(steps, input, h, &mut [], output, scratch);
    }
}

layer_facts!(Gru);

#[derive(Debug, Clone, Copy)]
struct GruCell;

impl Cell for GruCell {
    const NAME: &'static str = "gru";
    const GATES: usize = 3;
    const HAS_CELL_STATE: bool = false;

    /// The input's share of the candidate. The reset gate scales only the hidden state's share, whose sum
    /// starts from its own bias.
    #[inline(always)]
    unsafe fn set_aside<L: Lanes, const K: usize, const U: usize>(
        l: L,
        place: &Place,
        gates: &mut [L::Vector; K],
    ) -> [L::Vector; U] {
        let mut from_input = [l.splat(0.0); U];
        for u in 0..U {
            from_input[u] = gates[2 * U + u];
            // SAFETY: the bias of a block has `U` vectors more than the `K` of its gates.
            gates[2 * U + u] = unsafe { l.load(place.bias.add((3 * U + u) * L::LANES)) };
        }
        from_input
    }

    #[inline(always)]
    unsafe fn conclude<L: Lanes, const K: usize, const U: usize>(
        l: L,
        blocks: &Blocks,
        place: &Place,
        gates: &[L::Vector; K],
        from_input: &[L::Vector; U],
        call: &mut Step<'_>,
    ) {
        for u in 0..U {
            let first = place.first + u * L::LANES;
            let count = (blocks.hidden - first).min(L::LANES);
            // SAFETY: only the units of the state that exist are read or written.
            unsafe {
                let before = load_first_or_all(l, call.h.as_ptr().add(first), count);
                let reset = sigmoid(l, gates[u]);
                let update = sigmoid(l, gates[U + u]);
                let candidate = tanh(l, l.mul_add(reset, gates[2 * U + u], from_input[u]));
                let hidden = l.mul_add(update, l.sub(before, candidate), candidate);
                store_first_or_all(l, call.next.as_mut_ptr().add(first), count, hidden);
            }
        }
    }

    #[inline(always)]
    unsafe fn block<L: Lanes, S: Stored>(l: L, blocks: &Blocks, place: &Place, call: &mut Step<'_>) {
        // SAFETY: the block has one or two vectors of each of the three gates.
        unsafe {
            if place.is_wide {
                block::<Self, L, S, 6, 2>(l, blocks, place, call);
            } else {
                block::<Self, L, S, 3, 1>(l, blocks, place, call);
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
        // SAFETY: the caller keeps the same contract; the widths are those of three gates.
        unsafe { blocks.project::<L, S, 3, 6>(l, steps, input, projected) };
    }

    fn reference(blocks: &Blocks, input: &[f32], h: &[f32], _c: &mut [f32], next: &mut [f32]) {
        let (ih, hh, bias) = blocks.plain();
        let hidden = blocks.hidden;
        for unit in 0..hidden {
            let from_input = |gate: usize| {
                let row = gate * hidden + unit;
                dot(&ih[row * blocks.inputs..(row + 1) * blocks.inputs], input)
            };
            let from_state = |gate: usize| {
                dot(&hh[(gate * hidden + unit) * hidden..(gate * hidden + unit + 1) * hidden], h)
            };
            let bias = |kind: usize| f64::from(bias[kind * hidden + unit]);
            let reset = logistic(from_input(0) + from_state(0) + bias(0));
            let update = logistic(from_input(1) + from_state(1) + bias(1));
            let candidate = (from_input(2) + bias(2) + reset * (from_state(2) + bias(3))).tanh();
            next[unit] = ((1.0 - update) * candidate + update * f64::from(h[unit])) as f32;
        }
    }
}
