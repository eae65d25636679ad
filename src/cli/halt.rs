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
//!
//! A `rearm` at the same time lifts the halt that it found, and not this one: `halt` waits for it, and halts again. Where
//! that re-arm does not come to its end, the exit code is 75. Once `halt` has ended with 0, the agent is halted, until a
//! re-arm that was begun afterwards.

use super::CommandResult;
use super::agent::Order;
use super::exit::{ExitCode, Failure};
use super::locate::Located;
use crate::agent_files::StateError;
use crate::bundle::hex;
use crate::halt::{Audit, AuditLine, Engaged, Halt, Latch, User, halt_for_good};
use escapement_ring::clock::{Nanos, rfc3339, wall_clock_ns};
use escapement_ring::ring::Header;
use escapement_ring::wire::Reason;

/// How long a re-arm may take that is under way: two synced writes.
const REARM_PATIENCE: Nanos = Nanos::from_millis(5_000);

/// Halt an agent at once, and keep it halted
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: Order,
}

pub(super) fn run(arguments: &Arguments) -> CommandResult {
    let agent = arguments.order.agent.locate()?;
    agent.must_exist()?;
    let latch = Latch::of(&agent.state);
    // What halts comes first, what explains comes after.
    // Before the daemon can have done anything about it.
    let mut at_ns = wall_clock_ns();
    let mut engaged = pull(&agent);
    let signalled = agent.daemon.as_ref().map(|daemon| daemon.signal(rustix::process::Signal::USR2));
    // A re-arm under way may take back what was just done. Held until the audit line stands, which tells a re-arm that
    // has begun, and waits, of this halt.
    let no_rearm = agent.state.lock_rearm(REARM_PATIENCE);
    if no_rearm.is_ok()
        && let again @ (Ok(Some(_)) | Err(_)) = pull(&agent)
    {
        at_ns = wall_clock_ns();
        engaged = again;
    }
    // The rings may have come only now.
    let header = agent.header();

    match engaged {
        Ok(engaged) => {
            let is_first = engaged.is_some();
            let kept = explain(&agent, header.as_ref(), engaged, (at_ns, &arguments.order.reason));
            let latch = latch.path().display().to_string();
            if let Err(error) = no_rearm {
                let doubt = format!("{}: a re-arm under way may lift this halt: {error}", agent.name);
                return Err(Failure::new(ExitCode::Temporary, doubt));
            }
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

/// The latch and the state word, whoever else halts or re-arms. Gives the latch's file, where it was not there.
fn pull(agent: &Located) -> Result<Option<Engaged>, StateError> {
    let engaged = agent.state.create().and_then(|()| Latch::of(&agent.state).engage());
    if let Some(header) = agent.header() {
        halt_for_good(&header, Reason::Operator);
    }
    engaged
}

/// Says in the latch, if this is the first halt, and in the audit file who halted it and why; all of it on disk.
fn explain(
    agent: &Located,
    header: Option<&Header>,
    engaged: Option<Engaged>,
    (at_ns, text): (u64, &str),
) -> Result<(), StateError> {
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
    let latch = Latch::of(&agent.state);
    let kept = match engaged {
        Some(engaged) => latch.explain(engaged, &halt),
        None => latch.keep(),
    };
    Audit::of(&agent.state).append(&AuditLine::of_halt(&halt))?;
    kept
}
