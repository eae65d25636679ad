//! L5. One agent as a process: the only file that sees every thread.
//!
//! ```text
//!  supervisor (the process's first thread)              engine (the pinned core)
//!  lock, rings, policy ───────── hands over ─────────▶  pin, lock memory, warm up, arm
//!  READY  ◀───────────────── armed, or why not ───────
//!  records, signals, watchdog  ◀──── tick records ────  run()
//!  drain / stop ────────────── command word ─────────▶
//!  exit code  ◀───────────────── how it ended ────────
//! ```

mod candidate;
mod rings;
mod status;

use crate::bundle::BundleError;
use crate::clock::{Clock, MachineClock, MonotonicClock, Nanos};
use crate::config::AgentConfig;
use crate::engine::{
    self, Command, CommandWord, Engine, EngineError, OnMiss, Parts, RunEnd, TickRecord, WarmUp,
};
use crate::host::{
    AgentDirectory, CoreError, DirectoryError, Role, SandboxError, ServiceManager, lock_all_memory, pin_to,
    prefault_stack, use_fifo_scheduler,
};
use crate::policy::{Policy, PolicyError};
use crate::ring::{Consumer, Header, Producer, ProtocolViolation};
use crate::telemetry::Counters;
use crate::wire::{AgentState, Reason};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rings::Rings;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use status::Status;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use rings::RingsError;

/// How an agent ended, where it did not fail to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Drained and stopped, as it was told.
    Stopped,
    /// Halted.
    Halted(Reason),
    /// A peer broke the ring protocol; halted.
    Violated(ProtocolViolation),
    /// The policy did not return when the agent was to stop; halted. The engine's thread still hangs in it.
    Hung,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Its directory, a lock or a ring.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its rings cannot be taken over.
    #[error(transparent)]
    Rings(#[from] RingsError),
    /// Its policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The rings contradict each other.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Its bundle, or what was found in its place.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The input guard is to act on statistics that there are none of.
    #[error(
        "observation.guard.mode = {mode:?}: the policy stands alone, without a manifest that says what its training \
         saw; allowed: \"off\" or \"count\""
    )]
    NoStatistics {
        /// The mode.
        mode: &'static str,
    },
    /// libtorch cannot be confined, and the configuration does not allow it to run free.
    #[error(
        "backend torch is refused, since its write access to the filesystem cannot be taken away: {0}; \
         policy.allow_unsandboxed_torch = true runs it all the same"
    )]
    Unconfined(SandboxError),
    /// The policy did not come back from being loaded.
    #[error("the policy was not loaded within policy.load_timeout_ms = {}: it hangs", limit.as_millis())]
    LoadHung {
        /// How long it had.
        limit: Duration,
    },
    /// The machine refuses what a strict configuration demands.
    #[error("refused, since the configuration is strict: {0}")]
    Strict(String),
    /// A thread or a signal handler cannot be set up.
    #[error("{action}: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// How often the supervisor looks at records and signals.
const SUPERVISOR_PERIOD: Duration = Duration::from_millis(5);
/// How long the engine may take to notice that it is to stop, before its policy counts as hung.
const STOP_GRACE: Nanos = Nanos::from_millis(500);
/// Tick records that fit between two looks of the supervisor: several times what the highest rate makes in one period.
const RECORD_CAPACITY: u64 = 1 << 14;
/// The engine's stack.
const STACK_BYTES: usize = 2 << 20;

/// What the engine's thread reports, in this order.
enum Report {
    Armed { warm_up: WarmUp, degraded: Vec<String> },
    Refused(DaemonError),
    Ended(RunEnd),
}

/// Runs one agent until it stops or halts.
///
/// # Errors
/// When it cannot start; then nothing was answered, and the state word says `stopped`.
pub fn run(config: &AgentConfig) -> Result<End, DaemonError> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGUSR1])
        .map_err(|source| DaemonError::System { action: "install the signal handlers", source })?;
    let directory = AgentDirectory::new(config.root.as_deref(), &config.name);
    directory.create()?;
    let _role = directory.acquire(Role::Daemon)?;
    let rings = Rings::open(&directory, config)?;
    let action_header = rings.actions.header();
    crate::host::Emergency::watch(action_header.clone());
    let result = serve(config, &directory, &rings, &mut signals);
    let (state, _) = action_header.state();
    if AgentState::from_number(state) != Some(AgentState::Halted) {
        action_header.set_state(AgentState::Stopped.number(), Reason::None.number().into());
    }
    result
}

