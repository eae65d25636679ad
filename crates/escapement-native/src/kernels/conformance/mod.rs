//! One suite for every kernel on every instruction set. It compares the vector kernels with the scalar
//! reference, which computes in double precision, and the scalar reference with values from PyTorch.
//!
//! All buffers end where an unmapped page begins. A kernel that touches one value too many is killed by it.

mod functions;
mod guarded;
mod layers;
mod pytorch;
mod rows;

use super::{Isa, Precision};
use escapement_policy::random::SplitMix64;

/// Sizes around every vector width. Most of them are not a multiple of one.
const SIZES: [usize; 14] = [1, 2, 3, 5, 7, 8, 15, 16, 17, 33, 64, 65, 130, 144];

/// The vector instruction sets of this machine. The suite prints a message if there are none.
fn vector_isas() -> Vec<Isa> {
    vector_isas_for(Precision::F32)
}

fn vector_isas_for(precision: Precision) -> Vec<Isa> {
    let found: Vec<Isa> =
        Isa::available_for(precision).into_iter().filter(|&isa| isa != Isa::Scalar).collect();
    if found.is_empty() {
        eprintln!("no vector instructions here: only the scalar reference is tested");
    }
    found
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// Values from -1 to 1, the same for the same seed.
fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut random = SplitMix64::new(seed.wrapping_mul(SplitMix64::GAMMA).wrapping_add(len as u64));
    (0..len).map(|_| (random.next_word() >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// The first index at which two results differ by more than `tolerance`, absolute or relative.
fn first_difference(result: &[f32], expected: &[f32], tolerance: f32) -> Option<(usize, f32, f32)> {
    assert_eq!(result.len(), expected.len());
    let differs = |a: f32, b: f32| {
        a.is_nan() != b.is_nan() || (a != b && !b.is_nan() && (a - b).abs() > tolerance * b.abs().max(1.0))
    };
    let pairs = result.iter().zip(expected).enumerate();
    pairs.map(|(i, (&a, &b))| (i, a, b)).find(|&(_, a, b)| differs(a, b))
}

#[track_caller]
fn assert_close(what: &str, result: &[f32], expected: &[f32], tolerance: f32) {
    if let Some((i, a, b)) = first_difference(result, expected, tolerance) {
        panic!("{what}: value {i} is {a}, the reference says {b}");
    }
}
