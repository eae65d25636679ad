//! Storage of packed weights: aligned to cache lines, in the order in which a kernel reads them.

use super::isa::{Isa, Precision, bf16_bits};
use super::lanes::{Kernel, Lanes};

/// One cache line. Weights of either precision are 32-bit words: an `f32`, or a pair of bfloat16.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Values on cache-line boundaries. They do not change after packing.
#[derive(Debug, Clone)]
pub(super) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    pub(super) fn new(values: &[f32]) -> Self {
        let lines = values
            .chunks(16)
            .map(|chunk| {
                let mut line = Line([0.0; 16]);
                line.0[..chunk.len()].copy_from_slice(chunk);
                line
            })
            .collect();
        Self { lines, len: values.len() }
    }

    /// Aligned to 64 bytes, valid for reading [`Aligned::len`] words.
    pub(super) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_slice(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` values without gaps, because `Line` is a plain array.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

/// How the weights of a panel are laid out and multiplied.
///
/// A panel is `width` outputs wide. Its weights are stored in steps, one for each input (or pair of inputs).
/// A step holds the `width` words of its outputs side by side. So a kernel broadcasts an input and multiplies
/// it with consecutive vectors, and reads the whole panel as one stream of ascending addresses.
pub(super) trait Stored {
    /// The number of inputs in a step.
    const STEP: usize;

    /// Runs a kernel that reads such weights, with the best instructions for them.
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output;

    /// The number of steps that cover `inputs` inputs.
    fn steps(inputs: usize) -> usize {
        inputs.div_ceil(Self::STEP)
    }

    /// Adds one step of `K` vectors of outputs to `sums`.
    ///
    /// # Safety
    /// `weights` is valid for reading `K * LANES` words, `input` for `STEP` values.
    unsafe fn multiply<L: Lanes, const K: usize>(
        l: L,
        weights: *const f32,
        input: *const f32,
        sums: &mut [L::Vector; K],
    );

    /// Does the same for a last step of a single input.
    ///
    /// # Safety
    /// `weights` is valid for reading `K * LANES` words, `input` for one value.
    unsafe fn multiply_one<L: Lanes, const K: usize>(
        l: L,
        weights: *const f32,
        input: *const f32,
        sums: &mut [L::Vector; K],
    );

    /// Reads weights of `STEP` consecutive vectors of inputs, for a dot product.
    ///
    /// # Safety
    /// `weights` is valid for reading `LANES` words.
    unsafe fn load_along<L: Lanes>(l: L, weights: *const f32) -> (L::Vector, L::Vector);
}

/// [`Precision::F32`]
pub(super) struct Single;

impl Stored for Single {
    const STEP: usize = 1;

    #[inline]
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run(kernel)
    }

    #[inline(always)]
    unsafe fn multiply<L: Lanes, const K: usize>(
        l: L,
        weights: *const f32,
        input: *const f32,
        sums: &mut [L::Vector; K],
    ) {
        // SAFETY: the caller keeps one input and `K` vectors readable.
        unsafe {
            let x = l.splat(*input);
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = l.mul_add(x, l.load(weights.add(k * L::LANES)), *sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_one<L: Lanes, const K: usize>(
        l: L,
        weights: *const f32,
        input: *const f32,
        sums: &mut [L::Vector; K],
    ) {
        // SAFETY: the caller keeps the same contract.
        unsafe { Self::multiply(l, weights, input, sums) }
    }

    #[inline(always)]
    unsafe fn load_along<L: Lanes>(l: L, weights: *const f32) -> (L::Vector, L::Vector) {
        // SAFETY: the caller keeps a vector readable.
        (unsafe { l.load(weights) }, l.splat(0.0))
    }
}

/// [`Precision::Bf16`]: a word holds the weights of two inputs, the first in its lower half.
/// [`Lanes::multiply_two`] decides how they are multiplied.
pub(super) struct Half;

impl Stored for Half {
    const STEP: usize = 2;

    #[inline]
    fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
        isa.run_bf16(kernel)
    }

    #[inline(always)]
    unsafe fn multiply<L: Lanes, const K: usize>(
        l: L,
        weights: *const f32,
        input: *const f32,
        sums: &mut [L::Vector; K],
    ) {
        // SAFETY: the caller keeps two inputs and `K` vectors readable.
        unsafe {
            let inputs = l.two(*input, *input.add(1));
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = l.multiply_two(inputs, weights.add(k * L::LANES), *sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply_one<L: Lanes, const K: usize>(
        l: L,
        weights: *const f32,
        input: *const f32,
        sums: &mut [L::Vector; K],
    ) {
        // SAFETY: the caller keeps one input and `K` vectors readable.
        unsafe {
            let x = l.splat(*input);
            for (k, sum) in sums.iter_mut().enumerate() {
                let (low, _) = l.load_bf16_pairs(weights.add(k * L::LANES));
                *sum = l.mul_add(x, low, *sum);
            }
        }
    }

    #[inline(always)]
    unsafe fn load_along<L: Lanes>(l: L, weights: *const f32) -> (L::Vector, L::Vector) {
        // SAFETY: the caller keeps a vector readable.
        unsafe { l.load_bf16_pairs(weights) }
    }
}

/// Two weights in one word, as [`Half`] reads them.
fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16_bits(first)) | u32::from(bf16_bits(second)) << 16)
}

/// The number of inputs in a step of that precision.
pub(super) fn step(precision: Precision) -> usize {
    match precision {
        Precision::F32 => Single::STEP,
        Precision::Bf16 => Half::STEP,
    }
}

/// Appends a panel: `weight(output, input)` for `width` outputs. An output that does not exist has the weight
/// zero.
pub(super) fn pack_panel(
    words: &mut Vec<f32>,
    precision: Precision,
    width: usize,
    inputs: usize,
    weight: impl Fn(usize, usize) -> f32,
) {
    for first in (0..inputs).step_by(step(precision)) {
        words.extend((0..width).map(|output| match precision {
            Precision::F32 => weight(output, first),
            Precision::Bf16 if first + 1 < inputs => pair(weight(output, first), weight(output, first + 1)),
            Precision::Bf16 => pair(weight(output, first), 0.0),
        }));
    }
}

/// Appends `rows` rows for dot products. Each block of `STEP * lanes` inputs has one vector of words per row,
/// with zeros after the last input. The second weight of a pair belongs to the input `lanes` further on.
pub(super) fn pack_rows(
    words: &mut Vec<f32>,
    precision: Precision,
    lanes: usize,
    rows: usize,
    inputs: usize,
    weight: impl Fn(usize, usize) -> f32,
) {
    let weight = |row, input| if input < inputs { weight(row, input) } else { 0.0 };
    for block in (0..inputs).step_by(step(precision) * lanes) {
        for row in 0..rows {
            words.extend((block..block + lanes).map(|input| match precision {
                Precision::F32 => weight(row, input),
                Precision::Bf16 => pair(weight(row, input), weight(row, input + lanes)),
            }));
        }
    }
}
