//! The inner loops: one or a few input vectors times one panel of packed weights.
//!
//! A vector fused multiply-add takes four cycles, and two can start in each cycle. So eight or more
//! independent sums are needed to keep the units busy. A wide panel has enough of them. For a narrow panel,
//! the inputs are split into streams that are added up at the end.

use super::activation::Pointwise;
use super::lanes::Lanes;
use super::storage::Stored;

/// `sums + panel * input` for a panel of `K` vectors.
///
/// # Safety
/// `weights` is valid for reading `S::steps(inputs) * K * LANES` words, `input` for `inputs` values.
#[inline(always)]
pub(super) unsafe fn accumulate<L: Lanes, S: Stored, const K: usize>(
    l: L,
    weights: *const f32,
    input: *const f32,
    inputs: usize,
    sums: &mut [L::Vector; K],
) {
    // SAFETY: the caller keeps the same contract.
    unsafe {
        // About sixteen sums where there are 32 registers, about eight where there are 16.
        match (K, L::LANES) {
            (1, _) => accumulate_streams::<L, S, K, 8>(l, weights, input, inputs, sums),
            (2, _) | (3 | 4, 16) => accumulate_streams::<L, S, K, 4>(l, weights, input, inputs, sums),
            (3 | 4, _) | (5..=8, 16) => accumulate_streams::<L, S, K, 2>(l, weights, input, inputs, sums),
            _ => accumulate_streams::<L, S, K, 1>(l, weights, input, inputs, sums),
        }
    }
}

/// # Safety
/// As [`accumulate`].
#[inline(always)]
unsafe fn accumulate_streams<L: Lanes, S: Stored, const K: usize, const STREAMS: usize>(
    l: L,
    weights: *const f32,
    input: *const f32,
    inputs: usize,
    sums: &mut [L::Vector; K],
) {
    let step = K * L::LANES;
    let whole = inputs / S::STEP;
    let mut streams = [[l.splat(0.0); K]; STREAMS];
    streams[0] = *sums;
    let mut done = 0;
    while done + STREAMS <= whole {
        for (s, stream) in streams.iter_mut().enumerate() {
            // SAFETY: step `done + s` is below `whole`, so its weights and all of its inputs exist.
            unsafe {
                S::multiply(l, weights.add((done + s) * step), input.add((done + s) * S::STEP), stream)
            };
        }
        done += STREAMS;
    }
    while done < whole {
        // SAFETY: step `done` is below `whole`.
        unsafe { S::multiply(l, weights.add(done * step), input.add(done * S::STEP), &mut streams[0]) };
        done += 1;
    }
    if whole * S::STEP < inputs {
        // SAFETY: one input is left over, and packing rounded the steps up, so step `whole` exists.
        unsafe { S::multiply_one(l, weights.add(whole * step), input.add(whole * S::STEP), &mut streams[0]) };
    }
    *sums = streams[0];
    for stream in &streams[1..] {
        for (sum, &part) in sums.iter_mut().zip(stream) {
            *sum = l.add(*sum, part);
        }
    }
}

/// Does the same for `R` input vectors at once, on `K` of the panel's vectors. Each weight is loaded once for
/// all of them.
///
/// # Safety
/// `weights` is valid for reading `K * LANES` words at each of `S::steps(inputs)` places, `step` words apart.
/// `input` is valid for reading `inputs` values at each of `R` places, `stride` values apart.
#[inline(always)]
pub(super) unsafe fn accumulate_rows<L: Lanes, S: Stored, const K: usize, const R: usize>(
    l: L,
    weights: *const f32,
    step: usize,
    input: *const f32,
    inputs: usize,
    stride: usize,
    sums: &mut [[L::Vector; K]; R],
) {
    let whole = inputs / S::STEP;
    for done in 0..whole {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: step `done` is below `whole`, so its weights and all of its inputs exist in each row.
            unsafe { S::multiply(l, weights.add(done * step), input.add(r * stride + done * S::STEP), sums) };
        }
    }
    if whole * S::STEP < inputs {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: one input is left over in each row, and packing rounded the steps up, so step `whole`
            // exists.
            unsafe {
                S::multiply_one(l, weights.add(whole * step), input.add(r * stride + whole * S::STEP), sums)
            };
        }
    }
}

