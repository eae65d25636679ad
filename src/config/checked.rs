//! Checks settings, each right in itself, against each other, and builds the configuration.

use super::built::{
    AgentConfig, DeadlineGuardConfig, EngineConfig, GatewayConfig, PolicyConfig, PolicySource,
    RecurrentConfig,
};
use super::document::{Document, Setting};
use super::keys::{self, Raw};
use super::rule::{Numbers, Place};
use super::words::{CarryWord, IdleWord};
use crate::bundle::Trust;
use crate::policy::{Backend, Dimensions, Execution};
use escapement_engine::{
    Bounds, BudgetSpec, CarryRule, Deadlines, IdleStrategy, InputCheckSpec, KeepWarm, OnMiss, PacedSpec,
    Settings, WarmUpSpec,
};
use escapement_ring::clock::Nanos;
use escapement_ring::ring::MAX_SLOT_SIZE;
use escapement_ring::wire::{ActionHeader, MAX_DIMENSION, ObservationHeader};
use std::path::{Path, PathBuf};
use std::time::Duration;

// Every dimension that a file may set fits a slot, so no file is refused for the size of its slots.
const _: () = assert!(ObservationHeader::slot_size(MAX_DIMENSION) <= MAX_SLOT_SIZE as usize);
const _: () = assert!(ActionHeader::slot_size(MAX_DIMENSION) <= MAX_SLOT_SIZE as usize);

const DEFAULT_IDLE_SLEEP_US: u64 = 50;

/// Builds the configuration, or notes contradictions. `directory` holds the file. Returns `None` only if a
/// problem was noted.
pub(super) fn check(document: &Document<'_>, raw: &Raw, directory: &Path) -> Option<AgentConfig> {
    let policy = policy(document, raw, directory);
    let observation_dimension = raw.observation.dimension.value as usize;
    let (low, high) = (&raw.observation.low, &raw.observation.high);
    let observation_bounds = bounds(document, observation_dimension, low, high);
    let action = action(document, &raw.action);
    let (deadlines, miss_budget) = deadline(document, raw);
    let error_budget = budget(document, &raw.error_budget.misses, &raw.error_budget.window);
    let engine = engine(document, &raw.engine);
    let guard = guard(document, raw);
    let hang_timeout = hang_timeout(document, &raw.deadline);
    let (action_bounds, safe_default, neutral) = action?;
    let config = AgentConfig {
        name: raw.agent.name.value.clone(),
        root: raw.agent.root.as_ref().map(|root| PathBuf::from(&root.value)),
        state_root: raw.agent.state_root.as_ref().map(|root| PathBuf::from(&root.value)),
        strict: raw.agent.strict.value,
        policy: policy?,
        dimensions: Dimensions { observation: observation_dimension, action: action_bounds.dimension() },
        observation_capacity: raw.observation.capacity.value,
        action_capacity: raw.action.capacity.value,
        engine,
        guard,
        hang_timeout,
        warm_up: WarmUpSpec {
            round: raw.warm_up.round_calls.value as u32,
            limit: Nanos::from_millis(raw.warm_up.limit_ms.value),
            quantile: raw.warm_up.quantile.value,
            paced: PacedSpec {
                calls: raw.warm_up.paced_calls.value as u32,
                rate: raw.warm_up.rate.value as u32,
            },
        },
        settings: Settings {
            enforce: raw.deadline.enforce.value,
            deadlines,
            max_skew: Nanos::from_micros(raw.observation.max_skew_us.value),
            on_miss: raw.deadline.on_miss.value,
            miss_budget,
            error_budget,
            backlog: raw.observation.backlog.value,
            on_full: raw.action.on_full.value,
            on_gap: raw.observation.on_gap.value,
            keep_warm: match raw.engine.keep_warm_us.value {
                None => KeepWarm::Auto,
                Some(0) => KeepWarm::Off,
                Some(micros) => KeepWarm::Every(Nanos::from_micros(micros)),
            },
            observation_bounds: observation_bounds?,
            action_bounds,
            safe_default,
            neutral,
        },
        drain_timeout: Nanos::from_millis(raw.agent.drain_timeout_ms.value),
        on_files_lost: raw.agent.on_files_lost.value,
        gateway: GatewayConfig {
            on_lost: raw.gateway.on_lost.value,
            lost_after: Nanos::from_millis(raw.gateway.lost_after_ms.value),
        },
        log: raw.agent.log.value.clone(),
    };
    document.is_good().then_some(config)
}

