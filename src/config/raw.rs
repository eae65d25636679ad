//! Every key of the file, each right in itself: its type, range and default stand here and nowhere else. What they
//! must be to each other is the business of `checked`.

use super::document::{Document, Setting, Table};
use super::rule::{
    Choice, Elements, Flag, Limits, Number, Numbers, Place, PowerOfTwo, Text, Texts, Whole, WholeOr,
};
use crate::bundle::is_public_key;
use crate::policy::{Backend, Precision};
use escapement_engine::{Backlog, BudgetSpec, GuardWake, InputCheckMode, OnFull, OnGap, OnMiss};
use escapement_ring::ring::{MAX_CAPACITY, MIN_CAPACITY};
use escapement_ring::wire::MAX_DIMENSION;

pub(super) struct Raw {
    pub(super) agent: Agent,
    pub(super) policy: Policy,
    pub(super) observation: Observation,
    pub(super) input_guard: InputGuard,
    pub(super) recurrent: Recurrent,
    pub(super) fallback: Option<Setting<String>>,
    pub(super) guard: Guard,
    pub(super) action: Action,
    pub(super) deadline: Deadline,
    pub(super) errors: Budget,
    pub(super) engine: Engine,
    pub(super) warm_up: WarmUp,
}

pub(super) struct Agent {
    pub(super) name: Setting<String>,
    pub(super) root: Option<Setting<String>>,
    pub(super) state_root: Option<Setting<String>>,
    pub(super) strict: Setting<bool>,
    pub(super) drain_timeout_ms: Setting<u64>,
    pub(super) log: Setting<String>,
}

pub(super) struct Policy {
    pub(super) place: Option<Place>,
    pub(super) path: Option<Setting<String>>,
    pub(super) backend: Setting<Backend>,
    pub(super) weights: Setting<Precision>,
    pub(super) require_signature: Setting<bool>,
    pub(super) public_keys: Setting<Vec<String>>,
    pub(super) deterministic: Setting<bool>,
    pub(super) seed: Option<Setting<u64>>,
    pub(super) load_timeout_ms: Setting<u64>,
    pub(super) allow_unsandboxed_torch: Setting<bool>,
}

pub(super) struct InputGuard {
    pub(super) mode: Setting<InputCheckMode>,
    pub(super) deviations: Setting<f64>,
}

/// What is said about carried state here, in place of the bundle.
pub(super) struct Recurrent {
    pub(super) on_miss: Option<Setting<State>>,
    pub(super) on_gap: Option<Setting<State>>,
    pub(super) burn_in: Option<Setting<u64>>,
}

/// The word for what becomes of carried state; how long a burn-in lasts is a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Keep,
    Reset,
    BurnIn,
}

/// Of the guard that answers at the deadline.
pub(super) struct Guard {
    pub(super) core: Setting<Option<u64>>,
    pub(super) wake: Setting<GuardWake>,
}

pub(super) struct Observation {
    pub(super) dimension: Setting<u64>,
    pub(super) capacity: Setting<u64>,
    pub(super) backlog: Setting<Backlog>,
    pub(super) on_gap: Setting<OnGap>,
    pub(super) low: Setting<Numbers>,
    pub(super) high: Setting<Numbers>,
}

pub(super) struct Action {
    pub(super) dimension: Setting<u64>,
    pub(super) capacity: Setting<u64>,
    pub(super) low: Setting<Numbers>,
    pub(super) high: Setting<Numbers>,
    pub(super) safe_default: Setting<Vec<(f32, Place)>>,
    pub(super) neutral: Option<Setting<Vec<(f32, Place)>>>,
    pub(super) on_full: Setting<OnFull>,
}

pub(super) struct Deadline {
    pub(super) enforce: Setting<bool>,
    pub(super) inference_us: Setting<u64>,
    pub(super) end_to_end_us: Setting<u64>,
    pub(super) max_age_us: Option<Setting<u64>>,
    pub(super) hang_timeout_ms: Setting<u64>,
    pub(super) on_miss: Setting<OnMiss>,
    pub(super) budget: Budget,
}

pub(super) struct Budget {
    /// Where its table stands; `None` where all of it is default.
    pub(super) place: Option<Place>,
    pub(super) misses: Setting<u64>,
    pub(super) window: Setting<u64>,
}

pub(super) struct Engine {
    pub(super) core: Option<Setting<u64>>,
    pub(super) idle: Setting<Idle>,
    pub(super) idle_sleep_us: Option<Setting<u64>>,
    pub(super) realtime_priority: Option<Setting<u64>>,
    pub(super) lock_memory: Setting<bool>,
}

/// The word for an idle strategy; how long `Backoff` sleeps is a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    Spin,
    Pause,
    Backoff,
}

pub(super) struct WarmUp {
    pub(super) round_calls: Setting<u64>,
    pub(super) limit_ms: Setting<u64>,
    pub(super) quantile: Setting<f64>,
}

