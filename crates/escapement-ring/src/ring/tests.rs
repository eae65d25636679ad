//! The ring on the heap: order, bounds, and what a hostile peer can do.

use super::layout::{CONSUMER_POSITION, DATA_OFFSET, PRODUCER_POSITION};
use super::*;
use crate::backing::Backing;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;

mod hints;

const SLOT: usize = 64;

fn spec(capacity: u64) -> Spec {
    Spec { kind: 1, slot_size: SLOT as u32, dimension: 8, capacity, generation: 7 }
}

fn ring(capacity: u64) -> (Producer, Consumer, Region) {
    ends(HeapRegion::ring(spec(capacity)).unwrap())
}

/// Every width that this machine has, with and without hints.
fn tunings() -> Vec<Tuning> {
    let widths = [16, 32, 64].into_iter().filter_map(Width::of);
    let with = |width| {
        let plain = Tuning { width, ..Tuning::PLAIN };
        [
            plain,
            Tuning { write_ahead: 1, read_ahead: 2, ..plain },
            Tuning { demote: true, write_ahead: 255, ..plain },
        ]
    };
    widths.flat_map(with).collect()
}

fn ends(region: Region) -> (Producer, Consumer, Region) {
    (Producer::attach(region.clone()).unwrap(), Consumer::attach(region.clone()).unwrap(), region)
}

/// A frame that differs from every other one, and shows if it is torn.
fn frame(message: u64) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&message.wrapping_mul(2 * index as u64 + 1).to_le_bytes());
    }
    let checksum = crc32c::crc32c(&bytes[..SLOT - 4]);
    bytes[SLOT - 4..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn commit(producer: &mut Producer, message: u64) -> Result<(), ClaimError> {
    let mut claim = producer.try_claim()?;
    claim.write(0, &frame(message));
    claim.commit();
    Ok(())
}

fn take(consumer: &mut Consumer) -> Result<Option<[u8; SLOT]>, ProtocolViolation> {
    let Some(peek) = consumer.peek()? else { return Ok(None) };
    let mut bytes = [0; SLOT];
    peek.read(0, &mut bytes);
    peek.release();
    Ok(Some(bytes))
}

#[test]
fn full_and_empty_come_with_their_figures() {
    let (mut producer, mut consumer, _) = ring(2);
    assert_eq!(take(&mut consumer), Ok(None));
    commit(&mut producer, 1).unwrap();
    commit(&mut producer, 2).unwrap();
    assert_eq!(commit(&mut producer, 3), Err(ClaimError::Full { committed: 2, released: 0 }));
    assert_eq!(take(&mut consumer), Ok(Some(frame(1))));
    commit(&mut producer, 3).unwrap();
    assert_eq!(producer.released(), Ok(1));
    assert_eq!(consumer.committed(), Ok(3));
}

#[test]
fn parts_of_a_slot_are_written_and_read_at_their_offsets() {
    let (mut producer, mut consumer, _) = ring(2);
    let mut claim = producer.try_claim().unwrap();
    claim.write(0, &[1; 16]);
    claim.write(16, &[2; 21]);
    claim.write(48, &[3; 16]);
    claim.commit();
    let peek = consumer.peek().unwrap().unwrap();
    let (mut middle, mut end, mut nothing) = ([0; 21], [0; 3], []);
    peek.read(16, &mut middle);
    peek.read(48, &mut end);
    peek.read(64, &mut nothing);
    assert_eq!((middle, end), ([2; 21], [3; 3]));
}

#[test]
fn an_access_outside_the_slot_panics_and_touches_nothing() {
    // The last two passed in an earlier version, because the sum of offset and length overflowed.
    let lengths = [(0, 65), (16, 49), (64, 1), (8, 8), (80, 0), (usize::MAX - 15, 16), (usize::MAX - 15, 32)];
    for (offset, len) in lengths {
        let (mut producer, mut consumer, _) = ring(2);
        commit(&mut producer, 1).unwrap();
        let write = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            producer.try_claim().unwrap().write(offset, &vec![0xee; len]);
        }));
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            consumer.peek().unwrap().unwrap().read(offset, &mut vec![0; len]);
        }));
        let last = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            producer.read_last(offset, &mut vec![0; len]);
        }));
        assert!(write.is_err() && read.is_err() && last.is_err(), "offset {offset}, {len} bytes");
    }
}

