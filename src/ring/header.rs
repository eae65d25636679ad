//! The shared words beside the positions: signs of life, and what a gateway reads before it sends.

use super::layout::{BUNDLE_HASH, CONSUMER_HEARTBEAT, EPOCH, PRODUCER_HEARTBEAT, STATE};
use super::region::Region;
use crate::sync::Ordering;

/// The shared words beside the positions. Every one has a single writer.
#[derive(Debug, Clone)]
pub struct Header {
    region: Region,
}

impl Header {
    pub(super) fn new(region: Region) -> Self {
        Self { region }
    }

    /// Says that the producer is alive at `now_ns` (`CLOCK_MONOTONIC`).
    ///
    /// Heartbeats and the epoch order nothing else, so they are relaxed.
    #[inline]
    pub fn beat_producer(&self, now_ns: u64) {
        self.region.word(PRODUCER_HEARTBEAT).store(now_ns, Ordering::Relaxed);
    }

    /// Says that the consumer is alive at `now_ns` (`CLOCK_MONOTONIC`).
    #[inline]
    pub fn beat_consumer(&self, now_ns: u64) {
        self.region.word(CONSUMER_HEARTBEAT).store(now_ns, Ordering::Relaxed);
    }

    /// When the producer last said that it was alive; zero if never.
    pub fn producer_heartbeat_ns(&self) -> u64 {
        self.region.word(PRODUCER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// When the consumer last said that it was alive; zero if never.
    pub fn consumer_heartbeat_ns(&self) -> u64 {
        self.region.word(CONSUMER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// Sets state and reason in one store.
    ///
    /// SYNC POINT `STATE`, Release: partner is [`Header::state`]. Whoever reads `armed` also sees the epoch and
    /// bundle hash that were set before it.
    pub fn set_state(&self, state: u32, reason: u32) {
        let word = u64::from(state) | u64::from(reason) << 32;
        self.region.word(STATE).store(word, Ordering::Release);
    }

    /// State and reason.
    ///
    /// SYNC POINT `STATE`, Acquire: partner is [`Header::set_state`].
    pub fn state(&self) -> (u32, u32) {
        let word = self.region.word(STATE).load(Ordering::Acquire);
        (word as u32, (word >> 32) as u32)
    }

    /// Whether an address lies in the header page.
    pub fn covers(&self, address: usize) -> bool {
        self.region.header_page().contains(&address)
    }

    /// Sets how often a daemon has started on this ring.
    pub fn set_epoch(&self, epoch: u64) {
        self.region.word(EPOCH).store(epoch, Ordering::Relaxed);
    }

    /// How often a daemon has started on this ring.
    pub fn epoch(&self) -> u64 {
        self.region.word(EPOCH).load(Ordering::Relaxed)
    }

    /// Sets the SHA-256 of the policy that answers.
    pub fn set_bundle_hash(&self, hash: &[u8; 32]) {
        for (index, bytes) in hash.chunks_exact(8).enumerate() {
            let word = u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
            self.region.word(BUNDLE_HASH + 8 * index).store(word, Ordering::Relaxed);
        }
    }

    /// The SHA-256 of the policy that answers; all zero before one is loaded.
    pub fn bundle_hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        for (index, bytes) in hash.chunks_exact_mut(8).enumerate() {
            let word = self.region.word(BUNDLE_HASH + 8 * index).load(Ordering::Relaxed);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        hash
    }
}
