//! Any bytes as an archive: zip, pickle, source, lowering, plan, one call. It must end in an error or an action.
#![no_main]

use std::path::Path;

use escapement::policy::Policy;
use escapement::policy::native::kernels::Precision;
use escapement::policy::native::{Limits, Native, Options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Weights are packed in one form or the other.
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
