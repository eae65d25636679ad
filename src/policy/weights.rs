//! The words for how the native engine holds a policy's weights.

use escapement_native::kernels::{Precision, WeightKernel};
use escapement_policy::words::Words;

/// How the native engine is asked to hold the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// In single precision, with the widest instruction set of the processor.
    #[default]
    F32,
    /// In bfloat16 with the kernel that is fastest on this processor, where the golden vectors agree with it.
    /// In single precision if that is as fast.
    Bf16,
    /// With this kernel, without measuring. Given the kernel that a load reported, a later load computes the
    /// same bits.
    Only(WeightKernel),
}

impl Words for Weights {
    const ALL: &'static [Self] = &[
        Self::F32,
        Self::Bf16,
        Self::Only(WeightKernel::F32Scalar),
        Self::Only(WeightKernel::F32Avx2),
        Self::Only(WeightKernel::F32Avx512),
        Self::Only(WeightKernel::Bf16Scalar),
        Self::Only(WeightKernel::Bf16Avx2),
        Self::Only(WeightKernel::Bf16Avx512),
        Self::Only(WeightKernel::Bf16Vdpbf16ps),
    ];

    fn name(self) -> &'static str {
        Self::name(self)
    }
}

impl std::str::FromStr for Weights {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::from_word(name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|weights| weights.name()).collect();
            format!("allowed: {}", names.join(", "))
        })
    }
}

impl Weights {
    /// Returns the word for this value in configuration files, on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => Precision::F32.name(),
            Self::Bf16 => Precision::Bf16.name(),
            Self::Only(kernel) => kernel.name(),
        }
    }

    /// Returns the kernels that may hold the weights, the preferred first. The fastest that is exact enough
    /// serves.
    pub fn kernels(self) -> Vec<WeightKernel> {
        match self {
            Self::F32 => vec![WeightKernel::single()],
            Self::Bf16 => WeightKernel::candidates(),
            Self::Only(kernel) => vec![kernel],
        }
    }

    /// Whether bfloat16 weights are asked for, so that golden vectors must agree with them.
    pub fn are_rounded(self) -> bool {
        match self {
            Self::F32 => false,
            Self::Bf16 => true,
            Self::Only(kernel) => kernel.precision() == Precision::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_has_its_word() {
        let only: Vec<_> = WeightKernel::ALL.iter().map(|kernel| Weights::Only(*kernel)).collect();
        assert_eq!(Weights::ALL[2..], only);
        for weights in Weights::ALL {
            assert_eq!(weights.name().parse(), Ok(*weights));
            assert_eq!(weights.are_rounded(), weights.name().starts_with("bf16"));
        }
        assert!("bf17".parse::<Weights>().is_err_and(|text| text.contains("bf16_vdpbf16ps")));
    }
}
