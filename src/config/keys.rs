//! The table of keys: one entry for each key of the file.
//!
//! An entry holds everything that is decided for its key alone: name, type, range or words, default, what a
//! reload does with a change, whether the text of `check` shows it, and where its value stands in
//! [`AgentConfig`]. From the table, `config_keys!` makes the reader of the file, the list for messages, the
//! JSON of `check`, and the part of a reload that says which keys wait for a restart.
//!
//! To add a key:
//! 1. Add its entry here. A part that is missing does not compile.
//! 2. Use its value in `checked`. A value that nothing uses is an unused field, which the compiler reports.
//! 3. Explain it in `config/agent.toml`. A test compares that file with this table.
//! 4. If `text` is `shown`, print it in `cli/check.rs`. A test changes every key and compares the output.

use super::built::{AgentConfig, OnFilesLost, OnGatewayLost};
use super::document::{Document, Setting, Table};
use super::entry::{
    CheckText, Key, Presence, Reload, check_text, config_keys, given, presence, read_key, reload, setting,
};
use super::form::{is_absolute_path, is_log_filter, is_name, is_path};
use super::rule::{
    Elements, Flag, Limits, Number, Numbers, Place, PowerOfTwo, Rule, Text, Texts, Whole, WholeOr, one_of,
};
use super::shown::{limits, numbers};
use super::words::{CarryWord, IdleWord, burn_in, idle_sleep_us, keep_warm_us};
use crate::bundle::{MAX_BURN_IN, is_public_key};
use crate::policy::{Backend, Weights};
use escapement_engine::{Backlog, BudgetSpec, GuardWake, InputCheckMode, OnFull, OnGap, OnMiss};
use escapement_ring::ring::{MAX_CAPACITY, MIN_CAPACITY};
use escapement_ring::wire::MAX_DIMENSION;
use serde_json::json;

const DIMENSION: Whole = Whole(1, MAX_DIMENSION as u64);
const CAPACITY: PowerOfTwo = PowerOfTwo(MIN_CAPACITY, MAX_CAPACITY);
const DEFAULT_CAPACITY: u64 = 4096;
const NAME: Text = Text { form: "1 to 64 of a-z, 0-9, _ and -, the first a letter or digit", fits: is_name };
const PATH: Text = Text { form: "a path", fits: is_path };
const ABSOLUTE_PATH: Text = Text { form: "an absolute path", fits: is_absolute_path };
const LOG_FILTER: Text = Text {
    form: "off, error, warn, info, debug or trace, or several as in \"info,escapement::daemon=debug\"",
    fits: is_log_filter,
};
/// At most 16 keys, so that a person can check the whole list.
const PUBLIC_KEYS: Texts = Texts { form: "minisign public keys", fits: is_public_key, most: 16 };
const CORE: Whole = Whole(0, 1_023);
/// Deadlines above 10 s are rejected: they are almost certainly a unit mistake.
const DEADLINE_US: Whole = Whole(1, 10_000_000);
const BUDGET_MISSES: Whole = Whole(0, BudgetSpec::MAX_WINDOW as u64 - 1);
const BUDGET_WINDOW: Whole = Whole(1, BudgetSpec::MAX_WINDOW as u64);
/// A lower limit of inf, like an upper one of -inf, would refuse every observation.
const FEATURE_LOW: Limits = Limits { which: "a finite number or -inf", fits: |low| low < f32::INFINITY };
const FEATURE_HIGH: Limits =
    Limits { which: "a finite number or inf", fits: |high| high > f32::NEG_INFINITY };
/// Finite: an infinite limit would hide that no limit was chosen.
const ACTION_LIMIT: Limits = Limits { which: "a finite number", fits: f32::is_finite };

