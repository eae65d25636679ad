//! The smallest feed handler: publishes observations into a running agent's ring. It needs the crate
//! `escapement-ring` alone.
//!
//! ```text
//! cargo run --release --example feed -- AGENT_DIRECTORY COUNT
//! ```
//!
//! `AGENT_DIRECTORY` holds `observations.ring`; `escapement status NAME` prints it.

use escapement_ring::clock::{Clock, MonotonicClock, Nanos, wall_clock_ns};
use escapement_ring::directory::{AgentDirectory, RingFile, Role};
use escapement_ring::feed::Feed;
use escapement_ring::ring::ClaimError;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, count] = arguments.as_slice() else {
        eprintln!("usage: feed AGENT_DIRECTORY COUNT");
        return ExitCode::from(64);
    };
    match count.parse().map_err(Into::into).and_then(|count| run(Path::new(directory), count)) {
        Ok(published) => {
            println!("{published} observations published");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("feed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path, count: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let clock = MonotonicClock;
    let agent = AgentDirectory::at(directory);
    // One feed at a time: this fails with the other feed's process number. The lock is held until it is
    // dropped.
    let _role = agent.acquire(Role::Feed)?;
    let mut feed = Feed::attach(agent.attach(RingFile::Observations)?, clock)?;

    let mut observation = vec![0.0; feed.dimension()];
    for number in 0..count {
        // Your features go here.
        observation.fill(number as f32 / count as f32);
        while let Err(error) = feed.publish(wall_clock_ns(), &observation) {
            match error {
                // The agent is behind. A real feed decides here: wait, or drop this observation with
                // `skip_sequence`.
                ClaimError::Full { .. } => {
                    feed.beat(clock.now());
                    clock.sleep_until(clock.now().plus(Nanos::from_micros(100)));
                }
                ClaimError::Violation(violation) => return Err(violation.into()),
            }
        }
        feed.beat(clock.now());
    }
    Ok(count)
}
