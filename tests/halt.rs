//! Halt, latch, kill switch and re-arm, with the real program: who may halt, what keeps it, and what lifts it.

mod support;

use escapement::clock::{Clock, MonotonicClock};
use escapement::host::RingFile;
use escapement::wire::{AgentState, Reason};
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;
use support::{Agent, Process, escapement, next_action, wait_for};

/// The first feature of an observation that the planted policy never returns from.
#[cfg(debug_assertions)]
const HANGS: f32 = 1e6;

fn state_directory(agent: &Agent) -> PathBuf {
    agent.root.path().join("state/test")
}

fn latch(agent: &Agent) -> PathBuf {
    state_directory(agent).join("halted")
}

fn latch_content(agent: &Agent) -> Value {
    serde_json::from_slice(&std::fs::read(latch(agent)).unwrap()).unwrap()
}

/// Every line of the audit file; one that cannot be read is `null`.
fn audit(agent: &Agent) -> Vec<Value> {
    let text = std::fs::read_to_string(state_directory(agent).join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
}

fn whats(agent: &Agent) -> Vec<String> {
    audit(agent).iter().map(|line| line["what"].as_str().unwrap_or("?").to_owned()).collect()
}

/// Runs a command on the agent, by its name, to the end.
fn command(agent: &Agent, words: &[&str]) -> Output {
    let mut command = escapement();
    command.args(words).arg("test").arg("--root").arg(agent.root.path());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn halt(agent: &Agent, text: &str) -> Output {
    command(agent, &["halt", "--reason", text])
}

fn rearm(agent: &Agent) -> Output {
    command(agent, &["rearm", "--reason", "looked at"])
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", said(output)))
}

fn halted(reason: Reason) -> (u32, u32) {
    (AgentState::Halted.number(), reason.number().into())
}

/// The agent does not start, says in one line why and what to do, and stays halted.
fn stays_halted(agent: &Agent, words: &[&str]) {
    let (status, stderr) = agent.start().wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    let line = stderr.lines().last().expect("it says why");
    for word in words.iter().chain(&["halted", "escapement rearm -c"]) {
        assert!(line.contains(word), "{line:?} does not name {word:?}");
    }
    assert!(latch(agent).symlink_metadata().is_ok());
}

#[test]
fn a_halt_stays_until_it_is_lifted_on_purpose() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let output = halt(&agent, "venue is down");
    assert_eq!(code(&output), 0, "{}", said(&output));
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    assert_eq!(agent.state(), halted(Reason::Operator));
    let content = latch_content(&agent);
    assert_eq!((&content["reason"], &content["text"]), (&"operator".into(), &"venue is down".into()));
    assert_eq!(
        (&content["epoch"], &content["user"]["uid"]),
        (&1.into(), &rustix::process::getuid().as_raw().into())
    );

    stays_halted(&agent, &["venue is down", "operator", content["at"].as_str().unwrap()]);
    stays_halted(&agent, &["venue is down"]);
    assert_eq!(agent.state(), halted(Reason::Operator));

    let output = rearm(&agent);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(said(&output).contains("venue is down"), "{}", said(&output));
    assert_eq!(agent.state().0, AgentState::Stopped.number());
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
    assert_eq!(whats(&agent), ["start", "halt", "stop", "rearm", "start", "stop"]);
    assert_eq!(audit(&agent)[3]["text"], "looked at");
    assert_eq!(audit(&agent)[3]["reason"], "operator");
}

/// A halt by rule, and one by SIGUSR2: both latch, and say what they know.
#[test]
fn every_halt_latches() {
    let agent = Agent::new(&[("action.capacity", "2"), ("action.on_full", "\"halt\"")]);
    let process = agent.start_armed();
    let mut feed = agent.feed();
    (0..3).for_each(|_| feed.commit(&[0.0; 4]));
    assert_eq!(process.wait().0.code(), Some(80));
    let content = latch_content(&agent);
    assert_eq!((&content["reason"], &content["user"]), (&"action_ring_full".into(), &Value::Null));
    assert_eq!(content["sequence"], 2);
    stays_halted(&agent, &["action_ring_full"]);

    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    agent.feed().commit(&[0.0; 4]);
    next_action::<2>(&mut agent.gateway());
    process.signal(Signal::USR2);
    assert_eq!(process.wait().0.code(), Some(80));
    let content = latch_content(&agent);
    assert_eq!((&content["reason"], &content["sequence"]), (&"operator".into(), &1.into()));
    assert_eq!(content["user"]["uid"], rustix::process::getuid().as_raw());
    stays_halted(&agent, &["operator"]);
}

/// A broken protocol is a halt as well, with an exit code of its own.
#[test]
fn a_broken_protocol_latches() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let ring = agent.directory.path().join(RingFile::Observations.name());
    let file = std::fs::OpenOptions::new().write(true).open(ring).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &u64::MAX.to_le_bytes(), 128).unwrap();
    assert_eq!(process.wait().0.code(), Some(76));
    stays_halted(&agent, &["protocol_violation"]);
}

