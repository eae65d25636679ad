//! What `halt`, `rearm`, `reload` and `status` share: finding an agent's rings and state directory, whether
//! or not its daemon runs.

use super::agent::{AgentArguments, Named, REGISTRY};
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
    /// Whether its run file says that a daemon lives. A daemon whose rings were removed has none.
    pub(super) is_listed: bool,
    /// Whether its next start will look in that state directory: a configuration or its daemon said so.
    pub(super) state_is_certain: bool,
    named_by_config: bool,
}

impl AgentArguments {
    /// Finds the agent. Its state directory is the one that the configuration names; else the one in the run
    /// file, if nobody but root and the caller can have written that; else the default place.
    ///
    /// Its daemon is the process that holds the lock in the state directory. A process id in a file that
    /// others may write is never believed.
    ///
    /// # Errors
    /// Fails if no agent is named, its configuration is refused, or only a file that others may write says
    /// where its state directory is.
    pub(super) fn locate(&self) -> Result<Located, Failure> {
        let (Named { name, root, state_root }, named_by_config) = self.registered()?;
        let mut directories = AgentDirectory::candidates(root.as_deref(), &name);
        let alive = |directory: &AgentDirectory| RunFile::read(directory)?.daemon();
        let chosen = directories.iter().position(|directory| alive(directory).is_some());
        let chosen = chosen.or_else(|| directories.iter().position(|directory| directory.path().is_dir()));
        let directory = directories.swap_remove(chosen.unwrap_or(directories.len() - 1));
        let run_file = RunFile::read(&directory);
        let believed = run_file.as_ref().filter(|_| RunFile::is_only_ours(&directory));
        let (own, system) = (StateDirectory::new(None, &name), StateDirectory::of_the_system(&name));
        let (state, state_is_certain) = match (state_root, believed) {
            (Some(root), _) => (StateDirectory::new(Some(&root), &name), true),
            (None, Some(run_file)) => (StateDirectory::at(run_file.state.clone()), true),
            (None, None) if own.path().is_dir() => (own, named_by_config),
            (None, None) if system.path().is_dir() => (system, named_by_config),
            (None, None) if named_by_config || run_file.is_none() => (own, named_by_config),
            (None, None) => return Err(not_believed(&name, &directory)),
        };
        let listed = run_file.as_ref().and_then(RunFile::daemon);
        let is_listed = listed.is_some();
        let daemon = LiveDaemon::holder_of(&state).or_else(|| listed.filter(|_| believed.is_some()));
        let pid = run_file.map(|run_file| run_file.pid);
        Ok(Located { name, directory, state, daemon, pid, is_listed, state_is_certain, named_by_config })
    }
}

fn not_believed(name: &str, directory: &AgentDirectory) -> Failure {
    let message = format!(
        "{name}: {}: others may write there, so its daemon.json is not believed; \
         name the agent with --config FILE, or put its configuration at {REGISTRY}/{name}.toml",
        directory.path().display()
    );
    Failure::new(ExitCode::Permission, message)
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
