//! L5. One agent as a process: the only file that sees every thread.
//!
//! ```text
//!  signals ──────── halts at once, then tells ──┐
//!  control socket ─────── asks ─────────────────┤ events
//!  supervisor (the process's first thread) ◀────┘       engine (the pinned core)
//!  locks, latch, rings, policy ──── hands over ──────▶  pin, lock memory, warm up, arm
//!  READY  ◀───────────────── armed, or why not ───────
//!  records, watchdog, halts  ◀────── tick records ────  run() ◀── claims a late tick ── guard (another core)
//!  new settings, made ready on a thread of their own ▶  taken between two ticks
//!  drain / stop / halt ─────── command word ─────────▶
//!  latch, exit code  ◀────────── how it ended ────────
//! ```

mod causes;
mod ending;
mod engine_thread;
mod error;
mod event;
mod guard_thread;
mod load;
mod planted;
mod prepare;
mod provenance;
mod reload_plan;
mod reloads;
mod rings;
mod startup;
mod status;
mod supervisor;

use crate::agent_files::{ControlSocket, RunFile, StateDirectory};
use crate::config::AgentConfig;
use crate::evidence::{GapMeter, gap_meter};
use crate::halt::{AuditDetails, HaltKeeper, install_kill_switch, watch_state_word};
use crate::os::{Request, ServiceManager, Signals};
use causes::Causes;
use crossbeam::channel::{Receiver, Sender, bounded};
use ending::{audit_details, leaves_a_thread};
use engine_thread::EngineParts;
use escapement_engine::lease;
use escapement_engine::telemetry::Counters;
use escapement_engine::{Command, CommandWord, DeadlineGuard, EngineError};
use escapement_ring::clock::{Clock, FollowingClock, MonotonicClock};
use escapement_ring::directory::{AgentDirectory, DirectoryError, Role};
use escapement_ring::ring::{Consumer, Header, Producer};
use escapement_ring::wire::{AgentState, Reason};
use event::Event;
use guard_thread::GuardParts;
use load::{Deployment, Loaded};
use planted::ignores_the_latch;
use prepare::ReadConfig;
use reloads::Reloads;
use rings::Rings;
use signal_hook::consts::SIGUSR2;
use startup::StartupLoad;
use status::Status;
use std::path::Path;
use std::sync::Arc;
use supervisor::Supervisor;

pub use ending::{End, Ending};
pub use error::{DaemonError, RingsError};

/// Events that may wait for the supervisor; more than come while a policy is loaded.
const EVENT_CAPACITY: usize = 1 << 10;
/// Tick records that fit between two looks of the supervisor: several times what the highest rate makes in one period.
const RECORD_CAPACITY: u64 = 1 << 14;
/// The engine's stack.
const STACK_BYTES: usize = 2 << 20;

/// Runs one agent, configured by `file`, until it stops or halts. `read` reads that file anew, for a reload, as it was
/// read for `config`.
///
/// # Errors
/// When it cannot start; then nothing was answered, and the state word says `stopped`, or still `halted`.
pub fn run(
    config: &AgentConfig,
    file: &Path,
    read: impl Fn() -> Result<AgentConfig, String> + Send + Sync + 'static,
) -> Result<Ending, DaemonError> {
    let (events, inbox) = bounded(EVENT_CAPACITY);
    let commands = Arc::new(CommandWord::new());
    listen(events.clone(), Arc::clone(&commands))?;
    let directory = AgentDirectory::new(config.root.as_deref(), &config.name);
    directory.create()?;
    let role = directory.acquire(Role::Daemon)?;
    let state = StateDirectory::new(config.state_root.as_deref(), &config.name);
    state.create()?;
    let state_role = state.acquire().map_err(DirectoryError::from)?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    RunFile::of_this_process(absolute(state.path()), absolute(file))
        .and_then(|run_file| run_file.write(&directory))
        .map_err(DaemonError::system("write daemon.json"))?;
    let keeper = Arc::new(match ignores_the_latch() {
        false => HaltKeeper::new(state),
        true => HaltKeeper::that_ignores_the_latch(state),
    });
    keeper.discard_prepared();
    keeper.refuse_halted(&directory).map_err(DaemonError::refused(file))?;

    let rings = Rings::open(&directory, config)?;
    let action_header = rings.actions.header();
    action_header.beat_producer(MonotonicClock.now().0);
    keeper.begin_epoch(&action_header).map_err(DaemonError::refused(file))?;
    // From here on the kill switch and both kinds of sudden death find the state word, and nothing resets it any more.
    watch_state_word(action_header.clone());
    let read: ReadConfig = Arc::new(read);
    let agent = Agent { config, read, directory: &directory, keeper: &keeper, rings: &rings };
    let result = agent.serve((&events, &inbox), &commands);
    action_header.advance(AgentState::Stopped.number(), Reason::None.number().into());
    keeper.note_end(&action_header, &audit_details(&result));
    if leaves_a_thread(&result) {
        // That thread has the rings mapped as long as the process lives: nobody may take them over before. The kernel
        // releases the locks when the process is gone.
        std::mem::forget((role, state_role));
    }
    result
}

