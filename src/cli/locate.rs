//! What `halt`, `rearm`, `reload` and `status` share: finding an agent's rings and state directory, whether
//! or not its daemon runs.

use super::agent::{AgentArguments, Named};
use super::exit::{ExitCode, Failure};
use crate::agent_files::{LiveDaemon, RunFile, StateDirectory};
use crate::halt::Target;
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::Header;

/// An agent, running or not.
pub(super) struct Located {
    pub(super) name: String,
    pub(super) directory: AgentDirectory,
    pub(super) state: StateDirectory,
    /// Its daemon, if it is alive.
    pub(super) daemon: Option<LiveDaemon>,
    /// The id of its last process.
    pub(super) pid: Option<u32>,
    named_by_config: bool,
}

impl AgentArguments {
    /// Finds the agent. Sources in this order: the running daemon's run file, the configuration, the run file
    /// of the last daemon, the default places.
    pub(super) fn locate(&self) -> Result<Located, Failure> {
        let Named { name, root, state_root } = self.named()?;
        let mut directories = AgentDirectory::candidates(root.as_deref(), &name);
        let alive = |directory: &AgentDirectory| RunFile::read(directory)?.daemon();
        let chosen = directories.iter().position(|directory| alive(directory).is_some());
        let chosen = chosen.or_else(|| directories.iter().position(|directory| directory.path().is_dir()));
        let directory = directories.swap_remove(chosen.unwrap_or(directories.len() - 1));
        let run_file = RunFile::read(&directory);
        let daemon = run_file.as_ref().and_then(RunFile::daemon);
        let state = match (&run_file, state_root) {
            (Some(run_file), _) if daemon.is_some() => StateDirectory::at(run_file.state.clone()),
            (_, Some(root)) => StateDirectory::new(Some(&root), &name),
            (Some(run_file), None) => StateDirectory::at(run_file.state.clone()),
            (None, None) => {
                let own = StateDirectory::new(None, &name);
                let system = StateDirectory::of_the_system(&name);
                if !own.path().is_dir() && system.path().is_dir() { system } else { own }
            }
        };
        let pid = run_file.map(|run_file| run_file.pid);
        Ok(Located { name, directory, state, daemon, pid, named_by_config: self.is_configured() })
    }
}

impl Located {
    /// Fails if no agent has that name, so that a typo is not mistaken for a successful halt. An agent named
    /// by its configuration exists, even before its first start.
    pub(super) fn must_exist(&self) -> Result<(), Failure> {
        if self.named_by_config || self.directory.path().is_dir() || self.state.path().is_dir() {
            return Ok(());
        }
        let message = format!(
            "no agent {} is known here: neither {} nor {} exists; to name an agent that has never run, use --config FILE",
            self.name,
            self.directory.path().display(),
            self.state.path().display()
        );
        Err(Failure::new(ExitCode::InputMissing, message))
    }

    /// The agent as a halt or a re-arm takes it.
    pub(super) fn target(&self) -> Target<'_> {
        Target { directory: &self.directory, state: &self.state, daemon: self.daemon.as_ref() }
    }

    /// The action ring's header, if there are rings.
    pub(super) fn header(&self) -> Option<Header> {
        self.directory.observe(RingFile::Actions).ok().map(|region| region.header())
    }
}
