//! `escapement demo`: three real processes, their ledger, and the report when one of them fails.

use escapement_test_support::{Process, escapement, wait_for};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A demo of the null policy. It sleeps when idle, so that it can run beside other tests.
fn demo(directory: &tempfile::TempDir, more: &[(&str, &str)], arguments: &[&str]) -> Command {
    let config = directory.path().join("demo.toml");
    let mut text = "
        agent = { name = \"demo-test\" }
        policy = { backend = \"null\" }
        observation = { dimension = 32 }
        action = { dimension = 3, low = -1.0, high = 1.0, safe_default = [0.0, 0.0, 0.0] }
        deadline = { enforce = false, inference_us = 100, end_to_end_us = 100, on_miss = \"safe_default\" }
        engine = { idle = \"backoff\", idle_sleep_us = 200, lock_memory = false }
    "
    .to_owned();
    for (from, to) in more {
        assert!(text.contains(from));
        text = text.replace(from, to);
    }
    std::fs::write(&config, text).unwrap();
    let mut command = escapement();
    command.args(["demo", "-c"]).arg(config).args(arguments);
    command
}

fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

/// Returns the private directories of demos that this process id started.
fn left_behind(id: u32) -> Vec<PathBuf> {
    let prefix = format!("escapement-demo-{id}-");
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect()
}

#[test]
fn every_observation_has_one_outcome() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--json", "--seconds", "1", "--rate", "2000", "--fault", "nan=0.1,torn=0.1"];
    let output = output(demo(&directory, &[], &arguments));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["backend"], &report["verdict"]), (&"null".into(), &"holds".into()));
    let ledger = |name: &str| report["ledger"][name].as_u64().unwrap();
    assert!(ledger("observations") > 1_000, "{report}");
    assert_eq!(ledger("observations"), ledger("actions") + ledger("skipped"));
    assert_eq!(
        (ledger("duplicates"), ledger("out_of_order"), ledger("torn"), ledger("waiting")),
        (0, 0, 0, 0)
    );
    assert_eq!(report["outcomes"]["observation_torn"], report["feed"]["faults"]["torn"]);
    assert!(report["latency_ns"]["tick_to_action"]["p999"].as_u64().unwrap() > 0);
}

#[test]
fn a_childs_failure_is_passed_on_with_its_line_and_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let missing = [("{ backend = \"null\" }", "{ path = \"missing.pt\", backend = \"native\" }")];
    let output = output(demo(&directory, &missing, &["--seconds", "1"]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(66), "{stderr}");
    assert!(stderr.starts_with("escapement: run: ") && stderr.contains("missing.pt"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn ctrl_c_ends_it_early_with_its_report_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::spawn(demo(&directory, &[], &["--seconds", "60"]));
    let id = process.id();
    wait_for("the feed to have published", || {
        let ring = left_behind(id).pop()?.join("demo-test/feed.lock");
        std::fs::read_to_string(ring).is_ok_and(|holder| !holder.is_empty()).then_some(())
    });
    process.signal(rustix::process::Signal::INT);
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(left_behind(id), [] as [PathBuf; 0]);
}

/// When the demo is killed, the kernel ends its three processes.
#[test]
fn a_killed_demo_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::spawn(demo(&directory, &[], &["--seconds", "60"]));
    let id = process.id();
    let place = wait_for("the daemon, the feed and the tap", || {
        let place = left_behind(id).pop()?.join("demo-test");
        ["daemon", "feed", "tap"].iter().all(|role| holder(&place, role).is_some()).then_some(place)
    });
    let children: Vec<u32> =
        ["daemon", "feed", "tap"].iter().filter_map(|role| holder(&place, role)).collect();
    process.signal(rustix::process::Signal::KILL);
    process.wait();
    wait_for("all of them to be gone", || {
        children.iter().all(|id| !PathBuf::from(format!("/proc/{id}/exe")).exists()).then_some(())
    });
    std::fs::remove_dir_all(place.parent().unwrap()).unwrap();
}

fn holder(place: &std::path::Path, role: &str) -> Option<u32> {
    std::fs::read_to_string(place.join(format!("{role}.lock"))).ok()?.trim().parse().ok()
}
