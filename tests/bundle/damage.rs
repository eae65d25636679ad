//! Damaged files, incomplete bundles, and manifests with invalid content.

use crate::{Copy, FILES, bundle, is_refused, shipped, stdout};
use escapement::bundle::{Bundle, BundleError, Trust};
use escapement_test_support::long_runs;

#[test]
fn the_shipped_bundles_are_good() {
    for name in ["small.bundle", "other.bundle", "recurrent.bundle"] {
        let output = bundle("verify", &shipped(name), &["--backend", "native"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = stdout(&output);
        assert!(text.contains("256 vectors on backend native: all within tolerance"), "{text}");
    }
}

/// Damages a bundle and reads it through the library, as every command does. Every byte of the manifest is
/// changed, and a sample of the other files' bytes; with `ESCAPEMENT_LONG` every one.
#[test]
fn every_flipped_byte_is_refused() {
    let copy = Copy::of("small.bundle");
    let mut refused = 0;
    for file in FILES {
        let good = copy.read(file);
        let step = if long_runs() || file == "bundle.toml" { 1 } else { 13 };
        for at in (0..good.len()).step_by(step) {
            for mask in if long_runs() { &[0x01, 0x20, 0x80, 0xff][..] } else { &[0x01][..] } {
                let mut bytes = good.clone();
                bytes[at] ^= mask;
                copy.write(file, &bytes);
                match Bundle::open(&copy.path, &Trust::default()) {
                    Err(BundleError::Refused { file: named, .. }) => assert!(named.ends_with(file)),
                    other => panic!("{file}, byte {at}, mask {mask:#x}: {other:?}"),
                }
                refused += 1;
            }
        }
        copy.write(file, &good);
    }
    assert!(refused > 1_500, "only {refused} were tried");
    if long_runs() {
        println!("{refused} of {refused} flips refused");
    }
    Bundle::open(&copy.path, &Trust::default()).expect("the copy is whole again");
    // It is the hashes that refuse the damage: with honest hashes, the files of the same bundle are accepted.
    for file in ["policy.pt", "golden.safetensors"] {
        let mut bytes = copy.read(file);
        *bytes.last_mut().expect("not empty") ^= 1;
        copy.write_listed(file, &bytes);
        Bundle::open(&copy.path, &Trust::default()).expect("nothing contradicts the manifest");
    }
}

/// The same with the real program, for a sample of the bytes; with `ESCAPEMENT_LONG` for every one.
#[test]
fn flipped_bytes_end_with_65() {
    let copy = Copy::of("small.bundle");
    for file in FILES {
        let good = copy.read(file);
        let step = if long_runs() { 1 } else { good.len() / 20 };
        for at in (0..good.len()).step_by(step) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            copy.write(file, &bytes);
            is_refused(&copy.path, &[], &[file]);
        }
        copy.write(file, &good);
    }
}

#[test]
fn missing_truncated_longer_and_swapped_files_are_refused() {
    for file in FILES {
        let copy = Copy::of("small.bundle");
        let good = copy.read(file);
        std::fs::remove_file(copy.file(file)).expect("it was there");
        is_refused(&copy.path, &[], &[file, "missing"]);
        for length in [0, 1, good.len() / 2, good.len() - 1] {
            copy.write(file, &good[..length]);
            is_refused(&copy.path, &[], &[file]);
        }
        copy.write(file, &[&good[..], b"\n"].concat());
        is_refused(&copy.path, &[], &[file]);
        std::fs::copy(shipped("other.bundle").join(file), copy.file(file)).expect("a copy");
        // The manifest of another bundle is valid in itself, but it lists other files.
        is_refused(&copy.path, &[], &["the manifest says"]);
    }
}

#[test]
fn what_is_no_bundle_is_told() {
    let copy = Copy::of("small.bundle");
    copy.write("notes.txt", b"a stranger");
    is_refused(&copy.path, &[], &["notes.txt", "not a file of a bundle"]);
    std::fs::remove_file(copy.file("notes.txt")).expect("it was there");

    std::fs::remove_file(copy.file("policy.pt")).expect("it was there");
    std::fs::create_dir(copy.file("policy.pt")).expect("a directory in its place");
    is_refused(&copy.path, &[], &["policy.pt", "not a plain file"]);
    std::fs::remove_dir(copy.file("policy.pt")).expect("it was there");
    let pipe = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, copy.file("policy.pt"), rustix::fs::FileType::Fifo, pipe, 0)
        .expect("a pipe in its place");
    is_refused(&copy.path, &[], &["policy.pt", "not a plain file"]);

    let empty = tempfile::tempdir().expect("a temporary directory");
    is_refused(empty.path(), &[], &["bundle.toml", "missing"]);
    assert_eq!(bundle("verify", &empty.path().join("none"), &[]).status.code(), Some(66));
    is_refused(&copy.file("bundle.toml"), &[], &["not a directory"]);
}

