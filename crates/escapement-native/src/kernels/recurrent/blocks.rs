//! Packed weights of LSTM and GRU: the gates of the same hidden units side by side, and the order of the
//! blocks.
//!
//! PyTorch stores the weights gate after gate. Here they are regrouped into blocks of one or two vectors of
//! hidden units with all of their gates. One pass over input and hidden state then yields everything that the
//! new state of those units depends on, still in registers. A block holds the input's weights first, then
//! those of the hidden state.
//!
//! Recurrent weights are often a little larger than a cache level (the 65 kB of a 64-unit LSTM against 48
//! kB). Walking through them in the same order at every step would then find none of them in that level,
//! because the oldest leave first. So every pass runs in the opposite direction and begins with the blocks
//! that were used last. This takes a fifth off a window of an LSTM 32→64 and a quarter off a step of 32→256
//! (measured). The direction does not change any result. It is kept in the caller's scratch memory and may be
//! lost without harm.

use crate::kernels::activation::pointwise::Identity;
use crate::kernels::isa::{Isa, Precision};
use crate::kernels::lanes::Lanes;
use crate::kernels::panel::{self, multiply_rows};
use crate::kernels::storage::{self, Aligned, Stored, pack_panel};

/// The largest number of vectors of hidden units in one block.
const WIDE: usize = 2;
/// Bytes of the first cache level that every processor has. A block should fit in it. Otherwise the end of a
/// block evicts its beginning, and the pass that begins with this block finds none of it in the cache.
const NEAREST_CACHE: usize = 32 << 10;
/// The number of biases of a hidden unit. The LSTM has four gates; the GRU has reset, update and the two
/// halves of the candidate.
pub(super) const BIASES: usize = 4;

/// The weights of one recurrent layer as PyTorch stores them: `[gates * hidden][inputs]` and
/// `[gates * hidden][hidden]`.
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
        assert!(self.inputs > 0 && self.hidden > 0, "recurrent: a layer must have inputs and hidden units");
        assert_eq!(
            self.ih.len(),
            rows * self.inputs,
            "recurrent: w_ih must be gates x hidden rows of inputs"
        );
        assert_eq!(
            self.hh.len(),
            rows * self.hidden,
            "recurrent: w_hh must be gates x hidden rows of hidden"
        );
        for bias in [self.bias_ih, self.bias_hh].into_iter().flatten() {
            assert_eq!(bias.len(), rows, "recurrent: a bias must be gates x hidden");
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
    /// The blocks, one after the other. For [`Isa::Scalar`] `w_ih` and `w_hh` row by row, as given.
    weights: Aligned,
    /// For each block, [`BIASES`] times its hidden units. For [`Isa::Scalar`], one block with all units.
    bias: Aligned,
    /// The number of blocks of [`WIDE`] vectors, then of blocks of a single vector.
    wide: usize,
    narrow: usize,
}

/// Returns how many blocks of [`WIDE`] vectors of hidden units, and how many of one, a layer of `vectors`
/// vectors is cut into. Wide blocks need fewer loads for the same multiply-adds. Narrow ones are for the
/// rest, and for layers whose blocks fit the nearest cache only if they are narrow. There a step of an LSTM
/// 32→64 takes an eighth less time (measured). That gains nothing if bf16 halves the loads, because the time
/// then depends on arithmetic.
fn cut(precision: Precision, vectors: usize, narrow_bytes: usize) -> (usize, usize) {
    let only_narrow_fits = WIDE * narrow_bytes > NEAREST_CACHE && narrow_bytes <= NEAREST_CACHE;
    if only_narrow_fits && precision == Precision::F32 {
        (0, vectors)
    } else {
        (vectors / WIDE, vectors % WIDE)
    }
}

/// The number of steps that cover `inputs` inputs at `precision`.
fn steps(precision: Precision, inputs: usize) -> usize {
    inputs.div_ceil(storage::step(precision))
}

/// The place of one block.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub weights: *const f32,
    pub bias: *const f32,
    /// The first hidden unit.
    pub first: usize,
    /// Whether the block is [`WIDE`] vectors of hidden units wide, or one.
    pub is_wide: bool,
}

impl Blocks {
    /// Packs a layer. `bias(gate, unit)` returns the [`BIASES`] of a hidden unit.
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
                // The row of a lane in PyTorch's matrices. Lanes past the last unit have none.
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

    /// Words of one step of input or hidden state in a block that is `vectors` wide.
    fn step_words(&self, vectors: usize) -> usize {
        self.gates * vectors * self.isa.lanes()
    }

    fn steps(&self) -> usize {
        steps(self.precision, self.inputs) + steps(self.precision, self.hidden)
    }

    /// The place of block `index`, which must be below [`Blocks::count`].
    #[inline(always)]
    pub fn place(&self, index: usize) -> Place {
        debug_assert!(index < self.count());
        // The vectors of hidden units in the blocks before. Wide blocks come first.
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

    /// Bytes of the hidden state's weights alone. Every step of a window loads them again.
    pub fn recurrent_bytes(&self) -> usize {
        4 * steps(self.precision, self.hidden) * self.gates * self.padded()
    }

    /// The number of hidden units, rounded up to a whole vector.
    pub fn padded(&self) -> usize {
        self.hidden.next_multiple_of(self.isa.lanes())
    }

    /// The number of values of scratch memory for a window: the distance to an aligned place, a line for the
    /// direction, the next hidden state, and the projected inputs.
    pub fn scratch_len(&self, steps: usize) -> usize {
        15 + 16 + self.padded().next_multiple_of(16) + steps * self.gates * self.padded()
    }

    pub fn split_scratch<'a>(&self, steps: usize, scratch: &'a mut [f32]) -> Scratch<'a> {
        assert!(
            scratch.len() >= self.scratch_len(steps),
            "recurrent: scratch of {}",
            self.scratch_len(steps)
        );
        // This is a hint. If it cannot be followed, some loads cross a cache line.
        let skip = scratch.as_ptr().align_offset(64).min(15);
        let (direction, rest) = scratch[skip..].split_at_mut(16);
        let (next, projected) = rest.split_at_mut(self.padded().next_multiple_of(16));
        let backward = direction[0].to_bits() & 1 == 1;
        // This is a bit pattern, not a number. It is only moved, so the flushing of denormals does not change
        // it.
        direction[0] = f32::from_bits(u32::from(!backward));
        Scratch { backward, next, projected }
    }

    /// Computes the input's share of all gates for all steps, block by block, so that each weight is loaded
    /// once for four steps. Row `t` of `projected` holds the blocks in their order.
    ///
    /// # Safety
    /// `input` is valid for `steps * inputs` values and `projected` for `steps * gates * padded`. The gates
    /// of a block are `NARROW` vectors, or `WIDE_GATES` if it is wide. The instruction set is that of `l`.
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
            // SAFETY: the block holds the input's weights as a panel of that width, and at least as many
            // biases. The blocks of a row fill `stride` values.
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

/// Scratch memory, split into its parts.
pub(super) struct Scratch<'a> {
    /// Whether this pass visits the blocks from the last to the first. The next pass runs in the other
    /// direction.
    pub backward: bool,
    /// The number of hidden units, rounded up to a whole vector.
    pub next: &'a mut [f32],
    pub projected: &'a mut [f32],
}