#[test]
fn successors_go_on_where_the_positions_are() {
    let (mut producer, mut consumer, region) = ring(4);
    for message in 0..3 {
        commit(&mut producer, message).unwrap();
    }
    assert_eq!(take(&mut consumer), Ok(Some(frame(0))));
    producer.try_claim().unwrap().write(0, &[0xff; SLOT]);
    drop((producer, consumer));

    let mut producer = Producer::attach(region.clone()).unwrap();
    let mut consumer = Consumer::attach(region).unwrap();
    assert_eq!((producer.position(), consumer.position()), (3, 1));
    let mut last = [0; SLOT];
    assert!(producer.read_last(0, &mut last));
    assert_eq!(last, frame(2));
    commit(&mut producer, 3).unwrap();
    for message in 1..4 {
        assert_eq!(take(&mut consumer), Ok(Some(frame(message))));
    }
    assert_eq!(take(&mut consumer), Ok(None));
}

#[test]
fn a_fresh_producer_has_no_last_slot() {
    let (producer, ..) = ring(2);
    assert!(!producer.read_last(0, &mut [0; 16]));
}

#[test]
fn the_words_beside_the_positions_keep_apart() {
    let (.., region) = ring(2);
    let header = region.header();
    header.beat_producer(1);
    header.beat_consumer(2);
    header.reset_state(3, 4);
    header.set_epoch(5);
    let hash: [u8; 32] = std::array::from_fn(|index| index as u8 + 6);
    header.set_bundle_hash(&hash);
    assert_eq!((header.producer_heartbeat_ns(), header.consumer_heartbeat_ns()), (1, 2));
    assert_eq!((header.state(), header.epoch(), header.bundle_hash()), ((3, 4), 5, hash));
    assert_eq!(region.word(PRODUCER_POSITION).load(crate::sync::Ordering::Relaxed), 0);
    assert_eq!(region.word(CONSUMER_POSITION).load(crate::sync::Ordering::Relaxed), 0);
}

#[test]
fn geometry_has_bounds() {
    let refused = |changed: Spec| match HeapRegion::ring(changed) {
        Err(LayoutError::Field { field, .. }) => field,
        other => panic!("{changed:?}: {other:?}"),
    };
    for capacity in [0, 1, 6, 1 << 21, u64::MAX] {
        assert_eq!(refused(Spec { capacity, ..spec(4) }), "capacity");
    }
    for slot_size in [0, 96, (1 << 16) + 64] {
        assert_eq!(refused(Spec { slot_size, ..spec(4) }), "slot_size");
    }
    for dimension in [0, 17, u32::MAX] {
        assert_eq!(refused(Spec { dimension, ..spec(4) }), "dimension");
    }
    let largest = Spec { slot_size: MAX_SLOT_SIZE, capacity: MAX_CAPACITY, ..spec(4) };
    assert_eq!(largest.region_bytes() as u64, 4096 + (1u64 << 36));
    assert_eq!(Spec { capacity: u64::MAX, ..largest }.region_bytes(), usize::MAX);
}

#[test]
fn a_region_has_exactly_the_size_of_its_layout() {
    let size = spec(4).region_bytes();
    for len in [size - 64, size + 64] {
        let found = Region::format(Arc::new(HeapRegion::new(len)), spec(4)).unwrap_err();
        assert!(matches!(found, LayoutError::Size { .. }), "{found}");
    }
}

