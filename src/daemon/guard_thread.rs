//! The guard's thread: on a core of its own, or any but the engine's.
//!
//! It is this thread that ends a process whose policy hangs. It is awake at that moment, and has the core: the supervisor would
//! have to be woken, and may be waiting for a disk.

use super::causes::Watched;
use super::halting::{HaltKeeper, not_kept};
use super::planted::has_no_guard;
use super::supervisor::Event;
use crate::config::{AgentConfig, DeadlineGuardConfig};
use crate::evidence::GapMeter;
use crate::evidence::ThreadWatch;
use crate::halt::{Emergency, halt_for_good};
use crate::os::{keep_off, pin_to, prefault_stack, use_fifo_scheduler};
use crossbeam::channel::{Receiver, Sender};
use escapement_engine::{DeadlineGuard, GuardEnd, GuardEvent, GuardWake};
use escapement_ring::clock::FollowingClock;
use escapement_ring::ring::Header;
use escapement_ring::wire::Reason;
use std::sync::Arc;
use std::time::Duration;

/// What the engine's thread hands over once the engine is made.
pub(super) type Handed = DeadlineGuard<FollowingClock>;

/// How long the supervisor may take to end a process, once it has said so.
const END_GRACE: Duration = Duration::from_secs(1);

/// What the guard's thread needs.
pub(super) struct GuardParts {
    /// The guard itself, once the engine is made.
    pub(super) guards: Receiver<Handed>,
    /// What could not be had of its place.
    pub(super) placed: Sender<Vec<String>>,
    pub(super) events: Sender<Event>,
    pub(super) meter: GapMeter,
    pub(super) keeper: Arc<HaltKeeper>,
    pub(super) action_header: Header,
}

/// Takes its place, says how far it got it, waits for the engine to be made, and guards until the engine is gone.
pub(super) fn serve(config: &AgentConfig, parts: GuardParts) {
    let GuardParts { guards, placed, events, mut meter, keeper, action_header } = parts;
    // The engine's thread waits for it, except where the process is ending anyway.
    drop(placed.send(take_place(config)));
    let Ok(mut guard) = guards.recv() else { return };
    if has_no_guard() {
        return;
    }
    drop(events.send(Event::Watched(Watched::Guard, Box::new(ThreadWatch::of_this_thread()))));
    let between = |moment| {
        if let GuardEvent::Overdue(hang) = moment {
            // A supervisor that is behind does not get to it.
            drop(events.try_send(Event::Overdue(hang)));
        }
        meter.note(moment);
    };
    match guard.run(between) {
        GuardEnd::Closed => {}
        GuardEnd::Hung { sequence } => give_up(&keeper, &action_header, sequence),
    }
}

/// The state word says halted. What is left is to make that last, and to end a process of which a thread does not come back.
fn give_up(keeper: &HaltKeeper, action_header: &Header, sequence: Option<u64>) -> ! {
    // The guard has said so; not over a reason that does not last, which a dying process may have given meanwhile.
    halt_for_good(action_header, Reason::PolicyHung);
    match keeper.keep_in_haste(action_header, sequence) {
        Ok(true) => {}
        // Halted or stopped in the same moment: the supervisor has said how this process ends, and ends it.
        Ok(false) => std::thread::sleep(END_GRACE),
        Err(error) => not_kept(&error),
    }
    tracing::error!(sequence, "the policy does not return; its thread is left behind: halted");
    Emergency::end_hung()
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
