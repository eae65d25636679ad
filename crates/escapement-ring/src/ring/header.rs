//! The shared words beside the positions: heartbeats, and the state that a gateway reads before it sends.

use super::layout::{BUNDLE_HASH, CONSUMER_HEARTBEAT, EPOCH, GENERATION, PRODUCER_HEARTBEAT, STATE};
use super::region::Region;
use super::state_word;
use crate::sync::Ordering;

/// The shared words beside the positions. Every word except the state has a single writer.
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
    /// Sets the producer's heartbeat to `now_ns` (`CLOCK_MONOTONIC`).
    ///
    /// Heartbeats and the epoch order nothing else, so they are relaxed.
    #[inline]
    pub fn beat_producer(&self, now_ns: u64) {
        self.region.word(PRODUCER_HEARTBEAT).store(now_ns, Ordering::Relaxed);
    }

    /// Sets the consumer's heartbeat to `now_ns` (`CLOCK_MONOTONIC`).
    #[inline]
    pub fn beat_consumer(&self, now_ns: u64) {
        self.region.word(CONSUMER_HEARTBEAT).store(now_ns, Ordering::Relaxed);
    }

    /// The producer's last heartbeat; zero if there was none.
    #[inline]
    pub fn producer_heartbeat_ns(&self) -> u64 {
        self.region.word(PRODUCER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// The consumer's last heartbeat; zero if there was none.
    #[inline]
    pub fn consumer_heartbeat_ns(&self) -> u64 {
        self.region.word(CONSUMER_HEARTBEAT).load(Ordering::Relaxed)
    }

    /// Halts for this reason. Returns whether this call did it: if the agent is halted already, the first
    /// reason stands. Any thread of any process may call it at any time, a signal handler included.
    pub fn halt(&self, reason: u32) -> bool {
        self.halt_over(reason, &[])
    }

    /// Like [`Header::halt`], but replaces an earlier reason that is one of `replaceable`.
    pub fn halt_over(&self, reason: u32, replaceable: &[u32]) -> bool {
        state_word::halt(self.region.word(STATE), reason, replaceable)
    }

    /// Changes to a state that is not *halted*. Returns false, and changes nothing, if the word says halted.
    pub fn advance(&self, state: u32, reason: u32) -> bool {
        state_word::advance(self.region.word(STATE), state, reason)
    }

    /// Begins the next epoch in `state` and returns its number. Besides [`Header::reset_state`], this is the
    /// only way out of *halted*. The caller must be a starting daemon that holds its role's lock, has found
    /// no latch, and has judged the state and reason `judged`.
    ///
    /// # Errors
    /// Fails with the current state and reason if they are not `judged` any more. The caller must judge them
    /// again.
    pub fn begin_epoch(&self, judged: (u32, u32), state: u32) -> Result<u64, (u32, u32)> {
        // The state is set first, so that no reader takes the last epoch's state for the new epoch's.
        state_word::begin(self.region.word(STATE), judged, state)?;
        let epoch = self.epoch().wrapping_add(1);
        self.set_epoch(epoch);
        Ok(epoch)
    }

    /// Sets state and reason unconditionally, even over a halt. The caller must hold the daemon's role while
    /// no engine runs. Other callers use [`Header::halt`] and [`Header::advance`].
    pub fn reset_state(&self, state: u32, reason: u32) {
        // SYNC POINT `STATE`, Release: partner is `Header::state`.
        self.region.word(STATE).store(state_word::pack(state, reason), Ordering::Release);
    }

    /// Puts `state` and `reason` in the place of a word that a peer has changed. Returns false, and changes
    /// nothing, if the word is not `found` any more. Leads out of *halted* too, so the caller must be the
    /// daemon, and must know from its own memory what the word has to say.
    pub fn restore_state(&self, found: (u32, u32), state: u32, reason: u32) -> bool {
        state_word::restore(self.region.word(STATE), found, (state, reason))
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

    /// The generation that the header page names now. It changes only if somebody lays the ring out again
    /// while it is mapped.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.region.word(GENERATION).load(Ordering::Relaxed)
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
