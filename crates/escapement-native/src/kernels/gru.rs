//! Gated recurrent unit, in PyTorch's form and gate order (reset, update, new):
//! `n = tanh(W_in x + b_in + σ(r) (W_hn h + b_hn))`, `h' = n + σ(z) (h - n)`.

use std::marker::PhantomData;

use super::functions::{sigmoid, tanh};
use super::isa::{Isa, Precision};
use super::lanes::{Kernel, Lanes};
use super::panel::{accumulate, load_first_or_all, load_panel, store_first_or_all};
use super::recurrent::{Blocks, Place, Weights};
use super::storage::{Half, Single, Stored};

const GATES: usize = 3;

/// A packed layer.
#[derive(Debug, Clone)]
pub struct Gru {
    blocks: Blocks,
}

impl Gru {
    /// Packs a layer from `nn.GRU`'s or `nn.GRUCell`'s own layout: `w_ih` is `[3 * hidden][inputs]`, `w_hh` is
    /// `[3 * hidden][hidden]`, each bias `[3 * hidden]`.
    ///
    /// # Panics
    /// When a dimension is zero or a length is not what the dimensions say.
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
        // The candidate's two biases stay apart, since the reset gate scales only the second.
        let bias = |kind: usize, unit| {
            let (ih, hh) = weights.biases(kind.min(2) * hidden + unit);
            [ih + hh, ih + hh, ih, hh][kind]
        };
        Gru { blocks: Blocks::pack(isa, precision, GATES, &weights, bias) }
    }

    /// Values of scratch memory that a window of so many steps needs, or one step for `steps = 1`. The content between
    /// calls matters for speed only: keep the same memory for the same layer.
    #[must_use]
    pub fn scratch_len(&self, steps: usize) -> usize {
        self.blocks.scratch_len(steps)
    }

    /// Takes one step: `input` of the layer's inputs; `h`, of its hidden units, is read and replaced.
    ///
    /// # Panics
    /// When a length is wrong or the scratch memory too short.
    pub fn step(&self, input: &[f32], h: &mut [f32], scratch: &mut [f32]) {
        self.check(1, input, h);
        let scratch = self.blocks.split_scratch(1, scratch);
        let next = &mut scratch.next[..self.blocks.hidden];
        let call = Step { input: Some(input), h, next, projected: &[], backward: scratch.backward };
        match self.blocks.precision {
            Precision::F32 => Single::run(
                self.blocks.isa,
                Run { blocks: &self.blocks, call, stored: PhantomData::<Single> },
            ),
            Precision::Bf16 => {
                Half::run(self.blocks.isa, Run { blocks: &self.blocks, call, stored: PhantomData::<Half> })
            }
        }
        h.copy_from_slice(next);
    }

    /// Takes `steps` steps over `[steps][inputs]` and writes every hidden state to `output`, `[steps][hidden]`. `h` is
    /// read before the first step and holds the state after the last one.
    ///
    /// # Panics
    /// When there is no step, a length is wrong or the scratch memory too short.
    pub fn window(
        &self,
        steps: usize,
        input: &[f32],
        h: &mut [f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.check(steps, input, h);
        assert_eq!(output.len(), steps * self.blocks.hidden, "gru: an output of steps x hidden");
        let scratch = self.blocks.split_scratch(steps, scratch);
        let call =
            Window { steps, input, h, output, projected: scratch.projected, backward: scratch.backward };
        match self.blocks.precision {
            Precision::F32 => Single::run(
                self.blocks.isa,
                Run { blocks: &self.blocks, call, stored: PhantomData::<Single> },
            ),
            Precision::Bf16 => {
                Half::run(self.blocks.isa, Run { blocks: &self.blocks, call, stored: PhantomData::<Half> })
            }
        }
    }

    fn check(&self, steps: usize, input: &[f32], h: &[f32]) {
        assert!(steps > 0, "gru: a window has steps");
        assert_eq!(input.len(), steps * self.blocks.inputs, "gru: an input of steps x inputs");
        assert_eq!(h.len(), self.blocks.hidden, "gru: a state of hidden units");
    }

    /// Multiply-adds of one step.
    #[must_use]
    pub fn multiply_adds(&self) -> usize {
        self.blocks.multiply_adds()
    }

    /// Bytes of packed weights and biases, with their padding: what one step has to load.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.blocks.weight_bytes()
    }

    /// Bytes of the hidden state's weights alone: what each further step of a window has to load.
    #[must_use]
    pub fn recurrent_bytes(&self) -> usize {
        self.blocks.recurrent_bytes()
    }

    /// The instruction set it was packed for.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.blocks.isa
    }

    /// How its weights are stored.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.blocks.precision
    }

    /// Values in one step of input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.blocks.inputs
    }

    /// Hidden units.
    #[must_use]
    pub fn hidden(&self) -> usize {
        self.blocks.hidden
    }
}

/// A call, with lengths checked.
struct Run<'a, C, S> {
    blocks: &'a Blocks,
    call: C,
    stored: PhantomData<S>,
}

/// One step from `h` to `next`. Without an `input` its share is in `projected` already.
struct Step<'a> {
    input: Option<&'a [f32]>,
    h: &'a [f32],
    next: &'a mut [f32],
    projected: &'a [f32],
    backward: bool,
}

struct Window<'a> {
    steps: usize,
    input: &'a [f32],
    h: &'a mut [f32],
    output: &'a mut [f32],
    projected: &'a mut [f32],
    backward: bool,
}

impl<S: Stored> Kernel for Run<'_, Step<'_>, S> {
    type Output = ();

