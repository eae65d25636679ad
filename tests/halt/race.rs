//! `halt` and `rearm` at the same time: once `halt` has reported success, the agent is halted, unless a
//! re-arm began afterwards.

use crate::{audit, code, command, halt, halted, latch, latch_content, rearm, said, state_directory, whats};
use escapement::agent_files::StateDirectory;
use escapement::clock::Nanos;
use escapement::directory::RingFile;
use escapement::halt::Latch;
use escapement::wire::{AgentState, Reason};
use escapement_test_support::{Agent, Process, escapement, wait_for};
use std::io::Write;
use std::process::Command;

const PATIENCE: Nanos = Nanos::from_millis(60_000);

/// Returns a halted agent that was armed once, so that it has rings.
fn halted_agent() -> Agent {
    let agent = Agent::new(&[]);
    agent.start_armed().stop();
    assert_eq!(code(&halt(&agent, "the first one")), 0);
    agent
}

fn spoken(agent: &Agent, verb: &str, text: &str) -> Command {
    let mut command = escapement();
    command.args([verb, "test", "--reason", text, "--root"]).arg(agent.root.path());
    command
}

/// The test itself performs the re-arm, so that it can stop in the middle: it holds the lock and has read the
/// latch.
#[test]
fn a_halt_in_the_middle_of_a_rearm_is_not_undone() {
    let agent = halted_agent();
    let state = StateDirectory::at(state_directory(&agent));
    let lock = state.lock_rearm(PATIENCE).expect("no other re-arm runs");
    let mut pulled = Process::spawn(spoken(&agent, "halt", "the second one"));
    let opens = |process: &Process, name: &str| {
        let opened = std::fs::read_dir(format!("/proc/{}/fd", process.id())).ok()?;
        let mut links = opened.flatten().filter_map(|link| std::fs::read_link(link.path()).ok());
        links.any(|link| link.ends_with(name)).then_some(())
    };
    wait_for("the halt to wait", || opens(&pulled, "rearm.lock"));
    assert!(pulled.try_wait().is_none(), "it says nothing before the re-arm is over");
    let header = agent.attach(RingFile::Actions).expect("there are rings").header();
    header.reset_state(AgentState::Stopped.number(), 0);
    Latch::of(&state).release().expect("it is there");
    drop(lock);
    let (status, stderr) = pulled.wait();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(latch_content(&agent)["text"], "the second one");
    assert_eq!(agent.state(), halted(Reason::Operator));

    // A re-arm that began before a halt does not lift that halt.
    let lock = state.lock_rearm(PATIENCE).expect("no other re-arm runs");
    let waiting = Process::spawn(spoken(&agent, "rearm", "looked at"));
    wait_for("the re-arm to wait", || opens(&waiting, "daemon.lock"));
    let lines = audit(&agent);
    let again = lines.iter().rfind(|line| line["what"] == "halt").expect("it was halted").to_string();
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(state_directory(&agent).join("audit.jsonl"))
        .expect("there is one");
    writeln!(file, "{again}").expect("it can be written");
    drop(lock);
    let (status, stderr) = waiting.wait();
    assert_eq!(status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("halted anew"), "{stderr}");
    assert!(latch(&agent).exists());
    assert_eq!(code(&rearm(&agent)), 0);
}

/// The order is left to the machine. The audit file has both lines in the order in which they took effect.
#[test]
fn racing_halts_and_rearms_end_as_the_audit_file_says() {
    let agent = halted_agent();
    let (mut halts_last, mut rearms_last) = (0, 0);
    for round in 0..40_u64 {
        let text = format!("round {round}");
        let (rearming, halting) = (spoken(&agent, "rearm", "looked at"), spoken(&agent, "halt", &text));
        let rearm_first = round % 2 == 0;
        let (first, second) = if rearm_first { (rearming, halting) } else { (halting, rearming) };
        let first = Process::spawn(first);
        std::thread::sleep(std::time::Duration::from_micros(round / 2 * 500));
        let second = Process::spawn(second).wait();
        let ends = [first.wait(), second];
        let [rearmed, pulled] = if rearm_first { [&ends[0], &ends[1]] } else { [&ends[1], &ends[0]] };
        assert_eq!(pulled.0.code(), Some(0), "{}", pulled.1);
        // 75: the re-arm saw a halt that came after it began.
        assert!(matches!(rearmed.0.code(), Some(0 | 75)), "{}", rearmed.1);
        let whats = whats(&agent);
        match whats.last().map(String::as_str) {
            Some("halt") => {
                halts_last += 1;
                assert!(latch(&agent).exists(), "round {round}: {ends:?}\n{whats:?}");
                assert_eq!(agent.state(), halted(Reason::Operator), "round {round}");
            }
            Some("rearm") => {
                rearms_last += 1;
                assert!(!latch(&agent).exists(), "round {round}: {ends:?}");
                // The next round's re-arm needs a halt to lift.
                assert_eq!(code(&halt(&agent, "again")), 0);
            }
            other => panic!("{other:?} is the last line"),
        }
    }
    println!("halted at the end: {halts_last} rounds; re-armed: {rearms_last}");
    assert_eq!(code(&command(&agent, &["status"])), 80, "{}", said(&command(&agent, &["status"])));
}
