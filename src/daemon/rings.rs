//! The agent's pair of rings: taken over from the last daemon if they fit, made anew if there are none.

use super::error::{DaemonError, RingsError};
use crate::config::AgentConfig;
use escapement_ring::clock::wall_clock_ns;
use escapement_ring::directory::{AgentDirectory, DirectoryError, RingFile};
use escapement_ring::ring::{Region, Spec};

/// Both rings. They were made together, with the same generation.
#[derive(Debug)]
pub(super) struct Rings {
    pub(super) observations: Region,
    pub(super) actions: Region,
}

impl Rings {
    /// Takes over rings of the configured geometry, with everything that is in them. Rings of another
    /// geometry are replaced if they are empty; committed records are never discarded.
    pub(super) fn open(directory: &AgentDirectory, config: &AgentConfig) -> Result<Self, DaemonError> {
        let found = Self::observe(directory)?;
        if let Some(rings) = &found
            && rings.fit(config)
        {
            let attach = |ring, region: &Region| directory.attach_exactly(ring, region.spec());
            let attached = Self {
                observations: attach(RingFile::Observations, &rings.observations)?,
                actions: attach(RingFile::Actions, &rings.actions)?,
            };
            // Another file may have taken a ring's place meanwhile.
            if attached.fit(config) {
                return Ok(attached);
            }
        }
        if let Some(rings) = found {
            rings.check_replaceable(directory, config)?;
        }
        let generation = wall_clock_ns();
        let [observations, actions] = wanted(config, generation);
        // A feed waits for the observation ring, so the action ring is made first.
        let actions = directory.make(RingFile::Actions, actions)?;
        let observations = directory.make(RingFile::Observations, observations)?;
        Ok(Self { observations, actions })
    }

    /// The rings in the directory, without making them resident: a file there may be larger than the memory.
    /// Returns `None` if one is missing: a daemon may have died between making the two.
    fn observe(directory: &AgentDirectory) -> Result<Option<Self>, DirectoryError> {
        let observe = |ring| match directory.observe(ring) {
            Ok(region) => Ok(Some(region)),
            Err(DirectoryError::Shm(error)) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        };
        let (observations, actions) = (observe(RingFile::Observations)?, observe(RingFile::Actions)?);
        Ok(match (observations, actions) {
            (Some(observations), Some(actions)) => Some(Self { observations, actions }),
            _ => None,
        })
    }

    fn fit(&self, config: &AgentConfig) -> bool {
        let generation = self.observations.spec().generation;
        let [observations, actions] = wanted(config, generation);
        *self.observations.spec() == observations && *self.actions.spec() == actions
    }

    fn check_replaceable(&self, directory: &AgentDirectory, config: &AgentConfig) -> Result<(), RingsError> {
        let unanswered = unread(&self.observations);
        let unsent = unread(&self.actions);
        if unanswered == 0 && unsent == 0 {
            return Ok(());
        }
        let [observations, actions] = wanted(config, 0);
        Err(RingsError {
            directory: directory.path().to_owned(),
            found: describe(self.observations.spec(), self.actions.spec()),
            asked: describe(&observations, &actions),
            unread: format!("they hold {unanswered} unanswered observations and {unsent} unread actions"),
        })
    }
}

fn wanted(config: &AgentConfig, generation: u64) -> [Spec; 2] {
    let dimensions = config.dimensions;
    [
        RingFile::Observations.spec(dimensions.observation, config.observation_capacity, generation),
        RingFile::Actions.spec(dimensions.action, config.action_capacity, generation),
    ]
}

fn unread(region: &Region) -> u64 {
    let (committed, released) = region.positions();
    committed.wrapping_sub(released)
}

fn describe(observations: &Spec, actions: &Spec) -> String {
    format!(
        "{} observations of {} and {} actions of {}",
        observations.capacity, observations.dimension, actions.capacity, actions.dimension
    )
}