fn policy(document: &Document<'_>, raw: &Raw, directory: &Path) -> Option<PolicyConfig> {
    let policy = &raw.policy;
    let backend = policy.backend.value;
    let source = match (&policy.path, backend) {
        (None, Backend::Null) => PolicySource::Null,
        (Some(path), Backend::Null) => {
            let what = "nothing is loaded from it, as policy.backend is \"null\"".to_owned();
            document.contradicts(path, what, "no path with the backend \"null\"".to_owned());
            return None;
        }
        (Some(path), _) => PolicySource::Path(directory.join(&path.value)),
        (None, _) => {
            let at = document.place_of_table("policy").map_or(0, |place| place.start);
            let allowed = Some("a path; none only with policy.backend = \"null\"".to_owned());
            document.note("policy.path", at, None, "missing".to_owned(), allowed);
            return None;
        }
    };
    let require_signature = policy.require_signature.value;
    if require_signature && policy.public_keys.value.is_empty() {
        let what = "no signature can be good, as policy.public_keys is empty".to_owned();
        let allowed = "true only with a public key".to_owned();
        document.contradicts(&policy.require_signature, what, allowed);
    }
    if let (Some(seed), true) = (&policy.seed, policy.deterministic.value) {
        let what = "has no effect, as policy.deterministic = true draws no noise".to_owned();
        document.contradicts(seed, what, "a seed only with policy.deterministic = false".to_owned());
    }
    let weights = policy.weights.value;
    if (Execution { backend, weights }).check().is_err() {
        let what = format!("policy.backend = \"{}\" has no such weights", backend.name());
        let allowed = format!("\"{}\" only with the backend \"native\" or \"auto\"", weights.name());
        document.contradicts(&policy.weights, what, allowed);
    }
    Some(PolicyConfig {
        source,
        backend,
        weights,
        trust: Trust { require_signature, public_keys: policy.public_keys.value.clone() },
        deterministic: policy.deterministic.value,
        seed: policy.seed.as_ref().map(|seed| seed.value),
        load_timeout: Duration::from_millis(policy.load_timeout_ms.value),
        allow_unsandboxed_torch: policy.allow_unsandboxed_torch.value,
        guard: InputCheckSpec {
            mode: raw.input_guard.mode.value,
            deviations: raw.input_guard.deviations.value,
        },
        fallback: fallback(document, raw, directory),
        recurrent: recurrent(document, &raw.recurrent),
    })
}

fn fallback(document: &Document<'_>, raw: &Raw, directory: &Path) -> Option<PathBuf> {
    let fallback = raw.fallback.bundle.as_ref()?;
    if raw.policy.backend.value == Backend::Null {
        let what = "has no effect, as the policy that policy.backend = \"null\" names never fails".to_owned();
        document.contradicts(fallback, what, "no fallback with the backend \"null\"".to_owned());
    }
    Some(directory.join(&fallback.value))
}

fn recurrent(document: &Document<'_>, recurrent: &keys::Recurrent) -> RecurrentConfig {
    let burn_in = recurrent.burn_in.as_ref();
    let rule = |key: Option<&Setting<CarryWord>>| {
        Some(match key?.value {
            CarryWord::Keep => CarryRule::Keep,
            CarryWord::Reset => CarryRule::Reset,
            CarryWord::BurnIn => CarryRule::BurnIn(burn_in.map_or(0, |burn_in| burn_in.value as u32)),
        })
    };
    let keys = [recurrent.on_miss.as_ref(), recurrent.on_gap.as_ref()];
    let mut asking = keys.into_iter().flatten().filter(|key| key.value == CarryWord::BurnIn);
    match (asking.next(), burn_in) {
        (Some(key), None) => {
            let what = "says nothing of how long, as policy.recurrent.burn_in is not set".to_owned();
            document.contradicts(key, what, "\"burn_in\" only with policy.recurrent.burn_in".to_owned());
        }
        (None, Some(burn_in)) => {
            let what = "has no effect, as neither on_miss nor on_gap is \"burn_in\"".to_owned();
            document.contradicts(burn_in, what, "a length only with \"burn_in\"".to_owned());
        }
        _ => {}
    }
    RecurrentConfig { on_miss: rule(keys[0]), on_gap: rule(keys[1]) }
}