/// Hands signals on to the supervisor. The kill switch does not wait for it: the handler has changed the state word, and
/// this thread tells the engine.
fn listen(events: Sender<Event>, commands: Arc<CommandWord>) -> Result<(), DaemonError> {
    // Before the handlers that tell the thread: by then the state word says halted.
    install_kill_switch(SIGUSR2).map_err(DaemonError::system("install the signal handlers"))?;
    let signals = Signals::install().map_err(DaemonError::system("install the signal handlers"))?;
    let hand_on = move || {
        signals.listen(|requested| {
            if requested.request == Request::Halt {
                commands.request(Command::Halt);
            }
            events.send(Event::Signal(requested)).is_ok()
        });
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(hand_on).map_err(DaemonError::system("start the signals' thread"))?;
    Ok(())
}

/// An agent that has its directories, locks and rings.
struct Agent<'a> {
    config: &'a AgentConfig,
    read: ReadConfig,
    directory: &'a AgentDirectory,
    keeper: &'a Arc<HaltKeeper>,
    rings: &'a Rings,
}

impl Agent<'_> {
    fn serve(
        &self,
        (events, inbox): (&Sender<Event>, &Receiver<Event>),
        commands: &Arc<CommandWord>,
    ) -> Result<Ending, DaemonError> {
        let (config, action_header) = (self.config, self.rings.actions.header());
        let latch = self.keeper.watched_latch();
        let loaded = match startup::load(config, inbox, &action_header, &latch)? {
            StartupLoad::Done(loaded) => *loaded,
            StartupLoad::Stopped => return Ok(Ending { end: End::Stopped, abandoned: true }),
            StartupLoad::Halted => {
                self.keeper.keep(&action_header, None)?;
                tracing::error!("halted while the policy was being loaded");
                return Ok(Ending { end: End::Halted(Reason::Operator), abandoned: true });
            }
        };
        let Loaded { serving, company, sources, provenance, served_by_torch } = loaded;
        action_header.set_bundle_hash(&sources.sha256());
        self.keeper.note("start", &action_header, &AuditDetails::default());
        let counters = Arc::new(Counters::new());
        let (records_in, mut records) = escapement_engine::record_ring(RECORD_CAPACITY);
        let observation_header = self.rings.observations.header();
        let epoch = action_header.epoch();
        let (mailbox, updates) = lease::mailbox();
        let (meter, gaps) = gap_meter();
        let parts = EngineParts {
            serving,
            company,
            confine: served_by_torch.then(|| provenance.sandbox()),
            guard: self.start_guard(events, meter, &action_header)?,
            updates,
            observations: Consumer::attach(self.rings.observations.clone()).map_err(EngineError::from)?,
            observation_header: observation_header.clone(),
            actions: Producer::attach(self.rings.actions.clone()).map_err(EngineError::from)?,
            action_header: action_header.clone(),
            records: records_in,
            counters: Arc::clone(&counters),
            // A ring does not see four thousand million starts; the frame has 32 bits for them.
            epoch: epoch as u32,
            latch: self.keeper.watched_latch(),
        };
        action_header.advance(AgentState::Warming.number(), 0);
        self.open_control_socket(events.clone());
        let thread = {
            let (config, commands, events) = (config.clone(), Arc::clone(commands), events.clone());
            std::thread::Builder::new()
                .name("engine".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || engine_thread::serve(&config, parts, &commands, &events))
                .map_err(DaemonError::system("start the engine's thread"))?
        };

        let service = ServiceManager::from_environment();
        service.warn_if_shorter_than(config.hang_timeout);
        let mut supervisor = Supervisor {
            status: Status::new(config, epoch, counters),
            causes: Causes::new(config.settings.deadlines, gaps),
            unjudged: Vec::new(),
            reloads: Reloads::new(
                Deployment { config: config.clone(), sources, provenance },
                Arc::clone(&self.read),
                events.clone(),
                mailbox,
            ),
            service,
            directory: self.directory,
            keeper: self.keeper,
            latch: self.keeper.watched_latch(),
            action_header,
            observation_header,
            commands,
            stop_by: None,
            halt_by: None,
            overdue: None,
        };
        let ending = supervisor.supervise(inbox, &mut records);
        if matches!(ending, Ok(Ending { abandoned: true, .. })) {
            // The process is about to end. Taking down what the supervisor has mapped, beside a thread that runs, costs
            // milliseconds.
            std::mem::forget(supervisor);
        } else {
            // It has sent its last report; all that is left to it is to return.
            let _ = thread.join();
        }
        ending
    }

    /// The guard's thread: gives where the guard goes once the engine is made, and what is said of its place.
    fn start_guard(
        &self,
        events: &Sender<Event>,
        meter: GapMeter,
        action_header: &Header,
    ) -> Result<(Sender<DeadlineGuard<FollowingClock>>, Receiver<Vec<String>>), DaemonError> {
        let ((guards_in, guards), (placed, place)) = (bounded(1), bounded(1));
        let config = self.config.clone();
        let (events, keeper, action_header) =
            (events.clone(), Arc::clone(self.keeper), action_header.clone());
        let parts = GuardParts { guards, placed, events, meter, keeper, action_header };
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || guard_thread::serve(&config, parts))
            .map_err(DaemonError::system("start the guard's thread"))?;
        Ok((guards_in, place))
    }

    /// Answers `status` from now on. Without the socket an agent trades as well as with it, so that this degrades.
    fn open_control_socket(&self, events: Sender<Event>) {
        let listening = ControlSocket::bind(self.directory).and_then(|socket| {
            let serve = move || socket.serve(|pending| events.send(Event::Control(pending)).is_ok());
            std::thread::Builder::new().name("control".to_owned()).spawn(serve)
        });
        if let Err(error) = listening {
            tracing::warn!(%error, "no control socket: status is read from the rings alone");
        }
    }
}