/// Computes the dot products of the input with `R` rows (at most four). They are in the first lanes of the
/// result.
///
/// # Safety
/// `weights` is valid for reading `R * LANES` words for each started block of `S::STEP * LANES` inputs.
/// `input` is valid for reading `inputs` values.
#[inline(always)]
pub(super) unsafe fn dot<L: Lanes, S: Stored, const R: usize>(
    l: L,
    weights: *const f32,
    input: *const f32,
    inputs: usize,
) -> L::Vector {
    const { assert!(R <= 4) };
    let block = S::STEP * L::LANES;
    // Even and odd blocks have sums of their own.
    let (mut even, mut odd) = ([l.splat(0.0); 4], [l.splat(0.0); 4]);
    let whole = inputs / block;
    let mut done = 0;
    while done < whole {
        // SAFETY: block `done` is whole, and so is the next one if it is below `whole`. Packing stored both.
        unsafe {
            whole_block::<L, S, R>(l, weights.add(done * R * L::LANES), input.add(done * block), &mut even);
            if done + 1 < whole {
                whole_block::<L, S, R>(
                    l,
                    weights.add((done + 1) * R * L::LANES),
                    input.add((done + 1) * block),
                    &mut odd,
                );
            }
        }
        done += 2;
    }
    let rest = inputs - whole * block;
    if rest > 0 {
        // SAFETY: only the `rest` inputs that exist are read. Packing filled the weights of this block with
        // zeros.
        unsafe {
            let at = input.add(whole * block);
            let x = if rest > L::LANES {
                (l.load(at), l.load_first(at.add(L::LANES), rest - L::LANES))
            } else {
                (l.load_first(at, rest), l.splat(0.0))
            };
            dot_block::<L, S, R>(l, weights.add(whole * R * L::LANES), x, &mut odd);
        }
    }
    l.sum_four([
        l.add(even[0], odd[0]),
        l.add(even[1], odd[1]),
        l.add(even[2], odd[2]),
        l.add(even[3], odd[3]),
    ])
}

/// # Safety
/// `weights` is valid for reading `R * LANES` words, `input` for `S::STEP * LANES` values.
#[inline(always)]
unsafe fn whole_block<L: Lanes, S: Stored, const R: usize>(
    l: L,
    weights: *const f32,
    input: *const f32,
    sums: &mut [L::Vector; 4],
) {
    // SAFETY: the caller keeps the weights readable, and one vector of inputs, or two for pairs.
    unsafe {
        let x = (l.load(input), if S::STEP == 2 { l.load(input.add(L::LANES)) } else { l.splat(0.0) });
        dot_block::<L, S, R>(l, weights, x, sums);
    }
}

/// # Safety
/// `weights` is valid for reading `R * LANES` words.
#[inline(always)]
unsafe fn dot_block<L: Lanes, S: Stored, const R: usize>(
    l: L,
    weights: *const f32,
    (first, second): (L::Vector, L::Vector),
    sums: &mut [L::Vector; 4],
) {
    for (r, sum) in sums.iter_mut().take(R).enumerate() {
        // SAFETY: row `r` is below `R`.
        let (low, high) = unsafe { S::load_along(l, weights.add(r * L::LANES)) };
        *sum = l.mul_add(first, low, *sum);
        if S::STEP == 2 {
            *sum = l.mul_add(second, high, *sum);
        }
    }
}

/// A panel of weights, its bias, and how many of its outputs exist.
pub(super) struct Block {
    pub weights: *const f32,
    pub bias: *const f32,
    pub inputs: usize,
    pub valid: usize,
}