const DIMENSION: Whole = Whole(1, MAX_DIMENSION as u64);
const CAPACITY: PowerOfTwo = PowerOfTwo(MIN_CAPACITY, MAX_CAPACITY);
const DEFAULT_CAPACITY: u64 = 4096;
/// Keys that may sign bundles; a list that nobody can look through is no list.
const MAX_PUBLIC_KEYS: usize = 16;
const CORE: Whole = Whole(0, 1_023);
/// A deadline beyond ten seconds is none: the machine would rather be slow than late.
const DEADLINE_US: Whole = Whole(1, 10_000_000);

/// Reads every key, and notes those that are wrong or unknown. `None` only where a problem was noted.
pub(super) fn read(document: &Document<'_>) -> Option<Raw> {
    let agent = agent(&document.table("agent"));
    let policy_table = document.table("policy");
    let policy = policy(&policy_table);
    let recurrent = recurrent(&policy_table.table("recurrent"));
    let fallback = document.table("fallback").optional("bundle", Text { form: "a path", fits: is_path });
    let observation_table = document.table("observation");
    let observation = observation(&observation_table);
    let input_guard = input_guard(&observation_table.table("guard"));
    let action = action(&document.table("action"));
    let deadline = deadline(&document.table("deadline"));
    let errors = budget(&document.table("errors").table("budget"), ERROR_BUDGET);
    let engine = engine(&document.table("engine"));
    let guard = guard(&document.table("guard"));
    let warm_up = warm_up(&document.table("warm_up"));
    document.refuse_unknown();
    let raw = Raw {
        agent: agent?,
        policy,
        observation: observation?,
        input_guard,
        recurrent,
        fallback,
        guard,
        action: action?,
        deadline,
        errors,
        engine,
        warm_up,
    };
    document.is_good().then_some(raw)
}

fn agent(table: &Table<'_, '_>) -> Option<Agent> {
    let name = table.required(
        "name",
        Text { form: "1 to 64 of a-z, 0-9, _ and -, the first a letter or digit", fits: is_name },
    );
    let root = table.optional("root", Text { form: "an absolute path", fits: is_absolute_path });
    let state_root = table.optional("state_root", Text { form: "an absolute path", fits: is_absolute_path });
    let strict = table.or("strict", Flag, false);
    let drain_timeout_ms = table.or("drain_timeout_ms", Whole(0, 60_000), 1_000);
    let log = table.or(
        "log",
        Text {
            form: "off, error, warn, info, debug or trace, or several as in \"info,escapement::engine=debug\"",
            fits: is_log_filter,
        },
        "info".to_owned(),
    );
    Some(Agent { name: name?, root, state_root, strict, drain_timeout_ms, log })
}

fn policy(table: &Table<'_, '_>) -> Policy {
    const BACKENDS: &[(&str, Backend)] = &[
        (Backend::Auto.name(), Backend::Auto),
        (Backend::Native.name(), Backend::Native),
        (Backend::Torch.name(), Backend::Torch),
        (Backend::Null.name(), Backend::Null),
    ];
    const WEIGHTS: &[(&str, Precision)] =
        &[(Precision::F32.name(), Precision::F32), (Precision::Bf16.name(), Precision::Bf16)];
    Policy {
        place: table.place.clone(),
        path: table.optional("path", Text { form: "a path", fits: is_path }),
        backend: table.or("backend", Choice(BACKENDS), Backend::Auto),
        weights: table.or("weights", Choice(WEIGHTS), Precision::F32),
        require_signature: table.or("require_signature", Flag, false),
        public_keys: table.or(
            "public_keys",
            Texts { form: "minisign public keys", fits: is_public_key, most: MAX_PUBLIC_KEYS },
            Vec::new(),
        ),
        deterministic: table.or("deterministic", Flag, true),
        seed: table.optional("seed", Whole(0, i64::MAX as u64)),
        load_timeout_ms: table.or("load_timeout_ms", Whole(100, 3_600_000), 60_000),
        allow_unsandboxed_torch: table.or("allow_unsandboxed_torch", Flag, false),
    }
}

fn recurrent(table: &Table<'_, '_>) -> Recurrent {
    const STATES: &[(&str, State)] =
        &[("keep", State::Keep), ("reset", State::Reset), ("burn_in", State::BurnIn)];
    Recurrent {
        on_miss: table.optional("on_miss", Choice(STATES)),
        on_gap: table.optional("on_gap", Choice(STATES)),
        burn_in: table.optional("burn_in", Whole(1, 100_000)),
    }
}

fn guard(table: &Table<'_, '_>) -> Guard {
    const WAKES: &[(&str, GuardWake)] = &[("spin", GuardWake::Spin), ("sleep", GuardWake::Sleep)];
    Guard {
        core: table.or("core", WholeOr(CORE, "any"), None),
        wake: table.or("wake", Choice(WAKES), GuardWake::Sleep),
    }
}

fn input_guard(table: &Table<'_, '_>) -> InputGuard {
    const MODES: &[(&str, InputCheckMode)] = &[
        ("off", InputCheckMode::Off),
        ("count", InputCheckMode::Count),
        ("clamp", InputCheckMode::Clamp),
        ("safe_default", InputCheckMode::SafeDefault),
    ];
    InputGuard {
        mode: table.or("mode", Choice(MODES), InputCheckMode::Count),
        deviations: table.or("deviations", Number(0.5, 1_000.0), 10.0),
    }
}

