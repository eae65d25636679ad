//! The guard's thread: on a core of its own, or any but the engine's.

use super::causes::Watched;
use super::planted::has_no_guard;
use super::supervisor::Event;
use crate::attribution::GapMeter;
use crate::clock::FollowingClock;
use crate::config::{AgentConfig, DeadlineGuardConfig};
use crate::engine::{DeadlineGuard, GuardEnd, GuardWake};
use crate::host::{ThreadWatch, keep_off, pin_to, prefault_stack, use_fifo_scheduler};
use crossbeam::channel::{Receiver, Sender};

/// What the engine's thread hands over once the engine is made.
pub(super) type Handed = DeadlineGuard<FollowingClock>;

/// Takes its place, says how far it got it, waits for the engine to be made, and guards until the engine is gone.
pub(super) fn serve(
    config: &AgentConfig,
    guards: &Receiver<Handed>,
    placed: &Sender<Vec<String>>,
    events: &Sender<Event>,
    meter: &mut GapMeter,
) {
    // The engine's thread waits for it, except where the process is ending anyway.
    drop(placed.send(take_place(config)));
    let Ok(mut guard) = guards.recv() else { return };
    if has_no_guard() {
        return;
    }
    drop(events.send(Event::Watched(Watched::Guard, Box::new(ThreadWatch::of_this_thread()))));
    match guard.run(|moment| meter.note(moment)) {
        GuardEnd::Closed => {}
        GuardEnd::Hung => drop(events.send(Event::Hung)),
    }
}

/// Where it runs and how; gives what could not be had.
fn take_place(config: &AgentConfig) -> Vec<String> {
    let DeadlineGuardConfig { core, .. } = config.guard;
    let mut missing = Vec::new();
    match (core, config.engine.core) {
        (Some(core), _) => {
            if let Err(error) = pin_to(core) {
                missing.push(format!("guard: {error}"));
            }
        }
        (None, Some(engine)) => keep_off(engine),
        (None, None) => {}
    }
    // Beside an engine under the real-time scheduler, an ordinary guard might wait for its core when it is needed. The
    // engine's thread says what is missing for that; it is the same.
    // One that spins stays an ordinary thread: it would leave its core to nobody, the kill switch included.
    if let (Some(priority), GuardWake::Sleep) = (config.engine.realtime_priority, config.guard.wake) {
        let _ = use_fifo_scheduler(priority);
    }
    prefault_stack();
    missing
}