/// A heap region whose bytes a test can damage.
fn raw(capacity: u64) -> (Arc<HeapRegion>, Spec) {
    let spec = spec(capacity);
    let heap = Arc::new(HeapRegion::new(spec.region_bytes()));
    Region::format(heap.clone(), spec).unwrap();
    (heap, spec)
}

fn poke(heap: &HeapRegion, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= heap.len());
    for (index, byte) in bytes.iter().enumerate() {
        // SAFETY: within the allocation, by the assertion; no other thread uses it.
        unsafe { heap.base().as_ptr().add(offset + index).write_volatile(*byte) };
    }
}

#[test]
fn every_flipped_bit_of_the_header_is_found() {
    let (heap, spec) = raw(4);
    let mut intact = [0; 64];
    // SAFETY: the allocation is larger than a page and page-aligned.
    unsafe { copy::out_of_slot(Width::NARROW, heap.base().as_ptr(), &mut intact) };
    for bit in 0..64 * 8 {
        let mut flipped = intact;
        flipped[bit / 8] ^= 1 << (bit % 8);
        poke(&heap, 0, &flipped);
        let found = Region::open(heap.clone()).expect_err("a damaged header");
        let expected = match bit / 8 {
            0..8 => matches!(found, LayoutError::Magic),
            8..12 => matches!(found, LayoutError::Version { .. }),
            _ => matches!(found, LayoutError::Checksum),
        };
        assert!(expected, "bit {bit}: {found}");
    }
    poke(&heap, 0, &intact);
    assert_eq!(*Region::open(heap).unwrap().spec(), spec);
}

/// Sets one field and corrects the header's checksum, as a hostile or mistaken writer would.
fn forge(heap: &HeapRegion, offset: usize, bytes: &[u8]) {
    poke(heap, offset, bytes);
    let mut header = [0; 60];
    // SAFETY: the allocation is larger than a page and page-aligned.
    unsafe { copy::out_of_slot(Width::NARROW, heap.base().as_ptr(), &mut header) };
    poke(heap, 60, &crc32c::crc32c(&header).to_le_bytes());
}

