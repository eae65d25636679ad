//! Halt, latch, kill switch and re-arm in the real program: who may halt, what keeps the halt, and what lifts
//! it.

mod diverted;
mod killed;
mod notice;
mod race;
mod status;
mod switch;

use escapement::directory::RingFile;
use escapement::halt::halt_for_good;
use escapement::wire::{AgentState, Reason};
use escapement_test_support::{Agent, Process, escapement, next_action, wait_for};
use rustix::process::Signal;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

fn state_directory(agent: &Agent) -> PathBuf {
    agent.root.path().join("state/test")
}

fn latch(agent: &Agent) -> PathBuf {
    state_directory(agent).join("halted")
}

fn latch_content(agent: &Agent) -> Value {
    serde_json::from_slice(&std::fs::read(latch(agent)).unwrap()).unwrap()
}

/// Returns every line of the audit file. A line that is not JSON is `null`.
fn audit(agent: &Agent) -> Vec<Value> {
    let text = std::fs::read_to_string(state_directory(agent).join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
}

fn whats(agent: &Agent) -> Vec<String> {
    audit(agent).iter().map(|line| line["what"].as_str().unwrap_or("?").to_owned()).collect()
}

/// Runs a command on the agent, by its name, and waits for its end.
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

/// Asserts that the agent does not start, gives the reason and the remedy in one line, and stays halted.
fn stays_halted(agent: &Agent, words: &[&str]) {
    refuses(agent, agent.command(), words).unwrap_or_else(|why| panic!("{why}"));
}

/// Starts the agent with this command and checks that it is refused as halted. Returns what it did instead as
/// an error.
fn refuses(agent: &Agent, command: std::process::Command, words: &[&str]) -> Result<(), String> {
    let mut process = Process::spawn(command);
    let is_armed = || {
        agent
            .attach(RingFile::Actions)
            .is_some_and(|ring| ring.header().state().0 == AgentState::Armed.number())
    };
    wait_for("a start or a refusal", || (process.try_wait().is_some() || is_armed()).then_some(()));
    if process.try_wait().is_none() {
        return Err("it is armed".to_owned());
    }
    let (status, stderr) = process.wait();
    if status.code() != Some(80) {
        return Err(format!("{status}: {stderr}"));
    }
    let line = stderr.lines().last().unwrap_or_default();
    match words.iter().chain(&["halted", "escapement rearm -c"]).find(|word| !line.contains(**word)) {
        Some(word) => Err(format!("{line:?} does not name {word:?}")),
        None if latch(agent).symlink_metadata().is_err() => Err("the latch is gone".to_owned()),
        None => Ok(()),
    }
}

/// Shows that the check used throughout this file can fail.
#[test]
fn planted_bug_an_agent_that_ignores_its_latch_is_found_out() {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    assert_eq!(code(&halt(&agent, "a drill")), 0);
    assert_eq!(refuses(&agent, agent.command(), &["a drill"]), Ok(()));
    let mut command = agent.command();
    command.env("ESCAPEMENT_TEST_IGNORE_LATCH", "1");
    assert_eq!(refuses(&agent, command, &[]), Err("it is armed".to_owned()));
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
    // The command and the daemon that it ends each write a line, in either order. Each line has its time.
    let mut lines = audit(&agent);
    lines.sort_by_key(|line| line["at_ns"].as_u64());
    let whats: Vec<_> = lines.iter().map(|line| &line["what"]).collect();
    assert_eq!(whats, ["start", "halt", "stop", "rearm", "start", "stop"]);
    assert_eq!((&lines[3]["text"], &lines[3]["reason"]), (&"looked at".into(), &"operator".into()));
}

/// A halt by rule and a halt by SIGUSR2 both write a latch with what they know.
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

/// A protocol violation halts too, with its own exit code.
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
    // The agent was never started, so its name is unknown. Its configuration is known.
    let output = halt(&agent, "too early");
    assert_eq!(code(&output), 66, "{}", said(&output));
    let mut by_config = escapement();
    by_config.args(["halt", "--reason", "before the first start", "-c"]).arg(&agent.config);
    let output = by_config.output().unwrap();
    assert_eq!(code(&output), 0, "{}", said(&output));
    stays_halted(&agent, &["before the first start"]);
    assert_eq!(code(&rearm(&agent)), 0);

    // The agent is dead, and then the machine loses its memory.
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
    // Removing the latch by hand is not enough: the state word says halted.
    std::fs::remove_dir(latch(&agent)).unwrap();
    stays_halted(&agent, &["operator"]);
    assert_eq!(code(&rearm(&agent)), 0);
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
}

/// A latch that appears while the agent runs halts it. The `halt` command may be killed after its first step.
#[test]
fn a_latch_alone_halts_a_running_agent() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    std::fs::write(latch(&agent), "").unwrap();
    assert_eq!(process.wait().0.code(), Some(80));
    assert_eq!(agent.state(), halted(Reason::Operator));
    // No other process is left that could write the audit line.
    let content = latch_content(&agent);
    assert_eq!((&content["reason"], &content["epoch"]), (&"operator".into(), &1.into()));
    assert_eq!(whats(&agent), ["start", "halt", "stop"]);
    for said in [&content["text"], &audit(&agent)[1]["text"]] {
        assert_eq!(said, "latch found without an explanation");
    }
    stays_halted(&agent, &["operator", "without an explanation"]);
}