/// Panics in the named thread where a test asks for it; only in builds with debug assertions.
fn panic_if_planted(thread: &str) {
    if cfg!(debug_assertions) && std::env::var("ESCAPEMENT_TEST_PANIC").is_ok_and(|planted| planted == thread)
    {
        panic!("planted in the {thread} thread");
    }
}

fn serve(
    config: &AgentConfig,
    directory: &AgentDirectory,
    rings: &Rings,
    signals: &mut signal_hook::iterator::Signals,
) -> Result<End, DaemonError> {
    let action_header = rings.actions.header();
    let epoch = action_header.epoch() + 1;
    action_header.set_epoch(epoch);
    action_header.beat_producer(MonotonicClock.now().0);
    action_header.set_state(AgentState::Starting.number(), 0);

    let loaded = candidate::load(config)?;
    action_header.set_bundle_hash(&loaded.sha256);
    let counters = Arc::new(Counters::new());
    let (records_in, mut records) = engine::record_ring(RECORD_CAPACITY);
    let commands = Arc::new(CommandWord::new());
    let (reports, inbox) = bounded(4);
    let observation_header = rings.observations.header();
    let parts = EngineParts {
        policy: loaded.policy,
        company: loaded.company,
        observations: Consumer::attach(rings.observations.clone()).map_err(EngineError::from)?,
        observation_header: observation_header.clone(),
        actions: Producer::attach(rings.actions.clone()).map_err(EngineError::from)?,
        action_header: action_header.clone(),
        records: records_in,
        counters: Arc::clone(&counters),
        // A ring does not see four thousand million starts; the frame has 32 bits for them.
        epoch: epoch as u32,
    };
    action_header.set_state(AgentState::Warming.number(), 0);
    let thread = {
        let (config, commands, reports) = (config.clone(), Arc::clone(&commands), reports.clone());
        std::thread::Builder::new()
            .name("engine".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || engine_thread(&config, parts, &commands, &reports))
            .map_err(|source| DaemonError::System { action: "start the engine's thread", source })?
    };

    let mut supervisor = Supervisor {
        status: Status::new(config, loaded.provenance, epoch, &loaded.sha256, counters),
        service: ServiceManager::from_environment(),
        directory,
        action_header,
        observation_header,
        commands: &commands,
        stop_by: None,
    };
    let end = supervisor.supervise(config, &inbox, &mut records, signals);
    if !matches!(end, Ok(End::Hung)) {
        // It has sent its last report; all that is left to it is to return.
        let _ = thread.join();
    }
    end
}

/// What the supervisor hands to the engine's thread; the clock is made there.
struct EngineParts {
    policy: Box<dyn Policy>,
    company: candidate::Company,
    observations: Consumer,
    observation_header: Header,
    actions: Producer,
    action_header: Header,
    records: Producer,
    counters: Arc<Counters>,
    epoch: u32,
}

/// The engine's thread, from its first instruction to its last report.
fn engine_thread(config: &AgentConfig, parts: EngineParts, commands: &CommandWord, reports: &Sender<Report>) {
    let action_header = parts.action_header.clone();
    // The receiver outlives this thread, except where the process is ending anyway.
    let report = |report| drop(reports.send(report));
    match arm(config, parts) {
        Err(error) => report(Report::Refused(error)),
        Ok((mut engine, warm_up, degraded)) => {
            if gate(config, &warm_up) {
                engine.halt(Reason::WarmUpTooSlow);
                report(Report::Armed { warm_up, degraded });
                report(Report::Ended(RunEnd::Halted(Reason::WarmUpTooSlow)));
                return;
            }
            engine.beat(engine.clock().now());
            action_header.set_state(AgentState::Armed.number(), 0);
            report(Report::Armed { warm_up, degraded });
            panic_if_planted("engine");
            let end = engine::run(&mut engine, config.engine.idle, commands);
            if let Some(fault) = engine.last_fault() {
                tracing::warn!(fault, "the policy's latest fault");
            }
            report(Report::Ended(end));
        }
    }
}

/// A policy whose measured tail does not fit the deadline would halt at its first slow call: better not to arm it.
fn gate(config: &AgentConfig, warm_up: &WarmUp) -> bool {
    let settings = &config.settings;
    settings.enforce && settings.on_miss == OnMiss::Halt && warm_up.tail > settings.deadlines.inference
}

