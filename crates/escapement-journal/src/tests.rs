//! Tests of the whole crate: what comes back after damage, and what is counted after a failure.

mod damage;
mod faults;
mod storage;

use super::segment::{Item, Segment};
use super::*;
use proptest::prelude::*;
use storage::MemoryStorage;

const OBSERVATION: usize = 5;
const ACTION: usize = 2;

fn spec(segment_bytes: u64) -> WriterSpec {
    WriterSpec { observation: OBSERVATION, action: ACTION, segment_bytes, ..WriterSpec::default() }
}

fn instants(at: u64) -> Instants {
    Instants { monotonic_ns: at, wall_ns: 1_000_000 + at }
}

fn deployment() -> Deployment {
    Deployment {
        epoch: 3,
        revision: 1,
        configuration_sha256: [7; 32],
        bundle_sha256: [9; 32],
        context: "[agent]\nname = \"it\"\n".to_owned(),
    }
}

fn open(storage: MemoryStorage, segment_bytes: u64) -> (Writer<MemoryStorage>, OpenReport) {
    Writer::open(storage, spec(segment_bytes), Facts::default(), deployment()).expect("it opens")
}

/// The tick with this sequence, whose every field follows from it.
fn tick(sequence: u64) -> (TickBody, [f32; OBSERVATION], [f32; ACTION]) {
    let body = TickBody {
        sequence,
        position: sequence * 3,
        ts_peek_ns: sequence * 1_000,
        flags: sequence as u32,
        outcome: 1,
        ..TickBody::default()
    };
    let base = sequence as f32;
    (body, [base, -base, base * 0.5, f32::NAN, 1.0], [base + 1.0, -0.0])
}

fn write(writer: &mut Writer<MemoryStorage>, sequences: std::ops::Range<u64>) {
    for sequence in sequences {
        let (body, observation, action) = tick(sequence);
        writer.tick(&body, &observation, &action, instants(sequence));
    }
}

/// Panics unless the record holds exactly what was written as its sequence.
fn assert_true(record: &Record<'_>) -> u64 {
    let found = record.tick().expect("a tick");
    let (body, observation, action) = tick(found.sequence);
    assert_eq!(found, body);
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(record.observation().collect()), bits(observation.to_vec()));
    assert_eq!(bits(record.action().collect()), bits(action.to_vec()));
    found.sequence
}

/// Everything that a reader of this storage gets, in order.
#[derive(Debug, Default, PartialEq)]
struct Read {
    ticks: Vec<u64>,
    events: Vec<EventBody>,
    gaps: Vec<GapBody>,
    findings: Vec<Finding>,
    numbers: Vec<u64>,
}

impl Visitor for Read {
    fn begin(&mut self, _: &SegmentFile, _: &Segment<'_>) -> bool {
        true
    }

    fn record(&mut self, _: &SegmentHeader, record: &Record<'_>) -> bool {
        self.numbers.push(record.header().number);
        match record.kind().expect("a known kind") {
            RecordKind::Tick => self.ticks.push(assert_true(record)),
            RecordKind::Event => self.events.push(record.event().expect("an event")),
            RecordKind::Gap => self.gaps.push(record.gap().expect("a gap")),
        }
        true
    }

    fn finding(&mut self, _: &SegmentFile, finding: Finding) {
        self.findings.push(finding);
    }
}

fn read(storage: &MemoryStorage) -> Read {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in storage.files() {
        std::fs::write(folder.path().join(name), bytes).expect("the folder can be written");
    }
    let mut read = Read::default();
    Journal::open(folder.path()).and_then(|journal| journal.visit(&mut read)).expect("it can be read");
    read
}