/// The state word alone halts too, for a user who can write the ring but not the state directory.
#[test]
fn a_halted_word_without_a_latch_gets_one() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    agent.attach(RingFile::Actions).unwrap().header().halt(Reason::Operator.number().into());
    assert_eq!(process.wait().0.code(), Some(80));
    stays_halted(&agent, &["operator"]);
    assert_eq!(code(&rearm(&agent)), 0);

    // Killed between the word and the latch: the next start writes the latch.
    agent.start_armed().kill();
    agent.attach(RingFile::Actions).unwrap().header().halt(Reason::InferenceLate.number().into());
    assert!(!latch(&agent).exists());
    stays_halted(&agent, &["inference_late"]);
    assert_eq!(latch_content(&agent)["reason"], "inference_late");
    assert_eq!(code(&rearm(&agent)), 0);

    // After a panic the agent may be restarted.
    agent.start_armed().kill();
    agent.attach(RingFile::Actions).unwrap().header().halt(Reason::Panic.number().into());
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));

    // Unless an operator halts it too, even if the latch cannot be written.
    for reason in [Reason::Panic, Reason::BusError] {
        agent.start_armed().kill();
        let header = agent.attach(RingFile::Actions).unwrap().header();
        header.halt(reason.number().into());
        assert!(halt_for_good(&header, Reason::Operator));
        assert!(!header.halt(reason.number().into()), "and it stays so");
        stays_halted(&agent, &["operator"]);
        assert_eq!(code(&rearm(&agent)), 0);
    }
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

/// A crash of the machine or a kill may leave a latch without its audit line. The next process that handles
/// the latch writes the line, once.
#[test]
fn a_halt_without_its_audit_line_gets_it() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    process.signal(rustix::process::Signal::USR2);
    assert_eq!(process.wait().0.code(), Some(80));
    let path = state_directory(&agent).join("audit.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    let halts = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains(r#""what":"halt""#)).map(str::to_owned).collect()
    };
    let expected = halts(&whole);
    assert_eq!(expected.len(), 1, "{whole}");
    let lose = || {
        let rest: String =
            whole.lines().filter(|line| **line != expected[0]).map(|line| line.to_owned() + "\n").collect();
        std::fs::write(&path, rest).unwrap();
    };
    lose();
    for _ in 0..2 {
        assert_eq!(agent.start().wait().0.code(), Some(80));
        assert_eq!(halts(&std::fs::read_to_string(&path).unwrap()), expected);
    }
    lose();
    assert_eq!(code(&rearm(&agent)), 0);
    assert_eq!(halts(&std::fs::read_to_string(&path).unwrap()), expected);
    let whats = whats(&agent);
    assert_eq!(whats[whats.len() - 2..], ["halt", "rearm"]);
}

/// Permissions do not bind root. If the test runs as root, it starts the program without the capability that
/// overrides them.
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
        const CAP_DAC_OVERRIDE: libc::c_ulong = 1;
        // SAFETY: the call takes numbers only.
        let drop_capability =
            || match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            };
        // SAFETY: one system call, which changes only the capabilities of the program to be started.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, drop_capability) };
    }
    let (status, stderr) = Process::spawn(command).wait();
    assert_eq!(status.code(), Some(77), "{stderr}");
    assert!(stderr.contains("write a file there"), "{stderr}");
}

/// A supervisor that blocks on a log line would no longer answer requests.
#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    process.narrow_stderr();
    let ask = || {
        let root = agent.root.path();
        escapement().args(["status", "test", "--json", "--root"]).arg(root).output().unwrap()
    };
    for _ in 0..100 {
        process.signal(rustix::process::Signal::USR1);
        // The daemon answers after it has logged the signal, or before it has seen the signal. Most answers
        // of a hundred are of the first kind.
        assert_eq!(code(&ask()), 0);
    }
    assert_eq!(code(&halt(&agent, "nobody reads the log")), 0);
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(80), "{stderr}");
    let written = stderr.matches("status written").count();
    assert!(stderr.len() > 4096 && written < 100, "the test has filled the pipe: {stderr}");
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

/// Loading may take a minute. Halts and stops do not wait for it.
#[test]
fn an_agent_that_is_loading_halts_and_stops_at_once() {
    let loading = || {
        let agent = Agent::new(&[]);
        let mut command = agent.command();
        command.env("ESCAPEMENT_TEST_SLOW_LOAD", "600000");
        let process = Process::spawn(command);
        wait_for("the agent to be loading", || {
            (agent.attach(RingFile::Actions)?.header().state().0 == AgentState::Starting.number())
                .then_some(())
        });
        (agent, process)
    };
    let (agent, process) = loading();
    process.signal(Signal::USR2);
    assert_eq!(process.wait().0.code(), Some(80));
    assert_eq!(latch_content(&agent)["user"]["uid"], rustix::process::getuid().as_raw());
    stays_halted(&agent, &["operator"]);

    let (agent, process) = loading();
    assert_eq!(code(&halt(&agent, "not this one")), 0);
    assert_eq!(process.wait().0.code(), Some(80));
    stays_halted(&agent, &["not this one"]);

    let (agent, process) = loading();
    assert_eq!(process.stop().0.code(), Some(0));
    assert_eq!(agent.state().0, AgentState::Stopped.number());
}