/// Makes the calling thread the engine's, and the engine ready.
fn arm(
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

    let EngineParts {
        policy,
        company,
        observations,
        observation_header,
        actions,
        action_header,
        records,
        counters,
        epoch,
    } = parts;
    let mut engine = Engine::new(Parts {
        clock: MachineClock::new(),
        policy,
        observations,
        observation_header,
        actions,
        action_header,
        records,
        counters,
        settings: config.settings.clone(),
        epoch,
    })?;
    company.join(&mut engine);
    let warm_up = engine.warm_up(config.warm_up, |engine| engine.beat(engine.clock().now()))?;
    Ok((engine, warm_up, degraded))
}

/// The supervisor's view of a running agent.
struct Supervisor<'a> {
    status: Status,
    service: ServiceManager,
    directory: &'a AgentDirectory,
    action_header: Header,
    observation_header: Header,
    commands: &'a CommandWord,
    /// When a drain in progress turns into a stop, and a stop into a hang.
    stop_by: Option<Nanos>,
}

impl Supervisor<'_> {
    fn supervise(
        &mut self,
        config: &AgentConfig,
        inbox: &Receiver<Report>,
        records: &mut Consumer,
        signals: &mut signal_hook::iterator::Signals,
    ) -> Result<End, DaemonError> {
        loop {
            let report = inbox.recv_timeout(SUPERVISOR_PERIOD);
            while let Some(record) = TickRecord::take(records) {
                self.status.note(&record);
            }
            match report {
                Ok(Report::Refused(error)) => return Err(error),
                Ok(Report::Armed { warm_up, degraded }) => self.on_armed(warm_up, degraded),
                Ok(Report::Ended(end)) => return Ok(self.on_ended(end)),
                Err(RecvTimeoutError::Timeout) => {}
                // A panic ends the process in its hook, so a silent thread is one that cannot be.
                Err(RecvTimeoutError::Disconnected) => return Ok(self.on_hung()),
            }
            for signal in signals.pending() {
                match signal {
                    SIGUSR1 => self.dump(),
                    _ => self.drain(config),
                }
            }
            let now = MonotonicClock.now();
            self.service.feed_watchdog(now, Nanos(self.action_header.producer_heartbeat_ns()));
            self.status.watch_feed(now, Nanos(self.observation_header.producer_heartbeat_ns()));
            if let Some(by) = self.stop_by
                && now > by
            {
                if now > by.plus(STOP_GRACE) {
                    return Ok(self.on_hung());
                }
                self.commands.request(Command::Stop);
            }
        }
    }

    fn on_armed(&mut self, warm_up: WarmUp, degraded: Vec<String>) {
        for reason in &degraded {
            tracing::warn!(reason, "degraded");
        }
        let (state, reason) = self.action_header.state();
        self.status.armed(warm_up, degraded);
        tracing::info!(
            calls = warm_up.calls,
            tail_ns = warm_up.tail.0,
            stable = warm_up.stable,
            state = AgentState::from_number(state).map_or("unknown", AgentState::name),
            reason,
            "warmed up"
        );
        if AgentState::from_number(state) == Some(AgentState::Armed) {
            self.service.ready("armed");
            panic_if_planted("supervisor");
            tracing::info!(agent = self.status.name(), epoch = self.status.epoch(), "armed");
        }
    }

    fn on_ended(&mut self, end: RunEnd) -> End {
        self.dump();
        match end {
            RunEnd::Drained | RunEnd::Stopped => {
                self.service.stopping("stopped");
                tracing::info!("stopped");
                End::Stopped
            }
            RunEnd::Halted(reason) => {
                self.service.stopping("halted");
                tracing::error!(reason = reason.name(), "halted");
                End::Halted(reason)
            }
            RunEnd::Violated(violation) => {
                self.service.stopping("halted");
                tracing::error!(%violation, "halted: a ring's other side broke its protocol");
                End::Violated(violation)
            }
        }
    }

    fn on_hung(&mut self) -> End {
        self.action_header.set_state(AgentState::Halted.number(), Reason::PolicyHung.number().into());
        self.dump();
        tracing::error!("halted: the policy did not return");
        End::Hung
    }

    fn drain(&mut self, config: &AgentConfig) {
        if self.stop_by.is_some() {
            return;
        }
        self.service.stopping("draining");
        tracing::info!("draining");
        self.commands.request(Command::Drain);
        self.stop_by = Some(MonotonicClock.now().plus(config.drain_timeout));
    }

    /// Writes the status file; a full disk must not end an agent.
    fn dump(&mut self) {
        let (state, reason) = self.action_header.state();
        let path = self.directory.path().join("status.json");
        match self.status.write(&path, state, reason, MonotonicClock.now()) {
            Ok(()) => tracing::info!(path = %path.display(), "status written"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "status not written"),
        }
    }
}
