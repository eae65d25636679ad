//! The reader of one segment. It returns whole records only, and says where damage is.
//!
//! Records have one width, so a damaged record does not hide those after it. A record counts if its checksum
//! matches, seeded with its predecessor's, and if its number is the one due at its place. After a damaged
//! record two seeds are possible: the checksum that it holds, if its damage is elsewhere, and the one
//! computed of it, if the checksum itself is damaged.

use super::layout::{
    BODY_OFFSET, EventBody, FORMAT_VERSION, GapBody, HEADER_ALIGN, MAGIC, MAX_CONTEXT, MAX_DIMENSION,
    PAYLOAD_OFFSET, RecordHeader, RecordKind, SegmentHeader, TickBody, chained_checksum, record_bytes,
};
use std::ops::Range;
use zerocopy::FromBytes;

/// Why a file is not a segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file is shorter than a header.
    #[error("{bytes} bytes are too few for a segment's header")]
    Short {
        /// Bytes of the file.
        bytes: usize,
    },
    /// The magic is another one.
    #[error("not a segment of a journal: it does not begin with ESCPJRNL")]
    Magic,
    /// The version is another one.
    #[error("format version {found}; this program reads {FORMAT_VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The checksum does not match.
    #[error("the header is damaged: its checksum does not match")]
    Damaged,
    /// The figures contradict each other, under a checksum that matches.
    #[error("the header contradicts itself: {what}")]
    Contradiction {
        /// What does not fit.
        what: &'static str,
    },
}

/// A segment, of which `bytes` is the whole file.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    header: SegmentHeader,
    context: &'a [u8],
    records: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Checks the header.
    ///
    /// # Errors
    /// Fails if this is not a segment, or if its header is damaged. Nothing of the file can be relied on
    /// then.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let short = HeaderError::Short { bytes: bytes.len() };
        let (header, rest) = SegmentHeader::read_from_prefix(bytes).map_err(|_| short.clone())?;
        if header.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        let context_bytes = header.context_bytes as usize;
        if context_bytes > MAX_CONTEXT {
            return Err(HeaderError::Damaged);
        }
        let context = rest.get(..context_bytes).ok_or(short.clone())?;
        if header.checksum != header.computed_checksum(context) {
            return Err(HeaderError::Damaged);
        }
        if header.format_version != FORMAT_VERSION {
            return Err(HeaderError::Version { found: header.format_version });
        }
        let contradiction = |what| Err(HeaderError::Contradiction { what });
        let header_bytes = header.header_bytes as usize;
        if !header_bytes.is_multiple_of(HEADER_ALIGN) || header_bytes < size_of_val(&header) + context_bytes {
            return contradiction("header_bytes");
        }
        let widths = [header.observation_dimension, header.action_dimension];
        if widths.iter().any(|width| !(1..=MAX_DIMENSION).contains(width)) {
            return contradiction("the dimensions");
        }
        if header.record_bytes as usize != record_bytes(widths[0] as usize, widths[1] as usize) {
            return contradiction("record_bytes");
        }
        let records = bytes.get(header_bytes..).ok_or(short)?;
        Ok(Self { header, context, records })
    }

    /// Returns the header.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Returns the configuration's text.
    pub fn context(&self) -> String {
        String::from_utf8_lossy(self.context).into_owned()
    }

    /// Returns the records, and the damage between them, in the order of the file.
    pub fn items(&self) -> Items<'a> {
        Items {
            header: self.header,
            records: self.records,
            index: 0,
            seeds: [self.header.checksum; 2],
            last_checksum: self.header.checksum,
            good_end: 0,
            damaged: None,
        }
    }

    /// Reads everything, and returns where it ends.
    pub fn ending(&self) -> Ending {
        let mut items = self.items();
        items.by_ref().for_each(drop);
        items.ending()
    }
}

/// What follows in a segment.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// A whole record.
    Record(Record<'a>),
    /// Damage, with whole records after it.
    Damaged {
        /// The number of the first damaged record.
        first: u64,
        /// How many there are.
        count: u64,
    },
}

/// The records of a segment, and the damage between them.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    header: SegmentHeader,
    records: &'a [u8],
    index: usize,
    /// The checksums that the next record may be seeded with.
    seeds: [u32; 2],
    last_checksum: u32,
    /// Where the last whole record ends.
    good_end: usize,
    /// The first damaged record since the last whole one.
    damaged: Option<usize>,
}

