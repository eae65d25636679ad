//! Every truncation and many bit flips of a segment of 64 KiB: a reader never returns a wrong record, and
//! loses no more than the damage has hit.

use super::*;

const BYTES: usize = 64 << 10;

/// A segment that is full, and the number of its ticks.
fn full_segment() -> (Vec<u8>, u64) {
    let storage = MemoryStorage::default();
    let (mut writer, _) = open(storage.clone(), BYTES as u64);
    let width = record_bytes(OBSERVATION, ACTION);
    let fit = ((BYTES - HEADER_ALIGN) / width) as u64;
    write(&mut writer, 0..fit);
    writer.commit(instants(fit)).expect("no fault");
    let [(_, bytes)] = &storage.files()[..] else { panic!("one segment") };
    assert_eq!(bytes.len(), BYTES);
    (bytes.clone(), fit)
}

/// Reads a segment and checks each record that comes back. Returns their sequences, the damage reported
/// between them, and the ending.
fn survivors(bytes: &[u8]) -> Result<(Vec<u64>, u64, Ending), HeaderError> {
    let segment = Segment::parse(bytes)?;
    let (mut whole, mut damaged) = (Vec::new(), 0);
    let mut items = segment.items();
    for item in items.by_ref() {
        match item {
            Item::Record(record) => whole.push(assert_true(&record)),
            Item::Damaged { count, .. } => damaged += count,
        }
    }
    Ok((whole, damaged, items.ending()))
}