#[test]
fn the_first_of_two_halts_gives_the_reason() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    assert_eq!(code(&halt(&agent, "first")), 0);
    let output = halt(&agent, "second");
    assert_eq!(code(&output), 0);
    assert!(said(&output).contains("already"), "{}", said(&output));
    assert_eq!(process.wait().0.code(), Some(80));
    assert_eq!(latch_content(&agent)["text"], "first");
    let lines = audit(&agent);
    let halts: Vec<_> =
        lines.iter().filter(|line| line["what"] == "halt").map(|line| &line["text"]).collect();
    assert_eq!(halts, ["first", "second"]);
}

#[test]
fn a_halt_needs_no_daemon_and_outlives_the_rings() {
    let agent = Agent::new(&[]);
    // Never started: its name is not known, its configuration is.
    let output = halt(&agent, "too early");
    assert_eq!(code(&output), 66, "{}", said(&output));
    let mut by_config = escapement();
    by_config.args(["halt", "--reason", "before the first start", "-c"]).arg(&agent.config);
    let output = by_config.output().unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    stays_halted(&agent, &["before the first start"]);
    assert_eq!(code(&rearm(&agent)), 0);

    // Dead, and then the machine loses its memory.
    agent.start_armed().kill();
    assert_eq!(code(&halt(&agent, "after a crash")), 0);
    assert_eq!(agent.state(), halted(Reason::Operator));
    std::fs::remove_dir_all(agent.directory.path()).unwrap();
    stays_halted(&agent, &["after a crash"]);
    let mut by_config = escapement();
    by_config.args(["rearm", "--reason", "looked at", "-c"]).arg(&agent.config);
    assert_eq!(code(&by_config.output().unwrap()), 0);
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
}

#[test]
fn a_latch_that_cannot_be_read_halts() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    for content in ["", "\n", "{\"reason\":\"operator\",\"te", "nonsense", "[]", "{}"] {
        std::fs::write(latch(&agent), content).unwrap();
        stays_halted(&agent, &["state/test/halted"]);
        let output = rearm(&agent);
        assert_eq!(code(&output), 0, "{content:?}: {}", said(&output));
    }
    std::fs::write(latch(&agent), [0xff; 100_000]).unwrap();
    stays_halted(&agent, &[]);
    assert_eq!(code(&rearm(&agent)), 0);
    std::os::unix::fs::symlink("/nowhere", latch(&agent)).unwrap();
    stays_halted(&agent, &["not a regular file"]);
    assert_eq!(code(&rearm(&agent)), 0);
    std::fs::create_dir(latch(&agent)).unwrap();
    stays_halted(&agent, &["not a regular file"]);
    // Removing it by hand is not enough either: the state word says halted.
    std::fs::remove_dir(latch(&agent)).unwrap();
    stays_halted(&agent, &["operator"]);
    assert_eq!(code(&rearm(&agent)), 0);
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
}

