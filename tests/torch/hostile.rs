//! TorchScript files that mean harm, in the real program. They are refused by their hash. If one is accepted
//! on purpose, nothing outside changes, and the daemon ends in a documented state.
//!
//! `python/fixtures/hostile_modules.py` makes the modules and describes what each would do.

use escapement::policy::{Policy, Torch};
use escapement::wire::{AgentState, Outcome, Reason};
use escapement_test_support::fixtures::fixture;
use escapement_test_support::{Agent, Process, escapement, next_action, npy, test_data, wait_for};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

const ACTS: [&str; 5] = ["write", "create", "overwrite", "overwrite_ring", "read_secret"];
const ENDLESS: [&str; 3] = ["allocate", "spin", "raise"];
const VICTIM: [u8; 64] = [0x5a; 64];
/// Two numbers that would appear in an action.
const SECRET: [f32; 2] = [0.625, -0.375];
const TRADED: [f32; 3] = [2.0, 0.0, 0.0];

fn module(name: &str) -> PathBuf {
    fixture("hostile").join(format!("{name}.pt"))
}

/// Writes the files that the modules try to reach, by paths relative to the agent's directory.
fn prepare(root: &Path) {
    std::fs::write(root.join("victim"), VICTIM).expect("a victim");
    let secret: Vec<u8> = SECRET.iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::write(root.join("secret"), secret).expect("a secret");
}

fn is_untouched(root: &Path, name: &str) {
    assert_eq!(std::fs::read(root.join("victim")).expect("the victim"), VICTIM, "{name}");
    assert!(!root.join("written").exists(), "{name} has written");
    let mut found: Vec<_> = std::fs::read_dir(root)
        .expect("the root")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    found.sort();
    // The daemon owns the rings in `test` and the files in `state`. The commands have neither.
    found.retain(|name| name != "test" && name != "state");
    assert_eq!(found, ["agent.toml", "secret", "victim"], "{name}");
}

fn agent(path: &Path) -> Agent {
    let path = format!("{path:?}");
    let agent = Agent::new(&[
        ("policy.backend", "\"torch\""),
        ("policy.path", &path),
        ("policy.load_timeout_ms", "4000"),
        ("observation.dimension", "3"),
        ("warm_up.round_calls", "3"),
        ("agent.drain_timeout_ms", "200"),
        // Not before the test tells the agent to stop.
        ("deadline.inference_us", "10000000"),
        ("deadline.end_to_end_us", "10000000"),
    ]);
    prepare(agent.root.path());
    agent
}

/// Starts the daemon in the agent's directory, with a limit on its memory.
fn start(agent: &Agent) -> Process {
    const MEMORY_BYTES: u64 = 6 << 30;
    let mut command = agent.command();
    command.current_dir(agent.root.path());
    // SAFETY: between fork and exec one async-signal-safe call is made.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: MEMORY_BYTES, rlim_max: MEMORY_BYTES };
            if libc::setrlimit(libc::RLIMIT_AS, &raw const limit) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    Process::spawn(command)
}

fn armed(agent: &Agent) {
    wait_for("the agent to be armed", || {
        let region = agent.attach(escapement::directory::RingFile::Actions)?;
        (region.header().state().0 == AgentState::Armed.number()).then_some(())
    });
}

