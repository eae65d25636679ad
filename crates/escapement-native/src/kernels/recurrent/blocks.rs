//! What LSTM and GRU share: gates of the same hidden units side by side, and the order in which blocks are visited.
//!
//! PyTorch stores the weights gate after gate. Here they are regrouped into blocks of one or two vectors of hidden
//! units with all of their gates, so that one pass over input and hidden state yields everything that the new state of
//! those units depends on, still in registers. A block holds the input's weights first and the hidden state's behind.
//!
//! Recurrent weights are often a little larger than a cache level (the 65 kB of a 64-unit LSTM against 48 kB). Walking
//! through them in the same order at every step would then find none of them there, since the oldest go first. So every
//! pass runs opposite to the one before and begins with the blocks that were used last (measured: a fifth off a window
//! of an LSTM 32→64, a quarter off a step of 32→256). Which way it runs does not change any result. The direction is kept
//! in the caller's scratch memory and may be lost without harm.

use crate::kernels::activation::pointwise::Identity;
use crate::kernels::isa::{Isa, Precision};
use crate::kernels::lanes::Lanes;
use crate::kernels::panel::{self, multiply_rows};
use crate::kernels::storage::{self, Aligned, Stored, pack_panel};

/// Most vectors of hidden units in one block.
const WIDE: usize = 2;
/// Bytes of the first cache level that every processor has. A block should fit in there, or else the pass that begins
/// with the last one used still finds none of it: its end drove out its beginning.
const NEAREST_CACHE: usize = 32 << 10;
/// Biases a hidden unit has: four gates of the LSTM; reset, update and the two halves of the candidate of the GRU.
pub(super) const BIASES: usize = 4;

/// The weights of one recurrent layer as PyTorch stores them: `[gates * hidden][inputs]` and `[gates * hidden][hidden]`.
pub(super) struct Weights<'a> {
    pub ih: &'a [f32],
    pub hh: &'a [f32],
    pub bias_ih: Option<&'a [f32]>,
    pub bias_hh: Option<&'a [f32]>,
    pub inputs: usize,
    pub hidden: usize,
}

impl Weights<'_> {
    fn check(&self, gates: usize) {
        let rows = gates * self.hidden;
        assert!(self.inputs > 0 && self.hidden > 0, "recurrent: a layer has inputs and hidden units");
        assert_eq!(self.ih.len(), rows * self.inputs, "recurrent: w_ih is gates x hidden rows of inputs");
        assert_eq!(self.hh.len(), rows * self.hidden, "recurrent: w_hh is gates x hidden rows of hidden");
        for bias in [self.bias_ih, self.bias_hh].into_iter().flatten() {
            assert_eq!(bias.len(), rows, "recurrent: a bias is gates x hidden");
        }
    }

    /// The two biases of a row.
    pub fn biases(&self, row: usize) -> (f32, f32) {
        (self.bias_ih.map_or(0.0, |bias| bias[row]), self.bias_hh.map_or(0.0, |bias| bias[row]))
    }
}

/// A recurrent layer's packed weights.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub isa: Isa,
    pub precision: Precision,
    pub inputs: usize,
    pub hidden: usize,
    gates: usize,
    /// Blocks one after the other. For [`Isa::Scalar`] `w_ih` and `w_hh` row by row, as given.
    weights: Aligned,
    /// For each block [`BIASES`] times its hidden units; for [`Isa::Scalar`] one block of all.
    bias: Aligned,
    /// Blocks of [`WIDE`] vectors, then those of a single vector.
    wide: usize,
    narrow: usize,
}

