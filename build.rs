//! With the `torch` feature, writes the place of libtorch into every program of this package (rpath), so that
//! none of them needs `LD_LIBRARY_PATH`. Without it there is nothing to do.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Known because torch-sys, a direct dependency under that feature, declares `links = "tch"`.
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Some(directory) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") else { return };

    // The link in the repository is resolved: a program that was built keeps running when the link moves on
    // to another version, or when it is started from elsewhere.
    match Path::new(&directory).canonicalize() {
        Ok(resolved) => println!("cargo::rustc-link-arg=-Wl,-rpath,{}", resolved.display()),
        Err(error) => println!(
            "cargo::error=libtorch is not at {}: {error}; run scripts/libtorch.sh",
            Path::new(&directory).display()
        ),
    }
    // Making the link anew must make the path anew.
    println!("cargo::rerun-if-changed={}", Path::new(&directory).display());
}
