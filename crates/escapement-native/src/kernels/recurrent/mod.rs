//! Recurrent layers: one core for steps and windows, and a [`Cell`] with the gate arithmetic of each kind.
//!
//! | file | holds |
//! |---|---|
//! | `blocks` | the packed weights: gates of the same hidden units side by side |
//! | `gru`, `lstm` | the gate arithmetic, and the layers that a plan calls |
//!
//! This file holds what all of them share: the checks of lengths, the walk over the blocks, a step, and a
//! window.

mod blocks;
mod gru;
mod lstm;

pub use gru::Gru;
pub use lstm::Lstm;

use std::marker::PhantomData;

use super::isa::{Isa, Precision};
use super::lanes::{Kernel, Lanes};
use super::panel::{accumulate, load_panel};
use super::storage::{Half, Single, Stored};
use blocks::{Blocks, Place, Weights};

/// The gate arithmetic of one kind of recurrent layer.
///
/// The blocks of a layer are one or two vectors of hidden units wide. `NARROW` and `WIDE` are the numbers of
/// vectors of all gates in a block. A type cannot compute them from `GATES`, so [`Cell::blocks`] and
/// [`Cell::project`] name them.
trait Cell: Copy {
    /// The name in panic messages.
    const NAME: &'static str;
    /// The number of gates of a hidden unit.
    const GATES: usize;
    /// Whether the layer has a cell state beside its hidden state.
    const HAS_CELL_STATE: bool;

    /// Sets aside the gates of a block that must not be mixed with the hidden state's share. It runs before
    /// that share is added.
    ///
    /// # Safety
    /// `place` is a block of `U` vectors, and `K` is `GATES * U`.
    unsafe fn set_aside<L: Lanes, const K: usize, const U: usize>(
        l: L,
        place: &Place,
        gates: &mut [L::Vector; K],
    ) -> [L::Vector; U];

    /// Writes the new state of the hidden units of a block from its gates.
    ///
    /// # Safety
    /// As [`step`]; `place` is a block of `U` vectors, and `K` is `GATES * U`.
    unsafe fn conclude<L: Lanes, const K: usize, const U: usize>(
        l: L,
        blocks: &Blocks,
        place: &Place,
        gates: &[L::Vector; K],
        aside: &[L::Vector; U],
        call: &mut Step<'_>,
    );

    /// Computes one block with the right widths.
    ///
    /// # Safety
    /// As [`step`].
    unsafe fn block<L: Lanes, S: Stored>(l: L, blocks: &Blocks, place: &Place, call: &mut Step<'_>);

    /// [`Blocks::project`] with the right widths.
    ///
    /// # Safety
    /// As [`Blocks::project`].
    unsafe fn project<L: Lanes, S: Stored>(
        l: L,
        blocks: &Blocks,
        steps: usize,
        input: *const f32,
        projected: *mut f32,
    );

    /// The reference: the definition, in double precision within a step. `c` is empty if there is no cell
    /// state.
    fn reference(blocks: &Blocks, input: &[f32], h: &[f32], c: &mut [f32], next: &mut [f32]);
}

/// A packed layer with the gate arithmetic `C`.
#[derive(Debug, Clone)]
struct Layer<C> {
    blocks: Blocks,
    cell: PhantomData<C>,
}

impl<C: Cell> Layer<C> {
    fn pack(
        isa: Isa,
        precision: Precision,
        weights: &Weights<'_>,
        bias: impl Fn(usize, usize) -> f32,
    ) -> Self {
        Self { blocks: Blocks::pack(isa, precision, C::GATES, weights, bias), cell: PhantomData }
    }

    fn step(&self, input: &[f32], h: &mut [f32], c: &mut [f32], scratch: &mut [f32]) {
        self.check(1, input, h, c);
        let scratch = self.blocks.split_scratch(1, scratch);
        let next = &mut scratch.next[..self.blocks.hidden];
        self.run(Step { input: Some(input), h, c, next, projected: &[], backward: scratch.backward });
        h.copy_from_slice(next);
    }

