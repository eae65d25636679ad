//! `docs/FORMATS.md`, `include/escapement.h` and the program agree. A producer can be written from the page.

use escapement::ring::{
    Consumer, FieldPlace, HeapRegion, LAYOUT_VERSION, MAGIC, MAX_CAPACITY, MAX_POSITION, MAX_SLOT_SIZE,
    MIN_CAPACITY, Producer, REGION_FIELDS, Region, Spec,
};
use escapement::shm::{MappedFile, ShmError};
use escapement::wire::{
    ActionFlags, ActionHeader, AgentState, KIND_ACTION, KIND_OBSERVATION, MAX_DIMENSION, ObservationFlags,
    ObservationHeader, Outcome, Reason,
};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

pub fn in_package(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the rows of a marked table of `docs/FORMATS.md`, cell by cell. A missing table fails the test.
fn table(name: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(in_package("docs/FORMATS.md")).unwrap();
    let begin = format!("<!-- table: {name} -->");
    let (_, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no table {name}"));
    let (body, _) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("table {name} has no end"));
    let rows: Vec<Vec<String>> = body
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    assert!(!rows.is_empty(), "table {name} is empty");
    rows
}

/// Returns `(name, offset, size)` of every row of a table of fields.
fn documented_fields(name: &str) -> Vec<(String, usize, usize)> {
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("table {name}: {text} is no number"));
    table(name).into_iter().map(|row| (row[3].clone(), number(&row[0]), number(&row[1]))).collect()
}

macro_rules! fields {
    ($header:ty: $($field:ident $size:literal),* $(,)?) => {
        vec![
            $((stringify!($field).to_owned(), offset_of!($header, $field), $size),)*
            ("payload".to_owned(), size_of::<$header>(), 0),
        ]
    };
}

fn observation_fields() -> Vec<(String, usize, usize)> {
    fields!(ObservationHeader: sequence 8, ts_event_ns 8, ts_publish_ns 8, flags 4, checksum 4)
}

fn action_fields() -> Vec<(String, usize, usize)> {
    fields!(ActionHeader:
        sequence 8, position 8, ts_event_ns 8, ts_publish_ns 8, ts_commit_ns 8, inference_ns 8, queue_ns 8,
        epoch 4, outcome 2, reason 2, generation 4, reserved 4, flags 4, checksum 4)
}

fn region_fields() -> Vec<(String, usize, usize)> {
    let triple = |place: &FieldPlace| (place.name.to_owned(), place.offset, place.size);
    REGION_FIELDS.iter().map(triple).collect()
}

/// Returns `(number, name)` of everything that has a number on the wire, by table.
fn numbers() -> Vec<(&'static str, Vec<(u64, &'static str)>)> {
    vec![
        ("outcomes", Outcome::ALL.iter().map(|value| (value.number().into(), value.name())).collect()),
        ("reasons", Reason::ALL.iter().map(|value| (value.number().into(), value.name())).collect()),
        ("states", AgentState::ALL.iter().map(|value| (value.number().into(), value.name())).collect()),
        (
            "observation flags",
            vec![
                (ObservationFlags::CHECKED.into(), "CHECKED"),
                (ObservationFlags::RESTART.into(), "RESTART"),
            ],
        ),
        (
            "action flags",
            vec![
                (ActionFlags::INFERENCE_LATE.into(), "INFERENCE_LATE"),
                (ActionFlags::END_TO_END_LATE.into(), "END_TO_END_LATE"),
                (ActionFlags::STALE.into(), "STALE"),
                (ActionFlags::GAP.into(), "GAP"),
            ],
        ),
    ]
}

#[test]
fn the_page_has_every_field_where_the_program_has_it() {
    assert_eq!(documented_fields("region"), region_fields());
    assert_eq!(documented_fields("observation"), observation_fields());
    assert_eq!(documented_fields("action"), action_fields());
}

#[test]
fn fields_follow_one_another_without_overlap() {
    for fields in [region_fields(), observation_fields(), action_fields()] {
        for pair in fields.windows(2) {
            assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{} overlaps {}", pair[0].0, pair[1].0);
        }
    }
}

#[test]
fn the_page_has_every_number_of_the_program() {
    for (name, expected) in numbers() {
        let documented: Vec<(u64, String)> =
            table(name).into_iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect();
        let expected: Vec<(u64, String)> =
            expected.into_iter().map(|(number, text)| (number, text.to_owned())).collect();
        assert_eq!(documented, expected, "table {name}");
    }
}