/// How many blocks of [`WIDE`] vectors of hidden units, and of one, a layer of so many `vectors` is cut into. Wide ones
/// need fewer loads for the same multiply-adds, so narrow ones are for what is left over, and for layers whose blocks
/// fit the nearest cache only so (measured with an LSTM 32→64: an eighth off a step). That is no gain where bf16 halves
/// the loads, as arithmetic then sets the pace.
fn cut(precision: Precision, vectors: usize, narrow_bytes: usize) -> (usize, usize) {
    let only_narrow_fits = WIDE * narrow_bytes > NEAREST_CACHE && narrow_bytes <= NEAREST_CACHE;
    if only_narrow_fits && precision == Precision::F32 {
        (0, vectors)
    } else {
        (vectors / WIDE, vectors % WIDE)
    }
}

/// Steps that cover so many inputs at that precision.
fn steps(precision: Precision, inputs: usize) -> usize {
    inputs.div_ceil(storage::step(precision))
}

/// One block's place.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub weights: *const f32,
    pub bias: *const f32,
    /// First hidden unit.
    pub first: usize,
    /// Whether it is [`WIDE`] vectors of hidden units wide, or one.
    pub is_wide: bool,
}

impl Blocks {
    /// Packs a layer; `bias(gate, unit)` gives the [`BIASES`] of a hidden unit.
    pub fn pack(
        isa: Isa,
        precision: Precision,
        gates: usize,
        of: &Weights<'_>,
        bias: impl Fn(usize, usize) -> f32,
    ) -> Self {
        of.check(gates);
        let (inputs, hidden, lanes) = (of.inputs, of.hidden, isa.lanes());
        let (mut words, mut biases) = (Vec::new(), Vec::new());
        let vectors = hidden.div_ceil(lanes);
        let steps = steps(precision, inputs) + steps(precision, hidden);
        let (wide, narrow) = cut(precision, vectors, 4 * steps * gates * lanes);
        if isa == Isa::Scalar {
            words.extend(of.ih.iter().chain(of.hh).map(|&weight| precision.round(weight)));
            biases.extend((0..BIASES * hidden).map(|i| bias(i / hidden, i % hidden)));
        } else {
            let mut first = 0;
            for vectors in std::iter::repeat_n(WIDE, wide).chain(std::iter::repeat_n(1, narrow)) {
                let units = vectors * lanes;
                // Where a lane of the block has its row in PyTorch's matrices; lanes past the last unit have none.
                let row = |lane: usize| {
                    (first + lane % units < hidden).then_some(lane / units * hidden + first + lane % units)
                };
                let weight =
                    |from: &[f32], width: usize, lane, i| row(lane).map_or(0.0, |row| from[row * width + i]);
                pack_panel(&mut words, precision, gates * units, inputs, |lane, i| {
                    weight(of.ih, inputs, lane, i)
                });
                pack_panel(&mut words, precision, gates * units, hidden, |lane, i| {
                    weight(of.hh, hidden, lane, i)
                });
                biases.extend((0..BIASES * units).map(|lane| {
                    let unit = first + lane % units;
                    if unit < hidden { bias(lane / units, unit) } else { 0.0 }
                }));
                first += units;
            }
        }
        let (weights, bias) = (Aligned::new(&words), Aligned::new(&biases));
        Self { isa, precision, inputs, hidden, gates, weights, bias, wide, narrow }
    }

    /// `w_ih`, `w_hh` and the biases of a layer packed for [`Isa::Scalar`].
    pub fn plain(&self) -> (&[f32], &[f32], &[f32]) {
        let (ih, hh) = self.weights.as_slice().split_at(self.gates * self.hidden * self.inputs);
        (ih, hh, self.bias.as_slice())
    }

    pub fn count(&self) -> usize {
        self.wide + self.narrow
    }

    /// Words of one step of input or hidden state in a block `vectors` wide.
    fn step_words(&self, vectors: usize) -> usize {
        self.gates * vectors * self.isa.lanes()
    }

    fn steps(&self) -> usize {
        steps(self.precision, self.inputs) + steps(self.precision, self.hidden)
    }

