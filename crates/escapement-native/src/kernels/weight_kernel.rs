//! How a plan holds its weights and with which instructions it multiplies them, as one value with a name.

use super::isa::{Isa, Precision};
use escapement_policy::words;

/// A precision of the weights together with the instructions that multiply them.
///
/// Two plans of one file with the same kernel compute the same bits on every processor that has it. So
/// reports name the kernel, and the name can be given to load the policy that way again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightKernel {
    /// Single precision, plain Rust.
    F32Scalar,
    /// Single precision, AVX2.
    F32Avx2,
    /// Single precision, AVX-512.
    F32Avx512,
    /// Bfloat16, widened to single precision as they are loaded; plain Rust.
    Bf16Scalar,
    /// Bfloat16, widened; AVX2.
    Bf16Avx2,
    /// Bfloat16, widened; AVX-512.
    Bf16Avx512,
    /// Bfloat16, multiplied by `vdpbf16ps` of AVX-512 BF16. Inputs keep 16 bits.
    Bf16Vdpbf16ps,
}

words!(WeightKernel {
    F32Scalar = "f32_scalar",
    F32Avx2 = "f32_avx2",
    F32Avx512 = "f32_avx512",
    Bf16Scalar = "bf16_scalar",
    Bf16Avx2 = "bf16_avx2",
    Bf16Avx512 = "bf16_avx512",
    Bf16Vdpbf16ps = "bf16_vdpbf16ps",
});

impl WeightKernel {
    /// The kernel that `isa` runs on weights of that precision.
    #[must_use]
    pub fn of(isa: Isa, precision: Precision) -> Self {
        match (isa, precision) {
            (Isa::Scalar, Precision::F32) => Self::F32Scalar,
            (Isa::Scalar, Precision::Bf16) => Self::Bf16Scalar,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2(_), Precision::F32) => Self::F32Avx2,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2(_), Precision::Bf16) => Self::Bf16Avx2,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(_) | Isa::Avx512Bf16(_), Precision::F32) => Self::F32Avx512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512(_), Precision::Bf16) => Self::Bf16Avx512,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512Bf16(_), Precision::Bf16) => Self::Bf16Vdpbf16ps,
        }
    }

    /// The kernel for single precision with the widest instruction set of this processor.
    #[must_use]
    pub fn single() -> Self {
        Self::of(Isa::detect(), Precision::F32)
    }

    /// How the weights are stored.
    #[must_use]
    pub const fn precision(self) -> Precision {
        match self {
            Self::F32Scalar | Self::F32Avx2 | Self::F32Avx512 => Precision::F32,
            Self::Bf16Scalar | Self::Bf16Avx2 | Self::Bf16Avx512 | Self::Bf16Vdpbf16ps => Precision::Bf16,
        }
    }

    /// The instruction set, or `None` if this processor does not have it.
    #[must_use]
    pub fn isa(self) -> Option<Isa> {
        Isa::from_name(match self {
            Self::F32Scalar | Self::Bf16Scalar => "scalar",
            Self::F32Avx2 | Self::Bf16Avx2 => "avx2",
            Self::F32Avx512 | Self::Bf16Avx512 => "avx512",
            Self::Bf16Vdpbf16ps => "avx512_bf16",
        })
    }

    /// Every kernel that this processor can run.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|kernel| kernel.isa().is_some()).collect()
    }

    /// The kernels that compete for a network if bfloat16 weights are allowed, the preferred first.
    ///
    /// These are single precision with the widest instruction set, widened weights with each vector set, and
    /// `vdpbf16ps`. The order is that of exactness: `vdpbf16ps` also rounds the inputs.
    #[must_use]
    pub fn candidates() -> Vec<Self> {
        let mut sets = Isa::available();
        if sets.len() > 1 {
            sets.retain(|isa| *isa != Isa::Scalar);
        }
        let widened = sets.into_iter().rev().map(|isa| Self::of(isa, Precision::Bf16));
        let last = Some(Self::Bf16Vdpbf16ps).filter(|kernel| kernel.isa().is_some());
        std::iter::once(Self::single()).chain(widened).chain(last).collect()
    }

    /// The same for a processor whose widest instruction set is `isa`, without the narrower ones.
    #[must_use]
    pub fn candidates_on(isa: Isa) -> Vec<Self> {
        let single = Self::of(isa, Precision::F32);
        let last = Self::of(isa, Precision::Bf16);
        let mut kernels = vec![single];
        if last == Self::Bf16Vdpbf16ps {
            kernels.push(Self::Bf16Avx512);
        }
        kernels.push(last);
        kernels
    }

    /// The kernel in words, for people: `bf16 (widened, avx512)`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::F32Scalar => "f32 (scalar)",
            Self::F32Avx2 => "f32 (avx2)",
            Self::F32Avx512 => "f32 (avx512)",
            Self::Bf16Scalar => "bf16 (widened, scalar)",
            Self::Bf16Avx2 => "bf16 (widened, avx2)",
            Self::Bf16Avx512 => "bf16 (widened, avx512)",
            Self::Bf16Vdpbf16ps => "bf16 (vdpbf16ps)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_kernel_leads_back_to_its_set_and_precision() {
        for kernel in WeightKernel::available() {
            let isa = kernel.isa().expect("it is available");
            assert_eq!(WeightKernel::of(isa, kernel.precision()), kernel);
            assert!(kernel.name().starts_with(kernel.precision().name()), "{}", kernel.name());
            assert!(kernel.label().starts_with(kernel.precision().name()), "{}", kernel.label());
        }
    }

    #[test]
    fn single_precision_comes_first_among_the_candidates() {
        let all = WeightKernel::candidates();
        assert_eq!((all[0], all[0].precision()), (WeightKernel::single(), Precision::F32));
        assert!(all[1..].iter().all(|kernel| kernel.precision() == Precision::Bf16), "{all:?}");
        assert!(all.iter().all(|kernel| kernel.isa().is_some()), "{all:?}");
        for isa in Isa::available_for(Precision::Bf16) {
            let forced = WeightKernel::candidates_on(isa);
            assert_eq!(forced[0], WeightKernel::of(isa, Precision::F32));
            assert_eq!(forced.last(), Some(&WeightKernel::of(isa, Precision::Bf16)));
            let dot = WeightKernel::Bf16Vdpbf16ps;
            assert_eq!(
                forced.contains(&dot),
                forced.contains(&WeightKernel::Bf16Avx512) && forced.len() == 3
            );
        }
    }
}