#[test]
fn a_laid_out_region_has_the_documented_bytes() {
    let spec = Spec { kind: 2, slot_size: 128, dimension: 3, capacity: 4, generation: 0x0102_0304_0506_0708 };
    let heap = Arc::new(HeapRegion::new(spec.region_bytes()));
    Region::format(heap.clone(), spec).unwrap();
    let mut bytes = [0; 64];
    for (offset, byte) in bytes.iter_mut().enumerate() {
        use escapement::backing::Backing as _;
        // SAFETY: the allocation is larger than a page, and no other thread uses it.
        *byte = unsafe { heap.base().as_ptr().add(offset).read_volatile() };
    }
    assert_eq!(bytes[..8], MAGIC);
    let golden = "4553435052494e47 01000000 02000000 80000000 01000000 03000000 00100000 0400000000000000 \
                  0807060504030201 000000000000000000000000 e6bf6a54";
    assert_eq!(hex(&bytes), golden.replace(' ', ""));
}

#[test]
fn frames_have_the_documented_bytes() {
    let payload = [1.0f32, -2.5];
    let observation = ObservationHeader {
        sequence: 0x0807_0605_0403_0201,
        ts_event_ns: 0x18,
        ts_publish_ns: 0x28,
        flags: ObservationFlags::RESTART,
        checksum: 0,
    }
    .sealed(&payload);
    let golden = "0102030405060708 1800000000000000 2800000000000000 03000000 df47fa30";
    assert_eq!(hex(observation.as_bytes()), golden.replace(' ', ""));
    assert!(observation.is_whole(&payload) && !observation.is_whole(&[1.0, -2.0]));

    let action = ActionHeader {
        sequence: 1,
        position: 2,
        ts_event_ns: 3,
        ts_publish_ns: 4,
        ts_commit_ns: 5,
        inference_ns: 6,
        queue_ns: 7,
        epoch: 8,
        outcome: Outcome::SafeDefault.number(),
        reason: Reason::Stale.number(),
        generation: 9,
        reserved: 0,
        flags: ActionFlags::STALE,
        checksum: 0,
    }
    .sealed(&payload);
    let golden = "0100000000000000 0200000000000000 0300000000000000 0400000000000000 0500000000000000 \
                  0600000000000000 0700000000000000 08000000 0200 0400 09000000 00000000 04000000 a2fd1730";
    assert_eq!(hex(action.as_bytes()), golden.replace(' ', ""));
    assert!(action.is_whole(&payload) && !action.is_whole(&[1.0, -2.0]));
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283, "the page's check value");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the C compiler. Without one it prints that the C header is not tested.
pub fn c_compiler() -> Option<&'static str> {
    let found =
        ["cc", "gcc", "clang"].into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    if found.is_none() {
        println!("SKIPPED: no C compiler on this machine");
    }
    found
}

pub fn compile(compiler: &str, arguments: &[&Path]) -> Output {
    let flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I"];
    Command::new(compiler).args(flags).arg(in_package("include")).args(arguments).output().unwrap()
}

