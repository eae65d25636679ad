//! The producing end of an agent's observation ring, for feed handlers written in Rust.
//!
//! A [`Feed`] continues after the last observation that its predecessor committed: with the next ring
//! position and the next sequence number. The first frame of a new feed carries
//! [`ObservationFlags::RESTART`]. A feed never blocks: if the ring is full, it returns an error, and the
//! caller decides what to do.
//!
//! ```
//! use escapement_ring::clock::ManualClock;
//! use escapement_ring::directory::RingFile;
//! use escapement_ring::feed::Feed;
//! use escapement_ring::ring::{ClaimError, HeapRegion};
//!
//! // A ring for observations of 3 features, with 2 slots. A real feed attaches to the agent's:
//! // `AgentDirectory::new(None, "eth").attach(RingFile::Observations)?`.
//! let ring = HeapRegion::ring(RingFile::Observations.spec(3, 2, 1))?;
//! let mut feed = Feed::attach(ring, ManualClock::new(Default::default()))?;
//!
//! feed.publish(1_700_000_000_000_000_000, &[0.5, -0.25, 1.0])?;
//! feed.publish(1_700_000_000_000_100_000, &[0.5, -0.50, 1.0])?;
//! // No agent takes them out, so the third finds the ring full. Its sequence number is still free.
//! let full = feed.publish(1_700_000_000_000_200_000, &[0.5, -0.75, 1.0]);
//! assert_eq!(full, Err(ClaimError::Full { committed: 2, released: 0 }));
//! assert_eq!(feed.next_sequence(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::clock::{Clock, MonotonicClock, Nanos};
use crate::ring::{
    ClaimError, Consumer, Header, HeapRegion, MIN_CAPACITY, Producer, ProtocolViolation, Region, Spec,
};
use crate::wire::{ObservationFlags, ObservationHeader};
use zerocopy::IntoBytes;

/// One agent's feed. There must be one at a time: hold [`Role::Feed`](crate::directory::Role::Feed) while it
/// lives.
#[derive(Debug)]
pub struct Feed<C: Clock = MonotonicClock> {
    producer: Producer,
    header: Header,
    clock: C,
    dimension: usize,
    next_sequence: u64,
    restart: bool,
    /// Both ends of a ring that nobody else sees, for [`Feed::keep_warm`].
    dry: (Producer, Consumer),
}

impl<C: Clock> Feed<C> {
    /// Attaches to an observation ring.
    ///
    /// # Errors
    /// Fails if the ring's positions are impossible.
    pub fn attach(region: Region, clock: C) -> Result<Self, ProtocolViolation> {
        let header = region.header();
        let dimension = region.spec().dimension as usize;
        let private = Spec { capacity: MIN_CAPACITY, ..*region.spec() };
        let (_, publishing, taking) = HeapRegion::both_ends(private).expect("the geometry is that of a ring");
        let producer = Producer::attach(region)?;
        let next_sequence = following_sequence(&producer, dimension);
        Ok(Self {
            producer,
            header,
            clock,
            dimension,
            next_sequence,
            restart: true,
            dry: (publishing, taking),
        })
    }

    /// Elements of an observation.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Observations ever committed to this ring, by this feed and its predecessors.
    pub fn committed(&self) -> u64 {
        self.producer.position()
    }

    /// Observations ever released by the agent. Reads the shared position.
    ///
    /// # Errors
    /// Fails if the agent's position is impossible.
    pub fn released(&mut self) -> Result<u64, ProtocolViolation> {
        self.producer.released()
    }

    /// The sequence number that the next observation gets.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Sets the next sequence number. A feed that attaches to its agent's new ring keeps its own numbers with
    /// it.
    pub fn set_next_sequence(&mut self, sequence: u64) {
        self.next_sequence = sequence;
    }

    /// Skips the next sequence number, because its observation was lost. The agent sees the gap.
    pub fn skip_sequence(&mut self) {
        self.next_sequence = self.next_sequence.saturating_add(1);
    }

    /// The agent's last heartbeat; zero if there was none.
    pub fn agent_heartbeat(&self) -> Nanos {
        Nanos(self.header.consumer_heartbeat_ns())
    }

    /// Publishes this feed's heartbeat. An agent reports a feed without a heartbeat for one second as lost.
    pub fn beat(&self, now: Nanos) {
        self.header.beat_producer(now.0);
    }

