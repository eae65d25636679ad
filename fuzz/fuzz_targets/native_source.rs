//! Any text as the body of `forward`, in a sound archive: lexer, parser and lowering without the zip
//! checksums in the way. It must not cost more memory or work than its size allows.
#![no_main]

use escapement_fuzz::{Metered, lower_within_budget};
use escapement_native::kernels::Precision;
use escapement_policy::Policy;
use escapement_test_support::torchscript;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

fuzz_target!(|body: &str| {
    let constants = [torchscript::weights(&[4, 4], 1), torchscript::weights(&[4], 2)];
    let bytes = torchscript::archive(body, &constants);
    // The length of the input chooses how the weights are stored.
    let precision = Precision::ALL[body.len() % Precision::ALL.len()];
    if let Some(mut native) = lower_within_budget(&bytes, precision, Some(4)) {
        let mut action = vec![0.0; native.dimensions().action];
        let _ = native.infer(&[0.1, -0.2, 0.3, -0.4], &mut action);
    }
});
