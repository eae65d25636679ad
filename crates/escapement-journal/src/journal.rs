//! The segments of a directory, in order, and what is wrong in them and between them.

use super::layout::{RecordKind, SegmentHeader};
use super::segment::{Ending, HeaderError, Item, Record, Segment};
use super::storage::{list, segment_number};
use std::io;
use std::path::{Path, PathBuf};

/// A journal: the segments of a directory, or one segment alone.
#[derive(Debug, Clone)]
pub struct Journal {
    segments: Vec<SegmentFile>,
}

/// A file with a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFile {
    path: PathBuf,
    bytes: u64,
}

/// The bytes of a segment's file.
#[derive(Debug, Clone)]
pub struct Loaded(Vec<u8>);

impl Journal {
    /// Finds the segments of a directory. A path to a file is a journal of one segment.
    ///
    /// # Errors
    /// Fails as the system does.
    pub fn open(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        if metadata.is_file() {
            let segments = vec![SegmentFile { path: path.to_owned(), bytes: metadata.len() }];
            return Ok(Self { segments });
        }
        let file =
            |entry: super::storage::Entry| SegmentFile { path: path.join(entry.name), bytes: entry.bytes };
        Ok(Self { segments: list(path)?.into_iter().map(file).collect() })
    }

    /// Returns the segments, oldest first.
    pub fn segments(&self) -> &[SegmentFile] {
        &self.segments
    }

    /// Visits every record that counts, in order, and everything that is wrong. The visitor returns whether
    /// to go on. `begin` is called before each segment with its header and its context.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn visit(&self, visitor: &mut impl Visitor) -> io::Result<()> {
        let mut previous: Option<Ending> = None;
        let mut next = self.segments.first().map(SegmentFile::read).transpose()?;
        for (index, file) in self.segments.iter().enumerate() {
            let Some(loaded) = next.take() else { break };
            next = self.segments.get(index + 1).map(SegmentFile::read).transpose()?;
            let segment = match loaded.parse() {
                Ok(segment) => segment,
                Err(error) => {
                    visitor.finding(file, Finding::Header(error));
                    previous = None;
                    continue;
                }
            };
            // Records that the next segment begins again were never durable. They do not count.
            let successor = next.as_ref().and_then(|loaded| loaded.parse().ok());
            let until = successor.map_or(u64::MAX, |segment| segment.header().first_record);
            let header = segment.header();
            if let Some(previous) = previous {
                if header.first_record > previous.next_record {
                    let (from, until) = (previous.next_record, header.first_record);
                    visitor.finding(file, Finding::Missing { from, until });
                } else if header.previous_checksum != previous.checksum {
                    visitor.finding(file, Finding::Unchained);
                }
            }
            if !visitor.begin(file, &segment) {
                return Ok(());
            }
            let ending = visit_segment(file, &segment, until, visitor);
            match ending {
                Some(ending) => previous = Some(ending),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reads and checks everything. `progress` gets the bytes that were checked so far.
    ///
    /// # Errors
    /// Fails if a file cannot be read.
    pub fn verify(&self, progress: impl FnMut(u64)) -> io::Result<Verified> {
        let mut verifier = Verifier { verified: Verified::default(), progress, checked: 0 };
        self.visit(&mut verifier)?;
        Ok(verifier.verified)
    }

    /// Returns the size of all segments on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(SegmentFile::bytes).sum()
    }
}

/// What [`Journal::visit`] calls.
pub trait Visitor {
    /// A segment begins. Returns whether to go on.
    fn begin(&mut self, file: &SegmentFile, segment: &Segment<'_>) -> bool;

    /// A record. Returns whether to go on.
    fn record(&mut self, header: &SegmentHeader, record: &Record<'_>) -> bool;

    /// Something is wrong in this segment, or before it.
    fn finding(&mut self, file: &SegmentFile, finding: Finding);

    /// The segment has ended.
    fn end(&mut self, _file: &SegmentFile, _ending: &Ending) {}
}

/// Visits one segment up to the record `until`. Returns `None` if the visitor has stopped.
fn visit_segment(
    file: &SegmentFile,
    segment: &Segment<'_>,
    until: u64,
    visitor: &mut impl Visitor,
) -> Option<Ending> {
    let mut items = segment.items();
    let mut counted = items.ending();
    for item in items.by_ref() {
        match item {
            Item::Damaged { first, count } if first < until => {
                visitor.finding(file, Finding::Damaged { first, count });
            }
            // It does not count, as the records after it.
            Item::Damaged { .. } => {}
            Item::Record(record) if record.header().number >= until => {
                let all = segment.ending();
                let count = all.next_record - record.header().number;
                visitor.finding(file, Finding::Superseded { from: record.header().number, count });
                visitor.end(file, &counted);
                return Some(counted);
            }
            Item::Record(record) => {
                if !visitor.record(segment.header(), &record) {
                    return None;
                }
                counted.next_record = record.header().number + 1;
                counted.checksum = record.header().checksum;
            }
        }
    }
    let ending = items.ending();
    if ending.torn_bytes > 0 {
        visitor.finding(file, Finding::Torn { after: ending.next_record, bytes: ending.torn_bytes });
    }
    visitor.end(file, &ending);
    Some(ending)
}

impl SegmentFile {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number in the file's name, if it has one.
    pub fn number(&self) -> Option<u64> {
        segment_number(&self.path.file_name()?.to_string_lossy())
    }

    /// Returns the size of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the whole file. It is read, not mapped: a file that shrinks meanwhile must not end the program.
    ///
    /// # Errors
    /// Fails as the system does.
    pub fn read(&self) -> io::Result<Loaded> {
        std::fs::read(&self.path).map(Loaded)
    }
}

impl Loaded {
    /// Checks the header.
    ///
    /// # Errors
    /// Fails if this is not a segment, or if its header is damaged.
    pub fn parse(&self) -> Result<Segment<'_>, HeaderError> {
        Segment::parse(&self.0)
    }
}

/// Something that is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A segment cannot be read at all.
    #[error("{0}")]
    Header(HeaderError),
    /// Records are damaged, and whole ones follow.
    #[error("{count} damaged records from number {first} on")]
    Damaged {
        /// The number of the first one.
        first: u64,
        /// How many there are.
        count: u64,
    },
    /// The end of the segment holds something that is not a whole record: an interrupted write.
    #[error("an interrupted write of {bytes} bytes where record {after} would be")]
    Torn {
        /// The number of the record that would be there.
        after: u64,
        /// How many bytes there are.
        bytes: u64,
    },
    /// Records are missing between two segments.
    #[error("records {from} to {} are missing before this segment", until - 1)]
    Missing {
        /// The first missing number.
        from: u64,
        /// The first number that is there again.
        until: u64,
    },
    /// The last records of the segment were written again by the next one. Their sync had failed, and the
    /// next segment counts them as lost.
    #[error("{count} records from number {from} on do not count: their sync had failed")]
    Superseded {
        /// The first of them.
        from: u64,
        /// How many there are.
        count: u64,
    },
    /// The segment does not belong behind the one before it.
    #[error("the segment does not continue the one before it: its header holds another checksum")]
    Unchained,
}

impl Finding {
    /// Returns whether this is damage, and not the trace of an interrupted or failed write.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Torn { .. } | Self::Superseded { .. })
    }
}

