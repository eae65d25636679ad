//! What both targets check of every input: its cost.

use std::path::Path;

use escapement_native::kernels::Precision;
use escapement_native::{Limits, Native, Options};
pub use escapement_test_support::heap::Metered;
use escapement_test_support::heap::usage;

/// Memory and work that every input may take, beside 64 bytes and 1,000 steps for each of its bytes. They are
/// small, so that an input without proportion is found within a few mutations.
const BASE_MEMORY: u64 = 8 << 20;
const BASE_STEPS: u64 = 1 << 22;
/// Memory of the loader's thread, and of the text of an error.
const SLACK: u64 = 64 << 10;

/// Lowers an archive.
///
/// # Panics
/// Panics if the allocator sees more memory or more work than the meter has counted, or than the size of the
/// input allows.
pub fn lower_within_budget(bytes: &[u8], precision: Precision, observation: Option<usize>) -> Option<Native> {
    let limits = Limits {
        multiply_adds: 1 << 22,
        elements: 1 << 20,
        evaluations: 1 << 14,
        memory_base: BASE_MEMORY,
        memory_per_byte: 64,
        work_base: BASE_STEPS,
        work_per_byte: 1_000,
        ..Limits::default()
    };
    let options = Options { limits, precision, observation, ..Options::default() };
    let (lowered, used) = usage(|| Native::lower_counted(bytes, &options));
    let (built, cost) = lowered.expect("a thread to load on");
    let length = bytes.len() as u64;
    assert!(cost.memory <= BASE_MEMORY + 64 * length, "{cost:?} for {length} bytes");
    assert!(cost.work <= BASE_STEPS + 1_000 * length, "{cost:?} for {length} bytes");
    assert!(used.peak <= cost.memory + SLACK, "{used:?} is not counted in {cost:?}");
    let effort = used.calls + used.total / 16;
    assert!(effort <= cost.work + SLACK, "{used:?} is not counted in {cost:?}");
    built.map_err(|refusal| refusal.at(Path::new("fuzz.pt"))).ok()
}