/// A latch that appears beside a running agent halts it: the `halt` command may be killed after its first step.
#[test]
fn a_latch_alone_halts_a_running_agent() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    std::fs::write(latch(&agent), "").unwrap();
    assert_eq!(process.wait().0.code(), Some(80));
    assert_eq!(agent.state(), halted(Reason::Operator));
}

/// So does the state word alone: whoever may not write the state directory has the ring.
#[test]
fn a_halted_word_without_a_latch_gets_one() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    agent.attach(RingFile::Actions).unwrap().header().halt(Reason::Operator.number().into());
    assert_eq!(process.wait().0.code(), Some(80));
    stays_halted(&agent, &["operator"]);
    assert_eq!(code(&rearm(&agent)), 0);

    // Killed between the word and the latch: the next start writes it.
    agent.start_armed().kill();
    agent.attach(RingFile::Actions).unwrap().header().halt(Reason::InferenceLate.number().into());
    assert!(!latch(&agent).exists());
    stays_halted(&agent, &["inference_late"]);
    assert_eq!(latch_content(&agent)["reason"], "inference_late");
    assert_eq!(code(&rearm(&agent)), 0);

    // A panic is answered by a restart.
    agent.start_armed().kill();
    agent.attach(RingFile::Actions).unwrap().header().halt(Reason::Panic.number().into());
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
}

#[test]
fn a_rearm_is_refused_while_a_daemon_runs_and_where_nothing_is_halted() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let output = rearm(&agent);
    assert_eq!(code(&output), 69, "{}", said(&output));
    assert_eq!(process.stop().0.code(), Some(0));
    let output = rearm(&agent);
    assert_eq!(code(&output), 1, "{}", said(&output));
    assert!(said(&output).contains("not halted"), "{}", said(&output));
    assert_eq!(whats(&agent), ["start", "stop"], "nothing happened, and nothing is in the audit file");
}

#[test]
fn a_torn_line_of_the_audit_file_stays_the_only_one() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    let path = state_directory(&agent).join("audit.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += "{\"at\":\"2026-";
    std::fs::write(&path, text).unwrap();
    assert_eq!(code(&halt(&agent, "after a torn line")), 0);
    assert_eq!(whats(&agent), ["start", "stop", "?", "halt"]);
}

/// The test may run as root, which permissions do not bind; then the program runs as nobody.
#[test]
fn without_a_place_for_the_latch_nothing_starts() {
    let agent = Agent::new(&[("agent.state_root", "\"/proc/escapement\"")]);
    let (status, stderr) = agent.start().wait();
    assert!(matches!(status.code(), Some(75 | 77)), "{stderr}");
    assert!(stderr.contains("no halt could be kept"), "{stderr}");

    let agent = Agent::new(&[]);
    std::fs::create_dir_all(state_directory(&agent)).unwrap();
    std::fs::set_permissions(state_directory(&agent), std::fs::Permissions::from_mode(0o555)).unwrap();
    let mut command = agent.command();
    if rustix::process::geteuid().is_root() {
        std::fs::set_permissions(agent.root.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    }
    let (status, stderr) = Process::spawn(command).wait();
    assert_eq!(status.code(), Some(77), "{stderr}");
    assert!(stderr.contains("write to the state directory"), "{stderr}");
}

#[test]
fn nonsense_on_the_command_line_is_refused() {
    let agent = Agent::new(&[]);
    let root = agent.root.path().to_str().unwrap();
    for (words, expected) in [
        (&["halt", "test", "--root", root][..], 64),
        (&["halt", "--reason", "x"], 64),
        (&["halt", "test", "--root", root, "--reason", " "], 64),
        (&["halt", "test", "--root", root, "--reason", "two\nlines"], 64),
        (&["halt", "../test", "--root", root, "--reason", "x"], 64),
        (&["rearm", "nobody", "--root", root, "--reason", "x"], 66),
        (&["status", "nobody", "--root", root], 66),
        (&["status", "-c", "no/such/file"], 66),
    ] {
        let output = escapement().args(words).output().unwrap();
        assert_eq!(code(&output), expected, "{words:?}: {}", said(&output));
    }
    assert!(!state_directory(&agent).exists());
}

fn status(agent: &Agent) -> (i32, Value) {
    let output = command(agent, &["status", "--json"]);
    (code(&output), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output))))
}

