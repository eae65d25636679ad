//! Gaps of the platform, as a thread sees them that reads the clock all the time.
//!
//! A hypervisor does not report when it takes a core away. But a thread that reads the clock over and over
//! sees that time is missing. The deadline guard is such a thread, so it runs the meter. A gap on its core
//! usually hits the whole machine.

use super::attribution::{Interval, NOTABLE_GAP};
use escapement_engine::GuardEvent;
use escapement_ring::clock::Nanos;
use escapement_ring::ring::{Consumer, HeapRegion, Producer, Spec};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How late a timed wake-up usually is, at most. On a virtual machine most are 25 to 40 us late, and one in a
/// hundred 150 us.
pub const USUAL_OVERSLEEP: Nanos = Nanos::from_micros(200);
/// Gaps that fit into the ring between two reads of the supervisor.
const CAPACITY: u64 = 256;
const SLOT_BYTES: u32 = 64;

/// A gap as a record of the ring.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Gap {
    begin_ns: u64,
    end_ns: u64,
    /// Gaps that found no room before this one.
    lost_before: u64,
}

/// The writing end, for the thread that reads the clock. It never blocks and never allocates.
pub struct GapMeter {
    gaps: Producer,
    last: Option<Nanos>,
    lost: u64,
}

/// The reading end.
pub struct GapReader {
    gaps: Consumer,
    lost: u64,
}

/// Makes a meter and its reader.
pub fn gap_meter() -> (GapMeter, GapReader) {
    let spec =
        Spec { kind: 0, slot_size: SLOT_BYTES, dimension: SLOT_BYTES / 4, capacity: CAPACITY, generation: 0 };
    let region = HeapRegion::ring(spec).expect("the capacity is one that the ring allows");
    let producer = Producer::attach(region.clone()).expect("a new ring has both positions at zero");
    let consumer = Consumer::attach(region).expect("a new ring has both positions at zero");
    (GapMeter { gaps: producer, last: None, lost: 0 }, GapReader { gaps: consumer, lost: 0 })
}

impl GapMeter {
    /// Takes in what the thread reports. A gap is time that is missing between two moments at which it was
    /// awake, or the part of an oversleep that is longer than usual.
    #[inline]
    pub fn note(&mut self, moment: GuardEvent) {
        let (expected, now) = match moment {
            GuardEvent::Awake(now) => (self.last.unwrap_or(now), now),
            GuardEvent::Woke { due, now } => (due.plus(USUAL_OVERSLEEP), now),
            // The thread did not wait for a time, so nothing can be missing.
            GuardEvent::Overdue(_) => return,
        };
        self.last = Some(now);
        if now.since(expected) >= NOTABLE_GAP {
            self.keep(expected, now);
        }
    }

    #[cold]
    fn keep(&mut self, begin: Nanos, end: Nanos) {
        match self.gaps.try_claim() {
            Ok(mut claim) => {
                let gap = Gap { begin_ns: begin.0, end_ns: end.0, lost_before: self.lost };
                claim.write(0, gap.as_bytes());
                claim.commit();
            }
            Err(_) => self.lost += 1,
        }
    }
}

impl GapReader {
    /// Takes out the oldest gap.
    pub fn take(&mut self) -> Option<Interval> {
        let peek = self.gaps.peek().ok()??;
        let mut gap = Gap::default();
        peek.read(0, gap.as_mut_bytes());
        peek.release();
        self.lost = gap.lost_before;
        Some(Interval::new(gap.begin_ns, gap.end_ns))
    }

    /// Gaps that found no room before the gaps taken out so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_in_spinning_and_an_oversleep_are_seen_and_a_sleep_is_not() {
        let (mut meter, mut reader) = gap_meter();
        let micros = Nanos::from_micros;
        let awake = |at| GuardEvent::Awake(micros(at));
        let woke = |due, now| GuardEvent::Woke { due: micros(due), now: micros(now) };
        let moments =
            [awake(1_000), awake(1_029), awake(1_059), woke(5_000, 5_229), woke(6_000, 6_230), awake(6_259)];
        moments.into_iter().for_each(|moment| meter.note(moment));
        let gaps: Vec<_> = std::iter::from_fn(|| reader.take()).collect();
        assert_eq!(gaps, [Interval::new(1_029_000, 1_059_000), Interval::new(6_200_000, 6_230_000)]);
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (mut meter, mut reader) = gap_meter();
        for at in 0..CAPACITY + 6 {
            meter.note(GuardEvent::Awake(Nanos::from_micros(100 * at)));
        }
        assert_eq!(std::iter::from_fn(|| reader.take()).count() as u64, CAPACITY);
        meter.note(GuardEvent::Awake(Nanos::from_millis(1_000)));
        let last = 100_000 * (CAPACITY + 5);
        assert_eq!(reader.take().map(Interval::length), Some(1_000_000_000 - last));
        assert_eq!(reader.lost(), 5);
    }
}
