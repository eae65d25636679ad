//! `escapement halt NAME --reason TEXT`: the kill switch. The agent halts now, and stays halted until
//! `rearm`.
//!
//! ```text
//! $ escapement halt example --reason "venue is down"
//! example: halted; latch /var/lib/escapement/example/halted
//! ```
//! It asks for no confirmation. In this order: the latch's file is made, so that nothing starts any more; the
//! state word in the action ring is set to halted, so that the gateway sends nothing any more; the daemon is
//! signalled, so that it ends; then the latch is explained and the audit line written. It works with a daemon
//! that hangs, is stopped, or is not there at all.
//!
//! An agent that is halted already keeps its first reason. If the caller may not write the state directory,
//! the state word and the signal halt the agent, and `halt` waits for the daemon to write the latch. If no
//! latch is on disk at the end, or it is not certain that the next start looks where it lies, the exit code
//! is 83 and the message says what holds and what does not.
//!
//! A `rearm` at the same time lifts the halt that it found, and not this one: `halt` waits for it, and halts
//! again. If that re-arm does not end in time, the exit code is 75. Once `halt` has ended with 0, the agent
//! is halted until a re-arm that begins afterwards.

use super::CommandResult;
use super::agent::{Order, REGISTRY};
use super::exit::{ExitCode, Failure};
use crate::halt::{EngageError, Engagement, Latch, LatchWriter, engage};
use escapement_ring::clock::Nanos;

/// How long to wait for a daemon to write the latch.
const PATIENCE: Nanos = Nanos::from_millis(2_000);

/// Halt an agent at once, and keep it halted
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: Order,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.order.agent.locate()?;
    agent.must_exist()?;
    let name = &agent.name;
    let latch = Latch::of(&agent.state).path().display().to_string();
    match engage(agent.target(), &arguments.order.reason) {
        Ok(Engagement::Latched { .. }) if !agent.state_is_certain => {
            let doubt = format!(
                "{name}: halted; latch {latch}; IT IS NOT CERTAIN that the next start looks there: \
                 no configuration in {REGISTRY} and no daemon.json names its state directory; \
                 halt it with --config FILE"
            );
            return Err(Failure::new(ExitCode::NotKept, doubt));
        }
        Ok(Engagement::Latched { is_first: true }) => println!("{name}: halted; latch {latch}"),
        Ok(Engagement::Latched { is_first: false }) => {
            println!("{name}: halted already, and the first reason stands; latch {latch}");
        }
        Ok(Engagement::WordOnly { latch_writer, error }) => {
            let is_expected = latch_writer != LatchWriter::NextStart;
            if is_expected && Latch::of(&agent.state).is_explained_within(PATIENCE) {
                println!("{name}: halted; the daemon wrote the latch {latch} ({error})");
            } else {
                let who = words_for(latch_writer);
                let doubt = format!(
                    "{name}: halted by its state word; NO LATCH KEEPS THE HALT: {error}; {who}; \
                     until then a reboot or the loss of the rings lifts it"
                );
                return Err(Failure::new(ExitCode::NotKept, doubt));
            }
        }
        Err(EngageError::RearmUnderWay(error)) => {
            let doubt = format!("{name}: a re-arm under way may lift this halt: {error}");
            return Err(Failure::new(ExitCode::Temporary, doubt));
        }
        Err(EngageError::NotSafeOnDisk(error)) => {
            println!("{name}: halted; latch {latch}");
            return Err(Failure::new(Failure::from(error).code, format!("{latch}: not safe on disk")));
        }
        Err(EngageError::NotHalted(error)) => {
            let failure = Failure::from(error);
            return Err(Failure::new(failure.code, format!("{name}: NOT HALTED: {}", failure.message)));
        }
    }
    Ok(ExitCode::Ok)
}

const fn words_for(latch_writer: LatchWriter) -> &'static str {
    match latch_writer {
        LatchWriter::SignalledDaemon => "the daemon was told to write it, and no latch is to be seen",
        LatchWriter::Daemon => "the daemon must see the word and write it, and no latch is to be seen",
        LatchWriter::NextStart => "no daemon runs; the next start sees the word and writes it",
    }
}
