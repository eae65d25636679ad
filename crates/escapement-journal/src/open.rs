//! What a new writer finds: it cuts the last segment after its last whole record, and continues the numbers.
//!
//! A writer never appends to a segment of another process. Damage in the middle of an old segment stays as it
//! is, because it is evidence.

use super::segment::{Ending, HeaderError, Item, Segment};
use super::storage::{Entry, Storage, segment_number};
use std::io;

/// What a new writer has found and done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// How many segments there are.
    pub segments: usize,
    /// The last one, which was checked.
    pub last: Option<String>,
    /// The number that the next record gets.
    pub next_record: u64,
    /// Bytes of an interrupted write that were cut off.
    pub cut_bytes: u64,
    /// Damaged records of the last segment, with whole ones after them: the first number and the count.
    pub damaged: Vec<(u64, u64)>,
    /// Why the last segment cannot be read. It was left as it is.
    pub unreadable: Option<HeaderError>,
}

/// Where a new segment continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Continuation {
    pub(super) segment: u64,
    pub(super) record: u64,
    pub(super) checksum: u32,
}

impl Continuation {
    /// The beginning of a journal.
    const FIRST: Self = Self { segment: 1, record: 0, checksum: 0 };
}

/// Finds the end of the journal, and cuts what an interrupted write has left there.
pub(super) fn open(storage: &mut impl Storage) -> io::Result<(Continuation, OpenReport)> {
    let mut entries = storage.list()?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let mut report = OpenReport { segments: entries.len(), ..OpenReport::default() };
    let Some(last) = entries.pop() else { return Ok((Continuation::FIRST, report)) };
    report.last = Some(last.name.clone());
    let segment = segment_number(&last.name).unwrap_or(0) + 1;
    let bytes = storage.read(&last.name)?;
    let continuation = match scan(&bytes, &mut report) {
        Ok(ending) => {
            if ending.bytes < bytes.len() as u64 {
                storage.cut(&last.name, ending.bytes)?;
            }
            report.cut_bytes = ending.torn_bytes;
            Continuation { segment, record: ending.next_record, checksum: ending.checksum }
        }
        Err(error) => {
            report.unreadable = Some(error);
            let record = beyond(storage, &entries, bytes.len() as u64)?;
            Continuation { segment, record, checksum: 0 }
        }
    };
    report.next_record = continuation.record;
    Ok((continuation, report))
}

fn scan(bytes: &[u8], report: &mut OpenReport) -> Result<Ending, HeaderError> {
    let segment = Segment::parse(bytes)?;
    let mut items = segment.items();
    for item in items.by_ref() {
        if let Item::Damaged { first, count } = item {
            report.damaged.push((first, count));
        }
    }
    Ok(items.ending())
}

/// Returns a number above those of all records that an unreadable last segment of `bytes` bytes can hold.
fn beyond(storage: &mut impl Storage, before: &[Entry], bytes: u64) -> io::Result<u64> {
    /// Fewer bytes than any record has.
    const LEAST_RECORD_BYTES: u64 = 128;
    let mut record = 0;
    for entry in before.iter().rev() {
        let bytes = storage.read(&entry.name)?;
        if let Ok(segment) = Segment::parse(&bytes) {
            record = segment.ending().next_record;
            break;
        }
    }
    Ok(record + bytes / LEAST_RECORD_BYTES)
}
