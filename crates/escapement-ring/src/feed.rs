//! L4. The producing end of an agent's observation ring, for feed handlers written in Rust.
//!
//! A [`Feed`] takes up where its predecessor's last committed observation left off: the ring position goes on by
//! itself, the sequence numbers go on from that observation's, and the first frame of a new feed says so
//! ([`ObservationFlags::RESTART`]). It never blocks: a full ring is a fact that the caller decides upon.

use crate::clock::{Clock, MonotonicClock, Nanos};
use crate::ring::{ClaimError, Header, Producer, ProtocolViolation, Region};
use crate::wire::{ObservationFlags, ObservationHeader};
use zerocopy::IntoBytes;

/// One agent's feed. There is one at a time; who it is, is settled by [`crate::directory::Role::Feed`].
#[derive(Debug)]
pub struct Feed<C: Clock = MonotonicClock> {
    producer: Producer,
    header: Header,
    clock: C,
    dimension: usize,
    next_sequence: u64,
    restart: bool,
}

impl<C: Clock> Feed<C> {
    /// Attaches to an observation ring.
    ///
    /// # Errors
    /// When the ring's positions are impossible.
    pub fn attach(region: Region, clock: C) -> Result<Self, ProtocolViolation> {
        let header = region.header();
        let dimension = region.spec().dimension as usize;
        let producer = Producer::attach(region)?;
        let next_sequence = following_sequence(&producer, dimension);
        Ok(Self { producer, header, clock, dimension, next_sequence, restart: true })
    }

    /// Elements of an observation.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Observations ever committed to this ring, by this feed and its predecessors.
    pub fn committed(&self) -> u64 {
        self.producer.position()
    }

    /// Observations ever taken by the agent, looked up now.
    ///
    /// # Errors
    /// When the agent's position is impossible.
    pub fn released(&mut self) -> Result<u64, ProtocolViolation> {
        self.producer.released()
    }

    /// The sequence number that the next observation gets.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Goes on from another sequence number: a feed that attaches to its agent's new ring keeps its own numbers.
    pub fn set_next_sequence(&mut self, sequence: u64) {
        self.next_sequence = sequence;
    }

    /// Gives up the next sequence number: its observation was lost before it could be published, and the agent is to
    /// see the gap.
    pub fn skip_sequence(&mut self) {
        self.next_sequence = self.next_sequence.saturating_add(1);
    }

    /// When the agent last said that it is alive; zero if never.
    pub fn agent_heartbeat(&self) -> Nanos {
        Nanos(self.header.consumer_heartbeat_ns())
    }

    /// Says that this feed is alive. An agent reports a feed that has been silent for a second as lost.
    pub fn beat(&self, now: Nanos) {
        self.header.beat_producer(now.0);
    }

    /// Commits an observation, stamped with the present time, and gives its position in the ring.
    ///
    /// # Errors
    /// [`ClaimError::Full`] when there is no room: nothing has happened then, and the sequence number is still to be
    /// used. A violation when the agent's position is impossible.
    ///
    /// # Panics
    /// When `payload` does not have the ring's dimension.
    pub fn publish(&mut self, ts_event_ns: u64, payload: &[f32]) -> Result<u64, ClaimError> {
        self.publish_with(ts_event_ns, payload, |header| header.sealed(payload))
    }

    /// Commits an observation whose header was changed by `alter`. `alter` gets the header filled in but not sealed, and
    /// returns what is written. For feeds that misbehave on purpose.
    ///
    /// # Errors
    /// As for [`Feed::publish`]; `alter` is not called where there is no room.
    ///
    /// # Panics
    /// When `payload` does not have the ring's dimension.
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
        // Numbers that came back or stood still leave the count where it was.
        self.next_sequence = self.next_sequence.max(header.sequence.saturating_add(1));
        Ok(position)
    }
}

/// The number after the predecessor's last; the first is 1. What a predecessor wrote that cannot be believed gives a
/// number that is plausible all the same: the restart flag tells the agent not to compare.
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
}