/// Where the whole records of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The number that the next record would have.
    pub next_record: u64,
    /// The checksum of the last whole record; the header's if there is none.
    pub checksum: u32,
    /// The length of the file up to there, in bytes.
    pub bytes: u64,
    /// Bytes after that which hold something that is not a whole record. Zero at a clean end.
    pub torn_bytes: u64,
}

impl<'a> Items<'a> {
    /// Returns the record, if the item is one.
    pub fn record(item: Item<'a>) -> Option<Record<'a>> {
        match item {
            Item::Record(record) => Some(record),
            Item::Damaged { .. } => None,
        }
    }

    /// Returns where the whole records end that were read so far.
    pub fn ending(&self) -> Ending {
        let rest = &self.records[self.good_end..];
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Ending {
            next_record: self.number_at(self.good_end / self.width()),
            checksum: self.last_checksum,
            bytes: u64::from(self.header.header_bytes) + self.good_end as u64,
            torn_bytes: torn as u64,
        }
    }

    fn width(&self) -> usize {
        self.header.record_bytes as usize
    }

    fn number_at(&self, index: usize) -> u64 {
        self.header.first_record.wrapping_add(index as u64)
    }

    fn slot(&self, index: usize) -> Option<&'a [u8]> {
        let begin = index.checked_mul(self.width())?;
        self.records.get(begin..begin.checked_add(self.width())?)
    }

    /// Returns the record in this slot if it is whole.
    fn whole(&self, index: usize, bytes: &'a [u8]) -> Option<Record<'a>> {
        let (record, _) = RecordHeader::read_from_prefix(bytes).ok()?;
        let is_due = record.length == self.header.record_bytes && record.number == self.number_at(index);
        let matches = |seed| record.checksum == chained_checksum(seed, bytes);
        let [kept, computed] = self.seeds;
        let is_whole = is_due && (matches(kept) || (kept != computed && matches(computed)));
        let [observation, action] = [self.header.observation_dimension, self.header.action_dimension];
        is_whole.then_some(Record { header: record, bytes, widths: [observation as usize, action as usize] })
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        loop {
            let bytes = self.slot(self.index)?;
            if let Some(record) = self.whole(self.index, bytes) {
                if let Some(first) = self.damaged.take() {
                    // The record itself is returned by the next call.
                    let count = (self.index - first) as u64;
                    return Some(Item::Damaged { first: self.number_at(first), count });
                }
                self.seeds = [record.header.checksum; 2];
                self.last_checksum = record.header.checksum;
                self.index += 1;
                self.good_end = self.index * self.width();
                return Some(Item::Record(record));
            }
            if self.damaged.is_none() && self.records[self.good_end..].iter().all(|byte| *byte == 0) {
                // The rest of the file is not written yet.
                return None;
            }
            self.damaged.get_or_insert(self.index);
            let kept = RecordHeader::read_from_prefix(bytes).map_or(0, |(record, _)| record.checksum);
            self.seeds = [kept, chained_checksum(self.seeds[0], bytes)];
            self.index += 1;
        }
    }
}

/// A whole record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    header: RecordHeader,
    bytes: &'a [u8],
    widths: [usize; 2],
}

impl<'a> Record<'a> {
    /// Returns the record's header.
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// Returns all bytes of the record.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the kind; `None` for one that this version does not know.
    pub fn kind(&self) -> Option<RecordKind> {
        RecordKind::from_number(self.header.kind)
    }

    /// Returns the tick, if the record is one.
    pub fn tick(&self) -> Option<TickBody> {
        (self.kind() == Some(RecordKind::Tick)).then(|| self.body())?
    }

    /// Returns the event, if the record is one.
    pub fn event(&self) -> Option<EventBody> {
        (self.kind() == Some(RecordKind::Event)).then(|| self.body())?
    }

    /// Returns the gap, if the record is one.
    pub fn gap(&self) -> Option<GapBody> {
        (self.kind() == Some(RecordKind::Gap)).then(|| self.body())?
    }

    fn body<T: FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.bytes[BODY_OFFSET..]).ok().map(|(body, _)| body)
    }

    /// Returns the observation of a tick. Zeros for another kind.
    pub fn observation(&self) -> impl Iterator<Item = f32> + 'a {
        self.floats(PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4 * self.widths[0])
    }

    /// Returns the action of a tick; zeros if nothing was sent.
    pub fn action(&self) -> impl Iterator<Item = f32> + 'a {
        let begin = PAYLOAD_OFFSET + 4 * self.widths[0];
        self.floats(begin..begin + 4 * self.widths[1])
    }

    fn floats(&self, range: Range<usize>) -> impl Iterator<Item = f32> + 'a {
        self.bytes[range]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}
