//! What differs between processors: how wide the words of a copy are, and which hints about cache lines help.
//!
//! A tuning changes no byte of a ring and no order of accesses, so the two sides of a ring may differ in it.
//! It is chosen once, when memory becomes a ring. The benchmark of the rivals measures every choice.

use super::copy::Width;

/// How a side of a ring uses the processor. For benchmarks and tests; a ring chooses its own.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// The widest words of a copy.
    pub width: Width,
    /// After a commit, the producer prefetches for writing the slot that it claims so many commits later. 0
    /// is off.
    pub write_ahead: u8,
    /// After a release, the consumer prefetches the slot that it reads so many releases later. 0 is off.
    pub read_ahead: u8,
    /// After a commit, the producer demotes the slot's lines if the consumer keeps up.
    pub demote: bool,
}

impl Tuning {
    /// What every processor can do, without hints.
    pub const PLAIN: Self = Self { width: Width::NARROW, write_ahead: 0, read_ahead: 0, demote: false };

    /// The choice for this processor, from its maker. It was measured on two:
    ///
    /// - Intel, Sapphire and Emerald Rapids: copies by 64 bytes, both prefetches and the demotion together
    ///   took a quarter off the half round trip and gave 1.15 to 1.3 times the throughput, against the
    ///   prefetches of the next slot with copies by 16 bytes.
    /// - AMD, Zen 4: the prefetches of the next slot helped. Its data paths are 32 bytes wide; copies by 32
    ///   bytes were not measured there. It has no demotion.
    ///
    /// Other makers get AMD's choice. A wrong choice costs time, nothing else.
    #[cfg(not(loom))]
    pub fn of_this_processor() -> Self {
        if cfg!(miri) {
            return Self::PLAIN;
        }
        match super::hint::made_by_intel() {
            true => Self { width: Self::widest(&[64, 32]), write_ahead: 2, read_ahead: 2, demote: true },
            false => Self { width: Self::widest(&[32]), write_ahead: 1, read_ahead: 1, demote: false },
        }
    }

    #[cfg(not(loom))]
    fn widest(sizes: &[usize]) -> Width {
        sizes.iter().find_map(|bytes| Width::of(*bytes)).unwrap_or(Width::NARROW)
    }

    /// The same with prefetches that a ring of `capacity` slots has room for.
    #[cfg(not(loom))]
    pub(super) fn within(self, capacity: u64) -> Self {
        let most = u8::try_from(capacity / 2).unwrap_or(u8::MAX);
        Self { write_ahead: self.write_ahead.min(most), read_ahead: self.read_ahead.min(most), ..self }
    }
}
