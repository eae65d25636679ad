//! Weights in bfloat16: accepted if the golden vectors agree within the bundle's tolerance, refused
//! otherwise. Among the kernels that agree, the measured times decide.

use crate::{Copy, shipped};
use escapement::policy::native::choice::choose;
use escapement::policy::{Precision, WeightCandidate, WeightKernel};
use escapement::wire::Outcome;
use escapement_test_support::{Agent, escapement, next_action, wait_for};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Returns a bundle whose tolerance is a hundredth of the action's range. The shipped tolerance is 1e-5.
fn lenient() -> Copy {
    let copy = Copy::of("small.bundle");
    copy.edit_manifest("tolerance = 1e-5", "tolerance = 0.01");
    copy
}

/// `escapement COMMAND POLICY ARGUMENTS`
fn run(command: &str, policy: &Path, arguments: &[&str]) -> Output {
    escapement().arg(command).arg(policy).args(arguments).output().expect("the program runs")
}

fn holds_one_line(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{stderr} does not say {word:?}");
    }
}

/// Returns the actions that `predict` writes with these weights for three observations.
fn actions(policy: &Path, weights: &str) -> (Vec<f32>, tempfile::TempDir) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (observations, out) = (root.path().join("o.npy"), root.path().join("a.npy"));
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3), }");
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.as_bytes());
    let values = [0.5f32, -0.25, 1.0, -0.7, 0.3, 0.1, 0.05, 0.9, -0.4];
    npy.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    std::fs::write(&observations, npy).expect("observations");
    let output = run(
        "predict",
        policy,
        &[
            "--observations",
            observations.to_str().expect("UTF-8"),
            "--out",
            out.to_str().expect("UTF-8"),
            "--weights",
            weights,
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let bytes = std::fs::read(out).expect("actions");
    let values = bytes[128..].as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    (values, root)
}

/// The widest kernel for bfloat16 weights of this machine.
fn widest() -> &'static str {
    let mut kernels = WeightKernel::available().into_iter();
    kernels.rfind(|kernel| kernel.precision() == Precision::Bf16).expect("scalar at least").name()
}

#[test]
fn a_bundle_that_agrees_is_served_with_bf16_weights() {
    let copy = lenient();
    let (exact, _root) = actions(&copy.path, "f32");
    let (rounded, _root) = actions(&copy.path, widest());
    assert_ne!(exact, rounded, "the weights were rounded");
    let far = exact.iter().zip(&rounded).find(|(a, b)| (*a - *b).abs() > 0.02);
    assert!(far.is_none(), "{exact:?} and {rounded:?}");

    let path = format!("{:?}", copy.path);
    for backend in ["\"native\"", "\"auto\""] {
        let agent = Agent::new(&[
            ("policy.backend", backend),
            ("policy.weights", &format!("{:?}", widest())),
            ("policy.path", &path),
            ("observation.dimension", "3"),
        ]);
        let process = agent.start_armed();
        let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
        feed.commit(&[0.5, -0.25, 1.0]);
        let (header, action) = next_action::<2>(&mut gateway);
        assert_eq!((header.outcome, &action[..]), (Outcome::Policy.number(), &rounded[..2]));
        process.signal(rustix::process::Signal::USR1);
        let status: serde_json::Value = wait_for("status", || {
            let text = std::fs::read(agent.directory.path().join("status.json")).ok()?;
            serde_json::from_slice(&text).ok()
        });
        assert_eq!(process.stop().0.code(), Some(0));
        assert_eq!(status["policy"]["weights"], "bf16");
        assert_eq!(status["policy"]["weight_kernel"], widest());
        assert_eq!(status["policy"].get("weight_candidates"), None, "there was no choice");
        assert!(status["policy"]["golden"]["worst"].as_f64().is_some_and(|worst| worst > 0.0), "{status}");
    }
}

/// Reads the table of a report: `kernel`, `ns` and `refused` of each candidate.
fn table(value: &serde_json::Value) -> Vec<WeightCandidate> {
    let rows = value.as_array().expect("a list");
    let row = |row: &serde_json::Value| WeightCandidate {
        kernel: kernel(row["kernel"].as_str().expect("a name")),
        ns: row["ns"].as_f64(),
        refused: row["refused"].as_str().map(str::to_owned),
    };
    rows.iter().map(row).collect()
}

fn kernel(name: &str) -> WeightKernel {
    *WeightKernel::ALL.iter().find(|kernel| kernel.name() == name).expect("a kernel")
}

