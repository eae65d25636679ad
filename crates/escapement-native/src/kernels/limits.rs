//! The limits of the core: multiply-adds from registers, and loads from each cache level.

use std::arch::x86_64::*;
use std::fmt;
use std::hint::black_box;

/// Rates of one core, per nanosecond. They are measured with 256-bit instructions, which reach the limit on
/// every processor with AVX2 that loads 64 bytes and multiplies 16 values a cycle. 512-bit instructions are
/// measured too if there are any.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CoreLimits {
    multiply_adds: f64,
    l1_bytes: f64,
    l2_bytes: f64,
}

/// Bytes that stay in the first cache level of current processors (32 or 48 kB), and in the second level.
const L1: usize = 24 << 10;
const L2: usize = 384 << 10;

impl CoreLimits {
    /// Measures the calling thread's core. `time` must run its argument once and return how many nanoseconds
    /// that took. Returns `None` on processors without AVX2: the kernels are scalar there and far from any
    /// such limit.
    pub fn measure(mut time: impl FnMut(&mut dyn FnMut()) -> f64) -> Option<Self> {
        if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            return None;
        }
        let mut best = |amount: f64, call: &mut dyn FnMut()| {
            let fastest = (0..200).map(|_| time(call)).fold(f64::MAX, f64::min);
            amount / fastest
        };
        let data = vec![0f32; L2 / 4 + 16];
        let aligned = &data[data.as_ptr().align_offset(64)..];
        let wide = is_x86_feature_detected!("avx512f");
        let mut load = |bytes: usize| {
            let passes = (1 << 20) / bytes;
            best((passes * bytes) as f64, &mut || {
                for _ in 0..passes {
                    let part = black_box(&aligned[..bytes / 4]);
                    if wide {
                        // SAFETY: AVX-512 F was detected.
                        black_box(unsafe { load_512(part) });
                    } else {
                        // SAFETY: AVX2 was detected.
                        black_box(unsafe { load_256(part) });
                    }
                }
            })
        };
        let (l1_bytes, l2_bytes) = (load(L1), load(L2));
        let rounds = 10_000;
        let multiply_adds = best((rounds * 12 * if wide { 16 } else { 8 }) as f64, &mut || {
            if wide {
                // SAFETY: AVX-512 F was detected.
                black_box(unsafe { multiply_512(rounds) });
            } else {
                // SAFETY: AVX2 and FMA were detected.
                black_box(unsafe { multiply_256(rounds) });
            }
        });
        Some(Self { multiply_adds, l1_bytes, l2_bytes })
    }

    /// The part of the multiply-add limit that a call of `ns` reaches.
    pub fn multiply_fraction(&self, multiply_adds: usize, ns: f64) -> f64 {
        multiply_adds as f64 / ns / self.multiply_adds
    }

    /// The part of the load limit of the second cache level that a call of `ns` reaches; of the first level
    /// if everything fits there. A value above 1 means that some of the bytes came from a faster level.
    pub fn load_fraction(&self, bytes: usize, ns: f64) -> f64 {
        bytes as f64 / ns / if bytes <= 44 << 10 { self.l1_bytes } else { self.l2_bytes }
    }
}

impl fmt::Display for CoreLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} multiply-adds/ns, {:.1} B/ns from L1, {:.1} B/ns from L2",
            self.multiply_adds, self.l1_bytes, self.l2_bytes
        )
    }
}

macro_rules! probes {
    (
        $feature:literal, $load:ident, $multiply:ident, $lanes:literal, $zero:ident, $loadu:ident, $or:ident,
        $set:ident, $fma:ident, $vector:ty
    ) => {
        #[target_feature(enable = $feature)]
        fn $load(data: &[f32]) -> $vector {
            let mut all = [$zero(); 4];
            for chunk in data.chunks_exact(4 * $lanes) {
                for (k, part) in all.iter_mut().enumerate() {
                    // SAFETY: the chunk holds four vectors.
                    let loaded = unsafe { $loadu(chunk.as_ptr().add(k * $lanes)) };
                    *part = $or(*part, loaded);
                }
            }
            $or($or(all[0], all[1]), $or(all[2], all[3]))
        }

        #[target_feature(enable = $feature)]
        fn $multiply(rounds: usize) -> $vector {
            let (a, b) = (black_box($set(0.5)), black_box($set(0.25)));
            let mut sums = [$zero(); 12];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = $fma(a, b, *sum);
                }
            }
            let mut total = $zero();
            for sum in sums {
                total = $or(total, sum);
            }
            total
        }
    };
}

probes!(
    "avx512f,avx512dq",
    load_512,
    multiply_512,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_or_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    __m512
);
probes!(
    "avx2,fma",
    load_256,
    multiply_256,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_or_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    __m256
);
