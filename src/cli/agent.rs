//! Which agent a command is about. Every command that names an agent takes these arguments.

use super::exit::{ExitCode, Failure};
use crate::config;
use escapement_ring::directory::AgentDirectory;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Where the configurations of a machine's agents lie. A file there that only root can write is believed by
/// every command.
pub(super) const REGISTRY: &str = "/etc/escapement";

/// Which agent.
#[derive(Debug, clap::Args)]
pub(super) struct AgentArguments {
    /// The agent's name
    name: Option<String>,
    /// The agent's configuration, instead of its name
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "name_flag", "root"])]
    config: Option<PathBuf>,
    /// The same as NAME: the spelling of earlier versions of `feed` and `tap`
    #[arg(long = "name", value_name = "NAME", conflicts_with = "name", hide = true)]
    name_flag: Option<String>,
    /// The directory that holds the agents' directories with their rings [default: the machine's]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// An order of a person to an agent, with its reason.
#[derive(Debug, clap::Args)]
pub(super) struct Order {
    #[command(flatten)]
    pub(super) agent: AgentArguments,
    /// Why: kept in the audit file, and for a halt also in the latch
    #[arg(long, value_name = "TEXT", value_parser = spoken_reason)]
    pub(super) reason: String,
}

/// The agent that the arguments name.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) root: Option<PathBuf>,
    pub(super) state_root: Option<PathBuf>,
}

impl AgentArguments {
    /// The agent's name and places, from the configuration if one is given.
    ///
    /// # Errors
    /// Fails if no agent is named, if the name is not that of one directory, or if the configuration is
    /// refused.
    pub(super) fn named(&self) -> Result<Named, Failure> {
        if let Some(path) = &self.config {
            let config = config::load(path)?;
            return Ok(Named { name: config.name, root: config.root, state_root: config.state_root });
        }
        let Some(name) = self.name.as_ref().or(self.name_flag.as_ref()) else {
            let message = "no agent is named; allowed: NAME, or --config FILE";
            return Err(Failure::new(ExitCode::Usage, message));
        };
        Ok(Named { name: one_directory(name)?, root: self.root.clone(), state_root: None })
    }

    /// As [`AgentArguments::named`]; a bare name is looked up among the machine's agents. Also returns
    /// whether a configuration said it.
    ///
    /// # Errors
    /// As there, and if the machine's configuration of that agent is refused.
    pub(super) fn registered(&self) -> Result<(Named, bool), Failure> {
        let named = self.named()?;
        if self.config.is_some() || self.root.is_some() {
            return Ok((named, self.config.is_some()));
        }
        let path = Path::new(REGISTRY).join(format!("{}.toml", named.name));
        // Somebody who may not read it goes by what is his own.
        if !is_roots_own(&path) || std::fs::File::open(&path).is_err() {
            return Ok((named, false));
        }
        let config = config::load(&path)?;
        if config.name != named.name {
            let message = format!("{}: names the agent {}, not {}", path.display(), config.name, named.name);
            return Err(Failure::new(ExitCode::Config, message));
        }
        Ok((Named { name: config.name, root: config.root, state_root: config.state_root }, true))
    }

    /// The agent's directory, for a feed or gateway.
    ///
    /// # Errors
    /// As for [`AgentArguments::named`].
    pub(super) fn directory(&self) -> Result<AgentDirectory, Failure> {
        let named = self.named()?;
        Ok(AgentDirectory::new(named.root.as_deref(), &named.name))
    }
}

/// Whether root owns the file, and nobody else may write it.
fn is_roots_own(path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path);
    found.is_ok_and(|file| file.is_file() && file.uid() == 0 && file.mode() & 0o022 == 0)
}

/// Checks that a name is one path component. Anything else would lead out of the root.
fn one_directory(name: &str) -> Result<String, Failure> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Ok(name.to_owned()),
        _ => Err(Failure::new(ExitCode::Usage, format!("name {name:?}: allowed: the name of one directory"))),
    }
}

/// Checks a person's reason for a halt or a re-arm: not empty, on one line.
fn spoken_reason(text: &str) -> Result<String, String> {
    const MOST: usize = 500;
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MOST || text.chars().any(char::is_control) {
        return Err(format!("allowed: 1 to {MOST} characters on one line"));
    }
    Ok(text.to_owned())
}