/// The canary of this suite: without the sandbox, in a process of their own, these modules do their harm.
#[test]
fn the_modules_do_harm_where_nothing_holds_them() {
    if let Some(path) = std::env::var_os("ESCAPEMENT_TEST_UNCONFINED") {
        let mut policy = Torch::load(Path::new(&path), 3, None).expect("it loads");
        let mut action = [0.0; 2];
        policy.infer(&TRADED, &mut action).expect("it answers");
        println!("answered {action:?}");
        return;
    }
    let harm = |name: &str, check: &dyn Fn(&Path, &str) -> bool| {
        let root = tempfile::tempdir().expect("a temporary directory");
        prepare(root.path());
        std::fs::create_dir(root.path().join("test")).expect("a directory");
        std::fs::write(root.path().join("test/actions.ring"), [0; 4096]).expect("a ring");
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "hostile::the_modules_do_harm_where_nothing_holds_them", "--nocapture"])
            .env("ESCAPEMENT_TEST_UNCONFINED", module(name))
            .current_dir(root.path())
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(check(root.path(), &text), "{name} did no harm: {text}");
    };
    for when in ["at_load", "when_traded"] {
        for act in ["write", "create"] {
            harm(&format!("{act}_{when}"), &|root, _| root.join("written").exists());
        }
        let overwritten = |root: &Path, _: &str| std::fs::read(root.join("victim")).expect("it") != VICTIM;
        harm(&format!("overwrite_{when}"), &overwritten);
        let forged =
            |root: &Path, _: &str| std::fs::read(root.join("test/actions.ring")).expect("it") != [0; 4096];
        harm(&format!("overwrite_ring_{when}"), &forged);
        harm(&format!("read_secret_{when}"), &|_, text| text.contains("answered [0.625, -0.375]"));
    }
}

#[test]
fn a_file_in_the_place_of_a_bundles_policy_is_refused_by_its_hash() {
    let names = ACTS
        .iter()
        .chain(&ENDLESS)
        .flat_map(|act| ["at_load", "in_forward"].map(|when| format!("{act}_{when}")));
    let mut refused = 0;
    for name in names.chain(["recurse".to_owned()]) {
        let root = tempfile::tempdir().expect("a temporary directory");
        let bundle = root.path().join("a.bundle");
        std::fs::create_dir(&bundle).expect("a directory");
        let shipped = test_data("small.bundle");
        for file in ["bundle.toml", "golden.safetensors"] {
            std::fs::copy(shipped.join(file), bundle.join(file)).expect("a copy");
        }
        std::fs::copy(module(&name), bundle.join("policy.pt")).expect("a copy");
        let output = escapement()
            .args(["bundle", "verify", "a.bundle", "--backend", "torch"])
            .current_dir(root.path())
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{name}: {stderr}");
        assert!(stderr.contains("policy.pt") && stderr.contains("the manifest says"), "{name}: {stderr}");
        assert!(!root.path().join("written").exists());
        refused += 1;
    }
    assert!(refused >= 12, "only {refused}");
}

/// The file is accepted on purpose: it has no bundle, and the configuration names it.
#[test]
fn what_acts_before_it_is_armed_is_refused_and_touches_nothing() {
    for act in ACTS {
        for when in ["at_load", "in_forward"] {
            let name = format!("{act}_{when}");
            let agent = agent(&module(&name));
            let process = start(&agent);
            if act == "write" {
                // torch.save does not notice that the file cannot be opened, and the module continues.
                armed(&agent);
                assert_eq!(process.stop().0.code(), Some(0), "{name}");
                is_untouched(agent.root.path(), &name);
                continue;
            }
            let (status, stderr) = process.wait();
            assert_eq!(status.code(), Some(65), "{name}: {stderr}");
            assert!(stderr.lines().last().is_some_and(|line| line.contains(&name)), "{name}: {stderr}");
            is_untouched(agent.root.path(), &name);
            assert_eq!(agent.state().0, AgentState::Stopped.number(), "{name}");
        }
    }
    for (name, code) in [
        ("raise_at_load", 65),
        ("raise_in_forward", 65),
        ("recurse", 65),
        ("allocate_at_load", 65),
        ("allocate_in_forward", 65),
        ("spin_at_load", 81),
        ("spin_in_forward", 81),
    ] {
        let agent = agent(&module(name));
        let (status, stderr) = start(&agent).wait();
        assert_eq!(status.code(), Some(code), "{name}: {stderr}");
        is_untouched(agent.root.path(), name);
        assert_eq!(agent.state().0, AgentState::Stopped.number(), "{name}");
    }
}

