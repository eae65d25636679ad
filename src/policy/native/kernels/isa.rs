//! Which instructions the kernels may use: found out once, carried as a value that proves it.
//!
//! The SIMD variants of [`Isa`] hold a token ([`Avx2`](super::avx2::Avx2), [`Avx512`](super::avx512::Avx512)) that
//! only run-time detection can make. A kernel that is handed an `Isa` may therefore use its instructions without
//! asking the processor again, and safe code cannot ask for instructions that are not there.

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust in double precision: the reference every other variant is tested against, and the fallback.
    Scalar,
    /// Eight lanes: AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Sixteen lanes: AVX-512 F, VL, DQ and BW.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Isa {
    /// The widest instruction set of this processor.
    #[must_use]
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(token) = Avx512::detect() {
                return Isa::Avx512(token);
            }
            if let Some(token) = Avx2::detect() {
                return Isa::Avx2(token);
            }
        }
        Isa::Scalar
    }

    /// Every instruction set of this processor, narrowest first; the first is always [`Isa::Scalar`].
    #[must_use]
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut, reason = "only the scalar kernels exist on other architectures")]
        let mut found = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(Isa::Avx2));
            found.extend(Avx512::detect().map(Isa::Avx512));
        }
        found
    }

    /// The available instruction set of that [name](Isa::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `scalar`, `avx2` or `avx512`, as reports and options spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
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
            Isa::Avx512(_) => 16,
        }
    }
}

/// How weights are stored. Inputs, sums and results are `f32` either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// As PyTorch has them.
    F32,
    /// Rounded to the upper 16 bits (to nearest, ties to even), which halves the bytes to be loaded and leaves a
    /// relative error of at most 2⁻⁹ in every weight. For networks bound by cache bandwidth, where it is accurate
    /// enough.
    Bf16,
}

impl Precision {
    /// `f32` or `bf16`, as reports and options spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The value that a weight has once it is stored.
    #[must_use]
    pub fn round(self, weight: f32) -> f32 {
        match self {
            Precision::F32 => weight,
            Precision::Bf16 => f32::from_bits(u32::from(bf16_bits(weight)) << 16),
        }
    }
}

/// The bfloat16 nearest to a value, ties to even. NaN stays NaN.
pub(super) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // The payload may lie in the lower half only; setting the quiet bit keeps it a NaN.
        return ((bits >> 16) | 0x0040) as u16;
    }
    // Adding just under half of the last place that is kept, and the place itself when it is odd, rounds to even.
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
        for isa in Isa::available() {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("neon"), None);
        assert_eq!(Isa::available().last(), Some(&Isa::detect()));
    }
}