    fn window(
        &self,
        steps: usize,
        input: &[f32],
        h: &mut [f32],
        c: &mut [f32],
        output: &mut [f32],
        scratch: &mut [f32],
    ) {
        self.check(steps, input, h, c);
        assert_eq!(
            output.len(),
            steps * self.blocks.hidden,
            "{}: the output must be steps x hidden",
            C::NAME
        );
        let scratch = self.blocks.split_scratch(steps, scratch);
        let (projected, backward) = (scratch.projected, scratch.backward);
        self.run(Window { steps, input, h, c, output, projected, backward });
    }

    #[inline]
    fn run<Call>(&self, call: Call)
    where
        for<'r> Run<'r, C, Call, Single>: Kernel<Output = ()>,
        for<'r> Run<'r, C, Call, Half>: Kernel<Output = ()>,
    {
        let (blocks, isa) = (&self.blocks, self.blocks.isa);
        match self.blocks.precision {
            Precision::F32 => {
                Single::run(isa, Run { blocks, call, stored: PhantomData::<Single>, cell: self.cell });
            }
            Precision::Bf16 => {
                Half::run(isa, Run { blocks, call, stored: PhantomData::<Half>, cell: self.cell });
            }
        }
    }

    fn check(&self, steps: usize, input: &[f32], h: &[f32], c: &[f32]) {
        let cell = if C::HAS_CELL_STATE { self.blocks.hidden } else { 0 };
        assert!(steps > 0, "{}: a window must have steps", C::NAME);
        assert_eq!(input.len(), steps * self.blocks.inputs, "{}: the input must be steps x inputs", C::NAME);
        assert!(
            h.len() == self.blocks.hidden && c.len() == cell,
            "{}: a state must hold the hidden units",
            C::NAME
        );
    }
}

/// One call, with its lengths checked.
struct Run<'a, C, Call, S> {
    blocks: &'a Blocks,
    call: Call,
    stored: PhantomData<S>,
    cell: PhantomData<C>,
}

/// Takes one step from `h` to `next`. Without an `input`, the input's share is already in `projected`. `c` is
/// empty if there is no cell state.
struct Step<'a> {
    input: Option<&'a [f32]>,
    h: &'a [f32],
    c: &'a mut [f32],
    next: &'a mut [f32],
    projected: &'a [f32],
    backward: bool,
}

struct Window<'a> {
    steps: usize,
    input: &'a [f32],
    h: &'a mut [f32],
    c: &'a mut [f32],
    output: &'a mut [f32],
    projected: &'a mut [f32],
    backward: bool,
}

impl<C: Cell, S: Stored> Kernel for Run<'_, C, Step<'_>, S> {
    type Output = ();

    fn scalar(self) {
        let Step { input, h, c, next, .. } = self.call;
        C::reference(self.blocks, input.unwrap_or_default(), h, c, next);
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        // SAFETY: `Layer::step` checked the lengths.
        unsafe { step::<C, L, S>(l, self.blocks, self.call) };
    }
}

impl<C: Cell, S: Stored> Kernel for Run<'_, C, Window<'_>, S> {
    type Output = ();

