//! Any bytes as an archive: zip, pickle, source, lowering, plan, one call. It must end in an error or an
//! action, and must not cost more memory or work than its size allows.
#![no_main]

use escapement_fuzz::{Metered, lower_within_budget};
use escapement_native::kernels::Precision;
use escapement_policy::Policy;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

fuzz_target!(|bytes: &[u8]| {
    // The length of the input chooses how the weights are stored.
    let precision = Precision::ALL[bytes.len() % Precision::ALL.len()];
    if let Some(mut native) = lower_within_budget(bytes, precision, None) {
        let dimensions = native.dimensions();
        let mut action = vec![0.0; dimensions.action];
        let _ = native.infer(&vec![0.25; dimensions.observation], &mut action);
    }
});