#[test]
fn a_forged_header_is_refused_by_the_field_that_lies() {
    let cases: [(&str, &[u8]); 6] = [
        ("slot_size", &96u32.to_le_bytes()),
        ("dtype", &2u32.to_le_bytes()),
        ("dimension", &u32::MAX.to_le_bytes()),
        ("data_offset", &0u32.to_le_bytes()),
        ("capacity", &(1u64 << 63).to_le_bytes()),
        ("capacity", &3u64.to_le_bytes()),
    ];
    for (name, bytes) in cases {
        let (heap, _) = raw(4);
        let place = REGION_FIELDS.iter().find(|place| place.name == name).unwrap();
        forge(&heap, place.offset, bytes);
        match Region::open(heap) {
            Err(LayoutError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    // The geometry is allowed, but it is not that of these bytes.
    let (heap, _) = raw(4);
    forge(&heap, 32, &(1u64 << 20).to_le_bytes());
    assert!(matches!(Region::open(heap), Err(LayoutError::Size { .. })));
    assert!(matches!(Region::open(Arc::new(HeapRegion::new(4096))), Err(LayoutError::Magic)));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Commit,
    Abort,
    Peek,
    Release,
    SkipToLatest,
    ReattachProducer,
    ReattachConsumer,
    ReadLast,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Commit),
        1 => Just(Step::Abort),
        2 => Just(Step::Peek),
        5 => Just(Step::Release),
        1 => Just(Step::SkipToLatest),
        1 => Just(Step::ReattachProducer),
        1 => Just(Step::ReattachConsumer),
        1 => Just(Step::ReadLast),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// Every answer of the ring equals that of a queue.
    #[test]
    fn behaves_as_a_bounded_queue(
        power in 1u32..6,
        tuning in prop::sample::select(tunings()),
        start in 0u64..100,
        steps in steps(),
    ) {
        let capacity = 1u64 << power;
        let region = HeapRegion::ring(spec(capacity)).unwrap().tuned(tuning);
        let (mut producer, mut consumer, region) = ends(region);
        for message in 0..start {
            commit(&mut producer, message).unwrap();
            prop_assert_eq!(take(&mut consumer), Ok(Some(frame(message))));
        }
        let mut queue = VecDeque::new();
        let mut next = start;
        for step in steps {
            match step {
                Step::Commit => {
                    let committed = commit(&mut producer, next);
                    if queue.len() as u64 == capacity {
                        let released = next - capacity;
                        prop_assert_eq!(committed, Err(ClaimError::Full { committed: next, released }));
                    } else {
                        prop_assert_eq!(committed, Ok(()));
                        queue.push_back(next);
                        next += 1;
                    }
                }
                Step::Abort => {
                    if let Ok(mut claim) = producer.try_claim() {
                        prop_assert_eq!(claim.position(), next);
                        claim.write(0, &[0xff; SLOT]);
                    }
                }
                Step::Peek => {
                    let peek = consumer.peek().unwrap();
                    prop_assert_eq!(peek.as_ref().map(Peek::position), queue.front().copied());
                    if let (Some(peek), Some(message)) = (peek, queue.front()) {
                        let mut bytes = [0; SLOT];
                        peek.read(0, &mut bytes);
                        prop_assert_eq!(bytes, frame(*message));
                    }
                }
                Step::Release => prop_assert_eq!(take(&mut consumer), Ok(queue.pop_front().map(frame))),
                Step::SkipToLatest => {
                    let skipped = queue.len().saturating_sub(1);
                    prop_assert_eq!(consumer.skip_to_latest(), Ok(skipped as u64));
                    queue.drain(..skipped);
                }
                Step::ReattachProducer => producer = Producer::attach(region.clone()).unwrap(),
                Step::ReattachConsumer => consumer = Consumer::attach(region.clone()).unwrap(),
                Step::ReadLast => {
                    let mut bytes = [0; SLOT];
                    prop_assert_eq!(producer.read_last(0, &mut bytes), next > 0);
                    // An aborted claim may have written to the slot after the last one, never to the last one
                    // itself.
                    if next > 0 {
                        prop_assert_eq!(bytes, frame(next - 1));
                    }
                }
            }
            prop_assert_eq!(producer.position(), next);
            prop_assert_eq!(consumer.position(), next - queue.len() as u64);
            prop_assert_eq!(consumer.committed(), Ok(next));
            prop_assert_eq!(producer.released(), Ok(consumer.position()));
        }
    }

    /// For any content of the fixed header, opening gives a typed error or the ring that was laid out.
    #[test]
    fn a_hostile_header_is_refused_or_harmless(
        damage in prop::collection::vec((0usize..64, any::<u8>()), 1..64),
        forged in any::<bool>(),
    ) {
        let (heap, original) = raw(4);
        for (offset, byte) in damage {
            if forged {
                forge(&heap, offset, &[byte]);
            } else {
                poke(&heap, offset, &[byte]);
            }
        }
        if let Ok(region) = Region::open(heap.clone()) {
            let spec = *region.spec();
            prop_assert_eq!(spec.region_bytes(), heap.len());
            prop_assert!(spec.capacity.is_power_of_two() && spec.slot_size % 64 == 0);
            prop_assert!(forged || spec == original);
            // Any ring that opens works.
            let mut producer = Producer::attach(region.clone()).unwrap();
            let mut consumer = Consumer::attach(region).unwrap();
            commit(&mut producer, 1).unwrap();
            prop_assert_eq!(take(&mut consumer), Ok(Some(frame(1))));
        }
    }

    /// For any positions that a peer writes, before a side attaches or while it runs, the answer is a typed
    /// error, or one that the side's own position and the capacity allow.
    #[test]
    fn hostile_positions_give_typed_errors(
        power in 1u32..4,
        at_attach in prop::option::of((position(), position())),
        lies in prop::collection::vec((any::<bool>(), position()), 1..40),
    ) {
        let capacity = 1u64 << power;
        let (heap, _) = raw(capacity);
        let region = Region::open(heap.clone()).unwrap();
        if let Some((produced, consumed)) = at_attach {
            poke(&heap, PRODUCER_POSITION, &produced.to_le_bytes());
            poke(&heap, CONSUMER_POSITION, &consumed.to_le_bytes());
            let possible = produced >= consumed && produced - consumed <= capacity;
            prop_assert_eq!(Producer::attach(region.clone()).is_ok(), possible && produced <= MAX_POSITION);
            prop_assert_eq!(Consumer::attach(region.clone()).is_ok(), possible && consumed <= MAX_POSITION);
        }
        let sides = (Producer::attach(region.clone()), Consumer::attach(region));
        let (Ok(mut producer), Ok(mut consumer)) = sides else { return Ok(()) };
        for (lie_to_producer, lie) in lies {
            if lie_to_producer {
                poke(&heap, CONSUMER_POSITION, &lie.to_le_bytes());
                let before = producer.position();
                match commit(&mut producer, 1) {
                    Ok(()) => prop_assert_eq!(producer.position(), before + 1),
                    Err(_) => prop_assert_eq!(producer.position(), before),
                }
                if let Ok(released) = producer.released() {
                    prop_assert!(producer.position() - released <= capacity);
                }
            } else {
                poke(&heap, PRODUCER_POSITION, &lie.to_le_bytes());
                let before = consumer.position();
                match take(&mut consumer) {
                    Ok(Some(_)) => prop_assert_eq!(consumer.position(), before + 1),
                    _ => prop_assert_eq!(consumer.position(), before),
                }
                if let Ok(skipped) = consumer.skip_to_latest() {
                    prop_assert!(skipped < capacity);
                }
            }
        }
    }
}

/// Positions near the edges: zero, the capacity, the largest allowed, the end of the number range.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..20,
        (0u64..20).prop_map(|back| u64::MAX - back),
        (0u64..20).prop_map(|step| MAX_POSITION - 10 + step),
        any::<u64>(),
    ]
}