/// A guard on the engine's own core could not run before the engine is done.
fn guard(document: &Document<'_>, raw: &Raw) -> DeadlineGuardConfig {
    let core = &raw.guard.core;
    if let (Some(own), Some(engine)) = (core.value, &raw.engine.core)
        && own == engine.value
    {
        let what = "the engine's own core, on which it could not step in".to_owned();
        document.contradicts(core, what, format!("another core than {}", named(engine)));
    }
    DeadlineGuardConfig { core: core.value.map(|core| core as usize), wake: raw.guard.wake.value }
}

/// The hang timeout must be longer than the deadline.
fn hang_timeout(document: &Document<'_>, deadline: &keys::Deadline) -> Nanos {
    let (timeout, end_to_end) = (&deadline.hang_timeout_ms, &deadline.end_to_end_us);
    if timeout.value * 1_000 <= end_to_end.value {
        if timeout.place.is_some() {
            let what = format!("not longer than {}", named(end_to_end));
            document.contradicts(timeout, what, format!("more than {}", end_to_end.value / 1_000));
        } else {
            let what = format!("not shorter than {}", named(timeout));
            document.contradicts(end_to_end, what, format!("less than {}", timeout.value * 1_000));
        }
    }
    Nanos::from_millis(timeout.value)
}

type ActionParts = (Bounds, Box<[f32]>, Box<[f32]>);

fn action(document: &Document<'_>, action: &keys::Action) -> Option<ActionParts> {
    let dimension = action.dimension.value as usize;
    let bounds = bounds(document, dimension, &action.low, &action.high);
    let safe_default = elements(document, dimension, &action.safe_default, bounds.as_ref());
    let neutral = match &action.neutral {
        Some(neutral) => elements(document, dimension, neutral, bounds.as_ref()),
        None => safe_default.clone(),
    };
    Some((bounds?, safe_default?, neutral?))
}

/// Returns the limits of every element. Each lower limit must be at most the upper one.
fn bounds(
    document: &Document<'_>,
    dimension: usize,
    low: &Setting<Numbers>,
    high: &Setting<Numbers>,
) -> Option<Bounds> {
    let (lows, highs) = (spread(document, dimension, low)?, spread(document, dimension, high)?);
    let inverted = lows.iter().zip(&highs).position(|(low, high)| low > high);
    let Some(index) = inverted else { return Bounds::new(lows, highs) };
    // Reported at the limit that is written for this element alone, if there is one.
    let (at, other, side, bound) = match (&low.value, &high.value) {
        (Numbers::Every(_), Numbers::Each(_)) => (high, low, "below", lows[index]),
        _ => (low, high, "above", highs[index]),
    };
    let other = match other.value {
        Numbers::Every(_) => other.path.clone(),
        Numbers::Each(_) => format!("{}[{index}]", other.path),
    };
    let what = format!("{side} {other} = {bound}");
    let allowed = format!("at {} {bound}", if side == "above" { "most" } else { "least" });
    match &at.value {
        Numbers::Every(_) => document.contradicts(at, what, allowed),
        Numbers::Each(each) => document.element_contradicts(&at.path, (index, &each[index].1), what, allowed),
    }
    None
}

/// Returns one number for each element.
fn spread(document: &Document<'_>, dimension: usize, setting: &Setting<Numbers>) -> Option<Vec<f32>> {
    match &setting.value {
        Numbers::Every(value) => Some(vec![*value; dimension]),
        Numbers::Each(each) if each.len() == dimension => {
            Some(each.iter().map(|(value, _)| *value).collect())
        }
        Numbers::Each(each) => {
            wrong_length(document, setting, each.len(), dimension);
            None
        }
    }
}