#[test]
fn what_waits_for_the_market_becomes_the_safe_default_and_touches_nothing() {
    for act in ACTS.into_iter().chain(["raise", "allocate"]) {
        let name = format!("{act}_when_traded");
        let agent = agent(&module(&name));
        let process = start(&agent);
        armed(&agent);
        let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
        feed.commit(&[0.0; 3]);
        let (header, action) = next_action::<2>(&mut gateway);
        assert_eq!((header.outcome, action), (Outcome::Policy.number(), [0.0; 2]), "{name}");
        feed.commit(&TRADED);
        let (header, action) = next_action::<2>(&mut gateway);
        let safe = (Outcome::SafeDefault.number(), Reason::PolicyError.number(), [0.25, -0.25]);
        // torch.save does not notice that the file cannot be opened.
        let unnoticed = (Outcome::Policy.number(), Reason::None.number(), [0.0; 2]);
        let expected = if act == "write" { unnoticed } else { safe };
        assert_eq!((header.outcome, header.reason, action), expected, "{name}");
        feed.commit(&[0.0; 3]);
        assert_eq!(next_action::<2>(&mut gateway).0.outcome, Outcome::Policy.number(), "{name}");
        // The supervisor keeps its rights.
        process.signal(rustix::process::Signal::USR1);
        let status: serde_json::Value = wait_for("status", || {
            serde_json::from_slice(&std::fs::read(agent.directory.path().join("status.json")).ok()?).ok()
        });
        assert_eq!(status["policy"]["sandbox"], "confined", "{name}");
        assert_eq!(status["policy"]["kind"], "unproven", "{name}");
        assert_eq!(process.stop().0.code(), Some(0), "{name}");
        is_untouched(agent.root.path(), &name);
    }
}

#[test]
fn what_never_returns_is_left_behind_when_the_agent_is_told_to_stop() {
    let agent = agent(&module("spin_when_traded"));
    let process = start(&agent);
    armed(&agent);
    agent.feed().commit(&TRADED);
    let (status, stderr) = process.stop();
    assert_eq!(status.code(), Some(81), "{stderr}");
    assert_eq!(agent.state(), (AgentState::Halted.number(), Reason::PolicyHung.number().into()));
    is_untouched(agent.root.path(), "spin_when_traded");
}

/// `predict` and `validate` may get files that are not trusted yet.
#[test]
fn the_commands_that_ask_a_policy_confine_it_too() {
    for command in ["predict", "validate"] {
        for (act, when) in ACTS.iter().flat_map(|act| ["at_load", "in_forward"].map(|when| (act, when))) {
            let name = format!("{act}_{when}");
            let root = tempfile::tempdir().expect("a temporary directory");
            prepare(root.path());
            std::fs::write(root.path().join("seen.npy"), npy(&TRADED, 3)).expect("observations");
            let arguments = match command {
                "predict" => vec!["--observations", "seen.npy", "--out", "actions.npy"],
                _ => vec![
                    "--observations",
                    "seen.npy",
                    "--trials",
                    "10",
                    "--within",
                    "0",
                    "--html",
                    "report.html",
                ],
            };
            let output = escapement()
                .arg(command)
                .arg(module(&name))
                .args(arguments)
                .args(["--backend", "torch"])
                .current_dir(root.path())
                .output()
                .expect("it runs");
            let stderr = String::from_utf8_lossy(&output.stderr);
            // torch.save does not notice that the file cannot be opened.
            let expected = if *act == "write" { 0 } else { 65 };
            assert_eq!(output.status.code(), Some(expected), "{command}, {name}: {stderr}");
            assert_eq!(std::fs::read(root.path().join("victim")).expect("it"), VICTIM, "{command}, {name}");
            assert!(!root.path().join("written").exists(), "{command}, {name}");
            // The command itself can still write its files.
            let own = if command == "predict" { "actions.npy" } else { "report.html" };
            assert_eq!(root.path().join(own).exists(), *act == "write", "{command}, {name}");
        }
    }
}
