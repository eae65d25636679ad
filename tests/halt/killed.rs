//! `kill -9` at random moments of a halt, the writing of a latch, a re-arm and a start. An agent with a latch
//! is never armed, and an agent that does not start gives a clear reason.
//!
//! The real programs run. Each cycle starts an action on the agent, kills the process that performs it at a
//! random moment, and judges what is on disk. The same judgement then runs on a daemon that ignores its
//! latch, and must fail.
//!
//! `ESCAPEMENT_HALT_CYCLES` sets the number of cycles (default 60; the long run is 500).

use escapement::directory::RingFile;
use escapement::wire::{AgentState, Reason};
use escapement_policy::random::SplitMix64;
use escapement_test_support::{Agent, Process, escapement, wait_for};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

fn cycles() -> u64 {
    std::env::var("ESCAPEMENT_HALT_CYCLES").map_or(60, |text| text.parse().expect("a number of cycles"))
}

/// One agent and the daemon under judgement.
struct Rig {
    agent: Agent,
    ignores_latch: bool,
    /// How often a start ended in each possible way.
    seen: BTreeMap<&'static str, u64>,
}

/// The result of a start.
enum Start {
    Armed(Process),
    Refused(String),
}

impl Rig {
    fn new(ignores_latch: bool) -> Self {
        Self { agent: Agent::new(&[]), ignores_latch, seen: BTreeMap::new() }
    }

    fn daemon(&self) -> Command {
        let mut command = self.agent.command();
        if self.ignores_latch {
            command.env("ESCAPEMENT_TEST_IGNORE_LATCH", "1");
        }
        command
    }

    fn on_the_agent(&self, words: &[&str]) -> Command {
        let mut command = escapement();
        command.args(words).args(["--reason", "a drill", "-c"]).arg(&self.agent.config);
        command
    }

    fn latch(&self) -> PathBuf {
        self.agent.root.path().join("state/test/halted")
    }

    fn has_latch(&self) -> bool {
        self.latch().symlink_metadata().is_ok()
    }

    fn state(&self) -> Option<u32> {
        Some(self.agent.attach(RingFile::Actions)?.header().state().0)
    }

    fn epoch(&self) -> u64 {
        self.agent.attach(RingFile::Actions).map_or(0, |region| region.header().epoch())
    }

    /// Starts the agent and waits until it is armed or has ended.
    fn start(&self) -> Result<Start, String> {
        let before = self.epoch();
        let mut process = Process::spawn(self.daemon());
        let ended = wait_for("a start to be over", || {
            let armed = self.epoch() > before && self.state() == Some(AgentState::Armed.number());
            if armed { Some(None) } else { process.try_wait().map(Some) }
        });
        match ended {
            None => Ok(Start::Armed(process)),
            Some(_) => {
                let (status, stderr) = process.wait();
                let last = stderr.lines().last().unwrap_or_default().to_owned();
                if status.code() == Some(80)
                    && last.contains("halted")
                    && last.contains("escapement rearm -c")
                {
                    Ok(Start::Refused(last))
                } else {
                    Err(format!("a start ended with {status} and no clear message:\n{stderr}"))
                }
            }
        }
    }

    /// Asserts what must hold after any kill: an agent with a latch is not armed, and a re-arm lifts a
    /// refusal to start. Leaves the agent running.
    fn judge(&mut self) -> Result<Process, String> {
        let latched = self.has_latch();
        match (self.start()?, latched) {
            (Start::Armed(process), false) => {
                *self.seen.entry("armed").or_default() += 1;
                return Ok(process);
            }
            (Start::Armed(_), true) => return Err("armed with a latch present".to_owned()),
            (Start::Refused(_), true) => *self.seen.entry("refused, latched").or_default() += 1,
            // The state word of the killed process said halted, so the latch must exist by now.
            (Start::Refused(line), false) => {
                *self.seen.entry("refused, latch completed").or_default() += 1;
                if !self.has_latch() {
                    return Err(format!("refused and not latched: {line}"));
                }
            }
        }
        let output = self.on_the_agent(&["rearm"]).output().map_err(|error| error.to_string())?;
        if output.status.code() != Some(0) {
            return Err(format!("a latched agent is not re-armed: {output:?}"));
        }
        match self.start()? {
            Start::Armed(process) => Ok(process),
            Start::Refused(line) => Err(format!("refused after a re-arm: {line}")),
        }
    }

    /// A running agent with a latch ends by itself, and its state word says halted.
    fn ends_by_itself(&self, process: Process) -> Result<(), String> {
        let (status, stderr) = process.wait();
        if status.code() == Some(80) && self.state() == Some(AgentState::Halted.number()) {
            Ok(())
        } else {
            Err(format!("{status} with a latch, state {:?}: {stderr}", self.state()))
        }
    }
}

/// Kills a process after a random time. Some have ended by then.
fn cut_off(dice: &mut SplitMix64, mut process: Process, within_us: u64) {
    std::thread::sleep(Duration::from_micros(dice.below(within_us)));
    process.kill();
}

/// Runs the cycles. Returns the first failure.
fn judge(cycles: u64, seed: u64, ignores_latch: bool) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut dice = SplitMix64::new(seed);
    let mut rig = Rig::new(ignores_latch);
    let mut running = rig.judge()?;
    for _ in 0..cycles {
        match dice.below(5) {
            // The `halt` command is killed. The agent either is halted or was never asked.
            0 => {
                cut_off(&mut dice, Process::spawn(rig.on_the_agent(&["halt"])), 15_000);
                if rig.has_latch() {
                    rig.ends_by_itself(running)?;
                } else {
                    running.kill();
                }
            }
            // The daemon is killed while a signal halts it.
            1 => {
                running.signal(Signal::USR2);
                cut_off(&mut dice, running, 4_000);
            }
            // The daemon is killed while a rule halts it: the test violates the ring's protocol.
            2 => {
                let header = rig.agent.attach(RingFile::Actions).ok_or("no ring")?.header();
                header.halt(Reason::ActionRingFull.number().into());
                cut_off(&mut dice, running, 8_000);
            }
            // The agent is halted, and the re-arm is killed.
            3 => {
                rig.on_the_agent(&["halt"]).output().map_err(|error| error.to_string())?;
                rig.ends_by_itself(running)?;
                cut_off(&mut dice, Process::spawn(rig.on_the_agent(&["rearm"])), 15_000);
            }
            // A start is killed, with or without a halt before it.
            _ => {
                running.kill();
                let start = Process::spawn(rig.daemon());
                let halt = (dice.below(2) == 0).then(|| Process::spawn(rig.on_the_agent(&["halt"])));
                cut_off(&mut dice, start, 40_000);
                if let Some(halt) = halt {
                    cut_off(&mut dice, halt, 15_000);
                }
            }
        }
        running = rig.judge()?;
    }
    Ok(rig.seen)
}

#[test]
fn no_kill_arms_a_latched_agent() {
    let cycles = cycles();
    match judge(cycles, 1, false) {
        Ok(seen) => {
            println!("{cycles} cycles; starts after them: {seen:?}");
            assert!(seen.len() >= 2, "the kills hit only one kind of moment: {seen:?}");
        }
        Err(what) => panic!("{what}"),
    }
}

/// Shows that the judgement can fail.
#[test]
fn a_daemon_that_ignores_its_latch_is_found_out() {
    let found = judge(60, 2, true);
    assert!(found.is_err(), "{found:?}");
}