config_keys! {
    /// The agent and its process.
    ["agent"] agent: Agent {
        /// The agent's name: its directory below the root, and its systemd instance.
        name: String = required(NAME);
            reload refused name, text shown, json |config| config.name;
        /// The directory that holds the agents' directories.
        root: String = optional(ABSOLUTE_PATH);
            reload refused root, text shown, json |config| config.root;
        /// The directory that holds the agents' state directories.
        state_root: String = optional(ABSOLUTE_PATH);
            reload refused state_root, text shown, json |config| config.state_root;
        /// Whether the agent refuses to start on a machine that cannot give what is asked for.
        strict: bool = default(Flag, false);
            reload restart strict, text shown, json |config| config.strict;
        /// How long a drain may take.
        drain_timeout_ms: u64 = default(Whole(0, 60_000), 1_000);
            reload next_tick, text shown, json |config| config.drain_timeout.0 / 1_000_000;
        /// What a removed or replaced file of the running agent leads to.
        on_files_lost: OnFilesLost = default(one_of::<OnFilesLost>(), OnFilesLost::Halt);
            reload next_tick, text shown, json |config| config.on_files_lost.name();
        /// The filter of the log.
        log: String = default(LOG_FILTER, "info".to_owned());
            reload restart log, text shown, json |config| config.log;
    }

    /// The policy and what runs it.
    ["policy"] policy: Policy {
        /// The policy: a bundle directory, or a TorchScript file. Required, except with the backend `null`.
        path: String = optional(PATH);
            reload next_tick, text shown, json |config| config.policy.source.path();
        /// What runs the policy.
        backend: Backend = default(one_of::<Backend>(), Backend::Auto);
            reload next_tick, text shown, json |config| config.policy.backend.name();
        /// How the native backend holds the weights.
        weights: Weights = default(one_of::<Weights>(), Weights::F32);
            reload next_tick, text shown, json |config| config.policy.weights.name();
        /// Whether a bundle must have a good signature.
        require_signature: bool = default(Flag, false);
            reload next_tick, text shown, json |config| config.policy.trust.require_signature;
        /// The keys whose signatures are good.
        public_keys: Vec<String> = default(PUBLIC_KEYS, Vec::new());
            reload next_tick, text shown, json |config| config.policy.trust.public_keys;
        /// Whether actions are the deterministic ones, without noise.
        deterministic: bool = default(Flag, true);
            reload next_tick, text shown, json |config| config.policy.deterministic;
        /// The seed of the noise.
        seed: u64 = optional(Whole(0, i64::MAX as u64));
            reload next_tick, text shown, json |config| config.policy.seed;
        /// How long loading may take, golden vectors included.
        load_timeout_ms: u64 = default(Whole(100, 3_600_000), 60_000);
            reload next_tick, text omitted, json |config| config.policy.load_timeout.as_millis() as u64;
        /// Whether libtorch may run where the kernel cannot take write access away from it.
        allow_unsandboxed_torch: bool = default(Flag, false);
            reload next_tick, text omitted, json |config| config.policy.allow_unsandboxed_torch;
    }

    /// What happens to carried state, where the file and not the bundle decides.
    ["policy.recurrent"] recurrent: Recurrent {
        /// At a tick whose action was not the policy's.
        on_miss: CarryWord = optional(one_of::<CarryWord>());
            reload next_tick, text omitted,
            json |config| config.policy.recurrent.on_miss.map(|carry| CarryWord::of(carry).name());
        /// At a break in the feed's sequence, and where observations were skipped.
        on_gap: CarryWord = optional(one_of::<CarryWord>());
            reload next_tick, text omitted,
            json |config| config.policy.recurrent.on_gap.map(|carry| CarryWord::of(carry).name());
        /// How many observations a burn-in lasts.
        burn_in: u64 = optional(Whole(1, MAX_BURN_IN as u64));
            reload next_tick, text omitted, json |config| burn_in(&config.policy.recurrent);
    }

    /// The policy that answers where the main one fails.
    ["fallback"] fallback: Fallback {
        /// A bundle directory, or a TorchScript file.
        bundle: String = optional(PATH);
            reload next_tick, text shown, json |config| config.policy.fallback;
    }

    /// Observations and their ring.
    ["observation"] observation: Observation {
        /// Features of one observation.
        dimension: u64 = required(DIMENSION);
            reload refused dimensions.observation, text shown, json |config| config.dimensions.observation;
        /// Slots of the observation ring.
        capacity: u64 = default(CAPACITY, DEFAULT_CAPACITY);
            reload restart observation_capacity, text shown, json |config| config.observation_capacity;
        /// Which of several waiting observations are answered.
        backlog: Backlog = default(one_of::<Backlog>(), Backlog::Every);
            reload next_tick, text shown, json |config| config.settings.backlog.name();
        /// What a break in the feed's sequence numbers leads to.
        on_gap: OnGap = default(one_of::<OnGap>(), OnGap::SafeDefault);
            reload next_tick, text shown, json |config| config.settings.on_gap.name();
        /// How far a stamp may lie ahead of the agent's clock.
        max_skew_us: u64 = default(Whole(0, 1_000_000), 1_000);
            reload next_tick, text omitted, json |config| config.settings.max_skew.0 / 1_000;
        /// The lower limit of each feature.
        low: Numbers = default(FEATURE_LOW, Numbers::Every(f32::NEG_INFINITY));
            reload next_tick, text shown, json |config| limits(&config.settings.observation_bounds).0;
        /// The upper limit of each feature.
        high: Numbers = default(FEATURE_HIGH, Numbers::Every(f32::INFINITY));
            reload next_tick, text shown, json |config| limits(&config.settings.observation_bounds).1;
    }

    /// The input check: features unlike those of the training.
    ["observation.guard"] input_guard: InputGuard {
        /// What a feature outside its limits leads to.
        mode: InputCheckMode = default(one_of::<InputCheckMode>(), InputCheckMode::Count);
            reload next_tick, text shown, json |config| config.policy.guard.mode.name();
        /// The limit, in standard deviations from the mean of the training.
        deviations: f64 = default(Number(0.5, 1_000.0), 10.0);
            reload next_tick, text shown, json |config| config.policy.guard.deviations;
    }

    /// Actions and their ring.
    ["action"] action: Action {
        /// Elements of one action.
        dimension: u64 = required(DIMENSION);
            reload refused dimensions.action, text shown, json |config| config.dimensions.action;
        /// Slots of the action ring.
        capacity: u64 = default(CAPACITY, DEFAULT_CAPACITY);
            reload restart action_capacity, text shown, json |config| config.action_capacity;
        /// The lower limit of each element.
        low: Numbers = required(ACTION_LIMIT);
            reload next_tick, text shown, json |config| limits(&config.settings.action_bounds).0;
        /// The upper limit of each element.
        high: Numbers = required(ACTION_LIMIT);
            reload next_tick, text shown, json |config| limits(&config.settings.action_bounds).1;
        /// What is sent instead of an action of the policy that is late, wrong or missing.
        safe_default: Vec<(f32, Place)> = required(Elements);
            reload next_tick, text shown, json |config| numbers(&config.settings.safe_default);
        /// What the last record before a halt carries.
        neutral: Vec<(f32, Place)> = optional(Elements);
            reload next_tick, text shown, json |config| numbers(&config.settings.neutral);
        /// What happens when the action ring is full.
        on_full: OnFull = default(one_of::<OnFull>(), OnFull::Halt);
            reload next_tick, text shown, json |config| config.settings.on_full.name();
    }

    /// The gateway's life.
    ["gateway"] gateway: Gateway {
        /// What a gateway whose heartbeat has stopped leads to.
        on_lost: OnGatewayLost = default(one_of::<OnGatewayLost>(), OnGatewayLost::Keep);
            reload next_tick, text shown, json |config| config.gateway.on_lost.name();
        /// The age of its heartbeat at which it counts as lost.
        lost_after_ms: u64 = default(Whole(10, 600_000), 1_000);
            reload next_tick, text shown, json |config| config.gateway.lost_after.0 / 1_000_000;
    }

    /// Deadlines and what a miss leads to.
    ["deadline"] deadline: Deadline {
        /// Whether deadlines decide anything.
        enforce: bool = default(Flag, true);
            reload next_tick, text shown, json |config| config.settings.enforce;
        /// From the policy called to the policy returned.
        inference_us: u64 = default(DEADLINE_US, 100);
            reload next_tick, text shown, json |config| config.settings.deadlines.inference.0 / 1_000;
        /// From the observation taken out of its ring to its action about to be committed.
        end_to_end_us: u64 = default(DEADLINE_US, 100);
            reload next_tick, text shown, json |config| config.settings.deadlines.end_to_end.0 / 1_000;
        /// From the observation committed by the feed to taken out of its ring.
        max_age_us: u64 = optional(Whole(1, 60_000_000));
            reload next_tick, text shown,
            json |config| config.settings.deadlines.max_age.map(|age| age.0 / 1_000);
        /// How long a call of the policy may take before it counts as hung.
        hang_timeout_ms: u64 = default(Whole(1, 600_000), 1_000);
            reload restart hang_timeout, text shown, json |config| config.hang_timeout.0 / 1_000_000;
        /// What a missed deadline leads to.
        on_miss: OnMiss = default(one_of::<OnMiss>(), OnMiss::Halt);
            reload next_tick, text shown, json |config| config.settings.on_miss.name();
    }

    /// The budget of misses.
    ["deadline.budget"] miss_budget: MissBudget {
        /// Misses that do not halt yet.
        misses: u64 = default(BUDGET_MISSES, BudgetSpec::NONE.misses.into());
            reload next_tick, text shown, json |config| config.settings.miss_budget.misses;
        /// The last ticks in which they are counted.
        window: u64 = default(BUDGET_WINDOW, BudgetSpec::NONE.window.into());
            reload next_tick, text shown, json |config| config.settings.miss_budget.window;
    }

    /// The budget of the policy's errors.
    ["errors.budget"] error_budget: ErrorBudget {
        /// Errors that do not halt yet.
        misses: u64 = default(BUDGET_MISSES, 10);
            reload next_tick, text shown, json |config| config.settings.error_budget.misses;
        /// The last ticks in which they are counted.
        window: u64 = default(BUDGET_WINDOW, 1_000);
            reload next_tick, text shown, json |config| config.settings.error_budget.window;
    }

    /// The engine's thread.
    ["engine"] engine: Engine {
        /// The core that it is pinned to.
        core: u64 = optional(CORE);
            reload restart engine.core, text shown, json |config| config.engine.core;
        /// How it waits for the next observation.
        idle: IdleWord = default(one_of::<IdleWord>(), IdleWord::Pause);
            reload restart engine.idle, text shown, json |config| IdleWord::of(&config.engine.idle).name();
        /// How long each sleep of `backoff` lasts.
        idle_sleep_us: u64 = optional(Whole(1, 100_000));
            reload part_of engine.idle, text shown, json |config| idle_sleep_us(&config.engine.idle);
        /// How long it is idle before it runs dry to stay warm.
        keep_warm_us: Option<u64> = default(WholeOr(Whole(0, 1_000_000), "auto"), None);
            reload next_tick, text shown, json |config| keep_warm_us(config.settings.keep_warm);
        /// Its priority under `SCHED_FIFO`.
        realtime_priority: u64 = optional(Whole(1, 99));
            reload restart engine.realtime_priority, text shown,
            json |config| config.engine.realtime_priority;
        /// Whether all memory is locked and prefaulted.
        lock_memory: bool = default(Flag, true);
            reload restart engine.lock_memory, text shown, json |config| config.engine.lock_memory;
    }

    /// The deadline guard, which answers at the deadline.
    ["guard"] guard: Guard {
        /// The core that it is pinned to.
        core: Option<u64> = default(WholeOr(CORE, "any"), None);
            reload restart guard.core, text shown,
            json |config| config.guard.core.map_or(json!("any"), |core| json!(core));
        /// How it waits.
        wake: GuardWake = default(one_of::<GuardWake>(), GuardWake::Sleep);
            reload restart guard.wake, text shown, json |config| config.guard.wake.name();
    }

    /// The warm-up before the agent is armed.
    ["warm_up"] warm_up: WarmUp {
        /// Calls in one round.
        round_calls: u64 = default(Whole(1, 1_000_000), 2_000);
            reload next_tick, text shown, json |config| config.warm_up.round;
        /// The time after which no further round begins.
        limit_ms: u64 = default(Whole(1, 600_000), 2_000);
            reload next_tick, text shown, json |config| config.warm_up.limit.0 / 1_000_000;
        /// The share of a round's calls that are below its tail.
        quantile: f64 = default(Number(0.5, 1.0), 0.99);
            reload next_tick, text shown, json |config| config.warm_up.quantile;
        /// Calls a second of the paced calls.
        rate: u64 = default(Whole(1, 1_000_000), 1_000);
            reload next_tick, text shown, json |config| config.warm_up.paced.rate;
        /// The paced calls after the rounds.
        paced_calls: u64 = default(Whole(0, 1_000_000), 300);
            reload next_tick, text shown, json |config| config.warm_up.paced.calls;
    }
}