/// What [`Journal::verify`] found in one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary {
    /// The file.
    pub file: SegmentFile,
    /// Its header.
    pub header: SegmentHeader,
    /// Ticks, events and gaps.
    pub records: [u64; 3],
    /// Ticks that its gap records count as lost.
    pub ticks_lost: u64,
    /// The peek of the first and of the last tick, on `CLOCK_MONOTONIC`.
    pub ticks_from_to: Option<(u64, u64)>,
}

/// What [`Journal::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The readable segments.
    pub segments: Vec<SegmentSummary>,
    /// What is wrong, with the file.
    pub findings: Vec<(PathBuf, Finding)>,
}

impl Verified {
    /// Returns whether everything that was durable is there and undamaged.
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(|(_, finding)| finding.is_damage())
    }
}

struct Verifier<F> {
    verified: Verified,
    progress: F,
    checked: u64,
}

impl<F: FnMut(u64)> Visitor for Verifier<F> {
    fn begin(&mut self, file: &SegmentFile, segment: &Segment<'_>) -> bool {
        let (file, header) = (file.clone(), *segment.header());
        let summary = SegmentSummary { file, header, records: [0; 3], ticks_lost: 0, ticks_from_to: None };
        self.verified.segments.push(summary);
        true
    }

    fn record(&mut self, _: &SegmentHeader, record: &Record<'_>) -> bool {
        let Some(summary) = self.verified.segments.last_mut() else { return true };
        match record.kind() {
            Some(RecordKind::Tick) => {
                summary.records[0] += 1;
                if let Some(tick) = record.tick() {
                    let (from, _) = summary.ticks_from_to.unwrap_or((tick.ts_peek_ns, 0));
                    summary.ticks_from_to = Some((from, tick.ts_peek_ns));
                }
            }
            Some(RecordKind::Event) => summary.records[1] += 1,
            Some(RecordKind::Gap) => {
                summary.records[2] += 1;
                let lost = record.gap().map_or(0, |gap| gap.ticks_queue_full + gap.ticks_not_written);
                summary.ticks_lost += lost;
            }
            None => {}
        }
        true
    }

    fn finding(&mut self, file: &SegmentFile, finding: Finding) {
        self.verified.findings.push((file.path.clone(), finding));
    }

    fn end(&mut self, file: &SegmentFile, _: &Ending) {
        self.checked += file.bytes;
        (self.progress)(self.checked);
    }
}
