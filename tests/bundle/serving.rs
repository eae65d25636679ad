//! Serving a bundle: golden vectors on the chosen backend, shapes, status, and the comparison of two bundles.

use crate::{Copy, bundle, is_refused, shipped, stdout};
use escapement::wire::{AgentState, Outcome};
use escapement_test_support::{Agent, escapement, next_action, npy, wait_for};

/// Adds `by` to the first element of the last row of the last tensor: an expected action, or a next state.
fn shift_last_value(copy: &Copy, by: f32) {
    let mut bytes = copy.read("golden.safetensors");
    let at = bytes.len() - 4;
    let value = f32::from_le_bytes(bytes[at..].try_into().expect("four bytes")) + by;
    bytes[at..].copy_from_slice(&value.to_le_bytes());
    copy.write_listed("golden.safetensors", &bytes);
}

/// Every backend that runs golden vectors in this build, and `auto`, which tries each in turn.
fn backends() -> &'static [&'static str] {
    if cfg!(feature = "torch") { &["native", "torch", "auto"] } else { &["native", "auto"] }
}

#[test]
fn golden_vectors_are_held_to_the_tolerance() {
    for name in ["small.bundle", "recurrent.bundle"] {
        for backend in backends() {
            let copy = Copy::of(name);
            let on_it = ["--backend", backend];
            // The range is 2 and the tolerance 1e-5. Rounding uses a hundredth of that.
            shift_last_value(&copy, 0.8e-5);
            assert_eq!(bundle("verify", &copy.path, &on_it).status.code(), Some(0), "{name}, {backend}");
            shift_last_value(&copy, 3e-5);
            let both = if *backend == "auto" { "no backend runs it" } else { backend };
            is_refused(&copy.path, &on_it, &["policy.pt", both, "golden vector 255"]);
            shift_last_value(&copy, f32::NAN);
            is_refused(&copy.path, &on_it, &["expected NaN"]);
        }
    }
}

#[test]
fn a_policy_that_is_not_the_one_of_the_vectors_is_not_armed() {
    let copy = Copy::of("small.bundle");
    let other = std::fs::read(shipped("other.bundle").join("policy.pt")).expect("the other policy");
    // The other bundle has the same size and form, other weights, and honest hashes.
    copy.write_listed("policy.pt", &other);
    let path = format!("{:?}", copy.path);
    for backend in backends() {
        let backend = format!("{backend:?}");
        let agent = Agent::new(&[
            ("policy.backend", backend.as_str()),
            ("policy.path", &path),
            ("observation.dimension", "3"),
        ]);
        let (status, stderr) = agent.start().wait();
        assert_eq!(status.code(), Some(65), "{stderr}");
        let line = stderr.lines().last().expect("a reason");
        assert!(line.contains("policy.pt") && line.contains("golden vector 0"), "{line}");
        assert_eq!(agent.state().0, AgentState::Stopped.number());
    }
}