#[test]
fn status_in_every_state() {
    let agent = Agent::new(&[]);
    let mut process = agent.start_armed();
    agent.feed().commit(&[0.0; 4]);
    next_action::<2>(&mut agent.gateway());
    let armed = wait_for("the action to be counted", || {
        let (code, status) = status(&agent);
        assert_eq!((code, &status["condition"]), (0, &"armed".into()));
        (status["counters"]["actions"] == 1).then_some(status)
    });
    assert_eq!((&armed["epoch"], &armed["pid"]), (&1.into(), &process.id().into()));
    assert_eq!((&armed["backend"], &armed["latch"]), (&"null".into(), &Value::Null));
    assert_eq!(armed["last_sequence"], 1);
    let page = said(&command(&agent, &["status"]));
    for words in ["test: armed since", "backend null", "1 = 1 answered", "tick_to_action", "heartbeat"] {
        assert!(page.contains(words), "{words:?} is not in:\n{page}");
    }

    // Stopped by the kernel: it cannot answer, and its ring can.
    process.signal(Signal::STOP);
    let (exit, stopped) = status(&agent);
    assert_eq!(
        (exit, &stopped["condition"], &stopped["state"]),
        (1, &"not answering".into(), &"armed".into())
    );
    process.signal(Signal::CONT);

    process.kill();
    let (exit, dead) = status(&agent);
    assert_eq!((exit, &dead["condition"], &dead["state"]), (1, &"dead".into(), &"armed".into()));
    assert!(said(&command(&agent, &["status"])).contains("is gone"));

    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
    let (exit, stopped) = status(&agent);
    assert_eq!((exit, &stopped["condition"]), (1, &"stopped".into()));

    assert_eq!(code(&halt(&agent, "enough")), 0);
    let (exit, halted) = status(&agent);
    assert_eq!(
        (exit, &halted["condition"], &halted["latch"]["text"]),
        (80, &"halted".into(), &"enough".into())
    );
    assert!(said(&command(&agent, &["status"])).contains("enough"));
    std::fs::remove_dir_all(agent.directory.path()).unwrap();
    let mut by_config = escapement();
    by_config.args(["status", "-c"]).arg(&agent.config);
    assert_eq!(code(&by_config.output().unwrap()), 80);
}

/// Whoever connects and says nothing, or too much, or nonsense, holds up nobody.
#[test]
fn the_control_socket_bounds_what_it_reads() {
    use std::io::{Read, Write};
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let path = agent.directory.path().join("control.sock");
    let ask = |bytes: &[u8]| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        // It may have been refused before all of it was read.
        let _ = stream.write_all(bytes);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(ask(b"{\"request\":\"status\"}\n").starts_with("{\"ok\":{"));
    assert!(ask(b"{\"request\":\"fly\"}\n").contains("not a request"));
    assert!(ask(b"{\"request\":\"status\",\"more\":1}\n").contains("not a request"));
    assert!(ask(b"\xff\n").contains("not a request"));
    assert!(ask(b"no end of line").contains("no whole line"));
    let flood = ask(&vec![b' '; 1 << 20]);
    assert!(flood.is_empty() || flood.contains("more than"), "{flood}");
    let _silent = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_eq!(status(&agent).0, 0);
    assert_eq!(process.stop().0.code(), Some(0));
}

