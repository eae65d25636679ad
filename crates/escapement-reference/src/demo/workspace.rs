//! The demo's private directory, and the configuration written into it.

use crate::ReferenceError;
use escapement_ring::directory::AgentDirectory;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The configuration and the bundle embedded in the program, so that the binary alone can run the demo.
const CONFIG: &str = include_str!("../../../../config/demo.toml");
const BUNDLE: [(&str, &[u8]); 3] = [
    ("bundle.toml", include_bytes!("../../../../config/example.bundle/bundle.toml")),
    ("golden.safetensors", include_bytes!("../../../../config/example.bundle/golden.safetensors")),
    ("policy.pt", include_bytes!("../../../../config/example.bundle/policy.pt")),
];
/// The bundle's path according to `demo.toml`.
const BUNDLE_PATH: &str = "example.bundle";

/// A directory that is removed with its contents when dropped.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
}

/// What the demo needs to know of a configuration.
#[derive(Debug)]
pub struct AgentOutline {
    /// `agent.name`.
    pub name: String,
    /// `agent.root`.
    pub root: Option<PathBuf>,
    /// `engine.core`.
    pub core: Option<usize>,
}

/// The agent of a demo.
#[derive(Debug)]
pub struct DemoAgent {
    /// The configuration that its daemon reads.
    pub config: PathBuf,
    /// The directory of its rings.
    pub directory: AgentDirectory,
    /// Its name.
    pub name: String,
    /// The core its engine is pinned to.
    pub core: Option<usize>,
}

impl Workspace {
    /// Creates the directory, in memory if possible, for this user only.
    ///
    /// # Errors
    /// Fails if it cannot be created.
    pub fn make() -> Result<Self, ReferenceError> {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        // A killed process with the same process id may have left one.
        for attempt in 0..100 {
            let path = parent.join(format!("escapement-demo-{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(ReferenceError::file(&path, error)),
            }
        }
        let message = format!("{}: full of directories left by killed demos", parent.display());
        Err(ReferenceError::Temporary(message))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the agent's configuration into this directory: the user's, or the embedded one. `read` loads a
    /// configuration as `run` would, so that an error names the user's own file and line.
    ///
    /// # Errors
    /// Fails if `read` does, if `core` is not one that this process may use, or if a file cannot be written.
    pub fn configure<E: From<ReferenceError> + std::fmt::Debug>(
        &self,
        given: Option<&Path>,
        core: Option<usize>,
        read: impl Fn(&Path) -> Result<AgentOutline, E>,
    ) -> Result<DemoAgent, E> {
        let original = match given {
            Some(path) => path.to_owned(),
            None => self.write_example()?,
        };
        let checked = read(&original)?;
        let text =
            std::fs::read_to_string(&original).map_err(|error| ReferenceError::file(&original, error))?;
        let base = original.parent().unwrap_or(Path::new(""));
        let core = choose_core(core, checked.core, given.is_some())?;
        let moved = relocate(&text, base, &self.path, core)?;
        let config = self.path.join("agent.toml");
        write(&config, moved.as_bytes())?;
        // The copy must be accepted if the original was. If not, that is a defect of this program.
        let moved = read(&config).map_err(|error| {
            ReferenceError::Internal(format!("the configuration was good, but its copy is not: {error:?}"))
        })?;
        Ok(DemoAgent {
            directory: AgentDirectory::new(moved.root.as_deref(), &moved.name),
            name: moved.name,
            core: moved.core,
            config,
        })
    }

    fn write_example(&self) -> Result<PathBuf, ReferenceError> {
        let path = self.path.join("demo.toml");
        write(&path, CONFIG.as_bytes())?;
        for (name, bytes) in BUNDLE {
            let file = self.path.join(BUNDLE_PATH).join(name);
            make_parent(&file)?;
            write(&file, bytes)?;
        }
        Ok(path)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // A failure cannot be reported here. The directory is in memory, so a reboot removes it.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ReferenceError> {
    std::fs::write(path, bytes).map_err(|error| ReferenceError::file(path, error))
}

fn make_parent(path: &Path) -> Result<(), ReferenceError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| ReferenceError::file(parent, error))
}

/// The engine's core: the one asked for, or the configuration's. If the configuration is the embedded one and
/// its core is not available, the last available core.
fn choose_core(
    asked: Option<usize>,
    configured: Option<usize>,
    is_given: bool,
) -> Result<Option<usize>, ReferenceError> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|id| id.id).collect();
    match asked {
        Some(core) if !allowed.contains(&core) => {
            let message = format!("--core {core}: allowed: one of {allowed:?}");
            Err(ReferenceError::Usage(message))
        }
        Some(core) => Ok(Some(core)),
        None if is_given || configured.is_some_and(|core| allowed.contains(&core)) => Ok(configured),
        None => Ok(allowed.last().copied()),
    }
}

/// Rewrites a configuration for an agent below `root`. Relative paths become absolute.
fn relocate(text: &str, base: &Path, root: &Path, core: Option<usize>) -> Result<String, ReferenceError> {
    let defect = |what: &str| ReferenceError::Internal(format!("the configuration was good, but {what}"));
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
        let absolute = std::path::absolute(&path).map_err(|error| ReferenceError::file(&path, error))?;
        set("policy", "path", path_value(&absolute)?)?;
    }
    Ok(table.to_string())
}

fn path_value(path: &Path) -> Result<toml::Value, ReferenceError> {
    let text = path.to_str().ok_or_else(|| {
        ReferenceError::Usage(format!("{}: a path in a configuration has to be UTF-8", path.display()))
    })?;
    Ok(text.into())
}
