//! RTNeural: networks sized at compile time, in C++, with the weights that PyTorch had.

use std::ffi::{CString, c_char};
use std::ptr::NonNull;

use crate::engine::{Engine, Result};
use crate::network::{Files, Kind, Network};

/// A network as `rtneural/engine.cpp` hands it over, field by field.
#[repr(C)]
struct Loaded {
    call: unsafe extern "C" fn(NonNull<Loaded>),
    restart: unsafe extern "C" fn(NonNull<Loaded>),
    free: unsafe extern "C" fn(NonNull<Loaded>),
    output: *const f32,
    outputs: usize,
}

type Load =
    unsafe extern "C" fn(*const c_char, *const f32, usize, *const f32, usize) -> Option<NonNull<Loaded>>;

/// Declares what each compilation of `rtneural/engine.cpp` exports.
macro_rules! exported {
    ($($load:ident)*) => {
        unsafe extern "C" {
            $(fn $load(
                name: *const c_char,
                weights: *const f32,
                weight_count: usize,
                inputs: *const f32,
                input_count: usize,
            ) -> Option<NonNull<Loaded>>;)*
        }
    };
}

exported!(rtneural_load_eigen_native rtneural_load_xsimd_native rtneural_load_xsimd_avx2);

/// One way to build RTNeural.
pub struct Variant {
    name: &'static str,
    load: Load,
}

/// The ways that the build script compiles.
pub const VARIANTS: [Variant; 3] = [
    Variant { name: "RTNeural Eigen", load: rtneural_load_eigen_native },
    Variant { name: "RTNeural xsimd", load: rtneural_load_xsimd_native },
    Variant { name: "RTNeural xsimd, AVX2", load: rtneural_load_xsimd_avx2 },
];

/// Steps after which `models.py` wrote the settled state.
const SETTLING: usize = 5;

pub struct RtNeural {
    name: &'static str,
    loaded: NonNull<Loaded>,
}

impl RtNeural {
    /// Loads the network, with a state of zeros: RTNeural has no way to set another.
    pub fn load(variant: &Variant, network: &Network, files: &Files) -> Result<Self> {
        let name = CString::new(network.name)?;
        let (weights, inputs) = (files.floats("weights"), files.floats("input"));
        // SAFETY: the name ends in zero, and both pointers are valid for the given number of values. The
        // callee keeps nothing.
        let loaded = unsafe {
            (variant.load)(name.as_ptr(), weights.as_ptr(), weights.len(), inputs.as_ptr(), inputs.len())
        };
        let loaded = loaded.ok_or_else(|| format!("{} does not know {}", variant.name, network.name))?;
        Ok(Self { name: variant.name, loaded })
    }
}

impl Engine for RtNeural {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn call(&mut self) -> Result<()> {
        // SAFETY: the network was loaded and lives until `self` is dropped. Only `self` uses it.
        unsafe { (self.loaded.as_ref().call)(self.loaded) };
        Ok(())
    }

    fn expected(&self, network: &Network, files: &Files) -> Vec<f32> {
        files.floats(if matches!(network.kind, Kind::Lstm { steps: 1, .. }) { "settled" } else { "output" })
    }

    fn settle(&mut self, network: &Network) -> Result<()> {
        // SAFETY: as for `call`.
        unsafe { (self.loaded.as_ref().restart)(self.loaded) };
        let calls = if matches!(network.kind, Kind::Lstm { steps: 1, .. }) { SETTLING } else { 1 };
        (0..calls).try_for_each(|_| self.call())
    }

    fn output(&mut self) -> Result<Vec<f32>> {
        // SAFETY: the network returns its own output, which lives as long as the network. Only calls write to
        // it.
        Ok(unsafe {
            let loaded = self.loaded.as_ref();
            std::slice::from_raw_parts(loaded.output, loaded.outputs).to_vec()
        })
    }
}

impl Drop for RtNeural {
    fn drop(&mut self) {
        // SAFETY: it was loaded and not freed. Only `self` uses it.
        unsafe { (self.loaded.as_ref().free)(self.loaded) };
    }
}
