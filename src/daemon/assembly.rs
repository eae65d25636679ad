//! Builds the engine, the guard and the supervisor from a configuration, and connects them.

use super::causes::Causes;
use super::disk::Disk;
use super::ending::{End, Ending};
use super::engine_thread::{self, EngineParts, GuardLink};
use super::error::DaemonError;
use super::event::Event;
use super::guard_thread::{self, GuardParts};
use super::load::{Deployment, Loaded};
use super::own_files::OwnFiles;
use super::peers::Peers;
use super::prepare::ReadConfig;
use super::published_word::PublishedWord;
use super::refusals::Refusals;
use super::reloads::Reloads;
use super::rings::Rings;
use super::startup::{self, StartupLoad};
use super::status::Status;
use super::supervisor::Supervisor;
use crate::agent_files::ControlSocket;
use crate::config::AgentConfig;
use crate::evidence::{GapMeter, gap_meter};
use crate::halt::{AuditDetails, HaltKeeper};
use crate::os::ServiceManager;
use crossbeam::channel::{Receiver, Sender, bounded};
use escapement_engine::lease;
use escapement_engine::telemetry::Counters;
use escapement_engine::{CommandWord, EngineError};
use escapement_ring::directory::AgentDirectory;
use escapement_ring::ring::{Consumer, Header, Producer};
use escapement_ring::wire::{AgentState, Reason};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Tick records that fit between two reads of the supervisor: several times as many as the highest rate makes
/// in one period.
const RECORD_CAPACITY: u64 = 1 << 14;
/// The engine's stack.
const STACK_BYTES: usize = 2 << 20;

/// An agent that has its directories, locks and rings.
pub(super) struct Agent<'a> {
    pub(super) config: &'a AgentConfig,
    pub(super) read: ReadConfig,
    pub(super) directory: &'a AgentDirectory,
    pub(super) keeper: &'a Arc<HaltKeeper>,
    pub(super) rings: &'a Rings,
}

