//! The files of one agent: two rings and three role locks in a directory of its own.

use crate::ring::{LayoutError, Region, Spec};
use crate::shm::{MappedFile, RoleLock, ShmError};
use crate::wire::{ActionHeader, KIND_ACTION, KIND_OBSERVATION, ObservationHeader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The root of the agents' directories if none is configured and systemd provides none.
const DEFAULT_ROOT: &str = "/dev/shm/escapement";

/// The root of the directories that systemd makes for the unit's RuntimeDirectory.
const SERVICE_ROOT: &str = "/run/escapement";

/// The roles at an agent's rings. One process holds each role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Consumes observations, produces actions.
    Daemon,
    /// Produces observations.
    Feed,
    /// Consumes actions.
    Tap,
}

impl Role {
    /// The stem of the lock's file name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Feed => "feed",
            Self::Tap => "tap",
        }
    }
}

/// One of an agent's two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingFile {
    /// Feed to daemon.
    Observations,
    /// Daemon to gateway.
    Actions,
}

impl RingFile {
    /// The file's name in the agent's directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observations => "observations.ring",
            Self::Actions => "actions.ring",
        }
    }

    const fn kind(self) -> u32 {
        match self {
            Self::Observations => KIND_OBSERVATION,
            Self::Actions => KIND_ACTION,
        }
    }

    const fn slot_size(self, dimension: usize) -> usize {
        match self {
            Self::Observations => ObservationHeader::slot_size(dimension),
            Self::Actions => ActionHeader::slot_size(dimension),
        }
    }

    /// The geometry of this ring for frames of `dimension` elements.
    pub const fn spec(self, dimension: usize, capacity: u64, generation: u64) -> Spec {
        Spec {
            kind: self.kind(),
            slot_size: self.slot_size(dimension) as u32,
            dimension: dimension as u32,
            capacity,
            generation,
        }
    }
}

/// Why an agent's files are not usable.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A region, a lock or the directory itself is not available.
    #[error(transparent)]
    Shm(#[from] ShmError),
    /// The file is not the ring that its name says.
    #[error("{}: {source}", path.display())]
    Layout {
        /// The ring's file.
        path: PathBuf,
        /// What is wrong with it.
        source: LayoutError,
    },
    /// The ring has the right layout, but is for other frames.
    #[error("{}: {reason}", path.display())]
    Mismatch {
        /// The ring's file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
}

/// An agent's directory.
#[derive(Debug, Clone)]
pub struct AgentDirectory {
    path: PathBuf,
}

impl AgentDirectory {
    /// The directory of the agent `name` below `root`. Without a root: the directory that systemd made for
    /// this instance of the service, or else `/dev/shm/escapement/NAME`.
    pub fn new(root: Option<&Path>, name: &str) -> Self {
        let path = match (root, std::env::var_os("RUNTIME_DIRECTORY")) {
            (Some(root), _) => root.join(name),
            (None, Some(directory)) => PathBuf::from(directory),
            (None, None) => Path::new(DEFAULT_ROOT).join(name),
        };
        Self { path }
    }

    /// The directory at `path`, as `escapement status` prints it.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The places to look for an agent's directory, for a process that is not its daemon: below `root`;
    /// without a root, where systemd makes it and below `/dev/shm/escapement`, in this order.
    pub fn candidates(root: Option<&Path>, name: &str) -> Vec<Self> {
        match root {
            Some(root) => vec![Self { path: root.join(name) }],
            None => [SERVICE_ROOT, DEFAULT_ROOT].map(|root| Self { path: Path::new(root).join(name) }).into(),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the directory if it is missing.
    ///
    /// # Errors
    /// Fails if it cannot be created.
    pub fn create(&self) -> Result<(), DirectoryError> {
        std::fs::create_dir_all(&self.path).map_err(|source| ShmError::System {
            path: self.path.clone(),
            action: "create the agent's directory",
            source,
        })?;
        Ok(())
    }

    /// Takes a role, without waiting.
    ///
    /// # Errors
    /// [`ShmError::Held`] if another process holds it.
    pub fn acquire(&self, role: Role) -> Result<RoleLock, DirectoryError> {
        Ok(RoleLock::acquire(&self.path, role.name())?)
    }

    /// Attaches to a ring that the daemon made.
    ///
    /// # Errors
    /// Fails if the ring does not exist yet, or if the file is not the ring that its name says.
    pub fn attach(&self, ring: RingFile) -> Result<Region, DirectoryError> {
        self.attach_by(ring, MappedFile::open)
    }

    fn attach_by(
        &self,
        ring: RingFile,
        open: impl FnOnce(&Path) -> Result<MappedFile, ShmError>,
    ) -> Result<Region, DirectoryError> {
        let path = self.path.join(ring.name());
        let region = Region::open(Arc::new(open(&path)?))
            .map_err(|source| DirectoryError::Layout { path: path.clone(), source })?;
        let spec = region.spec();
        let expected = ring.spec(spec.dimension as usize, spec.capacity, spec.generation);
        if *spec != expected {
            let reason = format!(
                "kind {} with slots of {} bytes; a ring of this name has kind {} and slots of {} bytes",
                spec.kind, spec.slot_size, expected.kind, expected.slot_size
            );
            return Err(DirectoryError::Mismatch { path, reason });
        }
        Ok(region)
    }

    /// Attaches to a ring of this geometry. Compares the file's size before it maps anything, since the whole
    /// ring becomes resident.
    ///
    /// # Errors
    /// As for [`AgentDirectory::attach`], and if the ring has another size.
    pub fn attach_exactly(&self, ring: RingFile, spec: &Spec) -> Result<Region, DirectoryError> {
        self.attach_by(ring, |path| MappedFile::open_exactly(path, spec.region_bytes()))
    }

    /// Attaches to a ring to read its header. Makes nothing resident, however large the ring is.
    ///
    /// # Errors
    /// As for [`AgentDirectory::attach`].
    pub fn observe(&self, ring: RingFile) -> Result<Region, DirectoryError> {
        self.attach_by(ring, MappedFile::open_lazily)
    }

    /// Makes a ring. Replaces an existing file of its name.
    ///
    /// # Errors
    /// Fails if the geometry is not allowed or the memory is not available.
    pub fn make(&self, ring: RingFile, spec: Spec) -> Result<Region, DirectoryError> {
        let path = self.path.join(ring.name());
        MappedFile::create(&path, spec.region_bytes(), |map| {
            Region::format(Arc::new(map), spec)
                .map_err(|source| DirectoryError::Layout { path: path.clone(), source })
        })
    }
}
