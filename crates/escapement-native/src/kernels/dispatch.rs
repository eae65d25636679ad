//! Runs a kernel with the instructions of an [`Isa`]. The entry points carry the target features, and the
//! kernel is inlined into them.

use super::isa::Isa;
use super::lanes::Kernel;

impl Isa {
    /// Runs a kernel with the instructions of this set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Scalar => kernel.scalar(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token exists only where detection found AVX2 and FMA.
            Isa::Avx2(token) => unsafe { run_avx2(token, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token exists only where detection found AVX-512 F, VL, DQ and BW, AVX2 and FMA.
            Isa::Avx512(token) => unsafe { run_avx512(token, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as before; the bfloat16 token holds the token of AVX-512.
            Isa::Avx512Bf16(token) => unsafe { run_avx512(token.wide(), kernel) },
        }
    }

    /// Runs a kernel that multiplies bfloat16 weights. Only such kernels use the instructions for them; a
    /// further copy of every other kernel would be waste.
    #[inline]
    pub(super) fn run_bf16<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token exists only where detection found AVX-512 BF16 and what `run_avx512` needs.
            Isa::Avx512Bf16(token) => unsafe { run_avx512_bf16(token, kernel) },
            other => other.run(kernel),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(token: super::avx2::Avx2, kernel: K) -> K::Output {
    kernel.vector(token)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw")]
fn run_avx512<K: Kernel>(token: super::avx512::Avx512, kernel: K) -> K::Output {
    kernel.vector(token)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
fn run_avx512_bf16<K: Kernel>(token: super::avx512_bf16::Avx512Bf16, kernel: K) -> K::Output {
    kernel.vector(token)
}
