//! The engine's thread, from its first instruction to its last report.

use super::DaemonError;
use super::causes::Watched;
use super::guard_thread::Handed;
use super::planted::panic_if_planted;
use super::provenance::Sandbox;
use super::supervisor::Event;
use crate::config::AgentConfig;
use crate::evidence::ThreadWatch;
use crate::halt::Latch;
use crate::os::{CoreError, lock_all_memory, pin_to, prefault_stack, use_fifo_scheduler};
use crossbeam::channel::{Receiver, Sender};
use escapement_engine::lease;
use escapement_engine::telemetry::Counters;
use escapement_engine::{CommandWord, Engine, Parts, Policies, PolicyExtras, RunEnd, Update, WarmUp};
use escapement_ring::clock::{Clock, MachineClock};
use escapement_ring::ring::{Consumer, Header, Producer};
use escapement_ring::wire::{AgentState, Reason};
use std::sync::Arc;

/// What the supervisor hands to the engine's thread; the clock is made there.
pub(super) struct EngineParts {
    pub(super) serving: Policies,
    pub(super) company: PolicyExtras,
    /// What this thread does before it calls the policy.
    pub(super) confine: Option<Sandbox>,
    /// Where the guard goes, and what it says about its place.
    pub(super) guard: (Sender<Handed>, Receiver<Vec<String>>),
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

/// Warms up, arms, answers observations, and reports each step.
pub(super) fn serve(
    config: &AgentConfig,
    parts: EngineParts,
    commands: &CommandWord,
    events: &Sender<Event>,
) {
    let (action_header, latch) = (parts.action_header.clone(), parts.latch.clone());
    // The receiver outlives this thread, except where the process is ending anyway.
    let report = |event| drop(events.send(event));
    let (mut engine, warm_up, degraded) = match make_ready(config, parts) {
        Ok(ready) => ready,
        Err(error) => return report(Event::Refused(error)),
    };
    // A policy whose measured tail does not fit the deadline would halt the agent at its first slow call.
    if config.settings.would_halt_at(warm_up.tail) {
        engine.halt(Reason::WarmUpTooSlow);
    }
    report(Event::Watched(Watched::Engine, Box::new(ThreadWatch::of_this_thread())));
    engine.beat(engine.clock().now());
    // The last look before the agent is armed. Whoever halts makes the latch first and the state word after: a latch
    // that is made after this look comes with a word that does not let the agent be armed, or takes it back.
    if latch.is_engaged() {
        engine.halt(Reason::Operator);
    }
    let armed = action_header.advance(AgentState::Armed.number(), 0);
    report(Event::Warmed { warm_up, degraded });
    if !armed {
        return report(Event::Ended(RunEnd::Halted(halt_reason(&action_header))));
    }
    panic_if_planted("engine");
    let end = escapement_engine::run(&mut engine, config.engine.idle, commands);
    if let Some(fault) = engine.last_fault() {
        tracing::warn!(fault, "the policy's latest fault");
    }
    report(Event::Ended(end));
}

/// Why the state word says that the agent is halted.
pub(super) fn halt_reason(action_header: &Header) -> Reason {
    let (_, reason) = action_header.state();
    u16::try_from(reason).ok().and_then(Reason::from_number).unwrap_or(Reason::Operator)
}

/// Makes the calling thread the engine's, and the engine ready.
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
        policies: parts.serving,
        observations: parts.observations,
        observation_header: parts.observation_header,
        actions: parts.actions,
        action_header: parts.action_header,
        records: parts.records,
        counters: parts.counters,
        settings: config.settings.clone(),
        epoch: parts.epoch,
    })?;
    engine.set_extras(parts.company);
    engine.take_updates_from(parts.updates);
    if let Some(sandbox) = parts.confine {
        sandbox.confine();
    }
    let (guards, placed) = parts.guard;
    for missing in placed.recv().unwrap_or_default() {
        demand(Err(missing))?;
    }
    if let Some(guard) = engine.guard(config.guard.wake, Some(config.hang_timeout)) {
        // The guard's thread outlives this one.
        drop(guards.send(guard));
    }
    let warm_up = engine.warm_up(config.warm_up, |engine| engine.beat(engine.clock().now()))?;
    Ok((engine, warm_up, degraded))
}