fn observation(table: &Table<'_, '_>) -> Option<Observation> {
    let dimension = table.required("dimension", DIMENSION);
    let capacity = table.or("capacity", CAPACITY, DEFAULT_CAPACITY);
    let backlog = table.or(
        "backlog",
        Choice(&[("every", Backlog::Every), ("latest", Backlog::Latest)]),
        Backlog::Every,
    );
    let on_gap = table.or(
        "on_gap",
        Choice(&[("safe_default", OnGap::SafeDefault), ("count", OnGap::Count)]),
        OnGap::SafeDefault,
    );
    // A lower limit of inf or an upper one of -inf would let nothing pass.
    let low = Limits { which: "a finite number or -inf", fits: |low| low < f32::INFINITY };
    let high = Limits { which: "a finite number or inf", fits: |high| high > f32::NEG_INFINITY };
    let low = table.or("low", low, Numbers::Every(f32::NEG_INFINITY));
    let high = table.or("high", high, Numbers::Every(f32::INFINITY));
    Some(Observation { dimension: dimension?, capacity, backlog, on_gap, low, high })
}

fn action(table: &Table<'_, '_>) -> Option<Action> {
    // Finite, because a bound that bounds nothing would hide that nobody thought about one.
    let limit = || Limits { which: "a finite number", fits: f32::is_finite };
    let dimension = table.required("dimension", DIMENSION);
    let capacity = table.or("capacity", CAPACITY, DEFAULT_CAPACITY);
    let low = table.required("low", limit());
    let high = table.required("high", limit());
    let safe_default = table.required("safe_default", Elements);
    let neutral = table.optional("neutral", Elements);
    let on_full =
        table.or("on_full", Choice(&[("halt", OnFull::Halt), ("drop", OnFull::Drop)]), OnFull::Halt);
    Some(Action {
        dimension: dimension?,
        capacity,
        low: low?,
        high: high?,
        safe_default: safe_default?,
        neutral,
        on_full,
    })
}

fn deadline(table: &Table<'_, '_>) -> Deadline {
    Deadline {
        enforce: table.or("enforce", Flag, true),
        inference_us: table.or("inference_us", DEADLINE_US, 100),
        end_to_end_us: table.or("end_to_end_us", DEADLINE_US, 100),
        max_age_us: table.optional("max_age_us", Whole(1, 60_000_000)),
        hang_timeout_ms: table.or("hang_timeout_ms", Whole(1, 600_000), 1_000),
        on_miss: table.or(
            "on_miss",
            Choice(&[("halt", OnMiss::Halt), ("safe_default", OnMiss::SafeDefault)]),
            OnMiss::Halt,
        ),
        budget: budget(&table.table("budget"), BudgetSpec::NONE),
    }
}

const ERROR_BUDGET: BudgetSpec = BudgetSpec { misses: 10, window: 1_000 };

fn budget(table: &Table<'_, '_>, default: BudgetSpec) -> Budget {
    const WINDOW: u64 = BudgetSpec::MAX_WINDOW as u64;
    Budget {
        place: table.place.clone(),
        misses: table.or("misses", Whole(0, WINDOW - 1), default.misses.into()),
        window: table.or("window", Whole(1, WINDOW), default.window.into()),
    }
}

fn engine(table: &Table<'_, '_>) -> Engine {
    Engine {
        core: table.optional("core", CORE),
        idle: table.or(
            "idle",
            Choice(&[("spin", Idle::Spin), ("pause", Idle::Pause), ("backoff", Idle::Backoff)]),
            Idle::Pause,
        ),
        idle_sleep_us: table.optional("idle_sleep_us", Whole(1, 100_000)),
        realtime_priority: table.optional("realtime_priority", Whole(1, 99)),
        lock_memory: table.or("lock_memory", Flag, true),
    }
}

fn warm_up(table: &Table<'_, '_>) -> WarmUp {
    WarmUp {
        round_calls: table.or("round_calls", Whole(1, 1_000_000), 2_000),
        limit_ms: table.or("limit_ms", Whole(1, 600_000), 2_000),
        quantile: table.or("quantile", Number(0.5, 1.0), 0.99),
    }
}

/// Names become directories, lock files and systemd instances: no dot, slash or sign that one of them reads otherwise.
fn is_name(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=64).contains(&text.len())
        && text.bytes().all(allowed)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

fn is_absolute_path(text: &str) -> bool {
    is_path(text) && text.starts_with('/')
}

/// A filter that means what it says. `tracing-subscriber` takes a misspelt level for the name of a module and then
/// logs nothing at all; here a word alone must be a level.
fn is_log_filter(text: &str) -> bool {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    let is_module = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    text.split(',').all(|directive| match directive.split_once('=') {
        None => LEVELS.contains(&directive),
        Some((module, level)) => is_module(module) && LEVELS.contains(&level),
    })
}