    /// Commits an observation, stamped with the present time. Returns its position in the ring.
    ///
    /// # Errors
    /// [`ClaimError::Full`] if there is no free slot: nothing has happened then, and the sequence number is
    /// still free. [`ClaimError::Violation`] if the agent's position is impossible.
    ///
    /// # Panics
    /// Panics if `payload` does not have the ring's dimension.
    // Never inlined, because `keep_warm` keeps exactly this code warm.
    #[inline(never)]
    pub fn publish(&mut self, ts_event_ns: u64, payload: &[f32]) -> Result<u64, ClaimError> {
        self.publish_with(ts_event_ns, payload, |header| header.sealed(payload))
    }

    /// Publishes an observation to a ring that nobody else sees, so that the code and the data of
    /// [`Feed::publish`] stay in the caches. For a feed that spins: call it after some 20 µs without work,
    /// then look for work again. It takes as long as a publication. The agent's ring and the sequence number
    /// do not change.
    ///
    /// # Panics
    /// Panics if `payload` does not have the ring's dimension.
    pub fn keep_warm(&mut self, payload: &[f32]) {
        // Checked before the rings change places. A caller that catches the panic still has the real ring.
        assert_eq!(payload.len(), self.dimension, "the payload has the ring's dimension");
        let (next_sequence, restart) = (self.next_sequence, self.restart);
        std::mem::swap(&mut self.producer, &mut self.dry.0);
        // The private ring is empty, so there is a slot.
        let _ = self.publish(0, payload);
        std::mem::swap(&mut self.producer, &mut self.dry.0);
        (self.next_sequence, self.restart) = (next_sequence, restart);
        if let Ok(Some(published)) = self.dry.1.peek() {
            published.release();
        }
    }

    /// Commits an observation whose header was changed by `alter`. `alter` gets the header filled in but not
    /// sealed, and returns what is written. For feeds that misbehave on purpose.
    ///
    /// # Errors
    /// As for [`Feed::publish`]. `alter` is not called if there is no free slot.
    ///
    /// # Panics
    /// Panics if `payload` does not have the ring's dimension.
    #[cfg(any(test, feature = "altered-frames"))]
    pub fn publish_altered(
        &mut self,
        ts_event_ns: u64,
        payload: &[f32],
        alter: impl FnOnce(ObservationHeader) -> ObservationHeader,
    ) -> Result<u64, ClaimError> {
        self.publish_with(ts_event_ns, payload, alter)
    }

    fn publish_with(
        &mut self,
        ts_event_ns: u64,
        payload: &[f32],
        finish: impl FnOnce(ObservationHeader) -> ObservationHeader,
    ) -> Result<u64, ClaimError> {
        assert_eq!(payload.len(), self.dimension, "an observation of another dimension than the ring's");
        let mut claim = self.producer.try_claim()?;
        claim.write(ObservationHeader::BYTES, payload.as_bytes());
        let header = finish(ObservationHeader {
            sequence: self.next_sequence,
            ts_event_ns,
            ts_publish_ns: self.clock.now().0,
            flags: if self.restart { ObservationFlags::RESTART } else { 0 },
            checksum: 0,
        });
        claim.write(0, header.as_bytes());
        let position = claim.position();
        claim.commit();
        self.restart = false;
        // An altered number that is not above the last one leaves the count unchanged.
        self.next_sequence = self.next_sequence.max(header.sequence.saturating_add(1));
        Ok(position)
    }
}

