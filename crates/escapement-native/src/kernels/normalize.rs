//! Functions of whole rows: softmax and layer normalisation.

use super::functions::{exp_for_quotient, log};
use super::isa::Isa;
use super::lanes::{Kernel, Lanes};
use super::panel::{load_first_or_all, store_first_or_all};

/// The forms of [`softmax`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Softmax {
    /// Probabilities.
    Probability,
    /// The logarithms of the probabilities.
    Logarithm,
}

/// Writes the softmax of each of `rows` rows of `width` values. The largest value of a row is subtracted
/// first, so that nothing overflows. A row with a NaN, with +∞, or with nothing but -∞ becomes NaN, as in
/// PyTorch.
///
/// # Panics
/// Panics if `width` is zero, or if a length is not `rows * width`.
pub fn softmax(isa: Isa, rows: usize, width: usize, form: Softmax, input: &[f32], output: &mut [f32]) {
    assert!(width > 0, "softmax: a row must have values");
    assert!(
        input.len() == rows * width && output.len() == rows * width,
        "softmax: input and output must be rows of {width}"
    );
    isa.run(SoftmaxRows { width, form, input, output });
}

struct SoftmaxRows<'a> {
    width: usize,
    form: Softmax,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for SoftmaxRows<'_> {
    type Output = ();

    fn scalar(self) {
        for (input, output) in self.input.chunks(self.width).zip(self.output.chunks_mut(self.width)) {
            let largest = input.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let shifted = |x: f32| f64::from(x) - f64::from(largest);
            let sum: f64 = input.iter().map(|&x| shifted(x).exp()).sum();
            for (&x, out) in input.iter().zip(output) {
                *out = match self.form {
                    Softmax::Probability => shifted(x).exp() / sum,
                    Softmax::Logarithm => shifted(x) - sum.ln(),
                } as f32;
            }
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        for (input, output) in self.input.chunks(self.width).zip(self.output.chunks_mut(self.width)) {
            let largest = l.splat(largest(l, input));
            let mut sum = l.splat(0.0);
            for (x, out) in input.chunks(L::LANES).zip(output.chunks_mut(L::LANES)) {
                put(l, out, exp_for_quotient(l, l.sub(get(l, x), largest)));
                // Reading back what was written leaves zeros in the lanes past the end of the row.
                sum = l.add(sum, get(l, out));
            }
            let sum = l.splat(l.sum(sum));
            let log_sum = log(l, sum);
            for (x, out) in input.chunks(L::LANES).zip(output.chunks_mut(L::LANES)) {
                let result = match self.form {
                    Softmax::Probability => l.div(get(l, out), sum),
                    Softmax::Logarithm => l.sub(l.sub(get(l, x), largest), log_sum),
                };
                put(l, out, result);
            }
        }
    }
}

/// The largest value of a row.
#[inline(always)]
fn largest<L: Lanes>(l: L, row: &[f32]) -> f32 {
    let whole = row.chunks_exact(L::LANES);
    let rest = whole.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut vector = l.splat(f32::NEG_INFINITY);
    for chunk in whole {
        vector = l.max(vector, get(l, chunk));
    }
    rest.max(l.largest(vector))
}

/// Reads a chunk of at most one vector. Lanes past its end are zero.
#[inline(always)]
fn get<L: Lanes>(l: L, chunk: &[f32]) -> L::Vector {
    // SAFETY: the slice holds that many values, and a chunk is no longer than a vector.
    unsafe { load_first_or_all(l, chunk.as_ptr(), chunk.len()) }
}

/// Writes a chunk of at most one vector.
#[inline(always)]
fn put<L: Lanes>(l: L, chunk: &mut [f32], vector: L::Vector) {
    // SAFETY: the slice holds that many values, and a chunk is no longer than a vector.
    unsafe { store_first_or_all(l, chunk.as_mut_ptr(), chunk.len(), vector) }
}

/// Writes `(x - mean) / √(variance + eps) * weight + bias` for each of `rows` rows of `width` values, with
/// the biased variance of the row, as in `nn.LayerNorm`.
///
/// # Panics
/// Panics if `width` is zero, or if a length does not match `rows` and `width`.
#[allow(clippy::too_many_arguments, reason = "they are the layer's own parameters")]
pub fn layer_norm(
    isa: Isa,
    rows: usize,
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    input: &[f32],
    output: &mut [f32],
) {
    assert!(width > 0, "layer_norm: a row must have values");
    assert!(
        input.len() == rows * width && output.len() == rows * width,
        "layer_norm: input and output must be rows of {width}"
    );
    for values in [weight, bias].into_iter().flatten() {
        assert_eq!(values.len(), width, "layer_norm: weight and bias must be as wide as a row");
    }
    isa.run(LayerNormRows { width, weight, bias, eps, input, output });
}

struct LayerNormRows<'a> {
    width: usize,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl Kernel for LayerNormRows<'_> {
    type Output = ();

    fn scalar(self) {
        let width = self.width as f64;
        for (input, output) in self.input.chunks(self.width).zip(self.output.chunks_mut(self.width)) {
            let mean = input.iter().map(|&x| f64::from(x)).sum::<f64>() / width;
            let variance = input.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / width;
            for (i, (&x, out)) in input.iter().zip(output).enumerate() {
                let weight = self.weight.map_or(1.0, |weight| f64::from(weight[i]));
                let bias = self.bias.map_or(0.0, |bias| f64::from(bias[i]));
                *out =
                    ((f64::from(x) - mean) / (variance + f64::from(self.eps)).sqrt() * weight + bias) as f32;
            }
        }
    }

    #[inline(always)]
    fn vector<L: Lanes>(self, l: L) {
        let width = self.width as f32;
        for (input, output) in self.input.chunks(self.width).zip(self.output.chunks_mut(self.width)) {
            let mut sum = l.splat(0.0);
            for x in input.chunks(L::LANES) {
                sum = l.add(sum, get(l, x));
            }
            let mean = l.splat(l.sum(sum) / width);
            // The deviations are squared in a second pass, because subtracting the square of the mean would
            // cancel.
            let mut squares = l.splat(0.0);
            for (x, out) in input.chunks(L::LANES).zip(output.chunks_mut(L::LANES)) {
                put(l, out, l.sub(get(l, x), mean));
                let deviation = get(l, out);
                squares = l.mul_add(deviation, deviation, squares);
            }
            let scale = l.splat(1.0 / (l.sum(squares) / width + self.eps).sqrt());
            for (i, out) in output.chunks_mut(L::LANES).enumerate() {
                let here = i * L::LANES..i * L::LANES + out.len();
                let mut result = l.mul(get(l, out), scale);
                if let Some(weight) = self.weight {
                    result = l.mul(result, get(l, &weight[here.clone()]));
                }
                if let Some(bias) = self.bias {
                    result = l.add(result, get(l, &bias[here]));
                }
                put(l, out, result);
            }
        }
    }
}