/// Manifests with a valid seal and a wrong text: the text, its replacement, and the words of the refusal.
const WRONG: &[(&str, &str, &[&str])] = &[
    ("format = 1", "format = 2", &["format = 2", "reads format 1"]),
    ("format = 1", "", &["format"]),
    ("[bundle]", "[bundle]\nextra = 1", &["line 4", "extra"]),
    ("[golden]", "[surprise]\n\n[golden]", &["surprise"]),
    ("name = \"small\"", "name = \"../small\"", &["bundle.name"]),
    ("name = \"small\"", "name = \"\"", &["bundle.name"]),
    ("algorithm = \"test\"", "algorithm = \"\\u001b[2J\"", &["bundle.algorithm", "control"]),
    ("2026-11-03T14:05:09Z", "yesterday", &["bundle.created"]),
    ("name = \"policy.pt\"", "name = \"../policy.pt\"", &["[[file]]", "policy.pt"]),
    ("name = \"policy.pt\"", "name = \"/etc/passwd\"", &["[[file]]", "/etc/passwd"]),
    ("name = \"golden.safetensors\"", "name = \"policy.pt\"", &["golden.safetensors"]),
    ("bytes = 2968", "bytes = -1", &["line "]),
    ("bytes = 2968", "bytes = 9000000000000000000", &["policy.pt", "allowed: 1 to 1073741824"]),
    ("sha256 = \"", "sha256 = \"A", &["policy.pt", "hexadecimal"]),
    ("dimension = 3", "dimension = 0", &["observation.dimension"]),
    ("dimension = 3", "dimension = 5000", &["observation.dimension = 5000", "4096"]),
    ("dimension = 3", "dimension = 4", &["observation.names", "length 3"]),
    ("low = [-inf,", "low = [nan,", &["observation.low[0]"]),
    ("\"imbalance\"", "\"spread\"", &["observation.names[1]", "twice"]),
    ("std = [", "std = [-", &["observation.std"]),
    ("mean = ", "#", &["observation.mean and observation.std"]),
    ("space = \"box\"", "space = \"sphere\"", &["sphere"]),
    ("space = \"box\"", "space = \"discrete\"", &["action.dimension"]),
    ("space = \"box\"", "space = \"multi_discrete\"", &["action.nvec"]),
    ("low = -1.0", "low = 2.0", &["action.low[0]"]),
    ("low = -1.0", "low = []", &["action.low", "length 0"]),
    ("low = -1.0", "low = \"none\"", &["a number, or an array"]),
    ("noise = { dimension = 2", "noise = { dimension = 9999", &["signature.noise.dimension"]),
    ("\"gaussian\"", "\"cauchy\"", &["cauchy"]),
    ("noise = {", "state = [{ name = \"h\", shape = [1, 4] }]\n#", &["[recurrent]"]),
    ("[default]", "[recurrent]\non_miss = \"keep\"\non_gap = \"keep\"\n[default]", &["[recurrent]"]),
    ("safe_default = [0.0,", "safe_default = [1.5,", &["default.safe_default[0]"]),
    ("vectors = 256", "vectors = 255", &["golden.vectors = 255"]),
    ("vectors = 256", "vectors = 257", &["golden.safetensors", "[257, "]),
    ("tolerance = 1e-5", "tolerance = 0.5", &["golden.tolerance"]),
    ("tolerance = 1e-5", "tolerance = nan", &["golden.tolerance"]),
    ("percentile = 99.0", "percentile = 101.0", &["slo.percentile"]),
];

#[test]
fn wrong_manifests_are_refused_with_their_reason() {
    for (from, to, words) in WRONG {
        let copy = Copy::of("small.bundle");
        copy.edit_manifest(from, to);
        is_refused(&copy.path, &[], words);
    }
}

#[test]
fn hostile_manifests_are_refused_quickly() {
    let copy = Copy::of("small.bundle");
    let deep = format!("a = {}1{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let wide: String = (0..100_000).map(|key| format!("k{key} = 1\n")).collect();
    for text in [deep, wide, "\u{0}".repeat(1000), "x".repeat(3 << 20)] {
        copy.write_manifest(&format!("format = 1\n{text}"));
        is_refused(&copy.path, &[], &["bundle.toml"]);
    }
    copy.write("bundle.toml", &[0xff; 200]);
    is_refused(&copy.path, &[], &["bundle.toml"]);
}

#[test]
fn golden_vectors_that_are_none_are_refused() {
    let good = Copy::of("small.bundle").read("golden.safetensors");
    let header = good[8..8 + usize::from(good[0])].to_vec();
    let text = String::from_utf8(header).expect("JSON");
    let with = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(&good[8 + usize::from(good[0])..]);
        bytes
    };
    let hostile: [(Vec<u8>, &str); 6] = [
        (vec![0; 3], "shorter"),
        (u64::MAX.to_le_bytes().to_vec(), "at most"),
        (with(&text.replace("F32", "F64")), "expected F32"),
        (with(&text.replace("\"noise\"", "\"noize\"")), "there is no tensor \"noise\""),
        (
            with(&text.replace(
                "\"noise\":{",
                "\"extra\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"noise\":{",
            )),
            "\"extra\"",
        ),
        (with("{}"), "cover 0"),
    ];
    for (bytes, reason) in hostile {
        let copy = Copy::of("small.bundle");
        copy.write_listed("golden.safetensors", &bytes);
        is_refused(&copy.path, &[], &["golden.safetensors", reason]);
    }
}
