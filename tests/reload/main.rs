//! Live reload in the real program. All new settings apply at the next tick, or none do. A bad file changes
//! nothing and gives the reason.
//!
//! `ESCAPEMENT_LONG` makes 1,000 reloads under load and 200 swaps of a bundle.

use escapement::clock::{Clock, MonotonicClock};
use escapement::directory::RingFile;
use escapement::wire::{Outcome, Reason};
use escapement_test_support::hostile::hostile;
use escapement_test_support::torchscript::perceptron;
use escapement_test_support::{
    Agent, PATIENCE, Process, escapement, long_runs, next_action, take_action, test_data, wait_for,
};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs `escapement reload`. Returns its exit code, its output and its standard error.
fn reload(agent: &Agent, more: &[&str]) -> (i32, Value, String) {
    let output = escapement()
        .args(["reload", "test", "--json", "--root"])
        .arg(agent.root.path())
        .args(more)
        .output()
        .expect("the program runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let outcome = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().expect("it exits"), outcome, stderr)
}

fn status(agent: &Agent) -> Value {
    let output = escapement()
        .args(["status", "test", "--json", "--root"])
        .arg(agent.root.path())
        .output()
        .expect("it runs");
    serde_json::from_slice(&output.stdout).expect("status is JSON")
}

/// Returns settings that a tick reveals: a limit of the first feature, and the safe default.
fn set(mark: u32) -> [(&'static str, String); 3] {
    let value = f64::from(mark % 500) / 1000.0;
    [
        ("observation.high", format!("{}.5", mark % 500)),
        ("action.safe_default", format!("[{value}, -{value}]")),
        ("deadline.max_age_us", "60000000".to_owned()),
    ]
}

/// The same, with logging off. A thousand reloads log more than the pipe holds, and the test reads the pipe
/// only at the end.
fn quiet_set(mark: u32) -> Vec<(&'static str, String)> {
    let mut keys = set(mark).to_vec();
    keys.push(("agent.log", "\"off\"".to_owned()));
    keys
}

fn configure(agent: &Agent, keys: &[(&'static str, String)]) {
    let keys: Vec<_> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    agent.reconfigure(&keys);
}

#[test]
fn what_a_tick_goes_by_changes_at_the_next_one() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
    feed.commit(&[300.0; 4]);
    let (header, payload) = next_action(&mut gateway);
    assert_eq!((header.generation, payload), (1, [0.0; 2]), "the policy answers zeros");

    configure(&agent, &set(7));
    let (code, outcome, stderr) = reload(&agent, &[]);
    assert_eq!((code, &outcome["generation"]), (0, &2.into()), "{stderr}");
    feed.commit(&[300.0; 4]);
    let (header, payload) = next_action(&mut gateway);
    assert_eq!((header.generation, header.reason), (2, Reason::ObservationOutOfRange.number()));
    assert_eq!(payload, [0.007, -0.007]);

    // The same by a signal.
    configure(&agent, &set(9));
    process.signal(Signal::HUP);
    wait_for("the reload", || (status(&agent)["reloads"]["generation"] == 3).then_some(()));
    feed.commit(&[300.0; 4]);
    assert_eq!(next_action::<2>(&mut gateway).1, [0.009, -0.009]);

    // Two rollbacks: each returns to the settings before the last reload.
    for expected in [[0.007, -0.007], [0.009, -0.009]] {
        assert_eq!(reload(&agent, &["--to", "previous"]).0, 0);
        feed.commit(&[300.0; 4]);
        assert_eq!(next_action::<2>(&mut gateway).1, expected);
    }
    assert_eq!(status(&agent)["reloads"]["applied"], 4);
    let audit = std::fs::read_to_string(agent.state_path().join("audit.jsonl")).expect("an audit file");
    assert_eq!(audit.lines().filter(|line| line.contains("\"what\":\"reload\"")).count(), 4, "{audit}");
    assert_eq!(process.stop().0.code(), Some(0));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    assert_eq!(reload(&agent, &["--to", "previous"]).0, 78, "nothing ran before");
    let bad: [(&[(&str, &str)], &str); 6] = [
        (&[("deadline.inference_us", "0")], "deadline.inference_us = 0"),
        (&[("deadline.nonsense", "1")], "unknown key"),
        (&[("action.safe_default", "[7.0, 0.0]")], "action.safe_default"),
        (&[("policy.backend", "\"native\""), ("policy.path", "\"/nowhere/a.bundle\"")], "/nowhere/a.bundle"),
        (&[("observation.dimension", "5")], "observation.dimension changed"),
        (&[("agent.name", "\"other\"")], "agent.name changed"),
    ];
    for (index, (change, said)) in bad.iter().enumerate() {
        agent.reconfigure(change);
        let (code, outcome, stderr) = reload(&agent, &[]);
        assert_eq!(code, 78, "{change:?}: {stderr}");
        assert!(stderr.contains(said) && stderr.contains("nothing was changed"), "{change:?}: {stderr}");
        assert_eq!(outcome["applied"], false);
        let reloads = status(&agent)["reloads"].clone();
        assert_eq!((&reloads["generation"], &reloads["refused"]), (&1.into(), &(index as u64 + 2).into()));
    }
    std::fs::write(&agent.config, "not toml at all [").expect("a file can be spoilt");
    let (code, _, stderr) = reload(&agent, &[]);
    assert_eq!(code, 78, "{stderr}");
    agent.feed().commit(&[0.0; 4]);
    assert_eq!(next_action::<2>(&mut agent.gateway()).0.generation, 1);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// The keys of a native policy with four features and three elements of the action.
fn native(path: &Path) -> Vec<(&'static str, String)> {
    let keys = [("policy.backend", "\"native\""), ("action.dimension", "3")];
    let vectors = ["action.safe_default", "action.neutral"].map(|key| (key, "[0.0, 0.0, 0.0]"));
    let mut all: Vec<_> =
        keys.into_iter().chain(vectors).map(|(key, value)| (key, value.to_owned())).collect();
    all.push(("policy.path", format!("{path:?}")));
    all
}

fn native_agent() -> Agent {
    let agent = Agent::new(&[]);
    std::fs::write(agent.root.path().join("sound.pt"), perceptron()).expect("written");
    configure(&agent, &native(&agent.root.path().join("sound.pt")));
    agent
}

/// Reloads with this policy. It must be refused, and the agent must go on.
fn refused_policy(agent: &Agent, path: &Path) -> String {
    configure(agent, &native(path));
    let (code, _, stderr) = reload(agent, &[]);
    assert_eq!(code, 78, "{}: {stderr}", path.display());
    assert!(stderr.contains("nothing was changed"), "{stderr}");
    stderr
}

fn goes_on(agent: &Agent, process: Process) {
    configure(agent, &native(&agent.root.path().join("sound.pt")));
    let (code, _, stderr) = reload(agent, &[]);
    assert_eq!(code, 0, "a good reload afterwards: {stderr}");
    agent.feed().commit(&[0.5; 4]);
    assert_eq!(next_action::<3>(&mut agent.gateway()).0.outcome, Outcome::Policy.number());
    assert_eq!(process.stop().0.code(), Some(0));
}

#[test]
fn a_hostile_policy_does_not_end_the_agent() {
    let agent = native_agent();
    let process = agent.start_armed();
    for case in hostile().into_iter().filter(|case| !case.words.is_empty()) {
        let path = agent.root.path().join("hostile.pt");
        std::fs::write(&path, case.bytes).expect("written");
        let said = refused_policy(&agent, &path);
        assert!(said.contains(case.words), "{}: {said}", case.name);
    }
    goes_on(&agent, process);
}

#[test]
fn a_pipe_or_device_as_a_policy_blocks_nothing() {
    let agent = native_agent();
    let process = agent.start_armed();
    let pipe = agent.root.path().join("pipe.pt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    for path in [&pipe, Path::new("/dev/zero"), Path::new("/dev/null")] {
        let said = refused_policy(&agent, path);
        assert!(said.contains("not a plain file"), "{said}");
    }
    // A pipe as the configuration.
    std::fs::remove_file(&agent.config).expect("removed");
    std::fs::rename(&pipe, &agent.config).expect("renamed");
    let (code, _, stderr) = reload(&agent, &[]);
    assert!(code == 78 && stderr.contains("not a plain file"), "{stderr}");
    std::fs::remove_file(&agent.config).expect("removed");
    goes_on(&agent, process);
}

#[test]
fn a_key_that_needs_a_restart_is_named_and_the_rest_is_taken_over() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let mut keys = set(7).to_vec();
    keys.push(("observation.capacity", "2048".to_owned()));
    keys.push(("guard.wake", "\"spin\"".to_owned()));
    configure(&agent, &keys);
    let (code, outcome, _) = reload(&agent, &[]);
    assert_eq!(code, 0);
    assert_eq!(outcome["waits_for_restart"], serde_json::json!(["observation.capacity", "guard.wake"]));
    agent.feed().commit(&[300.0; 4]);
    assert_eq!(next_action::<2>(&mut agent.gateway()).1, [0.007, -0.007]);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// A reload is refused if the agent would not have been armed with it: here the policy's tail does not fit
/// the deadline, and a miss halts.
#[test]
fn a_deadline_that_the_policy_cannot_meet_is_refused_where_a_miss_halts() {
    // The hook sleeps for as many microseconds as the first feature says, also during the warm-up.
    let slow = [("observation.low", "1000.0"), ("observation.high", "2000.0")];
    let agent = Agent::new(&slow);
    let mut command = agent.command();
    command.env("ESCAPEMENT_TEST_SLEEP", "1");
    let process = agent.start_armed_as(command);
    let tight = [slow[0], slow[1], ("deadline.inference_us", "100"), ("deadline.end_to_end_us", "100")];
    agent.reconfigure(&tight);
    let (code, _, stderr) = reload(&agent, &[]);
    assert_eq!(code, 78, "{stderr}");
    assert!(
        stderr.contains("the policy's tail") && stderr.contains("deadline.inference_us = 100"),
        "{stderr}"
    );
    let mut forgiving = tight.to_vec();
    forgiving.push(("deadline.on_miss", "\"safe_default\""));
    agent.reconfigure(&forgiving);
    let (code, _, stderr) = reload(&agent, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(process.stop().0.code(), Some(0));
}

/// After a rollback the policy draws the same noise as before. A seed that was drawn, not configured, is
/// restored too.
#[test]
fn a_rollback_brings_the_drawn_seed_back() {
    let small = format!("{:?}", test_data("small.bundle"));
    let stochastic = [
        ("policy.backend", "\"native\""),
        ("policy.path", small.as_str()),
        ("policy.deterministic", "false"),
        ("observation.dimension", "3"),
    ];
    let agent = Agent::new(&stochastic);
    let process = agent.start_armed();
    let seed = || status(&agent)["policy"]["seed"].as_u64().expect("a seed");
    let drawn = seed();
    let mut given = stochastic.to_vec();
    given.push(("policy.seed", "7"));
    agent.reconfigure(&given);
    assert_eq!(reload(&agent, &[]).0, 0);
    assert_eq!(seed(), 7);
    assert_eq!(reload(&agent, &["--to", "previous"]).0, 0);
    assert_eq!(seed(), drawn);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// The policy may hang while it loads. The waiting command gets an answer, and the daemon still stops.
#[test]
fn a_reload_that_hangs_is_not_waited_for() {
    let hanging = || {
        let agent = Agent::new(&[]);
        let mut command = agent.command();
        command.env("ESCAPEMENT_TEST_SLOW_RELOAD", "600000");
        let process = agent.start_armed_as(command);
        (agent, process)
    };
    let (agent, process) = hanging();
    let (code, _, stderr) = reload(&agent, &["--timeout", "1"]);
    assert_eq!(code, 75, "{stderr}");
    assert!(stderr.contains("not finished within 1 s") && stderr.lines().count() == 1, "{stderr}");
    assert_eq!(reload(&agent, &["--timeout", "0"]).0, 64);
    assert_eq!(status(&agent)["reloads"]["finished"], 0);
    let (ended, stderr) = process.stop();
    assert_eq!(ended.code(), Some(0), "{stderr}");
    assert!(stderr.contains("it is left behind"), "{stderr}");

    // Another daemon issues other tickets.
    let (agent, mut process) = hanging();
    let mut command = escapement();
    command.args(["reload", "test", "--root"]).arg(agent.root.path());
    let waiting = Process::spawn(command);
    wait_for("the reload to be asked for", || (status(&agent)["reloads"]["under_way"] == true).then_some(()));
    process.kill();
    let next = agent.start_armed();
    assert_eq!(reload(&agent, &[]).0, 0);
    let (ended, stderr) = waiting.wait();
    assert_eq!(ended.code(), Some(75), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(next.stop().0.code(), Some(0));
}

#[test]
fn a_reload_needs_a_daemon() {
    let agent = Agent::new(&[]);
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
    let (code, _, stderr) = reload(&agent, &[]);
    assert_eq!(code, 66, "{stderr}");
    assert!(stderr.contains("no daemon runs"), "{stderr}");
}

/// The findings of the gateway side of a loaded agent.
#[derive(Default)]
struct Ledger {
    answered: u64,
    mixed: u64,
    lost: u64,
    generations: u64,
}

/// Feeds an agent as fast as it answers while `reloads` runs. Checks each action against the settings of its
/// generation.
fn under_load(
    agent: &Agent,
    expected: &std::sync::Mutex<BTreeMap<u32, u32>>,
    reloads: impl FnOnce(),
) -> Ledger {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let checking = scope.spawn(|| {
            let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
            let mut ledger = Ledger::default();
            let mut waiting = std::collections::VecDeque::new();
            let (mut sequence, mut last_generation) = (0u64, 0);
            loop {
                let stop = over.load(Ordering::Relaxed);
                // Some hundred are in flight, so that reloads find a ring that is never empty.
                while !stop && waiting.len() < 200 {
                    sequence += 1;
                    let feature = (sequence * 7 % 600) as f32;
                    feed.commit(&[feature, 0.0, 0.0, 0.0]);
                    waiting.push_back(feature);
                }
                while let Some((header, payload)) = take_action::<2>(&mut gateway) {
                    let feature: f32 = waiting.pop_front().expect("no action without an observation");
                    ledger.answered += 1;
                    ledger.lost += u64::from(header.sequence != ledger.answered);
                    assert!(header.generation >= last_generation, "generations never go back");
                    ledger.generations += u64::from(header.generation > last_generation);
                    last_generation = header.generation;
                    let mark = loop {
                        // The outcome of a reload may arrive a little later than the first tick under its
                        // settings.
                        match expected
                            .lock()
                            .expect("no thread panics while it holds the lock")
                            .get(&header.generation)
                        {
                            Some(mark) => break *mark,
                            None => std::thread::yield_now(),
                        }
                    };
                    let value = (f64::from(mark % 500) / 1000.0) as f32;
                    let beyond = feature > (mark % 500) as f32 + 0.5;
                    let due = if beyond { [value, -value] } else { [0.0; 2] };
                    ledger.mixed += u64::from(payload != due);
                }
                if stop && waiting.is_empty() {
                    return ledger;
                }
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        reloads();
        over.store(true, Ordering::Relaxed);
        checking.join().expect("the checker")
    })
}

/// Shows that the check can fail: given settings that are not in force, it finds mixed ticks.
#[test]
fn planted_bug_ticks_of_another_set_are_found_out() {
    let agent = Agent::new(&[]);
    configure(&agent, &set(1));
    let process = agent.start_armed();
    let expected = std::sync::Mutex::new(BTreeMap::from([(1, 1), (2, 300)]));
    let ledger = under_load(&agent, &expected, || {
        configure(&agent, &set(200));
        assert_eq!(reload(&agent, &[]).0, 0);
        let counted = status(&agent)["counters"]["actions"].as_u64();
        wait_for("ticks by the new set", || {
            (status(&agent)["counters"]["actions"].as_u64() > counted).then_some(())
        });
    });
    assert!(ledger.mixed > 0 && ledger.lost == 0, "{} ticks", ledger.answered);
    assert_eq!(process.stop().0.code(), Some(0));
}

#[test]
fn reloads_under_load_lose_nothing_and_mix_nothing() {
    let count = if long_runs() { 1_000 } else { 45 };
    let agent = Agent::new(&[]);
    configure(&agent, &quiet_set(1));
    let process = agent.start_armed();
    let expected = std::sync::Mutex::new(BTreeMap::from([(1, 1)]));
    let (mut applied, mut refused) = (0u32, 0u32);
    let ledger = under_load(&agent, &expected, || {
        for round in 0..count {
            let mark = 2 + round * 3 % 497;
            let mut keys = quiet_set(mark);
            let bad = round % 3 == 2;
            if bad {
                keys.push(("deadline.end_to_end_us", "0".to_owned()));
            }
            configure(&agent, &keys);
            let generation = 2 + applied;
            if !bad {
                expected.lock().expect("no thread panics while it holds the lock").insert(generation, mark);
            }
            let (code, outcome, stderr) = reload(&agent, &[]);
            assert_eq!(code, if bad { 78 } else { 0 }, "{stderr}");
            applied += u32::from(!bad);
            refused += u32::from(bad);
            assert_eq!(outcome["generation"], 1 + applied, "the generation is right after each");
        }
    });
    assert_eq!((ledger.lost, ledger.mixed), (0, 0), "of {} ticks", ledger.answered);
    assert_eq!(ledger.generations, u64::from(applied) + 1, "each set was in force");
    let reloads = status(&agent)["reloads"].clone();
    assert_eq!((&reloads["applied"], &reloads["refused"]), (&applied.into(), &refused.into()));
    println!("{count} reloads ({refused} bad) beside {} ticks: 0 lost, 0 mixed", ledger.answered);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// Returns the resident memory of the process, in KiB.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a resident size");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

#[test]
fn swapped_bundles_answer_at_once_and_are_freed() {
    let count = if long_runs() { 200 } else { 24 };
    let bundle = |name: &str| format!("{:?}", test_data(&format!("{name}.bundle")));
    let keys = |name: &str| {
        vec![
            ("policy.backend", "\"native\"".to_owned()),
            ("policy.path", bundle(name)),
            ("observation.dimension", "3".to_owned()),
            ("observation.guard.mode", "\"off\"".to_owned()),
            ("agent.log", "\"off\"".to_owned()),
        ]
    };
    let agent = Agent::new(&[]);
    configure(&agent, &keys("small"));
    let process = agent.start_armed();
    let (mut feed, mut gateway) = (agent.feed(), agent.gateway());
    let mut ask = || {
        feed.commit(&[0.5, -0.5, 0.25]);
        let (header, payload) = next_action::<2>(&mut gateway);
        assert_eq!(header.outcome, Outcome::Policy.number());
        (header.generation, payload)
    };
    let mut answers: BTreeMap<&str, [f32; 2]> = BTreeMap::from([("small", ask().1)]);
    let mut settled = 0;
    for swap in 0..count {
        let name = if swap % 2 == 0 { "other" } else { "small" };
        let to_previous = swap > 2 && swap % 5 == 0;
        if to_previous {
            // The file is ignored: the previous settings come from memory.
            assert_eq!(reload(&agent, &["--to", "previous"]).0, 0);
        } else {
            configure(&agent, &keys(name));
            let (code, outcome, stderr) = reload(&agent, &[]);
            assert_eq!((code, &outcome["policy_changed"]), (0, &true.into()), "{stderr}");
        }
        let (generation, payload) = ask();
        assert_eq!(generation, swap + 2);
        let known = *answers.entry(name).or_insert(payload);
        assert_eq!(payload, known, "{name} answers as it did before");
        if swap == count / 4 {
            settled = resident(&process);
        }
    }
    assert_ne!(answers["small"], answers["other"], "the two can be told apart");
    let grown = resident(&process).saturating_sub(settled);
    println!("{count} swaps: resident {settled} KiB after a quarter of them, {grown} KiB more at the end");
    assert!(grown < 4096, "{grown} KiB more after {} swaps", count - count / 4);
    let begun = MonotonicClock.now();
    assert_eq!(process.stop().0.code(), Some(0));
    assert!(MonotonicClock.now().since(begun).to_duration() < PATIENCE);
    assert!(agent.attach(RingFile::Actions).is_some());
}
