//! A policy with its deadlines inside your own program: no rings, no daemon.
//!
//! ```text
//! cargo run --release --example embed -- config/example.bundle
//! ```

use escapement::agent::{Agent, Options};
use escapement::wire::Outcome;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(bundle) = std::env::args().nth(1) else {
        eprintln!("usage: embed BUNDLE");
        return ExitCode::from(64);
    };
    match run(&bundle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(bundle: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut agent = Agent::load(bundle, Options::default())?;
    println!("backend {}", agent.backend());

    let observation = vec![0.0; agent.dimensions().observation];
    match agent.predict(&observation, true) {
        // The policy's own action, in time.
        Ok((action, info)) if info.outcome == Outcome::Policy => {
            println!("action {action:?} after {} ns", info.inference_ns);
        }
        // Something other than a deadline went wrong. `action` is the safe default.
        Ok((action, info)) => println!("safe default {action:?} because of {}", info.reason.name()),
        // Too late to act: there is no action, and it is for this program to decide what that means.
        Err(violation) => println!("no action: {violation}"),
    }
    Ok(())
}