/// Writes `f(panel * row + bias)` for rows of input that follow one another, to rows of output `stride`
/// values apart.
///
/// # Safety
/// The panel holds `S::steps(inputs)` steps of `K` vectors, and `K` vectors of bias. `input` is valid for
/// reading `rows * inputs` values. `output` is valid for writing `valid` values at each of `rows` places,
/// `stride` values apart.
#[inline(always)]
pub(super) unsafe fn multiply_rows<L: Lanes, S: Stored, F: Pointwise, const K: usize>(
    l: L,
    f: F,
    panel: &Block,
    rows: usize,
    input: *const f32,
    output: *mut f32,
    stride: usize,
) {
    let mut row = 0;
    while row + 4 <= rows {
        let mut k = 0;
        // SAFETY: four rows from `row` on exist, and as many vectors from `k` on as each call takes.
        unsafe {
            let (input, output) = (input.add(row * panel.inputs), output.add(row * stride));
            while k + 4 <= K && L::LANES == 16 {
                four_rows::<L, S, F, K, 4>(l, f, panel, k, input, output, stride);
                k += 4;
            }
            while k + 2 <= K {
                four_rows::<L, S, F, K, 2>(l, f, panel, k, input, output, stride);
                k += 2;
            }
            if k < K {
                four_rows::<L, S, F, K, 1>(l, f, panel, k, input, output, stride);
            }
        }
        row += 4;
    }
    while row < rows {
        // SAFETY: row `row` exists, and the panel is whole.
        unsafe {
            let mut sums = load_panel::<L, K>(l, panel.bias);
            accumulate::<L, S, K>(l, panel.weights, input.add(row * panel.inputs), panel.inputs, &mut sums);
            store_panel(l, f, output.add(row * stride), panel.valid, &sums);
        }
        row += 1;
    }
}

/// Computes vectors `first` to `first + N` of a panel for four rows: `4 N` sums. Each weight is loaded once.
///
/// # Safety
/// As [`multiply_rows`] for four rows, with `first + N <= K`.
#[inline(always)]
unsafe fn four_rows<L: Lanes, S: Stored, F: Pointwise, const K: usize, const N: usize>(
    l: L,
    f: F,
    panel: &Block,
    first: usize,
    input: *const f32,
    output: *mut f32,
    stride: usize,
) {
    let skipped = first * L::LANES;
    // SAFETY: `N` vectors from `first` on lie within the panel. Outputs beyond `valid` are not written.
    unsafe {
        let mut sums = [load_panel::<L, N>(l, panel.bias.add(skipped)); 4];
        let weights = panel.weights.add(skipped);
        accumulate_rows::<L, S, N, 4>(l, weights, K * L::LANES, input, panel.inputs, panel.inputs, &mut sums);
        for (r, sums) in sums.iter().enumerate() {
            store_panel(l, f, output.add(r * stride + skipped), panel.valid.saturating_sub(skipped), sums);
        }
    }
}

/// # Safety
/// `source` is valid for reading `K` vectors.
#[inline(always)]
pub(super) unsafe fn load_panel<L: Lanes, const K: usize>(l: L, source: *const f32) -> [L::Vector; K] {
    let mut vectors = [l.splat(0.0); K];
    for (k, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: vector `k` is below `K`.
        *vector = unsafe { l.load(source.add(k * L::LANES)) };
    }
    vectors
}

/// Applies the activation to a panel's sums and writes the outputs that exist.
///
/// # Safety
/// `target` is valid for writing `valid` values, or `K` vectors if `valid` is larger.
#[inline(always)]
unsafe fn store_panel<L: Lanes, F: Pointwise, const K: usize>(
    l: L,
    f: F,
    target: *mut f32,
    valid: usize,
    sums: &[L::Vector; K],
) {
    let mut results = *sums;
    for result in &mut results {
        *result = f.apply(l, *result);
    }
    for (k, &result) in results.iter().enumerate() {
        let first = k * L::LANES;
        // SAFETY: whole vectors end within `valid`. A last vector that does not is cut off there.
        unsafe {
            if first + L::LANES <= valid {
                l.store(target.add(first), result);
            } else if first < valid {
                l.store_first(target.add(first), valid - first, result);
            }
        }
    }
}

/// Reads a vector, or only `count` values if there are fewer.
///
/// # Safety
/// `source` is valid for reading `count` values, at most `LANES`.
#[inline(always)]
pub(super) unsafe fn load_first_or_all<L: Lanes>(l: L, source: *const f32, count: usize) -> L::Vector {
    // SAFETY: the caller keeps the same contract.
    unsafe { if count == L::LANES { l.load(source) } else { l.load_first(source, count) } }
}

/// Writes a vector, or only its first `count` values.
///
/// # Safety
/// `target` is valid for writing `count` values, at most `LANES`.
#[inline(always)]
pub(super) unsafe fn store_first_or_all<L: Lanes>(l: L, target: *mut f32, count: usize, vector: L::Vector) {
    // SAFETY: the caller keeps the same contract.
    unsafe { if count == L::LANES { l.store(target, vector) } else { l.store_first(target, count, vector) } }
}