#[test]
fn two_threads_exchange_whole_frames_in_order_with_every_tuning() {
    for tuning in tunings() {
        exchange(tuning);
    }
}

fn exchange(tuning: Tuning) {
    const MESSAGES: u64 = 20_000;
    let region = HeapRegion::ring(spec(64)).unwrap().tuned(tuning);
    let (mut producer, mut consumer, _) = ends(region);
    let sender = std::thread::spawn(move || {
        for message in 0..MESSAGES {
            while commit(&mut producer, message).is_err() {
                std::thread::yield_now();
            }
        }
    });
    for message in 0..MESSAGES {
        let bytes = loop {
            match take(&mut consumer).unwrap() {
                Some(bytes) => break bytes,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(bytes, frame(message), "message {message}, {tuning:?}");
    }
    sender.join().unwrap();
    assert_eq!(take(&mut consumer), Ok(None));
}

#[test]
fn slots_begin_after_the_header_page_and_follow_one_another() {
    let (heap, spec) = raw(2);
    let mut producer = Producer::attach(Region::open(heap.clone()).unwrap()).unwrap();
    for message in [1, 2] {
        commit(&mut producer, message).unwrap();
        let mut bytes = [0; SLOT];
        let offset = DATA_OFFSET + (message as usize - 1) * spec.slot_size as usize;
        // SAFETY: within the region, by its layout; slots are 64-aligned; no other thread uses it.
        unsafe { copy::out_of_slot(Width::NARROW, heap.base().as_ptr().add(offset), &mut bytes) };
        assert_eq!(bytes, frame(message));
    }
}
