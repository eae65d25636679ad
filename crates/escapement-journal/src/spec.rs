//! What a writer is told, and what it says of losses and failures.

use super::layout::{HEADER_ALIGN, MAX_CONTEXT, SegmentHeader, record_bytes};
use std::io;

/// The size and the widths of what a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterSpec {
    /// Elements of an observation.
    pub observation: usize,
    /// Elements of an action.
    pub action: usize,
    /// The size of a segment, in bytes.
    pub segment_bytes: u64,
    /// The age at which a new segment is begun, in nanoseconds.
    pub segment_age_ns: u64,
    /// What is removed.
    pub retention: Retention,
}

impl Default for WriterSpec {
    fn default() -> Self {
        let retention = Retention { keep_bytes: None, keep_age_ns: None };
        let segment_age_ns = 3_600_000_000_000;
        Self { observation: 1, action: 1, segment_bytes: 64 << 20, segment_age_ns, retention }
    }
}

/// When old segments are removed. The one that is being written never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The most that all segments may take; `None` for no limit.
    pub keep_bytes: Option<u64>,
    /// How long a segment stays after its last write; `None` for ever.
    pub keep_age_ns: Option<u64>,
}

/// What a writer says about the machine and the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The machine's name.
    pub host: String,
    /// The processor's name.
    pub cpu: String,
    /// The kernel's clock source.
    pub clock_source: String,
    /// The version of the program.
    pub program: String,
    /// How far the wall clock may be from UTC; `None` if that is not known.
    pub clock_error_ns: Option<u64>,
}

/// What runs: a segment holds the ticks of one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deployment {
    /// The epoch of the daemon.
    pub epoch: u32,
    /// The revision of the settings.
    pub revision: u32,
    /// SHA-256 of the configuration's text.
    pub configuration_sha256: [u8; 32],
    /// SHA-256 of the bundle.
    pub bundle_sha256: [u8; 32],
    /// The configuration's text. It is left out if it is too long for a segment.
    pub context: String,
}

impl Deployment {
    /// Returns the deployment, without its context if that is too long for a segment.
    pub(super) fn fitted(mut self, spec: &WriterSpec) -> Self {
        let records = 2 * record_bytes(spec.observation, spec.action) as u64;
        if self.context.len() > MAX_CONTEXT || self.header_bytes() + records > spec.segment_bytes {
            self.context.clear();
        }
        self
    }

    pub(super) fn header_bytes(&self) -> u64 {
        (size_of::<SegmentHeader>() + self.context.len()).next_multiple_of(HEADER_ALIGN) as u64
    }
}

/// One instant on two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instants {
    /// On `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// On the wall clock, since the Unix epoch.
    pub wall_ns: u64,
}

/// Counts of lost records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Ticks that found the queue full.
    pub ticks_queue_full: u64,
    /// Ticks that could not be written or synced.
    pub ticks_not_written: u64,
    /// Events that could not be written or synced.
    pub events_not_written: u64,
}

impl Losses {
    /// Returns how many ticks were lost.
    pub fn ticks(&self) -> u64 {
        self.ticks_queue_full + self.ticks_not_written
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn add(&mut self, other: Self) {
        self.ticks_queue_full += other.ticks_queue_full;
        self.ticks_not_written += other.ticks_not_written;
        self.events_not_written += other.events_not_written;
    }
}

/// Why a writer cannot write.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// A segment cannot be made.
    #[error("journal: make a segment of {bytes} bytes: {source}")]
    Create {
        /// The size of the segment.
        bytes: u64,
        /// Why not.
        source: io::Error,
    },
    /// A write failed.
    #[error("journal: write to segment {segment}: {source}")]
    Write {
        /// The number of the segment.
        segment: u64,
        /// Why.
        source: io::Error,
    },
    /// A sync failed.
    #[error("journal: sync segment {segment}: {source}")]
    Sync {
        /// The number of the segment.
        segment: u64,
        /// Why.
        source: io::Error,
    },
}