pub fn assert_compiled(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_c_header_has_every_field_and_number() {
    let Some(compiler) = c_compiler() else { return };
    let mut source = String::from("#include \"escapement.h\"\n");
    let mut require = |condition: String| source.push_str(&format!("_Static_assert({condition}, \"\");\n"));
    let structs =
        [("region", region_fields()), ("observation", observation_fields()), ("action", action_fields())];
    for (name, fields) in structs {
        for (field, offset, size) in fields {
            require(format!("offsetof(struct escapement_{name}, {field}) == {offset}"));
            if size > 0 {
                require(format!("sizeof(((struct escapement_{name} *)0)->{field}) == {size}"));
            }
        }
    }
    for (table, values) in numbers() {
        let prefix = table.strip_suffix('s').unwrap().trim_end_matches(" flag");
        for (number, name) in values {
            require(format!("ESCAPEMENT_{}_{} == {number}", prefix.to_uppercase(), name.to_uppercase()));
        }
    }
    let constants = [
        ("LAYOUT_VERSION", u64::from(LAYOUT_VERSION)),
        ("MIN_CAPACITY", MIN_CAPACITY),
        ("MAX_CAPACITY", MAX_CAPACITY),
        ("MAX_SLOT_SIZE", MAX_SLOT_SIZE.into()),
        ("MAX_DIMENSION", MAX_DIMENSION as u64),
        ("MAX_POSITION", MAX_POSITION),
        ("KIND_OBSERVATION", KIND_OBSERVATION.into()),
        ("KIND_ACTION", KIND_ACTION.into()),
    ];
    for (name, number) in constants {
        require(format!("ESCAPEMENT_{name} == {number}u"));
    }
    let directory = tempfile::tempdir().unwrap();
    let (file, object) = (directory.path().join("check.c"), directory.path().join("check.o"));
    std::fs::write(&file, &source).unwrap();
    assert_compiled(&compile(compiler, &[Path::new("-c"), &file, Path::new("-o"), &object]));

    // A canary: the compiler must refuse a wrong assertion, or it would prove nothing.
    std::fs::write(&file, source.replace("ts_publish_ns) == 16", "ts_publish_ns) == 17")).unwrap();
    assert!(!compile(compiler, &[Path::new("-c"), &file, Path::new("-o"), &object]).status.success());
}

const DIMENSION: usize = 21;

fn observation_ring(directory: &Path, capacity: u64) -> Region {
    let slot_size = ObservationHeader::slot_size(DIMENSION) as u32;
    let spec =
        Spec { kind: KIND_OBSERVATION, slot_size, dimension: DIMENSION as u32, capacity, generation: 1 };
    let path = directory.join("observations.ring");
    let map = MappedFile::create(&path, spec.region_bytes(), Ok::<_, ShmError>).unwrap();
    Region::format(Arc::new(map), spec).unwrap()
}

/// Waits for one observation, for at most ten seconds.
fn next(consumer: &mut Consumer) -> (ObservationHeader, [f32; DIMENSION]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(peek) = consumer.peek().unwrap() {
            let (mut header, mut payload) = (ObservationHeader::default(), [0f32; DIMENSION]);
            peek.read(0, header.as_mut_bytes());
            peek.read(ObservationHeader::BYTES, payload.as_mut_bytes());
            peek.release();
            return (header, payload);
        }
        assert!(Instant::now() < deadline, "the producer sends nothing more");
        std::thread::yield_now();
    }
}

/// Commits `count` observations with the C program and verifies each of them.
fn run_producer(program: &Path, directory: &Path, consumer: &mut Consumer, first: u64, count: u64) {
    let arguments = [count.to_string(), first.to_string()];
    let mut child = Command::new(program).arg(directory).args(arguments).spawn().unwrap();
    let mut published = 0;
    for sequence in first..first + count {
        let (header, payload) = next(consumer);
        assert_eq!(header.sequence, sequence);
        let restart = if sequence == first { ObservationFlags::RESTART } else { 0 };
        assert_eq!(header.flags, ObservationFlags::CHECKED | restart);
        assert!(header.is_whole(&payload), "sequence {sequence}: the checksum does not match");
        assert!(header.ts_publish_ns >= published && header.ts_event_ns > 0);
        published = header.ts_publish_ns;
        for (index, value) in payload.iter().enumerate() {
            assert_eq!(*value, sequence as f32 + index as f32 / 16.0);
        }
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_producer_written_from_the_page_is_understood() {
    let Some(compiler) = c_compiler() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("producer");
    assert_compiled(&compile(compiler, &[&in_package("examples/producer.c"), Path::new("-o"), &program]));

    let region = observation_ring(directory.path(), 8);
    let mut consumer = Consumer::attach(region.clone()).unwrap();
    // A second producer continues after the first. Neither count is a multiple of the capacity.
    run_producer(&program, directory.path(), &mut consumer, 1, 3_003);
    run_producer(&program, directory.path(), &mut consumer, 70_000, 1_001);
    assert_eq!(region.positions(), (4_004, 4_004));
    assert!(region.header().producer_heartbeat_ns() > 0);
    assert!(consumer.peek().unwrap().is_none());

    // It also refuses what the page says that it must refuse.
    let refused = |what: &str| {
        let output = Command::new(&program).arg(directory.path()).args(["1", "1"]).output().unwrap();
        assert!(!output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("producer: {what}\n"));
    };
    let held = escapement::shm::RoleLock::acquire(directory.path(), "feed").unwrap();
    refused("another feed runs");
    drop(held);
    let path = directory.path().join("observations.ring");
    let intact = std::fs::read(&path).unwrap();
    for (offset, what) in [(0, "not a ring"), (8, "another layout version"), (20, "a damaged header")] {
        let mut damaged = intact.clone();
        damaged[offset] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        refused(what);
    }
    let mut damaged = intact.clone();
    damaged[256 + 7] = 0x7f;
    std::fs::write(&path, &damaged).unwrap();
    refused("impossible positions");
    assert!(Producer::attach(Region::open(Arc::new(MappedFile::open(&path).unwrap())).unwrap()).is_err());
}
