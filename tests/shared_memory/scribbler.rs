//! A process that maps the ring can write anything anywhere in it, at any moment. Producer and consumer then
//! return typed errors only: no panic, no hang, no access outside the region.

use escapement::backing::Backing;
use escapement::ring::{ClaimError, Consumer, Producer, Region, Spec};
use escapement::shm::{MappedFile, ShmError};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOT: usize = 128;
const CAPACITY: u64 = 8;
/// The variable that makes a copy of this test scribble. Its value is the file to scribble over.
const VICTIM: &str = "ESCAPEMENT_SCRIBBLER_VICTIM";
const TEST: &str = "scribbler::typed_errors_only_while_a_process_scribbles_over_the_region";
/// Steps between two attachments. The cores are yielded in between, so that the scribbler can strike.
const SESSION: u64 = 1_024;
const DURATION: Duration = Duration::from_millis(1_500);
/// Sessions are repeated until every outcome was seen, for at most this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Marsaglia's xorshift64: noise without a crate.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Overwrites header words, positions and slots until it is killed, for at most a minute.
fn scribble(path: &Path) {
    let map = MappedFile::open(path).unwrap();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let write = |offset: usize, value: u64| {
        assert!(offset.is_multiple_of(8) && offset + 8 <= map.len());
        // SAFETY: in bounds and aligned, by the assertion. The race is intended: it is what the test is
        // about.
        unsafe { map.base().as_ptr().add(offset).cast::<u64>().write_volatile(value) };
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut base = 0;
    while Instant::now() < deadline {
        for _ in 0..200 {
            let random = noise.next();
            let (choice, word) = (random % 64, (random >> 8) as usize);
            match choice {
                // A wild position. Most are refused at once, so they are few.
                0 => write(128 + (word % 2) * 128, noise.next()),
                // A position that moved a little backwards or ahead.
                1 | 2 => write(128 + (word % 2) * 128, (base + random % 32).saturating_sub(16)),
                // A possible pair, so that the victims continue: a little later than the last, or far away.
                3..=10 => {
                    base = if random >> 32 & 0xff == 0 { noise.next() >> 3 } else { base + random % 3 };
                    write(256, base);
                    write(128, base + (random >> 16) % (CAPACITY + 1));
                }
                // The rest of the header, and the slots.
                11..=20 => write(word % 88 * 8, noise.next()),
                _ => write(4096 + word % ((map.len() - 4096) / 8) * 8, noise.next()),
            }
            for _ in 0..random >> 40 & 0x3f {
                std::hint::spin_loop();
            }
        }
        // The victims share the cores.
        std::thread::yield_now();
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It runs until it is killed here. If it had ended by itself, the test would be wrong.
        self.0.kill().expect("the scribbler runs");
        self.0.wait().expect("the scribbler is reaped");
    }
}

/// Counts of attempts and outcomes, which show that the test has tested something.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    attached: u64,
    refused: u64,
    moved: u64,
    violations: u64,
}

impl Tally {
    /// Returns whether every outcome was seen.
    fn is_complete(&self) -> bool {
        self.attached > 0 && self.refused > 0 && self.moved > 0 && self.violations > 0
    }
}

fn produce(region: &Region, tally: &mut Tally, until: Instant) {
    while Instant::now() < until {
        // The scribbler shares the cores and needs time to run.
        std::thread::yield_now();
        let Ok(mut producer) = Producer::attach(region.clone()) else {
            tally.refused += 1;
            continue;
        };
        tally.attached += 1;
        for step in 0..SESSION {
            if step % 64 == 0 {
                std::thread::yield_now();
            }
            let before = producer.position();
            match producer.try_claim() {
                Ok(mut claim) => {
                    claim.write(0, &[0x5a; SLOT]);
                    claim.commit();
                    assert_eq!(producer.position(), before + 1);
                    tally.moved += 1;
                }
                Err(ClaimError::Full { committed, released }) => assert_eq!(committed - released, CAPACITY),
                Err(ClaimError::Violation(_)) => {
                    tally.violations += 1;
                    break;
                }
            }
        }
    }
}

fn consume(region: &Region, tally: &mut Tally, until: Instant) {
    let mut bytes = [0; SLOT];
    while Instant::now() < until {
        // The scribbler shares the cores and needs time to run.
        std::thread::yield_now();
        let Ok(mut consumer) = Consumer::attach(region.clone()) else {
            tally.refused += 1;
            continue;
        };
        tally.attached += 1;
        for step in 0..SESSION {
            if step % 64 == 0 {
                std::thread::yield_now();
            }
            let before = consumer.position();
            if step % 16 == 0 && consumer.skip_to_latest().is_ok_and(|skipped| skipped >= CAPACITY) {
                panic!("more skipped than the ring holds");
            }
            match consumer.peek() {
                Ok(Some(peek)) => {
                    peek.read(0, &mut bytes);
                    peek.release();
                    assert!(consumer.position() > before);
                    tally.moved += 1;
                }
                Ok(None) => {}
                Err(_) => {
                    tally.violations += 1;
                    break;
                }
            }
        }
    }
}

#[test]
fn typed_errors_only_while_a_process_scribbles_over_the_region() {
    if let Some(path) = std::env::var_os(VICTIM) {
        return scribble(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ring");
    let spec = Spec { kind: 1, slot_size: SLOT as u32, dimension: 8, capacity: CAPACITY, generation: 1 };
    let map = MappedFile::create(&path, spec.region_bytes(), Ok::<_, ShmError>).unwrap();
    let region = Region::format(Arc::new(map), spec).unwrap();
    let scribbler = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(VICTIM, &path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let scribbler = Killed(scribbler);

    let (mut produced, mut consumed, mut opened) = (Tally::default(), Tally::default(), Tally::default());
    let begun = Instant::now();
    // On a busy machine the scribbler may not run between an attach and the end of a session for a while.
    while !(produced.is_complete() && consumed.is_complete() && opened.refused > 0)
        && begun.elapsed() < PATIENCE
    {
        let until = Instant::now() + DURATION;
        std::thread::scope(|scope| {
            scope.spawn(|| produce(&region, &mut produced, until));
            scope.spawn(|| consume(&region, &mut consumed, until));
            // Opens the same file again: the header is noise, or by chance still valid.
            while Instant::now() < until {
                match MappedFile::open(&path).map(|map| Region::open(Arc::new(map))).unwrap() {
                    Ok(reopened) => {
                        opened.attached += 1;
                        assert_eq!(*reopened.spec(), spec);
                    }
                    Err(_) => opened.refused += 1,
                }
                std::thread::yield_now();
            }
        });
    }
    drop(scribbler);
    // Every path was taken. A test without violations would have proven nothing.
    println!("producer {produced:?}\nconsumer {consumed:?}\nheader {opened:?}");
    for tally in [&produced, &consumed] {
        assert!(tally.is_complete(), "{tally:?}");
    }
    assert!(opened.refused > 0, "{opened:?}");
}
