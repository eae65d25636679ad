//! What `halt`, `rearm`, `reload` and `status` share: an agent's rings and its state, found by its name or its
//! configuration, whether or not its daemon runs.

use super::exit::{ExitCode, Failure};
use crate::agent_files::{LiveDaemon, RunFile, StateDirectory};
use crate::config;
use crate::halt::Target;
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::Header;
use std::path::{Component, Path, PathBuf};

/// Which agent.
#[derive(Debug, clap::Args)]
pub(super) struct AgentArguments {
    /// The agent's name
    #[arg(required_unless_present = "config")]
    name: Option<String>,
    /// The agent's configuration, instead of its name
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "root"])]
    config: Option<PathBuf>,
    /// The directory that holds the agents' directories with their rings [default: the machine's]
    #[arg(long, value_name = "DIR", requires = "name")]
    root: Option<PathBuf>,
}

/// What a person orders of an agent, and has to say why.
#[derive(Debug, clap::Args)]
pub(super) struct Order {
    #[command(flatten)]
    pub(super) agent: AgentArguments,
    /// Why: it is kept in the audit file, and a halt's in its latch
    #[arg(long, value_name = "TEXT", value_parser = spoken_reason)]
    pub(super) reason: String,
}

/// An agent, running or not.
pub(super) struct Located {
    pub(super) name: String,
    pub(super) directory: AgentDirectory,
    pub(super) state: StateDirectory,
    /// Its daemon, if it is alive.
    pub(super) daemon: Option<LiveDaemon>,
    /// The number of its last process.
    pub(super) pid: Option<u32>,
    named_by_config: bool,
}

impl AgentArguments {
    /// Finds the agent. What its living daemon says about itself goes first, then the configuration, then what its last
    /// daemon left, then the places where agents are by default.
    pub(super) fn locate(&self) -> Result<Located, Failure> {
        let (name, root, state_root) = match (&self.config, &self.name) {
            (Some(path), _) => {
                let config = config::load(path)?;
                (config.name, config.root, config.state_root)
            }
            (None, Some(name)) => (one_directory(name)?, self.root.clone(), None),
            (None, None) => {
                return Err(Failure::new(
                    ExitCode::Usage,
                    "no agent is named; allowed: NAME, or --config FILE",
                ));
            }
        };
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
        Ok(Located { name, directory, state, daemon, pid, named_by_config: self.config.is_some() })
    }
}

impl Located {
    /// Fails where nothing is there of that name: whoever misspells it must not think that something was halted. An agent
    /// that has a configuration is one, also before its first start.
    pub(super) fn must_exist(&self) -> Result<(), Failure> {
        if self.named_by_config || self.directory.path().is_dir() || self.state.path().is_dir() {
            return Ok(());
        }
        let message = format!(
            "no agent {} is known here: there is neither {} nor {}; --config FILE names one that has never run",
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

/// A name is one component of a path: anything else would lead out of the root.
pub(super) fn one_directory(name: &str) -> Result<String, Failure> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Ok(name.to_owned()),
        _ => Err(Failure::new(ExitCode::Usage, format!("name {name:?}: allowed: the name of one directory"))),
    }
}

/// What a person says about a halt or a re-arm: something, on one line.
fn spoken_reason(text: &str) -> Result<String, String> {
    const MOST: usize = 500;
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MOST || text.chars().any(char::is_control) {
        return Err(format!("allowed: 1 to {MOST} characters on one line"));
    }
    Ok(text.to_owned())
}
