//! The guard's thread: on a core of its own, or on any core but the engine's.
//!
//! This thread ends a process whose policy hangs. It is awake at that moment, and has a core. The supervisor
//! would have to be woken, and may be waiting for a disk.

use super::event::{Event, WatchedThread};
use super::planted::has_no_guard;
use crate::config::{AgentConfig, DeadlineGuardConfig};
use crate::evidence::{GapMeter, ThreadWatch};
use crate::halt::{EndedBy, HaltKeeper, end_hung, halt_for_good, report_unkept};
use crate::os::{keep_off, pin_to, prefault_stack, use_fifo_scheduler};
use crossbeam::channel::{Receiver, Sender};
use escapement_engine::{DeadlineGuard, GuardEnd, GuardEvent, GuardWake};
use escapement_ring::clock::FollowingClock;
use escapement_ring::ring::Header;
use escapement_ring::wire::Reason;
use std::sync::Arc;
use std::time::Duration;

/// How long the supervisor may take to end a process after it has written how the process ends.
const END_GRACE: Duration = Duration::from_secs(1);

/// What the guard's thread needs.
pub(super) struct GuardParts {
    /// Delivers the guard once the engine is made.
    pub(super) guards: Receiver<DeadlineGuard<FollowingClock>>,
    /// Takes what the machine refused to this thread.
    pub(super) placed: Sender<Vec<String>>,
    pub(super) events: Sender<Event>,
    pub(super) meter: GapMeter,
    pub(super) keeper: Arc<HaltKeeper>,
    pub(super) action_header: Header,
}

/// Places this thread, reports what was refused, waits for the engine to be made, and guards until the engine
/// is gone.
pub(super) fn serve(config: &AgentConfig, parts: GuardParts) {
    let GuardParts { guards, placed, events, mut meter, keeper, action_header } = parts;
    // The engine's thread waits for this, unless the process is ending anyway.
    drop(placed.send(take_place(config)));
    let Ok(mut guard) = guards.recv() else { return };
    if has_no_guard() {
        return;
    }
    drop(events.send(Event::ThreadWatched(WatchedThread::Guard, Box::new(ThreadWatch::of_this_thread()))));
    let between = |moment| {
        if let GuardEvent::Overdue(hang) = moment {
            // If the queue is full, the supervisor is too far behind to prepare for a hang.
            drop(events.try_send(Event::Overdue(hang)));
        }
        meter.note(moment);
    };
    match guard.run(between) {
        GuardEnd::Closed => {}
        GuardEnd::Hung { sequence } => give_up(&keeper, &action_header, sequence),
    }
}

/// Makes the halt of a hung policy last, and ends the process. The guard has set the state word to halted.
fn give_up(keeper: &HaltKeeper, action_header: &Header, sequence: Option<u64>) -> ! {
    // The guard's halt does not replace an earlier reason. A dying process may have given one that does not
    // last.
    halt_for_good(action_header, Reason::PolicyHung);
    match keeper.keep_in_haste(action_header, sequence) {
        Ok(EndedBy::Caller) => {}
        // The agent was halted or stopped at the same moment. The supervisor ends the process.
        Ok(EndedBy::OtherThread) => std::thread::sleep(END_GRACE),
        Err(error) => report_unkept(&error),
    }
    tracing::error!(sequence, "halted: the policy does not return; its thread is abandoned");
    end_hung()
}

/// Places the calling thread as the configuration asks. Returns what the machine refused.
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
    // Beside an engine under the real-time scheduler, an ordinary guard might wait for its core when it is
    // needed. A refusal is not reported here: the engine's thread gets the same one. A guard that spins stays
    // an ordinary thread: under SCHED_FIFO it would keep every other thread off its core, including the
    // signal thread.
    if let (Some(priority), GuardWake::Sleep) = (config.engine.realtime_priority, config.guard.wake) {
        let _ = use_fifo_scheduler(priority);
    }
    prefault_stack();
    missing
}
