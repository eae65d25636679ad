//! The writer: appends records, commits them in groups, begins new segments, removes old ones.
//!
//! # What a failure costs
//! After a failed write or sync nobody can say which bytes are on the disk. So a failure costs everything
//! since the last successful sync: the writer counts it as lost, leaves the segment alone, and begins another
//! one with a gap record. Its `first_record` follows the last synced record. A reader thereby ignores records
//! of the old segment that reached the disk all the same, and the count stays exact.

use super::layout::{
    EventBody, FixedText, GapBody, HEADER_ALIGN, MAX_DIMENSION, RecordHeader, RecordKind, SegmentHeader,
    TickBody, chained_checksum, record_bytes,
};
use super::open::{Continuation, OpenReport, open};
use super::spec::{Deployment, Facts, Instants, Losses, Retention, WriterError, WriterSpec};
use super::storage::{Storage, StoredFile, segment_name};
use std::collections::VecDeque;
use std::io;
use zerocopy::IntoBytes;

/// How long a writer that has failed waits until it makes a new segment.
const RETRY_AFTER_NS: u64 = 100_000_000;
/// Records are handed to the system in pieces of at least this size, unless a commit comes first.
const BATCH_BYTES: usize = 256 << 10;

/// A segment that is being written.
struct OpenSegment<F> {
    file: F,
    number: u64,
    /// Where the next byte of the batch goes.
    offset: u64,
    bytes: u64,
    created_ns: u64,
}

/// The writer of a journal.
pub struct Writer<S: Storage> {
    storage: S,
    spec: WriterSpec,
    facts: Facts,
    deployment: Deployment,
    record_bytes: usize,
    segment: Option<OpenSegment<S::File>>,
    /// Records that are not handed to the system yet.
    batch: Vec<u8>,
    /// Where the next record goes.
    next: Continuation,
    /// Where a new segment continues if everything since the last sync is lost.
    synced: Continuation,
    /// What is written and not synced, and what of it are losses that a gap record tells.
    unsynced: Losses,
    unsynced_gaps: Losses,
    /// Losses that no gap record tells yet, and when the first was noticed.
    untold: Losses,
    untold_since_ns: u64,
    total: Losses,
    retry_at_ns: u64,
    failures: VecDeque<WriterError>,
}

impl<S: Storage> Writer<S> {
    /// Opens a journal to continue it. The first record makes the first segment.
    ///
    /// # Errors
    /// Fails if the last segment cannot be read or cut.
    ///
    /// # Panics
    /// Panics if a width is zero or above 4096, or if a segment has no room for a header without context and
    /// two records.
    pub fn open(
        mut storage: S,
        spec: WriterSpec,
        facts: Facts,
        deployment: Deployment,
    ) -> io::Result<(Self, OpenReport)> {
        for width in [spec.observation, spec.action] {
            assert!((1..=MAX_DIMENSION as usize).contains(&width), "a width of 1 to {MAX_DIMENSION}");
        }
        let record_bytes = record_bytes(spec.observation, spec.action);
        let most = HEADER_ALIGN + 2 * record_bytes;
        assert!(most as u64 <= spec.segment_bytes, "a segment has room for two records");
        let (next, report) = open(&mut storage)?;
        let deployment = deployment.fitted(&spec);
        let writer = Self {
            storage,
            spec,
            facts,
            deployment,
            record_bytes,
            segment: None,
            batch: Vec::with_capacity(BATCH_BYTES + record_bytes),
            next,
            synced: next,
            unsynced: Losses::default(),
            unsynced_gaps: Losses::default(),
            untold: Losses::default(),
            untold_since_ns: 0,
            total: Losses::default(),
            retry_at_ns: 0,
            failures: VecDeque::new(),
        };
        Ok((writer, report))
    }

    /// Appends a tick. If it cannot be written, it is counted as lost.
    ///
    /// # Panics
    /// Panics if the vectors do not have the widths of the spec.
    pub fn tick(&mut self, body: &TickBody, observation: &[f32], action: &[f32], now: Instants) {
        assert_eq!([observation.len(), action.len()], [self.spec.observation, self.spec.action]);
        if self.make_room(now) {
            self.append(RecordKind::Tick, body.as_bytes(), observation, action);
            self.unsynced.ticks_not_written += 1;
            self.write_full_batch(now);
        } else {
            self.lose(Losses { ticks_not_written: 1, ..Losses::default() }, now);
        }
    }

    /// Appends an event. If it cannot be written, it is counted as lost.
    pub fn event(&mut self, body: &EventBody, now: Instants) {
        if self.make_room(now) {
            self.append(RecordKind::Event, body.as_bytes(), &[], &[]);
            self.unsynced.events_not_written += 1;
            self.write_full_batch(now);
        } else {
            self.lose(Losses { events_not_written: 1, ..Losses::default() }, now);
        }
    }

