//! The engine's thread, from its first instruction to its last report.

use super::error::DaemonError;
use super::event::{Event, WatchedThread};
use super::planted::panic_if_planted;
use super::provenance::Sandbox;
use super::status::ArmedMeter;
use super::tail::check_tail;
use crate::config::AgentConfig;
use crate::evidence::ThreadWatch;
use crate::halt::{Latch, halt_reason, state_of};
use crate::os::{CoreError, lock_all_memory, pin_to, prefault_stack, use_fifo_scheduler};
use crossbeam::channel::{Receiver, Sender};
use escapement_engine::lease;
use escapement_engine::telemetry::Counters;
use escapement_engine::{
    CommandWord, DeadlineGuard, Engine, Parts, Policies, PolicyExtras, RunEnd, Update, WarmUp,
};
use escapement_ring::clock::{Clock, FollowingClock, MachineClock};
use escapement_ring::ring::{Consumer, Header, Producer};
use escapement_ring::wire::{AgentState, Reason};
use std::sync::Arc;

/// What the supervisor hands to the engine's thread. The clock is made on that thread.
pub(super) struct EngineParts {
    pub(super) policies: Policies,
    pub(super) extras: PolicyExtras,
    /// The sandbox that this thread must enter before it calls the policy; `None` if it needs none.
    pub(super) confine: Option<Sandbox>,
    pub(super) guard: GuardLink,
    pub(super) updates: lease::Receiver<Update>,
    pub(super) observations: Consumer,
    pub(super) observation_header: Header,
    pub(super) actions: Producer,
    pub(super) action_header: Header,
    pub(super) records: Producer,
    pub(super) counters: Arc<Counters>,
    pub(super) epoch: u32,
    pub(super) latch: Latch,
}

/// The engine's link to the guard's thread.
pub(super) struct GuardLink {
    /// Takes the guard once the engine is made.
    pub(super) guards: Sender<DeadlineGuard<FollowingClock>>,
    /// Tells what the machine refused to the guard's thread.
    pub(super) missing: Receiver<Vec<String>>,
}

/// Warms up, arms, answers observations, and reports each step.
pub(super) fn serve(
    config: &AgentConfig,
    parts: EngineParts,
    commands: &CommandWord,
    events: &Sender<Event>,
) {
    let (action_header, latch) = (parts.action_header.clone(), parts.latch.clone());
    // Sending fails only if the process is ending anyway.
    let report = |event| drop(events.send(event));
    let (mut engine, warm_up, degraded) = match make_ready(config, parts) {
        Ok(ready) => ready,
        Err(error) => return report(Event::EngineFailed(error)),
    };
    if check_tail(&config.settings, Some(warm_up.deciding_tail())).is_err() {
        engine.halt(Reason::WarmUpTooSlow);
    }
    report(Event::ThreadWatched(WatchedThread::Engine, Box::new(ThreadWatch::of_this_thread())));
    engine.beat(engine.clock().now());
    // The last check before the agent is armed. A halt makes the latch first and sets the state word after.
    // If the latch is made after this check, its state word either prevents the arming or undoes it.
    if latch.is_engaged() {
        engine.halt(Reason::Operator);
    }
    let armed = action_header.advance(AgentState::Armed.number(), 0);
    let keep_warm = ArmedMeter::begin(engine.keep_warm_meter());
    report(Event::Warmed { warm_up, keep_warm, degraded, armed });
    if !armed {
        return report(Event::Ended(RunEnd::Halted(halt_reason(state_of(&action_header)))));
    }
    panic_if_planted("engine");
    let end = escapement_engine::run(&mut engine, config.engine.idle, commands);
    if let Some(fault) = engine.last_fault() {
        tracing::warn!(fault, "the policy's latest fault");
    }
    report(Event::Ended(end));
}

/// Places the calling thread as the configuration asks, and makes and warms up the engine. Returns what the
/// machine refused as well.
fn make_ready(
    config: &AgentConfig,
    parts: EngineParts,
) -> Result<(Engine<MachineClock>, WarmUp, Vec<String>), DaemonError> {
    let mut degraded = Vec::new();
    let mut demand = |result: Result<(), String>| match result {
        Err(reason) if config.strict => Err(DaemonError::Strict(reason)),
        Err(reason) => {
            degraded.push(reason);
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    if let Some(core) = config.engine.core {
        demand(pin_to(core).map_err(|error: CoreError| error.to_string()))?;
    }
    if let Some(priority) = config.engine.realtime_priority {
        demand(use_fifo_scheduler(priority).map_err(|error| error.to_string()))?;
    }
    if config.engine.lock_memory {
        demand(lock_all_memory().map_err(|error| format!("lock memory: {error}")))?;
    }
    prefault_stack();

    let mut engine = Engine::new(Parts {
        clock: MachineClock::new(),
        policies: parts.policies,
        observations: parts.observations,
        observation_header: parts.observation_header,
        actions: parts.actions,
        action_header: parts.action_header,
        records: parts.records,
        counters: parts.counters,
        settings: config.settings.clone(),
        epoch: parts.epoch,
    })?;
    engine.set_extras(parts.extras);
    engine.take_updates_from(parts.updates);
    if let Some(sandbox) = parts.confine {
        sandbox.confine();
    }
    let GuardLink { guards, missing } = parts.guard;
    for missing in missing.recv().unwrap_or_default() {
        demand(Err(missing))?;
    }
    if let Some(guard) = engine.guard(config.guard.wake, Some(config.hang_timeout)) {
        // The guard's thread outlives this one, so it takes the guard.
        drop(guards.send(guard));
    }
    let warm_up = engine.warm_up(config.warm_up, |engine| engine.beat(engine.clock().now()))?;
    Ok((engine, warm_up, degraded))
}