/// How the kill switch is pulled.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Switch {
    Signal,
    Command,
}

/// The bar of 10 ms is for a machine that is otherwise idle; a shared one may take any time, and then this is only told.
fn report(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let within = took.iter().filter(|took| **took <= Duration::from_millis(10)).count();
    println!(
        "{what}: {within} of {} within 10 ms; p50 {:.2} ms, p90 {:.2} ms, max {:.2} ms",
        took.len(),
        at(0.5),
        at(0.9),
        at(1.0)
    );
    if std::env::var_os("ESCAPEMENT_LONG").is_some() {
        assert_eq!(within, took.len(), "{what}");
    }
}

/// From pulling the switch to the state word, again and again; the agent ends with 80 and a latch each time.
fn pull(switch: Switch, condition: &str, disturb: impl Fn(&Agent, &Process)) {
    let runs = if std::env::var_os("ESCAPEMENT_LONG").is_some() { 100 } else { 15 };
    let mut took = Vec::new();
    for _ in 0..runs {
        let agent = Agent::new(&[]);
        let mut command = agent.command();
        command.env("ESCAPEMENT_TEST_HANG", "1000000");
        let process = Process::spawn(command);
        let header = wait_for("the agent to be armed", || {
            let header = agent.attach(RingFile::Actions)?.header();
            (header.state().0 == AgentState::Armed.number()).then_some(header)
        });
        disturb(&agent, &process);
        let mut halt = escapement();
        halt.args(["halt", "test", "--reason", "a drill", "--root"]).arg(agent.root.path());
        let begun = MonotonicClock.now();
        let command = match switch {
            Switch::Signal => {
                process.signal(Signal::USR2);
                None
            }
            Switch::Command => Some(Process::spawn(halt)),
        };
        let at = wait_for_word(&header);
        took.push(at.since(begun).to_duration());
        if let Some(command) = command {
            let (status, stderr) = command.wait();
            assert_eq!(status.code(), Some(0), "{stderr}");
        }
        // One that the test has stopped ends when it goes on.
        process.signal(Signal::CONT);
        let (status, stderr) = process.wait();
        assert_eq!(status.code(), Some(80), "{condition}: {stderr}");
        assert_eq!(agent.state(), halted(Reason::Operator));
        assert_eq!(latch_content(&agent)["reason"], "operator");
    }
    report(&format!("{switch:?}, {condition}"), took);
}

/// When the word is first seen halted: looked at without a pause, since milliseconds are what it is about.
fn wait_for_word(header: &escapement::ring::Header) -> escapement::clock::Nanos {
    let begun = MonotonicClock.now();
    loop {
        let (state, now) = (header.state().0, MonotonicClock.now());
        if state == AgentState::Halted.number() {
            return now;
        }
        assert!(now.since(begun).to_duration() < support::PATIENCE, "the word never said halted");
        std::hint::spin_loop();
    }
}

#[test]
fn the_kill_switch_halts_a_healthy_agent() {
    pull(Switch::Signal, "healthy", |_, _| ());
    pull(Switch::Command, "healthy", |_, _| ());
}

#[test]
#[cfg(debug_assertions)]
fn the_kill_switch_halts_an_agent_that_hangs() {
    let hang = |agent: &Agent, _: &Process| {
        agent.feed().commit(&[HANGS; 4]);
        wait_for("the policy to hang", || {
            let header = agent.attach(RingFile::Actions)?.header();
            let before = header.producer_heartbeat_ns();
            std::thread::sleep(Duration::from_millis(50));
            (before == header.producer_heartbeat_ns()).then_some(())
        });
    };
    pull(Switch::Signal, "hung", hang);
    pull(Switch::Command, "hung", hang);
}

#[test]
fn the_halt_command_halts_an_agent_that_is_stopped() {
    pull(Switch::Command, "stopped", |_, process| process.signal(Signal::STOP));
}
