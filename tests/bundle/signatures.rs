//! Signatures: which bundles are accepted with which keys.

use crate::{Copy, bundle, is_refused, stdout};
use escapement::bundle::{Bundle, BundleError, Trust};
use escapement_test_support::{Agent, Overrides};
use minisign::KeyPair;
use std::io::Cursor;

fn key() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().expect("a key")
}

fn sign(copy: &Copy, key: &KeyPair) {
    let manifest = Cursor::new(copy.read("bundle.toml"));
    let signature =
        minisign::sign(Some(&key.pk), &key.sk, manifest, Some("bundle small"), None).expect("it signs");
    copy.write("bundle.toml.minisig", signature.to_string().as_bytes());
}

#[test]
fn a_good_signature_is_taken_and_anything_else_is_not() {
    let (ours, theirs) = (key(), key());
    let copy = Copy::of("small.bundle");
    let trusted = ours.pk.to_base64();
    let required = ["--public-key", &trusted, "--require-signature"];
    is_refused(&copy.path, &required, &["bundle.toml.minisig", "missing"]);
    // The bundle has no signature, and none is required.
    assert_eq!(bundle("verify", &copy.path, &required[..2]).status.code(), Some(0));

    sign(&copy, &ours);
    let output = bundle("verify", &copy.path, &required);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains(&format!("good, by {trusted} (bundle small)")), "{output:?}");
    let json: serde_json::Value =
        serde_json::from_slice(&bundle("show", &copy.path, &["--json", "--public-key", &trusted]).stdout)
            .expect("JSON");
    assert_eq!((&json["signature"], &json["public_key"]), (&"good".into(), &trusted.as_str().into()));
    // Without a key the signature cannot be checked, and the report says so.
    assert!(stdout(&bundle("verify", &copy.path, &[])).contains("no key was given"));
    // One matching key of several is enough.
    let other = theirs.pk.to_base64();
    let several = ["--public-key", &other, "--public-key", &trusted, "--require-signature"];
    assert_eq!(bundle("verify", &copy.path, &several).status.code(), Some(0));

    // A changed byte of the signature, a changed byte of the signed text, another key, and the signature of
    // another manifest: each is refused, even if no signature is required.
    let good = copy.read("bundle.toml.minisig");
    let encoded = good.iter().position(|byte| *byte == b'\n').expect("a second line") + 20;
    let mut bad = good.clone();
    bad[encoded] = if bad[encoded] == b'A' { b'B' } else { b'A' };
    copy.write("bundle.toml.minisig", &bad);
    is_refused(&copy.path, &required[..2], &["bundle.toml.minisig", "not one of a trusted key"]);
    for bytes in [&b""[..], b"no signature", &[0xff; 100], &vec![b'x'; 5000]] {
        copy.write("bundle.toml.minisig", bytes);
        is_refused(&copy.path, &required, &["bundle.toml.minisig"]);
    }
    copy.write("bundle.toml.minisig", &good);
    copy.edit_manifest("percentile = 99.0", "percentile = 98.0");
    is_refused(&copy.path, &required, &["not one of a trusted key"]);
    sign(&copy, &theirs);
    is_refused(&copy.path, &required, &["not one of a trusted key"]);
}

/// The first line holds minisign's untrusted comment, which no signature covers. Everything else is covered.
#[test]
fn every_flipped_byte_of_a_signature_is_refused() {
    let key = key();
    let copy = Copy::of("small.bundle");
    sign(&copy, &key);
    let trust = Trust { require_signature: true, public_keys: vec![key.pk.to_base64()] };
    Bundle::open(&copy.path, &trust).expect("it is signed");
    let good = copy.read("bundle.toml.minisig");
    let comment = good.iter().position(|byte| *byte == b'\n').expect("a first line");
    let mut accepted = Vec::new();
    for at in 0..good.len() {
        for mask in [0x01, 0x20, 0x80] {
            let mut bytes = good.clone();
            bytes[at] ^= mask;
            copy.write("bundle.toml.minisig", &bytes);
            match Bundle::open(&copy.path, &trust) {
                Err(BundleError::Refused { file, .. }) => assert!(file.ends_with("bundle.toml.minisig")),
                Err(other) => panic!("byte {at}, mask {mask:#x}: {other:?}"),
                Ok(_) => accepted.push(at),
            }
        }
    }
    let beyond: Vec<_> = accepted.iter().filter(|at| **at >= comment).collect();
    assert!(
        beyond.is_empty(),
        "bytes {beyond:?} of {} do not matter; the comment ends at {comment}",
        good.len()
    );
    assert!(good.len() > 200 && accepted.len() <= 3 * comment, "{} bytes", good.len());
}

#[test]
fn the_daemon_asks_for_what_its_configuration_says() {
    let key = key();
    let copy = Copy::of("small.bundle");
    let path = format!("{:?}", copy.path);
    let keys = format!("[{:?}]", key.pk.to_base64());
    let overrides: Overrides<'_> = &[
        ("policy.backend", "\"native\""),
        ("policy.path", &path),
        ("policy.require_signature", "true"),
        ("policy.public_keys", &keys),
        ("observation.dimension", "3"),
    ];
    let agent = Agent::new(overrides);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(65), "{stderr}");
    assert!(stderr.contains("bundle.toml.minisig: missing"), "{stderr}");
    sign(&copy, &key);
    let process = agent.start_armed();
    assert_eq!(process.stop().0.code(), Some(0));

    // A file without a bundle cannot be signed.
    let path = format!("{:?}", copy.file("policy.pt"));
    let mut alone = overrides.to_vec();
    alone[1].1 = &path;
    agent.reconfigure(&alone);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(65), "{stderr}");
    assert!(stderr.contains("a signature is required"), "{stderr}");
}
