//! Any bytes as an archive: zip, pickle, source, lowering, plan, one call. It must end in an error or an action.
#![no_main]

use std::path::Path;

use escapement_native::kernels::Precision;
use escapement_native::{Limits, Native, Options};
use escapement_policy::Policy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The length of the input chooses how the weights are stored.
    let precision = Precision::ALL[bytes.len() % Precision::ALL.len()];
    let limits =
        Limits { multiply_adds: 1 << 22, elements: 1 << 20, evaluations: 1 << 14, ..Limits::default() };
    let options = Options { limits, precision, ..Options::default() };
    if let Ok(mut native) = Native::from_bytes(bytes, Path::new("fuzz.pt"), &options) {
        let dimensions = native.dimensions();
        let mut action = vec![0.0; dimensions.action];
        let _ = native.infer(&vec![0.25; dimensions.observation], &mut action);
    }
});
