//! Any text as the body of `forward`, in a sound archive: lexer, parser and lowering without the zip checksums in the
//! way.
#![no_main]

use std::path::Path;

use escapement_native::kernels::Precision;
use escapement_native::{Limits, Native, Options};
use escapement_policy::Policy;
use escapement_test_support::torchscript;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &str| {
    let constants = [torchscript::weights(&[4, 4], 1), torchscript::weights(&[4], 2)];
    let bytes = torchscript::archive(body, &constants);
    // The length of the input chooses how the weights are stored.
    let precision = Precision::ALL[body.len() % Precision::ALL.len()];
    let limits =
        Limits { multiply_adds: 1 << 22, elements: 1 << 20, evaluations: 1 << 14, ..Limits::default() };
    let options = Options { limits, precision, observation: Some(4), ..Options::default() };
    if let Ok(mut native) = Native::from_bytes(&bytes, Path::new("fuzz.pt"), &options) {
        let mut action = vec![0.0; native.dimensions().action];
        let _ = native.infer(&[0.1, -0.2, 0.3, -0.4], &mut action);
    }
});
