//! The shared words beside the positions: signs of life, and what a gateway reads before it sends.

use super::layout::{BUNDLE_HASH, CONSUMER_HEARTBEAT, EPOCH, PRODUCER_HEARTBEAT, STATE};
use super::region::Region;
use super::state_word;
use crate::sync::Ordering;

/// The shared words beside the positions. Every one but the state has a single writer.
#[derive(Debug, Clone)]
pub struct Header {
    region: Region,
}

impl Region {
    /// The words beside the positions: heartbeats, state, epoch, bundle hash.
    pub fn header(&self) -> Header {
        Header { region: self.clone() }
    }
}

impl Header {
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
    #[inline]
    pub fn producer_heartbeat_ns(&self) -> u64 {
        self.region.word(PRODUCER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// When the consumer last said that it was alive; zero if never.
    #[inline]
    pub fn consumer_heartbeat_ns(&self) -> u64 {
        self.region.word(CONSUMER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// Halts for this reason. True for the caller that did it: where the ring's agent is halted already, the
    /// first reason stands. Any thread and any process may call it at any time, a signal handler too.
    pub fn halt(&self, reason: u32) -> bool {
        self.halt_over(reason, &[])
    }

    /// The same, but it replaces the reasons in `replaceable` where one of them came first.
    pub fn halt_over(&self, reason: u32, replaceable: &[u32]) -> bool {
        state_word::halt(self.region.word(STATE), reason, replaceable)
    }

    /// Goes to a state that is not *halted*; refused, with false, once the word says halted.
    pub fn advance(&self, state: u32, reason: u32) -> bool {
        state_word::advance(self.region.word(STATE), state, reason)
    }

    /// Begins the next epoch in `state` and gives its number: the one way out of *halted*, for a starting
    /// daemon that holds its role's lock, has found no latch and has `judged` what the word says.
    ///
    /// # Errors
    /// What the word says now, where it is not that any more: it is to be judged again.
    pub fn begin_epoch(&self, judged: (u32, u32), state: u32) -> Result<u64, (u32, u32)> {
        // The state first: nobody may take what the last epoch left in the word for the new one's.
        state_word::begin(self.region.word(STATE), judged, state)?;
        let epoch = self.epoch() + 1;
        self.set_epoch(epoch);
        Ok(epoch)
    }

    /// Sets state and reason whatever they were, a halt too. Only for whoever holds the daemon's role while
    /// no engine runs; everybody else calls [`Header::halt`] and [`Header::advance`].
    pub fn reset_state(&self, state: u32, reason: u32) {
        // SYNC POINT `STATE`, Release: partner is `Header::state`.
        self.region.word(STATE).store(state_word::pack(state, reason), Ordering::Release);
    }

    /// State and reason.
    ///
    /// SYNC POINT `STATE`, Acquire: partners are the transitions in `state_word` and [`Header::reset_state`].
    #[inline]
    pub fn state(&self) -> (u32, u32) {
        state_word::unpack(self.region.word(STATE).load(Ordering::Acquire))
    }

    /// Whether an address lies in the header page.
    #[inline]
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
