//! Compiles RTNeural and the networks of the comparison, if feature `rtneural` is on.
//!
//! RTNeural is headers only and its networks are C++ types, so they are compiled here, once for each backend:
//! its authors say to try the backends and choose the one that suits the network and the processor.

fn main() {
    println!("cargo:rerun-if-changed=rtneural/engine.cpp");
    println!("cargo:rerun-if-env-changed=RTNEURAL");
    #[cfg(feature = "rtneural")]
    rtneural();
}

#[cfg(feature = "rtneural")]
fn rtneural() {
    use std::path::PathBuf;

    let Some(root) = std::env::var_os("RTNEURAL").map(PathBuf::from) else {
        panic!("feature `rtneural` needs RTNEURAL, the directory that rtneural/fetch.sh prints");
    };
    // Name, backend, directory of its headers, its alignment, and the instructions. On some processors xsimd
    // is slower with 512-bit vectors than with 256-bit ones, so it is built for both.
    let variants = [
        ("eigen_native", "RTNEURAL_USE_EIGEN", "modules/Eigen", "32", "-march=native"),
        ("xsimd_native", "RTNEURAL_USE_XSIMD", "modules/xsimd/include", "64", "-march=native"),
        ("xsimd_avx2", "RTNEURAL_USE_XSIMD", "modules/xsimd/include", "32", "-march=x86-64-v3"),
    ];
    for (name, backend, headers, alignment, instructions) in variants {
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .file("rtneural/engine.cpp")
            // The headers' own warnings are not ours. They come through -isystem once templates are expanded.
            .warnings(false)
            .flag("-isystem")
            .flag(root.join("RTNeural"))
            .flag("-isystem")
            .flag(root.join("modules/json"))
            .flag("-isystem")
            .flag(root.join(headers))
            .flag(instructions)
            .flag("-O3")
            .define("NDEBUG", None)
            .define("VARIANT", name)
            .define("RTNEURAL_NAMESPACE", format!("rtneural_{name}").as_str())
            .define("RTNEURAL_DEFAULT_ALIGNMENT", alignment)
            // Eigen does not allow a network of 256 units on a stack, so these are on the heap.
            .define("EIGEN_STACK_ALLOCATION_LIMIT", "0")
            .define(backend, "1")
            .compile(&format!("rtneural_{name}"));
    }
}
