//! Whose bundles are taken.

use crate::support::{Agent, Overrides};
use crate::{Copy, bundle, is_refused, stdout};
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
    // Not required, and not there: nobody meant it to be signed.
    assert_eq!(bundle("verify", &copy.path, &required[..2]).status.code(), Some(0));

    sign(&copy, &ours);
    let output = bundle("verify", &copy.path, &required);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains(&format!("good, by {trusted} (bundle small)")), "{output:?}");
    let json: serde_json::Value =
        serde_json::from_slice(&bundle("show", &copy.path, &["--json", "--public-key", &trusted]).stdout)
            .expect("JSON");
    assert_eq!((&json["signature"], &json["public_key"]), (&"good".into(), &trusted.as_str().into()));
    // Without a key there is nothing to check it with, and the report says so.
    assert!(stdout(&bundle("verify", &copy.path, &[])).contains("no key was given"));
    // Any of several keys will do.
    let other = theirs.pk.to_base64();
    let several = ["--public-key", &other, "--public-key", &trusted, "--require-signature"];
    assert_eq!(bundle("verify", &copy.path, &several).status.code(), Some(0));

    // One byte of the signature, one of what is signed, another's key, another's manifest: each is refused, also where
    // a signature is not required.
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

    // A file that stands alone cannot be signed.
    let path = format!("{:?}", copy.file("policy.pt"));
    let mut alone = overrides.to_vec();
    alone[1].1 = &path;
    agent.reconfigure(&alone);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(65), "{stderr}");
    assert!(stderr.contains("a signature is required"), "{stderr}");
}
