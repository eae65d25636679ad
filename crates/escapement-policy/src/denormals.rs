//! L0. Denormal floats are flushed to zero, as operands and as results, wherever a policy runs.
//!
//! One denormal in a recurrent state can cost a hundred cycles for each operation, and a backend that flushes
//! differs in the last bits from one that does not. So the engine, `predict`, `validate` and the parity suite
//! all run under [`FlushDenormals`].

use std::marker::PhantomData;

/// Flushes denormals on the current thread while it lives, and restores the thread's previous mode when
/// dropped.
#[derive(Debug)]
pub struct FlushDenormals {
    previous: u32,
    // The mode belongs to one thread, so the value must be dropped on the thread that created it.
    _not_send: PhantomData<*const ()>,
}

/// Flush-to-zero (results) and denormals-are-zero (operands) of the x86 MXCSR register.
/// Intel SDM volume 1, 10.2.3.
#[cfg(target_arch = "x86_64")]
const FTZ_DAZ: u32 = (1 << 15) | (1 << 6);

/// Flush-to-zero of the AArch64 FPCR register, which covers operands and results.
#[cfg(target_arch = "aarch64")]
const FPCR_FZ: u64 = 1 << 24;

impl FlushDenormals {
    /// Makes the current thread flush denormals.
    #[must_use]
    #[inline]
    pub fn enter() -> Self {
        let previous = read_mode();
        #[cfg(target_arch = "x86_64")]
        write_mode(previous | FTZ_DAZ);
        #[cfg(target_arch = "aarch64")]
        write_mode(previous | FPCR_FZ as u32);
        Self { previous, _not_send: PhantomData }
    }
}

impl Drop for FlushDenormals {
    #[inline]
    fn drop(&mut self) {
        write_mode(self.previous);
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_mode() -> u32 {
    let mut mode = 0u32;
    // SAFETY: stmxcsr writes four bytes to the given address, which is that of a live, aligned u32.
    unsafe { core::arch::asm!("stmxcsr [{}]", in(reg) &mut mode, options(nostack, preserves_flags)) };
    mode
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn write_mode(mode: u32) {
    // SAFETY: ldmxcsr reads four bytes from the address of a live u32. The value came from stmxcsr, with only
    // the flush bits added, so no reserved bit is set and no exception is unmasked.
    unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &mode, options(nostack, readonly)) };
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn read_mode() -> u32 {
    let mode: u64;
    // SAFETY: reading FPCR has no side effects.
    unsafe { core::arch::asm!("mrs {}, fpcr", out(reg) mode, options(nomem, nostack, preserves_flags)) };
    mode as u32
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn write_mode(mode: u32) {
    // SAFETY: the value was read from FPCR, with only the flush bit added.
    unsafe { core::arch::asm!("msr fpcr, {}", in(reg) u64::from(mode), options(nostack)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn read_mode() -> u32 {
    0
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline]
fn write_mode(_mode: u32) {}

#[cfg(test)]
mod tests {
    use super::FlushDenormals;
    use std::hint::black_box;

    fn halved_smallest_normal() -> f32 {
        black_box(f32::MIN_POSITIVE) * black_box(0.5)
    }

    #[test]
    fn flushes_inside_and_restores_outside() {
        assert_ne!(halved_smallest_normal(), 0.0);
        {
            let _flush = FlushDenormals::enter();
            assert_eq!(halved_smallest_normal(), 0.0);
        }
        assert_ne!(halved_smallest_normal(), 0.0);
    }
}
