//! The other ends of an agent's rings: a feed that commits one observation at a time, and reads of single
//! actions.

use crate::wait_for;
use escapement_ring::clock::{Clock, MonotonicClock};
use escapement_ring::ring::{Consumer, Producer, Region};
use escapement_ring::wire::{ActionHeader, ObservationFlags, ObservationHeader};
use zerocopy::IntoBytes;

/// A feed that commits one observation at a time.
pub struct TestFeed {
    producer: Producer,
    next: u64,
    restart: bool,
}

impl TestFeed {
    /// Attaches a feed that has just started. Its first sequence number is `next`.
    pub fn new(region: Region, next: u64) -> Self {
        Self { producer: Producer::attach(region).unwrap(), next, restart: true }
    }

    /// Skips `count` sequence numbers, as a feed that lost messages does.
    pub fn skip_sequence(&mut self, count: u64) {
        self.next += count;
    }

    /// Marks the next observation as the first one of a feed that has just started.
    pub fn restart(&mut self) {
        self.restart = true;
    }

    /// Returns the sequence number of the next observation.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Commits one observation with the next sequence number and the present time.
    pub fn commit(&mut self, payload: &[f32]) {
        self.commit_stamped(payload, MonotonicClock.now().0);
    }

    /// Commits one observation with the next sequence number and this time of publication.
    pub fn commit_stamped(&mut self, payload: &[f32], ts_publish_ns: u64) {
        let flags = if std::mem::take(&mut self.restart) { ObservationFlags::RESTART } else { 0 };
        let header = ObservationHeader {
            sequence: self.next,
            ts_event_ns: self.next,
            ts_publish_ns,
            flags,
            checksum: 0,
        };
        self.next += 1;
        let mut claim = self.producer.try_claim().expect("the observation ring has room");
        claim.write(ObservationHeader::BYTES, payload.as_bytes());
        claim.write(0, header.sealed(payload).as_bytes());
        claim.commit();
    }
}

/// Returns the present time as the frames' timestamps state it.
pub fn now_ns() -> u64 {
    MonotonicClock.now().0
}

/// Waits for the next action and removes it from the ring.
pub fn next_action<const N: usize>(gateway: &mut Consumer) -> (ActionHeader, [f32; N]) {
    wait_for("an action", || take_action(gateway))
}

/// Removes the next action from the ring, if there is one.
///
/// # Panics
/// Panics if the action's checksum is wrong.
pub fn take_action<const N: usize>(gateway: &mut Consumer) -> Option<(ActionHeader, [f32; N])> {
    let peek = gateway.peek().unwrap()?;
    let (mut header, mut payload) = (ActionHeader::default(), [0.0; N]);
    peek.read(0, header.as_mut_bytes());
    peek.read(ActionHeader::BYTES, payload.as_mut_bytes());
    peek.release();
    assert!(header.is_whole(&payload), "a torn action: {header:?}");
    Some((header, payload))
}