    fn scalar(self) {
        let Window { input, h, c, output, .. } = self.call;
        let (inputs, hidden) = (self.blocks.inputs, self.blocks.hidden);
        for (input, next) in input.chunks(inputs).zip(output.chunks_mut(hidden)) {
            C::reference(self.blocks, input, h, c, next);
            h.copy_from_slice(next);
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        let (blocks, call) = (self.blocks, self.call);
        let width = C::GATES * blocks.padded();
        // SAFETY: `Layer::window` checked the lengths, and the scratch memory holds `steps` rows of
        // projections.
        unsafe {
            C::project::<L, S>(l, blocks, call.steps, call.input.as_ptr(), call.projected.as_mut_ptr())
        };
        for t in 0..call.steps {
            let (before, after) = call.output.split_at_mut(t * blocks.hidden);
            let step_call = Step {
                input: None,
                h: if t == 0 { call.h } else { &before[(t - 1) * blocks.hidden..] },
                c: call.c,
                next: &mut after[..blocks.hidden],
                projected: &call.projected[t * width..(t + 1) * width],
                backward: call.backward ^ (t % 2 == 1),
            };
            // SAFETY: every slice has the length that the layer's dimensions require.
            unsafe { step::<C, L, S>(l, blocks, step_call) };
        }
        call.h.copy_from_slice(&call.output[(call.steps - 1) * blocks.hidden..]);
    }
}

/// # Safety
/// `input` holds the layer's inputs, or `projected` all of its gates. `h` and `next` hold its hidden units,
/// and so does `c` if the cell has a cell state.
#[inline(always)]
unsafe fn step<C: Cell, L: Lanes, S: Stored>(l: L, blocks: &Blocks, mut call: Step<'_>) {
    let count = blocks.count();
    for i in 0..count {
        let place = blocks.place(if call.backward { count - 1 - i } else { i });
        // SAFETY: the caller keeps the same contract.
        unsafe { C::block::<L, S>(l, blocks, &place, &mut call) };
    }
}

/// Computes the new state of one block of `U` vectors of hidden units, whose gates are `K = GATES * U`
/// vectors.
///
/// # Safety
/// As [`step`]. `place` must be a block of that width.
#[inline(always)]
unsafe fn block<C: Cell, L: Lanes, S: Stored, const K: usize, const U: usize>(
    l: L,
    blocks: &Blocks,
    place: &Place,
    call: &mut Step<'_>,
) {
    const { assert!(K == C::GATES * U) };
    // SAFETY: a block holds the steps of the input and then those of the hidden state. Its bias and a row of
    // projections have at least `K` vectors for it.
    unsafe {
        let mut gates;
        if let Some(input) = call.input {
            gates = load_panel::<L, K>(l, place.bias);
            accumulate::<L, S, K>(l, place.weights, input.as_ptr(), blocks.inputs, &mut gates);
        } else {
            gates = load_panel::<L, K>(l, call.projected.as_ptr().add(place.first * C::GATES));
        }
        let aside = C::set_aside::<L, K, U>(l, place, &mut gates);
        let recurrent = place.weights.add(S::steps(blocks.inputs) * K * L::LANES);
        accumulate::<L, S, K>(l, recurrent, call.h.as_ptr(), blocks.hidden, &mut gates);
        C::conclude::<L, K, U>(l, blocks, place, &gates, &aside, call);
    }
}

/// The dot product of the references, in double precision.
fn dot(row: &[f32], x: &[f32]) -> f64 {
    row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
}

/// The logistic function of the references.
fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Defines the methods that a plan calls on every packed layer.
macro_rules! layer_facts {
    ($layer:ty) => {
        impl $layer {
            /// The number of values of scratch memory for a window of `steps` steps, or for one step if
            /// `steps` is 1. The content between calls affects only speed: keep the same memory for the same
            /// layer.
            #[must_use]
            pub fn scratch_len(&self, steps: usize) -> usize {
                self.layer.blocks.scratch_len(steps)
            }

            /// Multiply-adds of one step.
            #[must_use]
            pub fn multiply_adds(&self) -> usize {
                self.layer.blocks.multiply_adds()
            }

            /// Bytes of packed weights and biases, including their padding. One step loads all of them.
            #[must_use]
            pub fn weight_bytes(&self) -> usize {
                self.layer.blocks.weight_bytes()
            }

            /// Bytes of the hidden state's weights alone. Each further step of a window loads them.
            #[must_use]
            pub fn recurrent_bytes(&self) -> usize {
                self.layer.blocks.recurrent_bytes()
            }

            /// The instruction set that the layer was packed for.
            #[must_use]
            pub fn isa(&self) -> Isa {
                self.layer.blocks.isa
            }

            /// How the weights are stored.
            #[must_use]
            pub fn precision(&self) -> Precision {
                self.layer.blocks.precision
            }

            /// Values in one step of input.
            #[must_use]
            pub fn inputs(&self) -> usize {
                self.layer.blocks.inputs
            }

            /// Hidden units.
            #[must_use]
            pub fn hidden(&self) -> usize {
                self.layer.blocks.hidden
            }
        }
    };
}
use layer_facts;
