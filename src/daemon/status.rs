//! Gathers what the status page says about the agent.

use super::load::Deployment;
use crate::agent_files::replace_file;
use crate::bundle::hex;
use crate::config::AgentConfig;
use crate::evidence::MissReport;
use crate::halt::LatchState;
use crate::status::{
    DeadlineStatus, FeedState, IntegrityStatus, KeepWarmStatus, LatencyStatus, PacedStatus, PeersStatus,
    ReloadStatus, StatusPage, WarmUpStatus,
};
use escapement_engine::telemetry::{Counters, Histogram, KeepWarmMeter, KeepWarmSnapshot};
use escapement_engine::{KeepWarm, Settings, TickRecord, WarmUp};
use escapement_ring::clock::{Clock, MonotonicClock, Nanos, rfc3339, wall_clock_ns};
use escapement_ring::wire::{AgentState, Reason, StateWord};
use std::path::Path;
use std::sync::Arc;

/// The figures gathered since the start.
pub(super) struct Status {
    name: String,
    epoch: u64,
    degraded: Vec<String>,
    warm_up: Option<WarmUp>,
    counters: Arc<Counters>,
    keep_warm: Option<ArmedMeter>,
    queue: Histogram,
    inference: Histogram,
    tick_to_action: Histogram,
    /// From a deadline to the commit of the guard's action.
    guard_lateness: Histogram,
    last_sequence: Option<u64>,
    state: Option<AgentState>,
    since_ns: u64,
}

/// The figures of the dry runs since the agent was armed.
pub(super) struct ArmedMeter {
    meter: Arc<KeepWarmMeter>,
    before: Box<KeepWarmSnapshot>,
    begun: Nanos,
}

impl ArmedMeter {
    /// Begins now. The engine's thread must call it before it runs the loop.
    pub(super) fn begin(meter: Arc<KeepWarmMeter>) -> Self {
        Self { begun: MonotonicClock.now(), before: Box::new(meter.snapshot()), meter }
    }

    fn status(&self, settings: &Settings, counters: &Counters, now: Nanos) -> KeepWarmStatus {
        let figures = self.meter.snapshot().since(&self.before);
        let elapsed = now.since(self.begun);
        let shortest = settings.deadlines.shortest();
        let typical = Some(figures.typical_ns).filter(|typical| *typical > 0);
        let is_off = settings.keep_warm == KeepWarm::Off;
        let interval = figures.interval_ns.filter(|_| !is_off);
        let too_long = |what: &str, nanos: u64| {
            format!(
                "{what} takes {:.1} us, too much for a deadline of {} us",
                nanos as f64 / 1e3,
                shortest.0 / 1_000
            )
        };
        let why_off = match (figures.too_long_call_ns, typical) {
            _ if is_off || interval.is_some() => None,
            (Some(call), _) => Some(too_long("a call of the policy", call)),
            (None, Some(typical)) => Some(too_long("a dry run", typical)),
            (None, None) => Some("a call of the policy may leave more behind than its states".to_owned()),
        };
        KeepWarmStatus {
            setting: match settings.keep_warm {
                KeepWarm::Off => "off".to_owned(),
                KeepWarm::Auto => "auto".to_owned(),
                KeepWarm::Every(interval) => format!("{} us", interval.0 / 1_000),
            },
            interval_us: interval.map(|interval| interval as f64 / 1e3),
            why_off,
            dry_runs: figures.runs,
            typical_ns: typical,
            longest_ns: figures.longest_ns,
            share_of_time: figures.total_ns as f64 / elapsed.0.max(1) as f64,
            expected_delay_ns: figures.expected_delay_ns(elapsed),
            delayed: figures.delayed,
            mean_delay_ns: figures.delay_ns as f64 / counters.snapshot().observations.max(1) as f64,
        }
    }
}

/// What is read for a status page at the moment when it is made.
pub(super) struct LiveReadings {
    /// The state word.
    pub(super) word: StateWord,
    /// The engine's heartbeat.
    pub(super) heartbeat: Nanos,
    /// The latch.
    pub(super) latch: LatchState,
    /// Misses by cause.
    pub(super) misses: MissReport,
    /// Whether the policy has not returned for most of the hang timeout.
    pub(super) overdue: bool,
    /// The feed.
    pub(super) feed: FeedState,
    /// The gateway, and the rings.
    pub(super) peers: PeersStatus,
    /// What other processes have changed.
    pub(super) integrity: IntegrityStatus,
}

