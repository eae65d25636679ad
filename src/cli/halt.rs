//! `escapement halt NAME --reason TEXT`: the kill switch. The agent halts now, and stays halted until `rearm`.
//!
//! ```text
//! $ escapement halt example --reason "venue is down"
//! example: halted; latch /var/lib/escapement/example/halted
//! ```
//! It asks nobody. In this order: the latch's file is made, so that nothing starts any more; the state word in the action
//! ring is set to halted, so that the gateway sends nothing any more; the daemon is signalled, so that it ends; and then
//! the latch is explained and the audit line written. It works with a daemon that hangs, is stopped, or is not there at all.
//!
//! An agent that is halted already keeps its first reason. Where the caller may not write the state directory, the state
//! word and the signal do it, and the daemon (or its next start) writes the latch.

use super::CommandResult;
use super::exit::{ExitCode, Failure};
use super::locate::{AgentArguments, Located, spoken_reason};
use crate::bundle::hex;
use crate::clock::{rfc3339, wall_clock_ns};
use crate::host::{AuditLine, Engaged, Halt, StateError, User};
use crate::ring::Header;
use crate::wire::Reason;

/// Halt an agent at once, and keep it halted
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    agent: AgentArguments,
    /// Why: it is kept in the latch and in the audit file
    #[arg(long, value_name = "TEXT", value_parser = spoken_reason)]
    reason: String,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.agent.locate()?;
    agent.must_exist()?;
    let latch = agent.state.latch();
    // What halts comes first, what explains comes after.
    let engaged = agent.state.create().and_then(|()| latch.engage());
    let header = agent.header();
    if let Some(header) = &header {
        header.halt(Reason::Operator.number().into());
    }
    let signalled = agent.daemon.as_ref().map(|daemon| daemon.signal(rustix::process::Signal::USR2));

    match engaged {
        Ok(engaged) => {
            let is_first = engaged.is_some();
            let kept = explain(&agent, header.as_ref(), engaged, &arguments.reason);
            let latch = latch.path().display().to_string();
            match kept {
                Ok(()) if is_first => println!("{}: halted; latch {latch}", agent.name),
                Ok(()) => {
                    println!("{}: halted already, and the first reason stands; latch {latch}", agent.name)
                }
                // Halted it is, but a crash of the machine might not find it so.
                Err(error) => {
                    println!("{}: halted; latch {latch}", agent.name);
                    return Err(Failure::new(
                        Failure::from(error).code,
                        format!("{latch}: not safe on disk"),
                    ));
                }
            }
            Ok(ExitCode::Ok)
        }
        Err(error) if header.is_some() => {
            let keeper = match signalled {
                Some(Ok(())) => "the daemon was told and keeps the latch",
                Some(Err(_)) => "the daemon sees it and keeps the latch",
                None => "no daemon runs; the next start keeps the latch",
            };
            println!("{}: halted by its state word; {keeper} ({error})", agent.name);
            Ok(ExitCode::Ok)
        }
        Err(error) => {
            let failure = Failure::from(error);
            Err(Failure::new(failure.code, format!("{}: NOT HALTED: {}", agent.name, failure.message)))
        }
    }
}

/// Says in the latch, if this is the first halt, and in the audit file who halted it and why; all of it on disk.
fn explain(
    agent: &Located,
    header: Option<&Header>,
    engaged: Option<Engaged>,
    text: &str,
) -> Result<(), StateError> {
    let at_ns = wall_clock_ns();
    let halt = Halt {
        reason: Reason::Operator.name().to_owned(),
        text: Some(text.to_owned()),
        at: rfc3339(at_ns),
        at_ns,
        sequence: None,
        epoch: header.map(Header::epoch),
        bundle_sha256: header.map(|header| hex(&header.bundle_hash())),
        user: Some(User::current()),
        pid: std::process::id(),
    };
    let latch = agent.state.latch();
    let kept = match engaged {
        Some(engaged) => latch.explain(engaged, &halt),
        None => latch.keep(),
    };
    agent.state.audit().append(&AuditLine::of_halt(&halt))?;
    kept
}