    /// Takes in that ticks were lost before they reached the writer. The next record is a gap record that
    /// says so.
    pub fn note_queue_full(&mut self, ticks: u64, now: Instants) {
        if ticks > 0 {
            self.lose(Losses { ticks_queue_full: ticks, ..Losses::default() }, now);
        }
    }

    /// Begins a new segment with the next record, because what runs has changed.
    pub fn deploy(&mut self, deployment: Deployment, now: Instants) {
        self.finish_segment(now);
        self.deployment = deployment.fitted(&self.spec);
    }

    /// Returns the revision of the settings that the records to come have run with.
    pub fn revision(&self) -> u32 {
        self.deployment.revision
    }

    /// Writes and syncs everything appended so far, tells losses, and begins a new segment if the present one
    /// is old.
    ///
    /// # Errors
    /// Fails with the first error since the last call. What was lost is counted, and the writer goes on.
    pub fn commit(&mut self, now: Instants) -> Result<(), WriterError> {
        // A gap must not wait for the next record, which may never come.
        if !self.untold.is_zero() {
            self.make_room(now);
        }
        self.sync(now);
        let is_old = |segment: &OpenSegment<_>| {
            now.monotonic_ns.saturating_sub(segment.created_ns) >= self.spec.segment_age_ns
        };
        if self.segment.as_ref().is_some_and(is_old) {
            self.finish_segment(now);
        }
        self.failures.pop_front().map_or(Ok(()), Err)
    }

    /// Commits, and ends the present segment.
    ///
    /// # Errors
    /// Fails as [`Writer::commit`].
    pub fn close(&mut self, now: Instants) -> Result<(), WriterError> {
        let committed = self.commit(now);
        self.finish_segment(now);
        committed.and(self.failures.pop_front().map_or(Ok(()), Err))
    }

    /// Returns what was lost since the writer was opened.
    pub fn lost(&self) -> Losses {
        self.total
    }

    /// Returns the number of the first record that is not known to be durable.
    pub fn synced_until(&self) -> u64 {
        self.synced.record
    }

    /// Returns the number of the next record.
    pub fn next_record(&self) -> u64 {
        self.next.record
    }

    /// Makes sure that a segment has room for one record, and that losses are told before it. Returns false
    /// if that is not possible now.
    fn make_room(&mut self, now: Instants) -> bool {
        let wanted = if self.untold.is_zero() { 1 } else { 2 };
        let has_room = |segment: &OpenSegment<_>, batch: usize, width: usize| {
            segment.offset + (batch + wanted * width) as u64 <= segment.bytes
        };
        let full = self
            .segment
            .as_ref()
            .is_some_and(|segment| !has_room(segment, self.batch.len(), self.record_bytes));
        if full {
            self.finish_segment(now);
        }
        if self.segment.is_none() && !self.begin_segment(now) {
            return false;
        }
        if !self.untold.is_zero() {
            let told = std::mem::take(&mut self.untold);
            let gap = GapBody {
                ticks_queue_full: told.ticks_queue_full,
                ticks_not_written: told.ticks_not_written,
                events_not_written: told.events_not_written,
                from_ns: self.untold_since_ns,
                until_ns: now.monotonic_ns,
                ..GapBody::default()
            };
            self.unsynced_gaps.add(told);
            self.append(RecordKind::Gap, gap.as_bytes(), &[], &[]);
        }
        true
    }

    fn append(&mut self, kind: RecordKind, body: &[u8], observation: &[f32], action: &[f32]) {
        let header = RecordHeader {
            checksum: 0,
            length: self.record_bytes as u32,
            number: self.next.record,
            kind: kind.number(),
            reserved: 0,
            epoch: self.deployment.epoch,
        };
        let begin = self.batch.len();
        for part in [header.as_bytes(), body, observation.as_bytes(), action.as_bytes()] {
            self.batch.extend_from_slice(part);
        }
        self.batch.resize(begin + self.record_bytes, 0);
        let record = &mut self.batch[begin..];
        let checksum = chained_checksum(self.next.checksum, record);
        record[..size_of::<u32>()].copy_from_slice(checksum.as_bytes());
        self.next.record += 1;
        self.next.checksum = checksum;
    }

    fn lose(&mut self, lost: Losses, now: Instants) {
        if self.untold.is_zero() {
            self.untold_since_ns = now.monotonic_ns;
        }
        self.untold.add(lost);
        self.total.add(lost);
    }

    fn write_full_batch(&mut self, now: Instants) {
        if self.batch.len() >= BATCH_BYTES {
            self.write_batch(now);
        }
    }

