//! One agent as a process: its threads, and what they tell each other.
//!
//! ```text
//!  signals ──────── halts at once, then reports ┐
//!  control socket ─────── requests ─────────────┤ events
//!  supervisor (the process's first thread) ◀────┘       engine (the pinned core)
//!  locks, latch, rings, policy ──── hands over ──────▶  pin, lock memory, warm up, arm
//!  READY  ◀───────────────── armed, or why not ───────
//!  records, watchdog, halts  ◀────── tick records ────  run() ◀── claims a late tick ── guard (another core)
//!  new settings, prepared on a thread of their own ──▶  taken between two ticks
//!  drain / stop / halt ─────── command word ─────────▶
//!  latch, exit code  ◀────────── how it ended ────────
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `assembly` | builds the engine, the guard and the supervisor from a configuration, and connects them |
//! | `engine_thread`, `guard_thread`, `supervisor` | the three threads that run until the end |
//! | `halting` | how the supervisor notices a halt, keeps it, and ends the agent |
//! | `event` | what the other threads tell the supervisor |
//! | `startup` | loads the policy at the start, and can be halted meanwhile |
//! | `load`, `provenance`, `tail` | what is loaded, what vouches for it, and whether it is fast enough |
//! | `reloads`, `prepare`, `reload_plan` | the queue of reloads, how one is made ready, what it changes |
//! | `causes`, `status` | why ticks missed, and the status page |
//! | `rings`, `ending`, `error` | the pair of rings, and how an agent ends or fails to start |
//! | `published_word`, `own_files`, `peers` | what a peer may have changed, and whether the peers are there |
//! | `disk`, `rate`, `refusals` | writes off the supervisor's thread, and limits for what may be repeated |
//! | `planted` | faults that tests plant |

mod assembly;
mod causes;
mod disk;
mod ending;
mod engine_thread;
mod error;
mod event;
mod guard_thread;
mod halting;
mod load;
mod own_files;
mod peers;
mod planted;
mod prepare;
mod provenance;
mod published_word;
mod rate;
mod refusals;
mod reload_plan;
mod reloads;
mod rings;
mod startup;
mod status;
mod supervisor;
mod tail;

use crate::agent_files::{RunFile, StateDirectory};
use crate::config::AgentConfig;
use crate::halt::{install_kill_switch, watch_state_word};
use crate::os::{Request, Signals};
use assembly::Agent;
use crossbeam::channel::{Sender, bounded};
use ending::{audit_details, leaves_a_thread};
use escapement_engine::{Command, CommandWord};
use escapement_ring::clock::{Clock, MonotonicClock};
use escapement_ring::directory::{AgentDirectory, DirectoryError, RingFile, Role};
use escapement_ring::wire::{AgentState, Reason};
use event::Event;
use own_files::OwnFiles;
use planted::halt_keeper;
use prepare::ReadConfig;
use rings::Rings;
use signal_hook::consts::SIGUSR2;
use std::path::Path;
use std::sync::Arc;

pub use ending::{End, Ending};
pub use error::{DaemonError, RingsError};

/// Events that may wait for the supervisor: more than come while a policy is loaded.
const EVENT_CAPACITY: usize = 1 << 10;

/// Runs one agent, configured by `file`, until it stops or halts. For a reload, `read` must read that file
/// again in the way in which it was read for `config`.
///
/// # Errors
/// Fails if the agent cannot start. No observation was answered then, and the state word says `stopped`, or
/// still `halted`.
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
    state.prove_writable()?;
    let state_role = state.acquire().map_err(DirectoryError::from)?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let run_file = RunFile::of_this_process(absolute(state.path()), absolute(file))
        .and_then(|run_file| run_file.write(&directory).map(|()| run_file))
        .map_err(DaemonError::system("write daemon.json"))?;
    let keeper = Arc::new(halt_keeper(state.clone()));
    keeper.discard_prepared();
    keeper.refuse_halted(&directory).map_err(DaemonError::refused(file))?;

    let rings = Rings::open(&directory, config)?;
    let action_header = rings.actions.header();
    action_header.beat_producer(MonotonicClock.now().0);
    keeper.begin_epoch(&action_header).map_err(DaemonError::refused(file))?;
    // From here on the kill switch and the crash handlers find the state word, and nothing resets it any
    // more.
    watch_state_word(action_header.clone());
    let read: ReadConfig = Arc::new(read);
    let own_files = [(RingFile::Observations, &rings.observations), (RingFile::Actions, &rings.actions)];
    let own_files = OwnFiles::new(&directory, &state, own_files, run_file);
    let agent = Agent { config, read, directory: &directory, keeper: &keeper, rings: &rings };
    let result = agent.serve((&events, &inbox), &commands, own_files);
    if !matches!(result, Ok(Ending { end: End::Halted(_) | End::Violated | End::Hung, .. })) {
        // An error may come after a halt, which stays.
        action_header.advance(AgentState::Stopped.number(), Reason::None.number().into());
    }
    keeper.note_end(&action_header, &audit_details(&result));
    if leaves_a_thread(&result) {
        // The abandoned thread has the rings mapped as long as the process lives, so the locks must not be
        // released before. The kernel releases them at the end of the process.
        std::mem::forget((role, state_role));
    }
    result
}

/// Starts the thread that passes signals to the supervisor. The kill switch does not wait for the supervisor:
/// the signal handler changes the state word, and this thread tells the engine.
fn listen(events: Sender<Event>, commands: Arc<CommandWord>) -> Result<(), DaemonError> {
    // The kill switch is installed first. When the other handlers tell the thread, the state word says
    // halted.
    install_kill_switch(SIGUSR2).map_err(DaemonError::system("install the signal handlers"))?;
    let signals = Signals::install().map_err(DaemonError::system("install the signal handlers"))?;
    let pass_on = move || {
        signals.listen(|requested| {
            if requested.request == Request::Halt {
                commands.request(Command::Halt);
            }
            events.send(Event::Signal(requested)).is_ok()
        });
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(pass_on).map_err(DaemonError::system("start the signals' thread"))?;
    Ok(())
}
