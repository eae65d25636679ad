//! The demo's private directory, and the configuration that is written into it.

use crate::cli::exit::{ExitCode, Failure};
use crate::config;
use escapement_ring::directory::AgentDirectory;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The configuration and the bundle that the program carries, so that the built binary alone can run the demo.
const CONFIG: &str = include_str!("../../../config/demo.toml");
const BUNDLE: [(&str, &[u8]); 3] = [
    ("bundle.toml", include_bytes!("../../../config/example.bundle/bundle.toml")),
    ("golden.safetensors", include_bytes!("../../../config/example.bundle/golden.safetensors")),
    ("policy.pt", include_bytes!("../../../config/example.bundle/policy.pt")),
];
/// Where `demo.toml` says that the bundle is.
const BUNDLE_PATH: &str = "example.bundle";

/// A directory that is removed, with everything in it, when the demo ends.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
}

/// The agent of a demo.
#[derive(Debug)]
pub(super) struct DemoAgent {
    /// The configuration that its daemon reads.
    pub(super) config: PathBuf,
    pub(super) directory: AgentDirectory,
    pub(super) name: String,
    /// The core its engine is pinned to.
    pub(super) core: Option<usize>,
}

impl Workspace {
    /// Makes it in memory where there is such a place, for this user alone.
    pub(super) fn make() -> Result<Self, Failure> {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        // A process that was killed may have left one under this process's number.
        for attempt in 0..100 {
            let path = parent.join(format!("escapement-demo-{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Failure::from_io(&path, &error)),
            }
        }
        let message = format!("{}: full of directories of demos that were killed", parent.display());
        Err(Failure::new(ExitCode::Temporary, message))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the agent's configuration: the user's, or the one that the program carries, moved into this directory.
    pub(super) fn configure(&self, given: Option<&Path>, core: Option<usize>) -> Result<DemoAgent, Failure> {
        let original = match given {
            Some(path) => path.to_owned(),
            None => {
                let path = self.path.join("demo.toml");
                write(&path, CONFIG.as_bytes())?;
                for (name, bytes) in BUNDLE {
                    let file = self.path.join(BUNDLE_PATH).join(name);
                    make_parent(&file)?;
                    write(&file, bytes)?;
                }
                path
            }
        };
        // Read as `run` would read it, so that what is wrong is told with the file's own name and lines.
        let checked = config::load(&original)?;
        let text = std::fs::read_to_string(&original).map_err(|error| Failure::from_io(&original, &error))?;
        let base = original.parent().unwrap_or(Path::new(""));
        let core = choose_core(core, checked.engine.core, given.is_some())?;
        let moved = relocate(&text, base, &self.path, core)?;
        let config = self.path.join("agent.toml");
        write(&config, moved.as_bytes())?;
        // What was written must be as good as what was read; if it is not, that is a defect of ours.
        let moved =
            config::load(&config).map_err(|error| Failure::new(ExitCode::Internal, error.to_string()))?;
        Ok(DemoAgent {
            directory: AgentDirectory::new(moved.root.as_deref(), &moved.name),
            name: moved.name,
            core: moved.engine.core,
            config,
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // There is nobody left to tell; the next start of the machine clears memory anyway.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|error| Failure::from_io(path, &error))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| Failure::from_io(parent, &error))
}

/// The core of the engine: what was asked for, or what the configuration says. Where the configuration is our own and
/// its core is not to be had, the last one that is.
fn choose_core(
    asked: Option<usize>,
    configured: Option<usize>,
    is_given: bool,
) -> Result<Option<usize>, Failure> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|id| id.id).collect();
    match asked {
        Some(core) if !allowed.contains(&core) => {
            let message = format!("--core {core}: allowed: one of {allowed:?}");
            Err(Failure::new(ExitCode::Usage, message))
        }
        Some(core) => Ok(Some(core)),
        None if is_given || configured.is_some_and(|core| allowed.contains(&core)) => Ok(configured),
        None => Ok(allowed.last().copied()),
    }
}

/// The same configuration for an agent that lives below `root`, whatever the present directory is.
fn relocate(text: &str, base: &Path, root: &Path, core: Option<usize>) -> Result<String, Failure> {
    let defect =
        |what: &str| Failure::new(ExitCode::Internal, format!("the configuration was good, but {what}"));
    let mut table: toml::Table = text.parse().map_err(|error| defect(&format!("{error}")))?;
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        match section.as_table_mut() {
            Some(section) => {
                section.insert(key.to_owned(), value);
                Ok(())
            }
            None => Err(defect("a section is no table")),
        }
    };
    set("agent", "root", path_value(root)?)?;
    set("agent", "state_root", path_value(&root.join("state"))?)?;
    if let Some(core) = core.and_then(|core| i64::try_from(core).ok()) {
        set("engine", "core", core.into())?;
    }
    let relative: toml::Table = text.parse().map_err(|error| defect(&format!("{error}")))?;
    if let Some(path) =
        relative.get("policy").and_then(|policy| policy.get("path")).and_then(|path| path.as_str())
    {
        let path = base.join(path);
        let absolute = std::path::absolute(&path).map_err(|error| Failure::from_io(&path, &error))?;
        set("policy", "path", path_value(&absolute)?)?;
    }
    Ok(table.to_string())
}

fn path_value(path: &Path) -> Result<toml::Value, Failure> {
    let text = path.to_str().ok_or_else(|| {
        Failure::new(
            ExitCode::Usage,
            format!("{}: a path in a configuration has to be UTF-8", path.display()),
        )
    })?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicySource;

    #[test]
    fn the_carried_configuration_is_good_and_its_policy_is_there() {
        let workspace = Workspace::make().unwrap();
        let path = workspace.path().to_owned();
        let agent = workspace.configure(None, None).unwrap();
        let config = config::load(&agent.config).unwrap();
        assert_eq!(config.root.as_deref(), Some(path.as_path()));
        assert!(agent.directory.path().starts_with(&path));
        let PolicySource::Path(policy) = config.policy.source else { panic!("the demo has a policy") };
        for (name, bytes) in BUNDLE {
            assert_eq!(std::fs::read(policy.join(name)).unwrap(), bytes);
        }
        drop(workspace);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_configuration_keeps_everything_but_its_place() {
        let workspace = Workspace::make().unwrap();
        let given = workspace.path().join("mine.toml");
        std::fs::write(&given, CONFIG).unwrap();
        let agent = workspace.configure(Some(&given), Some(0)).unwrap();
        let (mine, moved) = (config::load(&given).unwrap(), config::load(&agent.config).unwrap());
        assert_eq!(moved.engine.core, Some(0));
        assert_eq!(mine.policy.source, moved.policy.source);
        assert_eq!((mine.settings, mine.dimensions), (moved.settings, moved.dimensions));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_users_own_file() {
        let workspace = Workspace::make().unwrap();
        let given = workspace.path().join("mine.toml");
        std::fs::write(&given, CONFIG.replace("dimension = 3", "dimension = \"three\"")).unwrap();
        let failure = workspace.configure(Some(&given), None).unwrap_err();
        assert_eq!(failure.code, ExitCode::Config);
        assert!(failure.message.contains("mine.toml"), "{}", failure.message);
        let missing = workspace.configure(Some(Path::new("no/such.toml")), None).unwrap_err();
        assert_eq!(missing.code, ExitCode::InputMissing);
        let core = workspace.configure(None, Some(100_000)).unwrap_err();
        assert_eq!(core.code, ExitCode::Usage);
    }
}
