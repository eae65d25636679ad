//! The smallest order gateway: takes a running agent's actions and decides for each whether it may be sent.
//! It needs the crate `escapement-ring` alone.
//!
//! ```text
//! cargo run --release --example gateway -- AGENT_DIRECTORY COUNT
//! ```

use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::{AgentDirectory, Role};
use escapement_ring::gateway::{Gateway, Limits};
use escapement_ring::ring::ProtocolViolation;
use std::path::Path;
use std::process::ExitCode;

/// An agent whose heartbeat is older than 100 ms is treated as dead. An action that was committed more than
/// 20 ms ago is an order of the past. Choose the second limit by how fast your market moves.
const LIMITS: Limits =
    Limits { heartbeat_timeout: Nanos::from_millis(100), max_action_age: Nanos::from_millis(20) };
/// Without an action for this long, the example gives up.
const PATIENCE: Nanos = Nanos::from_millis(10_000);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, count] = arguments.as_slice() else {
        eprintln!("usage: gateway AGENT_DIRECTORY COUNT");
        return ExitCode::from(64);
    };
    match count.parse().map_err(Into::into).and_then(|count| run(Path::new(directory), count)) {
        Ok((sent, withheld)) => {
            println!("{sent} actions to send, {withheld} withheld");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, count: u64) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let clock = MonotonicClock;
    let agent = AgentDirectory::at(directory);
    let _role = agent.acquire(Role::Tap)?;
    let mut gateway = Gateway::attach(&agent, LIMITS)?;

    let (mut sent, mut withheld) = (0, 0);
    let mut last_action = clock.now();
    while sent + withheld < count {
        gateway.beat();
        let taken = gateway.take(|action| {
            // `check` makes every check: checksum, outcome, the agent's state and heartbeat, epoch,
            // generation and age. It judges what was read after the action was copied out of the ring.
            match action.check() {
                // Your order goes out here, built from `action.payload`.
                Ok(()) => sent += 1,
                Err(why) => {
                    eprintln!("gateway: position {} not sent: {}", action.header.position, why.name());
                    withheld += 1;
                }
            }
            Ok::<_, ProtocolViolation>(())
        })?;
        let now = clock.now();
        if taken.is_some() {
            last_action = now;
        } else if now.since(last_action) > PATIENCE {
            break;
        } else {
            clock.sleep_until(now.plus(Nanos::from_micros(200)));
        }
    }
    Ok((sent, withheld))
}