impl Agent<'_> {
    /// Loads the policy, starts the threads, and supervises them until the agent ends.
    pub(super) fn serve(
        &self,
        (events, inbox): (&Sender<Event>, &Receiver<Event>),
        commands: &Arc<CommandWord>,
        own_files: OwnFiles,
    ) -> Result<Ending, DaemonError> {
        let (config, action_header) = (self.config, self.rings.actions.header());
        let latch = self.keeper.watched_latch();
        let loaded = match startup::load(config, inbox, &action_header, &latch)? {
            StartupLoad::Done(loaded) => *loaded,
            StartupLoad::Stopped => return Ok(Ending { end: End::Stopped, abandoned: true }),
            StartupLoad::Halted => {
                self.keeper.keep(&action_header, Reason::Operator, None)?;
                tracing::error!("halted while the policy was loaded");
                return Ok(Ending { end: End::Halted(Reason::Operator), abandoned: true });
            }
        };
        let Loaded { policies, extras, sources, provenance, served_by_torch } = loaded;
        action_header.set_bundle_hash(&sources.sha256());
        self.keeper.note("start", &action_header, &AuditDetails::default());
        let counters = Arc::new(Counters::new());
        let (records_in, mut records) = escapement_engine::record_ring(RECORD_CAPACITY);
        let (mailbox, updates) = lease::mailbox();
        let (meter, gaps) = gap_meter();
        let parts = EngineParts {
            policies,
            extras,
            confine: served_by_torch.then(|| provenance.sandbox()),
            guard: self.start_guard(events, meter, &action_header)?,
            updates,
            observations: Consumer::attach(self.rings.observations.clone()).map_err(EngineError::from)?,
            observation_header: self.rings.observations.header(),
            actions: Producer::attach(self.rings.actions.clone()).map_err(EngineError::from)?,
            action_header: action_header.clone(),
            records: records_in,
            counters: Arc::clone(&counters),
            // The frame has 32 bits for the epoch: a ring does not see 4 billion starts.
            epoch: action_header.epoch() as u32,
            latch,
        };
        action_header.advance(AgentState::Warming.number(), 0);
        self.open_control_socket(events.clone());
        let disk = Disk::start()?;
        let engine = self.start_engine(parts, commands, events)?;
        let deployment = Deployment { config: config.clone(), sources, provenance };
        let reloads = Reloads::new(deployment, Arc::clone(&self.read), events.clone(), mailbox);
        let causes = Causes::new(config.settings.deadlines, gaps);
        let mut supervisor = self.supervisor(commands, reloads, causes, counters, (own_files, disk));
        let ending = supervisor.supervise(inbox, &mut records);
        if matches!(ending, Ok(Ending { abandoned: true, .. })) {
            // The process is about to end. Unmapping the supervisor's memory beside a running thread costs
            // milliseconds.
            std::mem::forget(supervisor);
        } else {
            // The engine has sent its last report and is about to return.
            let _ = engine.join();
        }
        ending
    }

    fn supervisor<'b>(
        &'b self,
        commands: &'b CommandWord,
        reloads: Reloads,
        causes: Causes,
        counters: Arc<Counters>,
        (own_files, disk): (OwnFiles, Disk),
    ) -> Supervisor<'b> {
        let action_header = self.rings.actions.header();
        let service = ServiceManager::from_environment();
        service.warn_if_shorter_than(self.config.hang_timeout);
        Supervisor {
            status: Status::new(self.config, action_header.epoch(), counters),
            causes,
            unjudged: Vec::new(),
            reloads,
            service,
            directory: self.directory,
            keeper: self.keeper,
            latch: self.keeper.watched_latch(),
            word: PublishedWord::new(action_header.clone()),
            disk,
            latch_writing: None,
            own_files,
            peers: Peers::new(self.rings.observations.clone(), self.rings.actions.clone()),
            refusals: Refusals::new(),
            action_header,
            commands,
            stop_by: None,
            halt_by: None,
            overdue: None,
        }
    }

    fn start_engine(
        &self,
        parts: EngineParts,
        commands: &Arc<CommandWord>,
        events: &Sender<Event>,
    ) -> Result<JoinHandle<()>, DaemonError> {
        let (config, commands, events) = (self.config.clone(), Arc::clone(commands), events.clone());
        std::thread::Builder::new()
            .name("engine".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || engine_thread::serve(&config, parts, &commands, &events))
            .map_err(DaemonError::system("start the engine's thread"))
    }

    /// Starts the guard's thread, and returns the engine's link to it.
    fn start_guard(
        &self,
        events: &Sender<Event>,
        meter: GapMeter,
        action_header: &Header,
    ) -> Result<GuardLink, DaemonError> {
        let ((guards_in, guards), (placed, place)) = (bounded(1), bounded(1));
        let config = self.config.clone();
        let (events, keeper, action_header) =
            (events.clone(), Arc::clone(self.keeper), action_header.clone());
        let parts = GuardParts { guards, placed, events, meter, keeper, action_header };
        std::thread::Builder::new()
            .name("guard".to_owned())
            .spawn(move || guard_thread::serve(&config, parts))
            .map_err(DaemonError::system("start the guard's thread"))?;
        Ok(GuardLink { guards: guards_in, missing: place })
    }

    /// Answers control requests from now on. An agent without the socket trades all the same, so a failure
    /// only warns.
    fn open_control_socket(&self, events: Sender<Event>) {
        let listening = ControlSocket::bind(self.directory).and_then(|socket| {
            let serve = move || socket.serve(move |pending| events.send(Event::Control(pending)).is_ok());
            std::thread::Builder::new().name("control".to_owned()).spawn(serve)
        });
        if let Err(error) = listening {
            tracing::warn!(%error, "no control socket: status is read from the rings alone");
        }
    }
}