    fn scalar(self) {
        let Step { input, h, next, .. } = self.call;
        step_reference(self.blocks, input.unwrap_or_default(), h, next);
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        // SAFETY: `Gru::step` checked the lengths.
        unsafe { step::<L, S>(l, self.blocks, self.call) };
    }
}

impl<S: Stored> Kernel for Run<'_, Window<'_>, S> {
    type Output = ();

    fn scalar(self) {
        let Window { input, h, output, .. } = self.call;
        let (inputs, hidden) = (self.blocks.inputs, self.blocks.hidden);
        for (input, next) in input.chunks(inputs).zip(output.chunks_mut(hidden)) {
            step_reference(self.blocks, input, h, next);
            h.copy_from_slice(next);
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        let (blocks, call) = (self.blocks, self.call);
        let width = GATES * blocks.padded();
        // SAFETY: `Gru::window` checked the lengths, and the scratch memory holds `steps` rows of projections.
        unsafe {
            blocks.project::<L, S, 3, 6>(l, call.steps, call.input.as_ptr(), call.projected.as_mut_ptr())
        };
        for t in 0..call.steps {
            let (before, after) = call.output.split_at_mut(t * blocks.hidden);
            let step_call = Step {
                input: None,
                h: if t == 0 { call.h } else { &before[(t - 1) * blocks.hidden..] },
                next: &mut after[..blocks.hidden],
                projected: &call.projected[t * width..(t + 1) * width],
                backward: call.backward ^ (t % 2 == 1),
            };
            // SAFETY: every slice has the length that the layer's dimensions say.
            unsafe { step::<L, S>(l, blocks, step_call) };
        }
        call.h.copy_from_slice(&call.output[(call.steps - 1) * blocks.hidden..]);
    }
}

/// The reference: the definition, in double precision within a step.
fn step_reference(blocks: &Blocks, input: &[f32], h: &[f32], next: &mut [f32]) {
    let (ih, hh, bias) = blocks.plain();
    let hidden = blocks.hidden;
    let dot =
        |row: &[f32], x: &[f32]| row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    for unit in 0..hidden {
        let from_input = |gate: usize| {
            let row = gate * hidden + unit;
            dot(&ih[row * blocks.inputs..(row + 1) * blocks.inputs], input)
        };
        let from_state =
            |gate: usize| dot(&hh[(gate * hidden + unit) * hidden..(gate * hidden + unit + 1) * hidden], h);
        let bias = |kind: usize| f64::from(bias[kind * hidden + unit]);
        let reset = logistic(from_input(0) + from_state(0) + bias(0));
        let update = logistic(from_input(1) + from_state(1) + bias(1));
        let candidate = (from_input(2) + bias(2) + reset * (from_state(2) + bias(3))).tanh();
        next[unit] = ((1.0 - update) * candidate + update * f64::from(h[unit])) as f32;
    }
}

/// # Safety
/// `input` has the layer's inputs or `projected` all of its gates; `h` and `next` have its hidden units.
#[inline(always)]
unsafe fn step<L: Lanes, S: Stored>(l: L, blocks: &Blocks, mut call: Step<'_>) {
    let count = blocks.count();
    for i in 0..count {
        let place = blocks.place(if call.backward { count - 1 - i } else { i });
        // SAFETY: the block has one or two vectors of each of the three gates.
        unsafe {
            if place.is_wide {
                block::<L, S, 6, 2>(l, blocks, place, &mut call);
            } else {
                block::<L, S, 3, 1>(l, blocks, place, &mut call);
            }
        }
    }
}

/// The new state of one block of `U` vectors of hidden units, whose gates are `K = 3 U` vectors.
///
/// # Safety
/// As [`step`]; `place` is a block of that width.
#[inline(always)]
unsafe fn block<L: Lanes, S: Stored, const K: usize, const U: usize>(
    l: L,
    blocks: &Blocks,
    place: Place,
    call: &mut Step<'_>,
) {
    const { assert!(K == GATES * U) };
    // SAFETY: a block holds the steps of the input and then those of the hidden state; its bias has `U` vectors more
    // than the `K` of its gates, a row of projections has `K`; of the state, only the units that exist are touched.
    unsafe {
        let mut gates;
        if let Some(input) = call.input {
            gates = load_panel::<L, K>(l, place.bias);
            accumulate::<L, S, K>(l, place.weights, input.as_ptr(), blocks.inputs, &mut gates);
        } else {
            gates = load_panel::<L, K>(l, call.projected.as_ptr().add(place.first * GATES));
        }
        // The hidden state's share of the candidate is summed apart, from its own bias on.
        let mut from_input = [l.splat(0.0); U];
        for u in 0..U {
            from_input[u] = gates[2 * U + u];
            gates[2 * U + u] = l.load(place.bias.add((3 * U + u) * L::LANES));
        }
        let recurrent = place.weights.add(S::steps(blocks.inputs) * K * L::LANES);
        accumulate::<L, S, K>(l, recurrent, call.h.as_ptr(), blocks.hidden, &mut gates);
        for u in 0..U {
            let first = place.first + u * L::LANES;
            let count = (blocks.hidden - first).min(L::LANES);
            let before = load_first_or_all(l, call.h.as_ptr().add(first), count);
            let reset = sigmoid(l, gates[u]);
            let update = sigmoid(l, gates[U + u]);
            let candidate = tanh(l, l.mul_add(reset, gates[2 * U + u], from_input[u]));
            let hidden = l.mul_add(update, l.sub(before, candidate), candidate);
            store_first_or_all(l, call.next.as_mut_ptr().add(first), count, hidden);
        }
    }
}