    fn write_batch(&mut self, now: Instants) -> bool {
        let Some(segment) = &mut self.segment else { return false };
        let written = write_all(&mut segment.file, segment.offset, &self.batch);
        let number = segment.number;
        segment.offset += self.batch.len() as u64;
        match written {
            Ok(()) => {
                self.batch.clear();
                true
            }
            Err(source) => {
                self.fail(WriterError::Write { segment: number, source }, now);
                false
            }
        }
    }

    fn sync(&mut self, now: Instants) -> bool {
        if self.segment.is_none() || self.next.record == self.synced.record {
            return true;
        }
        if !self.write_batch(now) {
            return false;
        }
        let Some(segment) = &mut self.segment else { return false };
        if let Err(source) = segment.file.sync() {
            let segment = segment.number;
            self.fail(WriterError::Sync { segment, source }, now);
            return false;
        }
        self.synced = self.next;
        self.unsynced = Losses::default();
        self.unsynced_gaps = Losses::default();
        true
    }

    /// Gives the segment up. Everything since the last sync is lost, except losses that a gap record was to
    /// tell: they are told again.
    fn fail(&mut self, error: WriterError, now: Instants) {
        self.segment = None;
        self.batch.clear();
        self.next = Continuation { segment: self.next.segment, ..self.synced };
        let unsynced = std::mem::take(&mut self.unsynced);
        self.lose(unsynced, now);
        self.untold.add(std::mem::take(&mut self.unsynced_gaps));
        self.retry_at_ns = now.monotonic_ns.saturating_add(RETRY_AFTER_NS);
        self.failures.push_back(error);
        self.failures.truncate(1);
    }

    fn begin_segment(&mut self, now: Instants) -> bool {
        if now.monotonic_ns < self.retry_at_ns {
            return false;
        }
        let context = self.deployment.context.as_bytes();
        let bytes = self.spec.segment_bytes;
        let mut header = SegmentHeader {
            header_bytes: self.deployment.header_bytes() as u32,
            record_bytes: self.record_bytes as u32,
            observation_dimension: self.spec.observation as u32,
            action_dimension: self.spec.action as u32,
            epoch: self.deployment.epoch,
            revision: self.deployment.revision,
            context_bytes: context.len() as u32,
            segment: self.next.segment,
            first_record: self.next.record,
            previous_checksum: self.next.checksum,
            created_monotonic_ns: now.monotonic_ns,
            created_wall_ns: now.wall_ns,
            clock_error_ns: self.facts.clock_error_ns.unwrap_or(u64::MAX),
            segment_bytes: bytes,
            configuration_sha256: self.deployment.configuration_sha256,
            bundle_sha256: self.deployment.bundle_sha256,
            host: FixedText::new(&self.facts.host),
            cpu: FixedText::new(&self.facts.cpu),
            clock_source: FixedText::new(&self.facts.clock_source),
            program: FixedText::new(&self.facts.program),
            ..SegmentHeader::default()
        };
        header.checksum = header.computed_checksum(context);
        let mut start = header.as_bytes().to_vec();
        start.extend_from_slice(context);
        match self.storage.create(&segment_name(self.next.segment), bytes, &start) {
            Ok(file) => {
                let (number, offset) = (self.next.segment, self.deployment.header_bytes());
                let created_ns = now.monotonic_ns;
                self.segment = Some(OpenSegment { file, number, offset, bytes, created_ns });
                self.next.segment += 1;
                self.next.checksum = header.checksum;
                self.synced = self.next;
                // The file exists already, so it counts for the retention.
                self.remove_old(now);
                true
            }
            Err(source) => {
                self.fail(WriterError::Create { bytes, source }, now);
                false
            }
        }
    }

    /// Syncs the segment, and cuts the part of it that was not used.
    fn finish_segment(&mut self, now: Instants) {
        self.sync(now);
        if let Some(mut segment) = self.segment.take() {
            // A segment that stays too long reads the same: the rest is zeros.
            let _ = segment.file.cut(segment.offset).and_then(|()| segment.file.sync());
        }
    }

    /// Removes what is too old or too much. A failure is not reported: the next segment tries again.
    fn remove_old(&mut self, now: Instants) {
        let Retention { keep_bytes, keep_age_ns } = self.spec.retention;
        if keep_bytes.is_none() && keep_age_ns.is_none() {
            return;
        }
        let Ok(mut entries) = self.storage.list() else { return };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let current = self.segment.as_ref().map(|segment| segment_name(segment.number));
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries.iter().filter(|entry| Some(&entry.name) != current.as_ref()) {
            let is_old = keep_age_ns.is_some_and(|age| now.wall_ns.saturating_sub(entry.modified_ns) > age);
            let is_much = keep_bytes.is_some_and(|most| total > most);
            if !(is_old || is_much) || self.storage.remove(&entry.name).is_err() {
                break;
            }
            total -= entry.bytes;
        }
    }
}

/// Writes everything, however little the system takes at a time.
fn write_all(file: &mut impl StoredFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(offset + written as u64, &bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
