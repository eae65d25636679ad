//! A feed in a process of its own, for a measurement that takes its observations from a shared ring.

use super::children::{Process, cores_without};
use super::workspace::Workspace;
use crate::ReferenceError;
use crate::stop::StopSignals;
use escapement_ring::clock::{Clock, MonotonicClock, Nanos};
use escapement_ring::directory::{AgentDirectory, RingFile};
use escapement_ring::ring::{Consumer, Header, Region};
use std::num::NonZeroU64;

const NAME: &str = "measured";
/// Slots of the ring. The feed drops what finds it full.
const CAPACITY: u64 = 1_024;
/// How long the feed may take until its first observation, beyond one gap.
const PATIENCE: Nanos = Nanos::from_millis(10_000);
const POLL: Nanos = Nanos::from_millis(1);

/// A running feed, and the ring that it fills. The feed is killed when this is dropped, and by the kernel if
/// this process dies. No file is left: the ring's directory is removed once the feed has opened it.
pub struct FeedBeside {
    _process: Process,
    region: Region,
}

impl FeedBeside {
    /// Starts a feed that publishes noise of this dimension, evenly and at this rate, on any core but
    /// `core`. Waits for its first observation.
    ///
    /// # Errors
    /// Fails if the feed cannot be started, ends, publishes nothing, or if a stop signal comes.
    pub fn start(
        dimension: usize,
        rate: NonZeroU64,
        core: Option<usize>,
        stop: &mut StopSignals,
    ) -> Result<Self, ReferenceError> {
        let workspace = Workspace::make()?;
        let directory = AgentDirectory::new(Some(workspace.path()), NAME);
        directory.create()?;
        let spec = RingFile::Observations.spec(dimension, CAPACITY, 1);
        let region = directory.make(RingFile::Observations, spec)?;
        let root = workspace.path().display().to_string();
        let rate_text = rate.to_string();
        let arguments =
            [NAME, "--root", &root, "--source", "noise", "--rate", &rate_text, "--on-full", "drop"];
        let arguments = arguments.map(str::to_owned);
        let mut process = Process::start("feed", &arguments, cores_without(core), workspace.path())?;
        let clock = MonotonicClock;
        let patience = PATIENCE.plus(Nanos(2_000_000_000 / rate.get()));
        let begun = clock.now();
        while region.positions().0 == 0 {
            let now = clock.now();
            if let Some(failure) = process.failure() {
                return Err(failure);
            }
            if stop.requested(now) {
                return Err(ReferenceError::Temporary("interrupted".to_owned()));
            }
            if now.since(begun) > patience {
                return Err(ReferenceError::Temporary("the feed publishes nothing".to_owned()));
            }
            clock.sleep_until(now.plus(POLL));
        }
        Ok(Self { _process: process, region })
    }

    /// Attaches to the ring, as the agent would.
    ///
    /// # Errors
    /// Fails if the ring's positions are impossible.
    pub fn attach(&self) -> Result<(Consumer, Header), ReferenceError> {
        Ok((Consumer::attach(self.region.clone())?, self.region.header()))
    }
}