/// The number after the predecessor's last; 1 if there was none. If the predecessor's frame is damaged, the
/// number is still plausible, and the restart flag tells the agent not to compare it.
fn following_sequence(producer: &Producer, dimension: usize) -> u64 {
    let mut header = ObservationHeader::default();
    let mut payload = vec![0.0f32; dimension];
    let found = producer.read_last(0, header.as_mut_bytes())
        && producer.read_last(ObservationHeader::BYTES, payload.as_mut_bytes());
    match found && header.is_whole(&payload) {
        true => header.sequence.saturating_add(1),
        false => producer.position() + 1,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::directory::RingFile;
    use crate::ring::{Consumer, HeapRegion};

    fn ring(capacity: u64) -> Region {
        HeapRegion::ring(RingFile::Observations.spec(2, capacity, 1)).unwrap()
    }

    fn take(consumer: &mut Consumer) -> (u64, ObservationHeader, [f32; 2]) {
        let peek = consumer.peek().unwrap().expect("an observation");
        let (mut header, mut payload) = (ObservationHeader::default(), [0.0; 2]);
        peek.read(0, header.as_mut_bytes());
        peek.read(ObservationHeader::BYTES, payload.as_mut_bytes());
        let position = peek.position();
        peek.release();
        assert!(header.is_whole(&payload));
        (position, header, payload)
    }

    #[test]
    fn a_successor_goes_on_with_the_numbers_and_says_that_it_is_new() {
        let region = ring(4);
        let clock = ManualClock::new(Nanos(100));
        let mut reader = Consumer::attach(region.clone()).unwrap();
        let mut feed = Feed::attach(region.clone(), clock.clone()).unwrap();
        assert_eq!(feed.publish(7, &[1.0, 2.0]).unwrap(), 0);
        clock.advance(Nanos(5));
        feed.publish(8, &[3.0, 4.0]).unwrap();
        drop(feed);
        let mut next = Feed::attach(region, clock).unwrap();
        next.publish(9, &[5.0, 6.0]).unwrap();
        next.publish(10, &[7.0, 8.0]).unwrap();

        let frames: Vec<_> = (0..4).map(|_| take(&mut reader)).collect();
        let restart = ObservationFlags::CHECKED | ObservationFlags::RESTART;
        let checked = ObservationFlags::CHECKED;
        let facts: Vec<_> =
            frames.iter().map(|(p, h, _)| (*p, h.sequence, h.ts_publish_ns, h.flags)).collect();
        assert_eq!(
            facts,
            [(0, 1, 100, restart), (1, 2, 105, checked), (2, 3, 105, restart), (3, 4, 105, checked)]
        );
        assert_eq!(frames[3].2, [7.0, 8.0]);
    }

    #[test]
    fn a_full_ring_changes_nothing() {
        let region = ring(2);
        let mut reader = Consumer::attach(region.clone()).unwrap();
        let mut feed = Feed::attach(region, ManualClock::new(Nanos(1))).unwrap();
        feed.publish(0, &[0.0; 2]).unwrap();
        feed.publish(0, &[0.0; 2]).unwrap();
        let full = feed.publish_altered(0, &[0.0; 2], |_| panic!("nothing to be altered"));
        assert!(matches!(full, Err(ClaimError::Full { committed: 2, released: 0 })));
        take(&mut reader);
        feed.publish(0, &[9.0; 2]).unwrap();
        take(&mut reader);
        assert_eq!(take(&mut reader).1.sequence, 3);
    }

    #[test]
    fn gaps_move_the_numbers_on_and_repeats_do_not() {
        let region = ring(8);
        let mut feed = Feed::attach(region, ManualClock::new(Nanos(1))).unwrap();
        feed.skip_sequence();
        feed.publish(0, &[0.0; 2]).unwrap();
        assert_eq!(feed.next_sequence(), 3);
        feed.publish_altered(0, &[0.0; 2], |header| ObservationHeader { sequence: 1, ..header }).unwrap();
        assert_eq!(feed.next_sequence(), 3);
    }

    #[test]
    #[should_panic(expected = "another dimension")]
    fn another_dimension_is_refused() {
        let mut feed = Feed::attach(ring(2), ManualClock::new(Nanos(1))).unwrap();
        let _ = feed.publish(0, &[0.0; 3]);
    }

    #[test]
    fn keeping_warm_changes_nothing_that_anybody_can_see() {
        let region = ring(8);
        let mut feed = Feed::attach(region.clone(), ManualClock::new(Nanos(7))).unwrap();
        let mut consumer = Consumer::attach(region.clone()).unwrap();
        for sequence in 1..=20 {
            for _ in 0..3 {
                feed.keep_warm(&[9.0, 9.0]);
            }
            assert_eq!(consumer.committed().unwrap(), sequence - 1);
            feed.publish(sequence * 10, &[0.5, sequence as f32]).unwrap();
            let (_, header, payload) = take(&mut consumer);
            let restarts = header.flags & ObservationFlags::RESTART != 0;
            assert_eq!(
                (header.sequence, restarts, payload),
                (sequence, sequence == 1, [0.5, sequence as f32])
            );
        }
    }
}