#[test]
fn every_truncation_returns_the_records_before_it() {
    let (bytes, fit) = full_segment();
    let width = record_bytes(OBSERVATION, ACTION);
    let context = 512 + deployment().context.len();
    let mut refused = 0;
    for length in 0..=bytes.len() {
        match survivors(&bytes[..length]) {
            Ok((whole, damaged, ending)) => {
                let expected = ((length - HEADER_ALIGN) / width) as u64;
                assert_eq!(whole, (0..expected.min(fit)).collect::<Vec<_>>(), "cut at {length}");
                assert_eq!((damaged, ending.next_record), (0, expected.min(fit)));
            }
            Err(error) => {
                assert!(length < HEADER_ALIGN, "cut at {length}: {error}");
                let short = matches!(error, HeaderError::Short { .. });
                assert!(short || length >= context, "cut at {length}: {error}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, HEADER_ALIGN);
}

/// Flips one bit, and compares what comes back with what the flip can have hit.
fn check_flip(bytes: &mut [u8], fit: u64, bit: usize) {
    let width = record_bytes(OBSERVATION, ACTION);
    let (at, mask) = (bit / 8, 1 << (bit % 8));
    bytes[at] ^= mask;
    let found = survivors(bytes);
    bytes[at] ^= mask;
    let covered = 512 + deployment().context.len();
    match found {
        Err(_) => assert!(at < covered, "bit {bit}: the header is whole"),
        Ok((whole, damaged, ending)) if at >= HEADER_ALIGN => {
            let hit = ((at - HEADER_ALIGN) / width) as u64;
            let expected: Vec<_> = (0..fit).filter(|sequence| *sequence != hit).collect();
            assert_eq!(whole, expected, "bit {bit}");
            if hit + 1 >= fit {
                // Damage without a whole record after it is an interrupted write.
                assert_eq!((damaged, ending.torn_bytes > 0), (0, true), "bit {bit}");
            } else {
                assert_eq!((damaged, ending.torn_bytes), (1, 0), "bit {bit}");
            }
        }
        // Padding, which no record needs.
        Ok((whole, ..)) => {
            assert!(at >= covered, "bit {bit}: the checksum covers the header");
            assert_eq!(whole.len() as u64, fit);
        }
    }
}

#[test]
fn sampled_bit_flips_return_no_wrong_record() {
    let (mut bytes, fit) = full_segment();
    let bits = bytes.len() * 8;
    // A stride that shares no factor with the number of bits visits different ones.
    let stride = 524_288 / 20_000 * 2 + 1;
    for sample in 0..20_000 {
        check_flip(&mut bytes, fit, sample * stride % bits);
    }
}

#[test]
#[ignore = "minutes: every one of the 524,288 bits"]
fn every_bit_flip_returns_no_wrong_record() {
    let (mut bytes, fit) = full_segment();
    for bit in 0..bytes.len() * 8 {
        check_flip(&mut bytes, fit, bit);
    }
}

#[test]
fn damage_in_the_middle_is_reported_and_stays_as_it_is() {
    let (mut bytes, fit) = full_segment();
    let width = record_bytes(OBSERVATION, ACTION);
    for record in [20, 21, 22, 40] {
        bytes[HEADER_ALIGN + record * width + 30] ^= 0x55;
    }
    let storage = MemoryStorage::default();
    storage.put("0000000001.journal", bytes.clone());
    let (mut writer, report) = open(storage.clone(), BYTES as u64);
    assert_eq!(report.damaged, [(20, 3), (40, 1)]);
    assert_eq!((report.cut_bytes, report.next_record), (0, fit));
    write(&mut writer, fit..fit + 1);
    writer.commit(instants(1)).expect("no fault");
    let kept = &storage.files()[0].1;
    assert_eq!(kept[..], bytes[..kept.len()], "nothing is repaired");
    let found = read(&storage);
    let expected = [Finding::Damaged { first: 20, count: 3 }, Finding::Damaged { first: 40, count: 1 }];
    assert_eq!(found.findings, expected);
    assert_eq!(found.ticks.len() as u64, fit + 1 - 4);
}

#[test]
fn an_interrupted_write_is_cut_and_reported() {
    let (mut bytes, fit) = full_segment();
    let width = record_bytes(OBSERVATION, ACTION);
    let end = HEADER_ALIGN + (fit as usize - 1) * width;
    bytes[end + 100..].fill(0);
    let storage = MemoryStorage::default();
    storage.put("0000000001.journal", bytes);
    let (mut writer, report) = open(storage.clone(), BYTES as u64);
    assert_eq!((report.next_record, report.damaged.len()), (fit - 1, 0));
    assert!(report.cut_bytes > 0 && report.cut_bytes <= 100, "{report:?}");
    write(&mut writer, fit - 1..fit + 5);
    writer.commit(instants(1)).expect("no fault");
    let found = read(&storage);
    assert_eq!((found.findings, found.ticks), (vec![], (0..fit + 5).collect()));
}

#[test]
fn a_missing_a_foreign_and_an_unreadable_segment_are_found() {
    let storage = MemoryStorage::default();
    let (mut writer, _) = open(storage.clone(), 8 << 10);
    write(&mut writer, 0..100);
    writer.close(instants(100)).expect("no fault");
    let files = storage.files();
    let with = |change: &dyn Fn(&MemoryStorage)| {
        let changed = MemoryStorage::default();
        files.iter().for_each(|(name, bytes)| changed.put(name, bytes.clone()));
        change(&changed);
        read(&changed).findings
    };
    assert_eq!(with(&|_| ()), []);
    let without = with(&|storage| Storage::remove(&mut storage.clone(), &files[1].0).expect("it is there"));
    assert!(matches!(without[..], [Finding::Missing { .. }]), "{without:?}");
    let shorter = with(&|storage| {
        let length = files[1].1.len() as u64 - record_bytes(OBSERVATION, ACTION) as u64;
        Storage::cut(&mut storage.clone(), &files[1].0, length).expect("it is there");
    });
    assert!(matches!(shorter[..], [Finding::Missing { .. }]), "{shorter:?}");
    let damaged = with(&|storage| {
        let mut bytes = files[2].1.clone();
        bytes[100] ^= 1;
        storage.put(&files[2].0, bytes);
    });
    assert_eq!(damaged, [Finding::Header(HeaderError::Damaged)]);
    // The same records of another run, whose header differs.
    let other = MemoryStorage::default();
    let (mut writer, _) = open(other.clone(), 8 << 10);
    write(&mut writer, 0..100);
    writer.deploy(Deployment { epoch: 4, ..deployment() }, instants(1));
    writer.close(instants(100)).expect("no fault");
    let foreign = with(&|storage| {
        let mut bytes = other.files()[1].1.clone();
        bytes.truncate(files[1].1.len());
        let header = HEADER_ALIGN;
        assert_eq!(bytes[header..], files[1].1[header..], "the same ticks");
        // Another predecessor, under a checksum that matches.
        let mut other_header = *Segment::parse(&bytes).expect("a segment").header();
        other_header.previous_checksum ^= 1;
        other_header.checksum = other_header.computed_checksum(deployment().context.as_bytes());
        bytes[..512].copy_from_slice(zerocopy::IntoBytes::as_bytes(&other_header));
        storage.put(&files[1].0, bytes);
    });
    assert_eq!(foreign[0], Finding::Unchained);
}

#[test]
fn a_last_segment_without_a_readable_header_is_left_alone() {
    let storage = MemoryStorage::default();
    let (mut writer, _) = open(storage.clone(), 8 << 10);
    write(&mut writer, 0..60);
    writer.close(instants(100)).expect("no fault");
    let mut files = storage.files();
    let (name, mut bytes) = files.pop().expect("a segment");
    bytes[9] ^= 1;
    storage.put(&name, bytes.clone());
    let (mut writer, report) = open(storage.clone(), 8 << 10);
    assert_eq!(report.unreadable, Some(HeaderError::Damaged));
    write(&mut writer, 60..70);
    writer.commit(instants(200)).expect("no fault");
    assert_eq!(storage.files()[files.len()].1, bytes);
    let found = read(&storage);
    assert_eq!(found.ticks[found.ticks.len() - 10..], (60..70).collect::<Vec<_>>());
    let numbers: std::collections::BTreeSet<_> = found.numbers.iter().collect();
    assert_eq!(numbers.len(), found.numbers.len(), "no number twice");
}

#[test]
fn files_that_are_no_segments_are_refused_by_name() {
    assert_eq!(survivors(&[]).map(drop), Err(HeaderError::Short { bytes: 0 }));
    assert_eq!(survivors(&[b'x'; 600]).map(drop), Err(HeaderError::Magic));
    let mut header = SegmentHeader { format_version: 2, ..SegmentHeader::default() };
    header.checksum = header.computed_checksum(&[]);
    let mut bytes = zerocopy::IntoBytes::as_bytes(&header).to_vec();
    bytes.resize(HEADER_ALIGN, 0);
    assert_eq!(survivors(&bytes).map(drop), Err(HeaderError::Version { found: 2 }));
    header.format_version = 1;
    header.checksum = header.computed_checksum(&[]);
    bytes[..512].copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
    let contradiction = survivors(&bytes).map(drop);
    assert_eq!(contradiction, Err(HeaderError::Contradiction { what: "the dimensions" }));
}

proptest! {
    /// Bytes of any kind never make the reader panic, and never make a record that was not written.
    #[test]
    fn noise_over_a_segment_returns_no_wrong_record(
        patches in prop::collection::vec((0usize..BYTES, prop::collection::vec(any::<u8>(), 1..200)), 1..6),
    ) {
        let (mut bytes, _) = full_segment();
        for (at, patch) in patches {
            let end = (at + patch.len()).min(BYTES);
            bytes[at..end].copy_from_slice(&patch[..end - at]);
        }
        let _ = survivors(&bytes);
    }
}
