//! Loads the policy at the start, on a thread of its own. Loading may take a minute; the agent can be halted,
//! or told to stop, meanwhile.

use super::error::DaemonError;
use super::event::Event;
use super::load::{self, Loaded};
use super::planted::load_slowly_if_planted;
use crate::config::AgentConfig;
use crate::halt::{Latch, halt_for_good, is_halted_for_good, state_of};
use crate::os::Request;
use crossbeam::channel::{Receiver, bounded, never, tick};
use escapement_ring::ring::Header;
use escapement_ring::wire::Reason;
use std::time::Duration;

/// How often the latch and the state word are checked meanwhile.
const PERIOD: Duration = Duration::from_millis(5);

/// How loading ended.
pub(super) enum StartupLoad {
    /// The policy is loaded.
    Done(Box<Loaded>),
    /// Told to stop. The loading thread is abandoned.
    Stopped,
    /// Halted. The loading thread is abandoned.
    Halted,
}

/// Loads the policies that the configuration names, until the agent is halted or told to stop.
pub(super) fn load(
    config: &AgentConfig,
    inbox: &Receiver<Event>,
    action_header: &Header,
    latch: &Latch,
) -> Result<StartupLoad, DaemonError> {
    let (results, loaded) = bounded(1);
    let load = {
        let config = config.clone();
        // Sending fails only if this thread was abandoned.
        move || {
            load_slowly_if_planted();
            drop(results.send(load::load(&config)));
        }
    };
    let thread = std::thread::Builder::new().name("load".to_owned());
    thread.spawn(load).map_err(DaemonError::system("start the thread that loads the policy"))?;
    let checks = tick(PERIOD);
    let mut events = inbox.clone();
    loop {
        crossbeam::channel::select! {
            recv(loaded) -> result => match result {
                Ok(result) => return Ok(StartupLoad::Done(Box::new(result?))),
                // A panic on that thread ends the process in its hook.
                Err(_) => return Ok(StartupLoad::Stopped),
            },
            recv(events) -> event => match event {
                Ok(Event::Signal(signal)) => match signal.request {
                    Request::Drain => return Ok(StartupLoad::Stopped),
                    Request::Halt => {
                        halt_for_good(action_header, Reason::Operator);
                        return Ok(StartupLoad::Halted);
                    }
                    Request::Dump | Request::Reload => {
                        tracing::info!("ignored: the policy is not loaded yet");
                    }
                },
                // The other senders exist only after the policy is loaded.
                Ok(_) => {}
                Err(_) => events = never(),
            },
            recv(checks) -> _ => {
                if latch.is_engaged() {
                    halt_for_good(action_header, Reason::Operator);
                }
                // After a panic, the hook ends the process.
                if is_halted_for_good(state_of(action_header)) {
                    return Ok(StartupLoad::Halted);
                }
            }
        }
    }
}
