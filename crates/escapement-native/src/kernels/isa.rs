//! The instructions that the kernels may use. They are detected once and carried as a value that proves it.
//!
//! The SIMD variants of [`Isa`] hold a token ([`Avx2`](super::avx2::Avx2),
//! [`Avx512`](super::avx512::Avx512)). Only run-time detection can make one. So a kernel that receives an
//! `Isa` uses its instructions without another detection. Safe code cannot use instructions that the
//! processor lacks.

use escapement_policy::words;
use escapement_policy::words::Words;

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512, avx512_bf16::Avx512Bf16};

/// An instruction set that the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust in double precision. It is the fallback, and the reference that every other variant is
    /// tested against.
    Scalar,
    /// Eight lanes: AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Sixteen lanes: AVX-512 F, VL, DQ and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// The same with AVX-512 BF16, which multiplies bfloat16 weights. For [`Precision::F32`] it equals
    /// [`Isa::Avx512`].
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
}

impl Isa {
    /// The widest instruction set of this processor, for single precision.
    #[must_use]
    pub fn detect() -> Isa {
        Self::detect_for(Precision::F32)
    }

    /// The widest instruction set of this processor that makes a difference to weights of that precision.
    #[must_use]
    pub fn detect_for(precision: Precision) -> Isa {
        Self::available_for(precision).pop().unwrap_or(Isa::Scalar)
    }

    /// Every instruction set of this processor for single precision, narrowest first. The first is always
    /// [`Isa::Scalar`].
    #[must_use]
    pub fn available() -> Vec<Isa> {
        Self::available_for(Precision::F32)
    }

    /// Every instruction set of this processor that makes a difference to weights of that precision,
    /// narrowest first.
    #[must_use]
    pub fn available_for(precision: Precision) -> Vec<Isa> {
        #[allow(unused_mut, reason = "only the scalar kernels exist on other architectures")]
        let mut found = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Isa::Avx2));
            found.extend(Avx512::detect().map(Isa::Avx512));
            let bf16 = Avx512Bf16::detect().filter(|_| precision == Precision::Bf16);
            found.extend(bf16.map(Isa::Avx512Bf16));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = precision;
        found
    }

    /// The instruction set with that [name](Isa::name), if this processor has it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::available_for(Precision::Bf16).into_iter().find(|isa| isa.name() == name)
    }

    /// The name in reports and options: `scalar`, `avx2`, `avx512` or `avx512_bf16`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16(_) => "avx512_bf16",
        }
    }

    /// `f32` values in one vector: 1, 8 or 16.
    #[must_use]
    pub fn lanes(self) -> usize {
        match self {
            Isa::Scalar => 1,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => 8,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) | Isa::Avx512Bf16(_) => 16,
        }
    }
}

/// How weights are stored. Inputs, sums and results are `f32` in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Single precision, as PyTorch stores them.
    #[default]
    F32,
    /// Rounded to the upper 16 bits (to nearest, ties to even). This halves the bytes to be loaded and leaves
    /// a relative error of at most 2⁻⁹ in every weight. It is for networks bound by cache bandwidth, where
    /// that is accurate enough.
    Bf16,
}

words!(Precision { F32 = "f32", Bf16 = "bf16" });

impl Precision {
    /// The value of a weight after it is stored.
    #[must_use]
    pub fn round(self, weight: f32) -> f32 {
        match self {
            Precision::F32 => weight,
            Precision::Bf16 => f32::from_bits(u32::from(bf16_bits(weight)) << 16),
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_word(name).ok_or_else(|| "allowed: f32 or bf16".to_owned())
    }
}

/// The bfloat16 nearest to a value, ties to even. NaN stays NaN.
pub(super) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // The payload may lie in the lower half only. Setting the quiet bit keeps the value a NaN.
        return ((bits >> 16) | 0x0040) as u16;
    }
    // Adds just under half of the last place that is kept, and that place itself if it is odd. This rounds to
    // even.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for (value, expected) in [
            (1.0f32, 0x3f80u16),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (-2.5, 0xc020),
            (f32::INFINITY, 0x7f80),
            (f32::MAX, 0x7f80),
        ] {
            assert_eq!(bf16_bits(value), expected, "{value}");
        }
        assert!(Precision::Bf16.round(f32::from_bits(0x7f80_0001)).is_nan());
    }

    #[test]
    fn names_lead_back_to_what_is_available() {
        for &precision in Precision::ALL {
            for isa in Isa::available_for(precision) {
                assert_eq!(Isa::from_name(isa.name()), Some(isa));
            }
            assert_eq!(Isa::available_for(precision).last(), Some(&Isa::detect_for(precision)));
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        assert_eq!(Isa::from_name("neon"), None);
    }
}