    /// Where block `index` lies, below [`Blocks::count`].
    #[inline(always)]
    pub fn place(&self, index: usize) -> Place {
        debug_assert!(index < self.count());
        // Vectors of hidden units in the blocks before: wide ones come first.
        let before = index + index.min(self.wide) * (WIDE - 1);
        let first = before * self.isa.lanes();
        Place {
            weights: self.weights.as_ptr().wrapping_add(before * self.steps() * self.step_words(1)),
            bias: self.bias.as_ptr().wrapping_add(first * BIASES),
            first,
            is_wide: index < self.wide,
        }
    }

    pub fn multiply_adds(&self) -> usize {
        self.gates * self.hidden * (self.inputs + self.hidden)
    }

    pub fn weight_bytes(&self) -> usize {
        4 * (self.weights.len() + self.bias.len())
    }

    /// Bytes of the weights of the hidden state alone, which every step of a window loads anew.
    pub fn recurrent_bytes(&self) -> usize {
        4 * steps(self.precision, self.hidden) * self.gates * self.padded()
    }

    /// Hidden units up to a whole vector.
    pub fn padded(&self) -> usize {
        self.hidden.next_multiple_of(self.isa.lanes())
    }

    /// Values of scratch memory for a window: to an aligned place, a line for the direction, the next hidden state, and
    /// the projected inputs.
    pub fn scratch_len(&self, steps: usize) -> usize {
        15 + 16 + self.padded().next_multiple_of(16) + steps * self.gates * self.padded()
    }

    pub fn split_scratch<'a>(&self, steps: usize, scratch: &'a mut [f32]) -> Scratch<'a> {
        assert!(
            scratch.len() >= self.scratch_len(steps),
            "recurrent: scratch of {}",
            self.scratch_len(steps)
        );
        // A hint only; if it cannot be followed, some loads cross a cache line.
        let skip = scratch.as_ptr().align_offset(64).min(15);
        let (direction, rest) = scratch[skip..].split_at_mut(16);
        let (next, projected) = rest.split_at_mut(self.padded().next_multiple_of(16));
        let backward = direction[0].to_bits() & 1 == 1;
        // A bit pattern, not a number: it is only moved, so flushing of denormals does not touch it.
        direction[0] = f32::from_bits(u32::from(!backward));
        Scratch { backward, next, projected }
    }

    /// The input's share of all gates for all steps, block by block, so that each weight is loaded once for four
    /// steps. Row `t` of `projected` holds the blocks in their order.
    ///
    /// # Safety
    /// `input` is valid for `steps * inputs` values and `projected` for `steps * gates * padded`; the gates of a block
    /// are `NARROW` vectors, or `WIDE_GATES` where it is wide. The instruction set is that of `l`.
    #[inline(always)]
    pub unsafe fn project<L: Lanes, S: Stored, const NARROW: usize, const WIDE_GATES: usize>(
        &self,
        l: L,
        steps: usize,
        input: *const f32,
        projected: *mut f32,
    ) {
        let stride = self.gates * self.padded();
        for index in 0..self.count() {
            let place = self.place(index);
            let valid = self.step_words(if place.is_wide { WIDE } else { 1 });
            let panel = panel::Block { weights: place.weights, bias: place.bias, inputs: self.inputs, valid };
            // SAFETY: the block holds the input's weights as a panel of that width, and at least as many biases; the
            // blocks of a row fill `stride` values.
            unsafe {
                let target = projected.add(place.first * self.gates);
                if place.is_wide {
                    multiply_rows::<L, S, _, WIDE_GATES>(
                        l,
                        Identity {},
                        &panel,
                        steps,
                        input,
                        target,
                        stride,
                    );
                } else {
                    multiply_rows::<L, S, _, NARROW>(l, Identity {}, &panel, steps, input, target, stride);
                }
            }
        }
    }
}

/// Scratch memory cut to its uses.
pub(super) struct Scratch<'a> {
    /// Whether this pass visits the blocks from the last to the first. The next one will run the other way.
    pub backward: bool,
    /// Hidden units up to a whole vector.
    pub next: &'a mut [f32],
    pub projected: &'a mut [f32],
}
