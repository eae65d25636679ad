//! Each exit code, produced by the real program. The three places that list the codes must agree.

use escapement::directory::RingFile;
use escapement::wire::{AgentState, Reason};
use escapement_test_support::{Agent, Process, escapement, next_action, wait_for};
use std::os::unix::process::CommandExt;

/// Waits for the end and asserts the code. Returns standard error, where every failure prints one line.
fn fails_with(code: i32, process: Process) -> String {
    let (status, stderr) = process.wait();
    assert_eq!(status.code(), Some(code), "{stderr}");
    stderr
}

fn last_line_names(stderr: &str, words: &[&str]) {
    let line = stderr.lines().last().expect("a failure says something");
    for word in words {
        assert!(line.contains(word), "{line:?} does not name {word:?}");
    }
}

#[test]
fn code_0_clean_stop() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let mut feed = agent.feed();
    feed.commit(&[1.0; 4]);
    let (action, payload) = next_action::<2>(&mut agent.gateway());
    assert_eq!((action.sequence, action.position, action.epoch), (1, 0, 1));
    assert_eq!(payload, [0.0; 2]);
    let (status, stderr) = process.stop();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(agent.state().0, AgentState::Stopped.number());
}

#[test]
fn code_64_usage() {
    let mut command = escapement();
    command.args(["run", "--no-such-flag"]);
    let stderr = fails_with(64, Process::spawn(command));
    assert!(stderr.contains("--no-such-flag"), "{stderr}");
}

#[test]
fn code_65_bad_policy() {
    let agent = Agent::new(&[("policy.backend", "\"native\""), ("policy.path", "\"policy.pt\"")]);
    std::fs::write(agent.root.path().join("policy.pt"), b"PK\x03\x04 not an archive").unwrap();
    let stderr = fails_with(65, agent.start());
    last_line_names(&stderr, &["policy.pt"]);
}

#[test]
fn code_66_missing_input() {
    let agent = Agent::new(&[("policy.backend", "\"native\""), ("policy.path", "\"missing.pt\"")]);
    let stderr = fails_with(66, agent.start());
    last_line_names(&stderr, &["missing.pt"]);

    let mut command = escapement();
    command.args(["check", "-c", "no/such/file.toml"]);
    let stderr = fails_with(66, Process::spawn(command));
    last_line_names(&stderr, &["no/such/file.toml"]);
}

#[test]
fn code_69_owned_by_another() {
    let agent = Agent::new(&[]);
    let first = agent.start_armed();
    let stderr = fails_with(69, agent.start());
    last_line_names(&stderr, &["daemon.lock", &first.id().to_string()]);
    assert_eq!(agent.state().0, AgentState::Armed.number(), "the loser must not touch the winner's state");
    assert_eq!(first.stop().0.code(), Some(0));
}

#[test]
fn code_75_temporary() {
    let agent = Agent::new(&[]);
    let mut command = agent.command();
    // SAFETY: between fork and exec only two async-signal-safe calls are made. The limit makes the allocation
    // of a ring's blocks fail as on a full disk. Ignoring the signal that comes with it makes the program see
    // the error.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let limit = libc::rlimit { rlim_cur: 8192, rlim_max: 8192 };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    let stderr = fails_with(75, Process::spawn(command));
    last_line_names(&stderr, &["allocate its blocks"]);
    assert!(agent.attach(RingFile::Actions).is_none(), "no half of a ring may be left");
}

#[test]
fn code_76_damaged_ring() {
    let agent = Agent::new(&[]);
    assert_eq!(agent.start_armed().stop().0.code(), Some(0));
    let path = agent.directory.path().join(RingFile::Observations.name());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[16] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let stderr = fails_with(76, agent.start());
    last_line_names(&stderr, &["observations.ring", "checksum"]);
}