#[test]
fn what_is_written_is_read_across_segments_and_writers() {
    let storage = MemoryStorage::default();
    let (mut writer, report) = open(storage.clone(), 8 << 10);
    assert_eq!((report.segments, report.next_record), (0, 0));
    write(&mut writer, 0..100);
    let event = EventBody { kind: EventKind::Reload.number(), revision: 2, ..EventBody::default() };
    writer.event(&event, instants(100));
    writer.close(instants(101)).expect("no fault");
    let (mut writer, report) = open(storage.clone(), 8 << 10);
    assert_eq!((report.next_record, report.cut_bytes), (101, 0));
    assert!(report.segments > 3, "{report:?}");
    write(&mut writer, 100..150);
    writer.commit(instants(151)).expect("no fault");
    let found = read(&storage);
    assert_eq!(found.ticks, (0..150).collect::<Vec<_>>());
    assert_eq!((found.events, found.findings), (vec![event], vec![]));
    assert_eq!(found.numbers, (0..151).collect::<Vec<_>>());
}

#[test]
fn the_header_says_what_ran_where() {
    let storage = MemoryStorage::default();
    let facts = Facts {
        host: "host".to_owned(),
        cpu: "a processor of another maker, with a name that is longer than the field for it".to_owned(),
        clock_source: "tsc".to_owned(),
        program: "0.1.0".to_owned(),
        clock_error_ns: Some(250),
    };
    let (mut writer, _) =
        Writer::open(storage.clone(), spec(16 << 10), facts, deployment()).expect("it opens");
    write(&mut writer, 0..1);
    writer.commit(instants(70)).expect("no fault");
    let later = Deployment { revision: 2, context: "x".repeat(5_000), ..deployment() };
    writer.deploy(later.clone(), instants(80));
    write(&mut writer, 1..2);
    writer.commit(instants(90)).expect("no fault");
    let files = storage.files();
    let first = Segment::parse(&files[0].1).expect("a segment");
    let header = first.header();
    assert_eq!((header.host.text(), header.clock_source.text()), ("host".to_owned(), "tsc".to_owned()));
    assert_eq!(header.cpu.text().len(), 64);
    assert_eq!((header.clock_error_ns, header.epoch, header.revision), (250, 3, 1));
    assert_eq!((header.configuration_sha256, header.bundle_sha256), ([7; 32], [9; 32]));
    assert_eq!(first.context(), deployment().context);
    assert_eq!(header.wall_ns(70), 1_000_070);
    let second = Segment::parse(&files[1].1).expect("a segment");
    assert_eq!((second.header().revision, second.header().header_bytes), (2, 8192));
    assert_eq!(second.context(), later.context);
    let too_long = Deployment { context: "x".repeat(15_000), ..deployment() };
    writer.deploy(too_long, instants(95));
    write(&mut writer, 2..9);
    writer.commit(instants(99)).expect("no fault");
    let files = storage.files();
    assert_eq!(files.len(), 3, "a context that does not fit must not make a segment of each record");
    assert_eq!(Segment::parse(&files[2].1).expect("a segment").context(), "");
}

#[test]
fn old_segments_are_removed_by_size_and_by_age() {
    let with = |retention: Retention| {
        let storage = MemoryStorage::default();
        let spec = WriterSpec { retention, ..spec(8 << 10) };
        let (mut writer, _) =
            Writer::open(storage.clone(), spec, Facts::default(), deployment()).expect("it opens");
        write(&mut writer, 0..400);
        writer.commit(instants(400)).expect("no fault");
        let found = read(&storage);
        assert_eq!(found.findings, []);
        assert_eq!(found.ticks.last(), Some(&399));
        let bytes: usize = storage.files().iter().map(|(_, bytes)| bytes.len()).sum();
        (found.ticks.len(), bytes)
    };
    assert_eq!(with(Retention { keep_bytes: None, keep_age_ns: None }).0, 400);
    let (kept, bytes) = with(Retention { keep_bytes: Some(32 << 10), keep_age_ns: None });
    assert!(bytes <= 32 << 10 && kept > 40 && kept < 100, "{kept} ticks in {bytes} bytes");
    let (kept, _) = with(Retention { keep_bytes: None, keep_age_ns: Some(50) });
    assert!((50..100).contains(&kept), "{kept}");
}