impl Status {
    pub(super) fn new(config: &AgentConfig, epoch: u64, counters: Arc<Counters>) -> Self {
        Self {
            name: config.name.clone(),
            epoch,
            degraded: Vec::new(),
            warm_up: None,
            counters,
            keep_warm: None,
            queue: Histogram::new(),
            inference: Histogram::new(),
            tick_to_action: Histogram::new(),
            guard_lateness: Histogram::new(),
            last_sequence: None,
            state: None,
            since_ns: wall_clock_ns(),
        }
    }

    /// The last sequence number that was answered.
    pub(super) fn last_sequence(&self) -> Option<u64> {
        self.last_sequence
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn armed(&mut self, warm_up: WarmUp, keep_warm: ArmedMeter, degraded: Vec<String>) {
        self.warm_up = Some(warm_up);
        self.keep_warm = Some(keep_warm);
        self.degraded = degraded;
    }

    /// Adds one tick to the figures. Latencies are those of observations that were answered.
    pub(super) fn note(&mut self, record: &TickRecord) {
        let guards = record.reason == Reason::GuardTakeover.number();
        if record.outcome == 0 {
            if guards && record.inference_ns > 0 {
                // The guard has answered for the policy, and now the policy has returned: this is its
                // latency.
                self.inference.record(record.inference_ns);
            }
            return;
        }
        if record.ts_done_ns > 0 {
            self.guard_lateness.record(record.ts_done_ns.saturating_sub(record.deadline_ns));
        }
        self.last_sequence = Some(record.sequence);
        // A stamp ahead of the clock has no latency. Zero would be a wrong one.
        if record.reason != Reason::StampedAhead.number() {
            self.queue.record(record.ts_peek_ns.saturating_sub(record.ts_publish_ns));
            self.tick_to_action.record(record.ts_commit_ns.saturating_sub(record.ts_publish_ns));
        }
        if record.inference_ns > 0 && !guards {
            self.inference.record(record.inference_ns);
        }
    }

    /// Notes the time of a change of the state.
    pub(super) fn watch_state(&mut self, word: StateWord) {
        if word.state != self.state {
            self.state = word.state;
            self.since_ns = wall_clock_ns();
        }
    }

    /// The status page of this moment.
    pub(super) fn page(
        &mut self,
        readings: LiveReadings,
        deployment: &Deployment,
        reloads: ReloadStatus,
        now: Nanos,
    ) -> StatusPage {
        let Deployment { config, sources, provenance } = deployment;
        let settings = &config.settings;
        self.watch_state(readings.word);
        StatusPage {
            agent: self.name.clone(),
            state: readings.word.state_name().to_owned(),
            since: rfc3339(self.since_ns),
            reason: readings.word.reason_name().to_owned(),
            epoch: self.epoch,
            backend: provenance.backend().to_owned(),
            bundle_sha256: hex(&sources.sha256()),
            policy: provenance.status(),
            input_guard: provenance.input_check_status(),
            degraded: self.degraded.clone(),
            feed: readings.feed,
            peers: Some(readings.peers),
            integrity: Some(readings.integrity),
            warm_up: self.warm_up.map(|warm_up| WarmUpStatus {
                calls: warm_up.calls,
                tail_ns: warm_up.tail.0,
                stable: warm_up.stable,
                inference_ns: warm_up.latency_ns,
                paced: warm_up.paced.map(|paced| PacedStatus {
                    tail_ns: paced.tail.0,
                    rate: paced.rate,
                    inference_ns: paced.latency_ns,
                }),
            }),
            keep_warm: self.keep_warm.as_ref().map(|armed| armed.status(settings, &self.counters, now)),
            counters: self.counters.snapshot(),
            deadline: DeadlineStatus {
                enforce: settings.enforce,
                inference_us: settings.deadlines.inference.0 / 1_000,
                end_to_end_us: settings.deadlines.end_to_end.0 / 1_000,
                guard: config.guard.wake.name().to_owned(),
                hang_timeout_ms: config.hang_timeout.0 / 1_000_000,
            },
            misses: readings.misses,
            reloads,
            latency_ns: LatencyStatus {
                queue: self.queue.percentiles(),
                inference: self.inference.percentiles(),
                tick_to_action: self.tick_to_action.percentiles(),
                guard_past_deadline: self.guard_lateness.percentiles(),
            },
            last_sequence: self.last_sequence,
            heartbeat_age_ns: now.since(readings.heartbeat).0,
            overdue: readings.overdue,
            latch: readings.latch,
            pid: std::process::id(),
            at_ns: now.0,
        }
    }
}

/// Writes a status page beside the rings, completely or not at all.
pub(super) fn write(path: &Path, page: &StatusPage) -> std::io::Result<()> {
    replace_file(path, &serde_json::to_vec_pretty(&page.to_json())?)
}
