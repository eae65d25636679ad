//! The kill switch: from pulling it to the state word, in each condition that an agent may be in.

use crate::support::{Agent, PATIENCE, Process, escapement, wait_for};
use crate::{halted, latch_content};
use escapement::clock::{Clock, MonotonicClock, Nanos};
use escapement::directory::RingFile;
use escapement::ring::Header;
use escapement::wire::{AgentState, Reason};
use rustix::process::Signal;
use std::time::Duration;

/// The first feature of an observation that the planted policy never returns from.
#[cfg(debug_assertions)]
const HANGS: f32 = 1e6;

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
        // Neither deadline nor guard is to halt it before the switch does.
        let agent = Agent::new(&[
            ("deadline.inference_us", "10000000"),
            ("deadline.end_to_end_us", "10000000"),
            ("deadline.hang_timeout_ms", "600000"),
        ]);
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
fn wait_for_word(header: &Header) -> Nanos {
    let begun = MonotonicClock.now();
    loop {
        let (state, now) = (header.state().0, MonotonicClock.now());
        if state == AgentState::Halted.number() {
            return now;
        }
        assert!(now.since(begun).to_duration() < PATIENCE, "the word never said halted");
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