#[test]
fn code_76_violated_protocol() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let ring = agent.directory.path().join(RingFile::Observations.name());
    // The producer's position, far beyond what the ring can hold.
    let file = std::fs::OpenOptions::new().write(true).open(ring).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &u64::MAX.to_le_bytes(), 128).unwrap();
    let stderr = fails_with(76, process);
    assert!(stderr.contains("producer position"), "{stderr}");
    assert_eq!(agent.state(), (AgentState::Halted.number(), Reason::ProtocolViolation.number().into()));
}

#[test]
fn code_77_strict_on_an_unsuitable_machine() {
    let agent = Agent::new(&[("agent.strict", "true"), ("engine.core", "1000")]);
    let stderr = fails_with(77, agent.start());
    last_line_names(&stderr, &["strict", "core 1000"]);
}

#[test]
fn code_78_wrong_configuration() {
    let agent = Agent::new(&[("deadline.on_miss", "\"sometimes\"")]);
    let stderr = fails_with(78, agent.start());
    last_line_names(&stderr, &["agent.toml:", "on_miss", "sometimes"]);
}

#[test]
fn code_80_halted() {
    let agent = Agent::new(&[("action.capacity", "2"), ("action.on_full", "\"halt\"")]);
    let process = agent.start_armed();
    let mut feed = agent.feed();
    // No gateway drains the actions, so the third observation finds no room.
    for _ in 0..3 {
        feed.commit(&[0.0; 4]);
    }
    let stderr = fails_with(80, process);
    assert!(stderr.contains("action_ring_full"), "{stderr}");
    assert_eq!(agent.state(), (AgentState::Halted.number(), Reason::ActionRingFull.number().into()));
}

#[test]
fn code_82_truncated_mapping() {
    let agent = Agent::new(&[]);
    let process = agent.start_armed();
    let path = agent.directory.path().join(RingFile::Observations.name());
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    let stderr = fails_with(82, process);
    last_line_names(&stderr, &["SIGBUS"]);
    wait_for("the state word", || (agent.state().0 == AgentState::Halted.number()).then_some(()));
}

/// The enum, the documentation and the unit file list the same numbers.
#[test]
fn the_three_tables_agree() {
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(repository.join(path)).unwrap();

    let source = read("src/cli/exit.rs");
    let declared: Vec<(u8, &str)> = source
        .lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .filter_map(|(name, number)| Some((number.parse().ok()?, name)))
        .collect();
    assert!(declared.len() > 10, "found only {declared:?}");

    let page = read("docs/EXIT_CODES.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .map(|row| row.split(" | ").map(|cell| cell.trim_end_matches(" |").trim()).collect())
        .filter(|cells: &Vec<&str>| cells[0].parse::<u8>().is_ok())
        .collect();
    let documented: Vec<(u8, &str)> = rows.iter().map(|row| (row[0].parse().unwrap(), row[1])).collect();
    assert_eq!(documented, declared);

    let unit = read("systemd/escapement@.service");
    let prevented: Vec<u8> = unit
        .lines()
        .find_map(|line| line.strip_prefix("RestartPreventExitStatus="))
        .expect("the unit says which codes prevent a restart")
        .split(' ')
        .map(|code| code.parse().unwrap())
        .collect();
    let not_restarted: Vec<u8> =
        rows.iter().filter(|row| row[3] == "no").map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(prevented, not_restarted);
}

/// A panic in either thread halts the agent in the state word, then ends the process.
#[test]
fn code_70_panic_in_every_thread() {
    for thread in ["engine", "supervisor"] {
        let agent = Agent::new(&[]);
        let mut command = agent.command();
        command.env("ESCAPEMENT_TEST_PANIC", thread);
        let stderr = fails_with(70, Process::spawn(command));
        assert!(stderr.contains(&format!("planted in the {thread} thread")), "{stderr}");
        assert_eq!(agent.state(), (AgentState::Halted.number(), Reason::Panic.number().into()), "{thread}");
    }
}

/// A command whose output is closed ends without a panic.
#[test]
fn a_closed_pipe_is_no_panic() {
    let agent = Agent::new(&[]);
    let mut command = escapement();
    command.args(["check", "-c"]).arg(&agent.config);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(std::process::Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
}