#[test]
fn a_segment_ends_by_its_age() {
    let storage = MemoryStorage::default();
    let spec = WriterSpec { segment_age_ns: 1_000, ..spec(64 << 10) };
    let (mut writer, _) =
        Writer::open(storage.clone(), spec, Facts::default(), deployment()).expect("it opens");
    for at in 0..10 {
        let (body, observation, action) = tick(at);
        writer.tick(&body, &observation, &action, instants(at * 600));
        writer.commit(instants(at * 600)).expect("no fault");
    }
    // 0 to 1200, 1800 to 3000, 3600 to 4800, 5400.
    assert_eq!(storage.files().len(), 4);
    assert_eq!(read(&storage).ticks, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_queue_that_was_full_is_told_in_place() {
    let storage = MemoryStorage::default();
    let (mut writer, _) = open(storage.clone(), 8 << 10);
    write(&mut writer, 0..10);
    writer.note_queue_full(7, instants(10));
    write(&mut writer, 17..20);
    writer.note_queue_full(2, instants(20));
    writer.commit(instants(25)).expect("no fault");
    let found = read(&storage);
    let told: Vec<_> =
        found.gaps.iter().map(|gap| (gap.ticks_queue_full, gap.from_ns, gap.until_ns)).collect();
    assert_eq!(told, [(7, 10, 17), (2, 20, 25)]);
    assert_eq!(found.ticks, (0..10).chain(17..20).collect::<Vec<_>>());
    assert_eq!(writer.lost().ticks(), 9);
}

#[test]
fn the_layout_is_the_one_of_the_page() {
    let page = include_str!("../../../docs/FORMATS-journal.md");
    let mut checked = 0;
    let offsets = [
        ("segment_bytes", core::mem::offset_of!(SegmentHeader, segment_bytes)),
        ("configuration_sha256", core::mem::offset_of!(SegmentHeader, configuration_sha256)),
        ("host", core::mem::offset_of!(SegmentHeader, host)),
        ("program", core::mem::offset_of!(SegmentHeader, program)),
        ("number", core::mem::offset_of!(RecordHeader, number)),
        ("inference_ns", 24 + core::mem::offset_of!(TickBody, inference_ns)),
        ("state_hash", 24 + core::mem::offset_of!(TickBody, state_hash)),
        ("observation_checksum", 24 + core::mem::offset_of!(TickBody, observation_checksum)),
        ("values", 24 + core::mem::offset_of!(EventBody, values)),
        ("events_not_written", 24 + core::mem::offset_of!(GapBody, events_not_written)),
    ];
    for (field, offset) in offsets {
        let row = page.lines().find(|line| line.contains(&format!("| `{field}` |")));
        let row = row.unwrap_or_else(|| panic!("{field} is not on the page"));
        assert!(row.starts_with(&format!("| {offset} |")), "{field} is at {offset}: {row}");
        checked += 1;
    }
    for kind in RecordKind::ALL {
        assert!(page.contains(&format!("| {} | `{}` |", kind.number(), kind.name())), "{kind:?}");
    }
    for kind in EventKind::ALL {
        assert!(page.contains(&format!("| {} | `{}` |", kind.number(), kind.name())), "{kind:?}");
    }
    assert!(checked == offsets.len());
    assert_eq!(record_bytes(32, 3), 296);
    assert!(page.contains("296"));
}

proptest! {
    /// Numbers are dense whatever is written in whatever groups.
    #[test]
    fn any_grouping_reads_the_same(groups in prop::collection::vec(0u64..40, 1..20)) {
        let storage = MemoryStorage::default();
        let (mut writer, _) = open(storage.clone(), 8 << 10);
        let mut next = 0;
        for group in groups {
            write(&mut writer, next..next + group);
            next += group;
            prop_assert!(writer.commit(instants(next)).is_ok());
        }
        prop_assert_eq!(read(&storage).ticks, (0..next).collect::<Vec<_>>());
    }
}
