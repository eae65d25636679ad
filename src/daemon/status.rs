//! What the supervisor knows about the agent: the snapshot that SIGUSR1 writes.

use super::candidate::{GuardFigures, Provenance};
use crate::bundle::hex;
use crate::clock::{Nanos, rfc3339, wall_clock_ns};
use crate::config::AgentConfig;
use crate::engine::{TickRecord, WarmUp};
use crate::host::LatchState;
use crate::telemetry::{Counters, Histogram, Percentiles};
use crate::wire::{AgentState, Reason};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// A feed that has been silent for this long counts as lost.
const FEED_LOST_AFTER: Nanos = Nanos::from_millis(1_000);

/// Everything that was gathered since the start.
pub(super) struct Status {
    name: String,
    provenance: Provenance,
    epoch: u64,
    bundle_sha256: String,
    degraded: Vec<String>,
    warm_up: Option<WarmUp>,
    counters: Arc<Counters>,
    queue: Histogram,
    inference: Histogram,
    tick_to_action: Histogram,
    feed: FeedState,
    last_sequence: Option<u64>,
    state: u32,
    since_ns: u64,
}

/// What others say about the agent at the moment of a snapshot.
pub(super) struct Observed {
    /// The state word.
    pub(super) state: (u32, u32),
    /// The engine's heartbeat.
    pub(super) heartbeat: Nanos,
    /// The latch.
    pub(super) latch: LatchState,
}

/// What is known of the feed's life, by its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum FeedState {
    /// It has never been there.
    Absent,
    Alive,
    Lost,
}

#[derive(Serialize)]
struct Snapshot<'a> {
    agent: &'a str,
    state: &'static str,
    /// Since when the supervisor has seen this state.
    since: String,
    reason: &'static str,
    epoch: u64,
    backend: &'static str,
    bundle_sha256: &'a str,
    policy: &'a Provenance,
    input_guard: Option<GuardFigures>,
    degraded: &'a [String],
    feed: FeedState,
    warm_up: Option<WarmUpFigures>,
    counters: crate::telemetry::CounterSnapshot,
    latency_ns: Latencies,
    /// The last observation that was answered.
    last_sequence: Option<u64>,
    /// How long the engine has not said that it is alive.
    heartbeat_age_ns: u64,
    /// `null`, or what the latch says.
    latch: Value,
    pid: u32,
    at_ns: u64,
}

#[derive(Serialize)]
struct WarmUpFigures {
    calls: u64,
    tail_ns: u64,
    stable: bool,
    inference_ns: Percentiles,
}

#[derive(Serialize)]
struct Latencies {
    queue: Percentiles,
    inference: Percentiles,
    tick_to_action: Percentiles,
}

impl Status {
    pub(super) fn new(
        config: &AgentConfig,
        provenance: Provenance,
        epoch: u64,
        bundle_hash: &[u8; 32],
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            provenance,
            epoch,
            bundle_sha256: hex(bundle_hash),
            degraded: Vec::new(),
            warm_up: None,
            counters,
            queue: Histogram::new(),
            inference: Histogram::new(),
            tick_to_action: Histogram::new(),
            feed: FeedState::Absent,
            last_sequence: None,
            state: 0,
            since_ns: wall_clock_ns(),
        }
    }

    /// The sequence number answered last.
    pub(super) fn last_sequence(&self) -> Option<u64> {
        self.last_sequence
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn armed(&mut self, warm_up: WarmUp, degraded: Vec<String>) {
        self.warm_up = Some(warm_up);
        self.degraded = degraded;
    }

    /// Takes one tick into the figures. Latencies are those of observations that were answered.
    pub(super) fn note(&mut self, record: &TickRecord) {
        if record.outcome == 0 {
            return;
        }
        self.last_sequence = Some(record.sequence);
        self.queue.record(record.ts_peek_ns.saturating_sub(record.ts_publish_ns));
        self.tick_to_action.record(record.ts_commit_ns.saturating_sub(record.ts_publish_ns));
        if record.inference_ns > 0 {
            self.inference.record(record.inference_ns);
        }
    }

    /// Judges the feed by its heartbeat and logs each change once.
    pub(super) fn watch_feed(&mut self, now: Nanos, heartbeat: Nanos) {
        let state = if heartbeat == Nanos(0) {
            FeedState::Absent
        } else if now.since(heartbeat) > FEED_LOST_AFTER {
            FeedState::Lost
        } else {
            FeedState::Alive
        };
        if state != self.feed {
            match state {
                FeedState::Lost => tracing::warn!(silent_ns = now.since(heartbeat).0, "feed lost"),
                FeedState::Alive => tracing::info!("feed alive"),
                FeedState::Absent => {}
            }
            self.feed = state;
        }
    }

    /// Notes when the state word changed.
    pub(super) fn watch_state(&mut self, state: u32) {
        if state != self.state {
            self.state = state;
            self.since_ns = wall_clock_ns();
        }
    }

    /// Everything, as JSON.
    pub(super) fn snapshot(&mut self, observed: &Observed, now: Nanos) -> Value {
        let (state, reason) = observed.state;
        self.watch_state(state);
        let snapshot = Snapshot {
            agent: &self.name,
            state: AgentState::from_number(state).map_or("unknown", AgentState::name),
            since: rfc3339(self.since_ns),
            reason: u16::try_from(reason).ok().and_then(Reason::from_number).map_or("unknown", Reason::name),
            epoch: self.epoch,
            backend: self.provenance.backend(),
            bundle_sha256: &self.bundle_sha256,
            policy: &self.provenance,
            input_guard: self.provenance.guard_figures(),
            degraded: &self.degraded,
            feed: self.feed,
            warm_up: self.warm_up.map(|warm_up| WarmUpFigures {
                calls: warm_up.calls,
                tail_ns: warm_up.tail.0,
                stable: warm_up.stable,
                inference_ns: warm_up.latency_ns,
            }),
            counters: self.counters.snapshot(),
            latency_ns: Latencies {
                queue: self.queue.percentiles(),
                inference: self.inference.percentiles(),
                tick_to_action: self.tick_to_action.percentiles(),
            },
            last_sequence: self.last_sequence,
            heartbeat_age_ns: now.since(observed.heartbeat).0,
            latch: observed.latch.to_json(),
            pid: std::process::id(),
            at_ns: now.0,
        };
        serde_json::to_value(snapshot).expect("a snapshot has only strings and numbers")
    }
}

/// Writes a snapshot beside the rings, complete or not at all.
pub(super) fn write(path: &Path, snapshot: &Value) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    std::fs::write(&temporary, serde_json::to_vec_pretty(snapshot)?)?;
    std::fs::rename(&temporary, path)
}