#[test]
fn a_good_bundle_serves_and_status_says_what_it_is() {
    let path = format!("{:?}", shipped("small.bundle"));
    let agent =
        Agent::new(&[("policy.backend", "\"auto\""), ("policy.path", &path), ("observation.dimension", "3")]);
    let process = agent.start_armed();
    let mut feed = agent.feed();
    let mut gateway = agent.gateway();
    feed.commit(&[0.5, -0.25, 1.0]);
    let (first, action) = next_action::<2>(&mut gateway);
    assert_eq!(first.outcome, Outcome::Policy.number());
    // `predict` loads the policy by code of its own, and must refuse it too.
    let root = tempfile::tempdir().expect("a temporary directory");
    let (observations, actions) = (root.path().join("o.npy"), root.path().join("a.npy"));
    let npy = npy(&[0.5, -0.25, 1.0], 3);
    std::fs::write(&observations, npy).expect("observations");
    let output = escapement()
        .arg("predict")
        .arg(shipped("small.bundle"))
        .arg("--observations")
        .arg(&observations)
        .arg("--out")
        .arg(&actions)
        .output()
        .expect("predict runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let written = std::fs::read(&actions).expect("actions");
    let predicted: Vec<u8> = action.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(written.ends_with(&predicted));

    // This is far outside the training statistics: it is counted, and still answered.
    feed.commit(&[900.0, 0.0, 9.0]);
    let (second, _) = next_action::<2>(&mut gateway);
    assert_eq!(second.outcome, Outcome::Policy.number());
    process.signal(rustix::process::Signal::USR1);
    let status: serde_json::Value = wait_for("status", || {
        let text = std::fs::read(agent.directory.path().join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    });
    let policy = &status["policy"];
    assert_eq!(policy["kind"], "bundle");
    assert_eq!((&policy["name"], &policy["backend"]), (&"small".into(), &"native".into()));
    assert_eq!(policy["golden"]["vectors"], 256);
    assert!(policy["passed_over"].is_null());
    let manifest = std::fs::read(shipped("small.bundle").join("bundle.toml")).expect("the manifest");
    assert_eq!(status["bundle_sha256"], crate::hash(&manifest));
    let header = agent.attach(escapement::directory::RingFile::Actions).expect("the ring").header();
    let in_the_ring: String = header.bundle_hash().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(in_the_ring, crate::hash(&manifest));
    let guard = &status["input_guard"];
    assert_eq!(guard["observations"], 1);
    assert_eq!(guard["features"][0]["name"], "spread");
    assert_eq!(guard["features"].as_array().map(Vec::len), Some(1), "{guard}");
    assert_eq!(process.stop().0.code(), Some(0));
}

#[test]
fn the_input_guard_acts_as_it_is_told() {
    let path = format!("{:?}", shipped("small.bundle"));
    let agent = |mode: &'static str| {
        Agent::new(&[
            ("policy.backend", "\"native\""),
            ("policy.path", &path),
            ("observation.dimension", "3"),
            ("observation.guard.mode", mode),
            ("observation.guard.deviations", "3"),
        ])
    };
    let answer = |mode, observation: [f32; 3]| {
        let agent = agent(mode);
        let process = agent.start_armed();
        agent.feed().commit(&observation);
        let answer = next_action::<2>(&mut agent.gateway());
        assert_eq!(process.stop().0.code(), Some(0));
        answer
    };
    let far = [0.1, 0.2, 9.0];
    let (refused, payload) = answer("\"safe_default\"", far);
    assert_eq!(refused.outcome, Outcome::SafeDefault.number());
    assert_eq!(payload, [0.25, -0.25]);
    let (_, counted) = answer("\"count\"", far);
    let (_, unguarded) = answer("\"off\"", far);
    let (clamped_header, clamped) = answer("\"clamp\"", far);
    assert_eq!(counted, unguarded);
    assert_ne!(clamped, counted);
    assert_eq!(clamped_header.outcome, Outcome::Policy.number());

    // A file without a bundle has no statistics.
    let path = format!("{:?}", shipped("small.bundle").join("policy.pt"));
    let agent = Agent::new(&[
        ("policy.backend", "\"native\""),
        ("policy.path", &path),
        ("observation.dimension", "3"),
        ("observation.guard.mode", "\"clamp\""),
    ]);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(78), "{stderr}");
    assert!(stderr.contains("observation.guard.mode"), "{stderr}");
}

#[test]
fn a_bundle_of_other_widths_is_refused() {
    let path = format!("{:?}", shipped("small.bundle"));
    for (key, value, words) in [
        ("observation.dimension", "4", "observation has 3 elements; 4 are asked for"),
        ("action.dimension", "1", "action has 2 elements; 1 are asked for"),
    ] {
        let observation = if key == "observation.dimension" { value } else { "3" };
        let (action, vector) = if key == "action.dimension" { (value, "[0.0]") } else { ("2", "[0.0, 0.0]") };
        let agent = Agent::new(&[
            ("policy.backend", "\"native\""),
            ("policy.path", &path),
            ("observation.dimension", observation),
            ("action.dimension", action),
            ("action.safe_default", vector),
            ("action.neutral", vector),
        ]);
        let (status, stderr) = agent.start().wait();
        assert_eq!(status.code(), Some(65), "{stderr}");
        assert!(stderr.contains("bundle.toml") && stderr.contains(words), "{stderr}");
    }
}

#[test]
fn bundles_are_compared_on_the_same_observations() {
    let (small, other) = (shipped("small.bundle"), shipped("other.bundle"));
    let small_again = small.to_str().expect("UTF-8");
    let output = bundle("diff", &small, &[small_again, "--backend", "native"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("512 of 512 observations answered alike; largest difference 0"));

    let output = bundle("diff", &other, &[small_again, "--backend", "native", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&json["agree"], &json["comparable"]), (&false.into(), &true.into()));
    assert_eq!(json["agreement"]["observations"], 512);
    assert!(json["agreement"]["largest_difference"].as_f64().expect("a number") > 0.1);
}

#[test]
fn signing_is_explained() {
    let output = bundle("sign-hint", &shipped("small.bundle"), &[]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(
        text.contains("minisign -S") && text.contains("bundle.toml") && text.contains("require_signature")
    );
}