/// Returns one number for each element. They must be within the bounds, if those are known.
fn elements(
    document: &Document<'_>,
    dimension: usize,
    setting: &Setting<Vec<(f32, Place)>>,
    bounds: Option<&Bounds>,
) -> Option<Box<[f32]>> {
    if setting.value.len() != dimension {
        wrong_length(document, setting, setting.value.len(), dimension);
        return None;
    }
    let mut within = true;
    for (index, (value, place)) in setting.value.iter().enumerate() {
        let Some((low, high)) = bounds.map(|bounds| bounds.of(index)) else { continue };
        if !(low..=high).contains(value) {
            let what = "outside action.low and action.high".to_owned();
            let allowed = format!("{low} to {high}");
            document.element_contradicts(&setting.path, (index, place), what, allowed);
            within = false;
        }
    }
    within.then(|| setting.value.iter().map(|(value, _)| *value).collect())
}

fn wrong_length<T>(document: &Document<'_>, setting: &Setting<T>, found: usize, dimension: usize) {
    let table = setting.path.split('.').next().unwrap_or_default();
    let what = format!("length {found}, but {table}.dimension = {dimension}");
    document.contradicts(setting, what, format!("an array of length {dimension}"));
}

fn deadline(document: &Document<'_>, raw: &Raw) -> (Deadlines, BudgetSpec) {
    let deadline = &raw.deadline;
    let (inference, end_to_end) = (&deadline.inference_us, &deadline.end_to_end_us);
    if end_to_end.value < inference.value {
        // The tick contains the call, so the call could never miss its own deadline alone.
        if end_to_end.place.is_some() {
            let what = format!("less than {}", named(inference));
            document.contradicts(end_to_end, what, format!("{} or more", inference.value));
        } else {
            let what = format!("more than {}", named(end_to_end));
            document.contradicts(inference, what, format!("{} or less", end_to_end.value));
        }
    }
    if let (Some(place), OnMiss::SafeDefault) =
        (document.place_of_table("deadline.budget"), deadline.on_miss.value)
    {
        let what = "has no effect, as deadline.on_miss = \"safe_default\" never halts on a miss".to_owned();
        let allowed = Some("a budget only with deadline.on_miss = \"halt\"".to_owned());
        // A table with its own heading is shown by its name alone.
        let value = document.written(&place).filter(|text| !text.starts_with('['));
        document.note("deadline.budget", place.start, value, what, allowed);
    }
    let deadlines = Deadlines {
        inference: Nanos::from_micros(inference.value),
        end_to_end: Nanos::from_micros(end_to_end.value),
        max_age: deadline.max_age_us.as_ref().map(|age| Nanos::from_micros(age.value)),
    };
    (deadlines, budget(document, &raw.miss_budget.misses, &raw.miss_budget.window))
}

fn budget(document: &Document<'_>, misses: &Setting<u64>, window: &Setting<u64>) -> BudgetSpec {
    if misses.value >= window.value {
        // Even a window full of failures would not exceed it.
        if misses.place.is_some() {
            let what = format!("never exceeded, with {}", named(window));
            document.contradicts(misses, what, format!("less than {}", window.value));
        } else {
            let what = format!("too short for {}", named(misses));
            document.contradicts(window, what, format!("more than {}", misses.value));
        }
    }
    BudgetSpec { misses: misses.value as u32, window: window.value as u32 }
}

fn engine(document: &Document<'_>, engine: &keys::Engine) -> EngineConfig {
    let sleep_us = engine.idle_sleep_us.as_ref();
    let idle = match engine.idle.value {
        IdleWord::Spin => IdleStrategy::Spin,
        IdleWord::Pause => IdleStrategy::Pause,
        IdleWord::Backoff => IdleStrategy::Backoff {
            sleep: Duration::from_micros(sleep_us.map_or(DEFAULT_IDLE_SLEEP_US, |sleep| sleep.value)),
        },
    };
    if let (Some(sleep), IdleWord::Spin | IdleWord::Pause) = (sleep_us, engine.idle.value) {
        let what = "has no effect, as engine.idle never sleeps".to_owned();
        document.contradicts(sleep, what, "a sleep only with engine.idle = \"backoff\"".to_owned());
    }
    EngineConfig {
        core: engine.core.as_ref().map(|core| core.value as usize),
        idle,
        realtime_priority: engine.realtime_priority.as_ref().map(|priority| priority.value as u8),
        lock_memory: engine.lock_memory.value,
    }
}

/// Returns the text for a setting in a message about another one.
fn named(setting: &Setting<u64>) -> String {
    let origin = if setting.place.is_none() { " (the default)" } else { "" };
    format!("{} = {}{origin}", setting.path, setting.value)
}