/// The choice is the one that the recorded measurements lead to, and it is never slower than single
/// precision. The recorded name leads to the same bits, without a measurement.
#[test]
fn the_recorded_measurements_explain_the_choice() {
    let copy = lenient();
    let output = run("inspect", &copy.path, &["--weights", "bf16", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let candidates = table(&plan["candidates"]);
    let kernels: Vec<_> = candidates.iter().map(|candidate| candidate.kernel).collect();
    assert_eq!(kernels, WeightKernel::candidates());
    assert!(candidates.iter().all(|it| it.ns.is_some_and(|ns| ns > 0.0)), "{candidates:?}");
    let chosen = &candidates[choose(&candidates).expect("one may serve")];
    assert_eq!(plan["weights"], chosen.kernel.name());
    assert_eq!(plan["precision"], chosen.kernel.precision().name());
    assert!(chosen.ns <= candidates[0].ns, "{candidates:?}");
    let output = run("inspect", &copy.path, &["--weights", "bf16"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("weights: ")).expect("the measurements");
    assert!(candidates.iter().all(|candidate| line.contains(candidate.kernel.label())), "{line}");

    let path = format!("{:?}", copy.path);
    let agent = Agent::new(&[
        ("policy.backend", "\"native\""),
        ("policy.weights", "\"bf16\""),
        ("policy.path", &path),
        ("observation.dimension", "3"),
    ]);
    let process = agent.start_armed();
    let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
    feed.commit(&[0.5, -0.25, 1.0]);
    let (_, action) = next_action::<2>(&mut gateway);
    process.signal(rustix::process::Signal::USR1);
    let status: serde_json::Value = wait_for("status", || {
        let text = std::fs::read(agent.directory.path().join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    });
    let (_, stderr) = process.stop();
    let candidates = table(&status["policy"]["weight_candidates"]);
    let chosen = candidates[choose(&candidates).expect("one may serve")].kernel;
    assert_eq!(status["policy"]["weight_kernel"], chosen.name());
    assert_eq!(status["policy"]["weights"], chosen.precision().name());
    assert!(stderr.contains(chosen.label()) && stderr.contains(" us; "), "{stderr}");
    let (again, _root) = actions(&copy.path, chosen.name());
    assert_eq!(action[..], again[..2]);
}

/// A rollback takes the kernel that the policy ran with before, and does not measure again. The recorded
/// times are those of the first load.
#[test]
fn a_rollback_takes_the_recorded_kernel() {
    let copy = lenient();
    let path = format!("{:?}", copy.path);
    let with = |weights| {
        [
            ("policy.backend", "\"native\""),
            ("policy.weights", weights),
            ("policy.path", path.as_str()),
            ("observation.dimension", "3"),
        ]
    };
    let agent = Agent::new(&with("\"bf16\""));
    let process = agent.start_armed();
    let ask = |arguments: &[&str]| {
        let [command, arguments @ ..] = arguments else { unreachable!("a command") };
        let mut asked = escapement();
        asked.args([*command, "test", "--json", "--root"]).arg(agent.root.path()).args(arguments);
        let output = asked.output().expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let weights = || {
        let policy = &ask(&["status"])["policy"];
        (policy["weight_kernel"].clone(), policy["weight_candidates"].clone())
    };
    let first = weights();
    agent.reconfigure(&with("\"f32_scalar\""));
    ask(&["reload"]);
    assert_eq!(weights(), ("f32_scalar".into(), serde_json::Value::Null));
    ask(&["reload", "--to", "previous"]);
    assert_eq!(weights(), first);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// Every kernel that the machine has can be forced. One that it does not have is refused, and none is taken
/// in its place.
#[test]
fn a_named_kernel_serves_or_the_bundle_is_refused() {
    let copy = lenient();
    let available = WeightKernel::available();
    for kernel in WeightKernel::ALL {
        let arguments = ["--weights", kernel.name(), "--json"];
        let output = run("inspect", &copy.path, &arguments);
        if available.contains(kernel) {
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!((&plan["weights"], &plan["golden"]["agrees"]), (&kernel.name().into(), &true.into()));
            assert_eq!(plan["candidates"], serde_json::json!([]));
        } else {
            let words = ["this processor cannot run", kernel.name(), "f32_scalar"];
            holds_one_line(&output, 78, &words);
        }
    }
}

#[test]
fn a_bundle_that_does_not_agree_is_refused_with_bf16_weights() {
    let strict = shipped("small.bundle");
    let words = ["policy.pt", "backend native with bf16 weights", "golden vector", "within 1e-5"];
    for backend in ["auto", "native"] {
        let arguments = ["--weights", "bf16", "--backend", backend, "--trials", "10"];
        holds_one_line(&run("validate", &strict, &arguments), 65, &words);
    }
    let path = format!("{strict:?}");
    let agent = Agent::new(&[
        ("policy.backend", "\"auto\""),
        ("policy.weights", "\"bf16\""),
        ("policy.path", &path),
        ("observation.dimension", "3"),
    ]);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(65), "{stderr}");
    let line = stderr.lines().last().expect("a reason");
    assert!(words.iter().all(|word| line.contains(word)), "{line}");

    // `inspect` shows any bundle, and says what `run` would do with it.
    let output = run("inspect", &strict, &["--weights", "bf16", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&plan["precision"], &plan["golden"]["agrees"]), (&"bf16".into(), &false.into()));
}

#[test]
fn a_file_that_stands_alone_has_nothing_to_show_for_bf16_weights() {
    let file: PathBuf = shipped("small.bundle").join("policy.pt");
    let words = ["policy.pt", "golden vectors", "allowed: f32, or a bundle"];
    holds_one_line(&run("validate", &file, &["--weights", "bf16", "--trials", "10"]), 65, &words);
    let path = format!("{file:?}");
    let agent = Agent::new(&[
        ("policy.backend", "\"native\""),
        ("policy.weights", "\"bf16\""),
        ("policy.path", &path),
        ("observation.dimension", "3"),
    ]);
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(65), "{stderr}");
    assert!(words.iter().all(|word| stderr.contains(word)), "{stderr}");
}

#[test]
fn other_backends_have_no_such_weights() {
    for backend in ["torch", "null"] {
        let arguments = ["--weights", "bf16", "--backend", backend];
        let words = ["--weights bf16", backend, "allowed: with native or auto"];
        holds_one_line(&run("validate", &lenient().path, &arguments), 64, &words);
    }
}
