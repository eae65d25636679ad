//! L1. The journal: what an agent saw, what it answered, and when, in files that tell damage from truth.
//!
//! A journal is a directory of *segments*. A segment is a file of a fixed size with a header and records of
//! one width. Each record holds a CRC-32C over itself, seeded with the one before it. So a record that is
//! changed, moved or left out is noticed. `docs/FORMATS-journal.md` has every byte.
//!
//! The crate knows nothing of rings, policies or engines. It stores what it is given.
//!
//! # Example
//! ```
//! use escapement_journal::{Deployment, DirectoryStorage, Facts, Instants, Items, Journal, TickBody};
//! use escapement_journal::{Writer, WriterSpec};
//!
//! let folder = tempfile::tempdir()?;
//! let spec = WriterSpec { observation: 2, action: 1, ..WriterSpec::default() };
//! let storage = DirectoryStorage::create(folder.path())?;
//! let (mut writer, _) = Writer::open(storage, spec, Facts::default(), Deployment::default())?;
//! let now = Instants { monotonic_ns: 5, wall_ns: 1_000 };
//! writer.tick(&TickBody { sequence: 7, ..TickBody::default() }, &[0.5, 1.5], &[-1.0], now);
//! writer.commit(now)?;
//!
//! let journal = Journal::open(folder.path())?;
//! let bytes = journal.segments()[0].read()?;
//! let segment = bytes.parse()?;
//! let record = segment.items().find_map(Items::record).ok_or("a record")?;
//! assert_eq!(record.tick().ok_or("a tick")?.sequence, 7);
//! assert_eq!(record.observation().collect::<Vec<_>>(), [0.5, 1.5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//! | module | what it holds |
//! |---|---|
//! | `layout` | every byte of a segment |
//! | `storage` | the files that a writer needs, as a trait: tests inject faults there |
//! | `segment` | the reader of one segment: whole records, and where damage is |
//! | `journal` | the segments of a directory, in order, and what is wrong between them |
//! | `open` | what a new writer finds: cuts the last segment after its last whole record |
//! | `spec` | what a writer is told, and what it says of losses and failures |
//! | `writer` | appends, commits, rotates, removes what is too old |

mod journal;
mod layout;
mod open;
mod segment;
mod spec;
mod storage;
mod writer;

#[cfg(test)]
mod tests;

pub use journal::{Finding, Journal, Loaded, SegmentFile, SegmentSummary, Verified, Visitor};
pub use layout::{
    EventBody, EventKind, FORMAT_VERSION, FixedText, GapBody, HEADER_ALIGN, RecordHeader, RecordKind,
    SegmentHeader, TickBody, record_bytes,
};
pub use open::OpenReport;
pub use segment::{Ending, HeaderError, Item, Items, Record, Segment};
pub use spec::{Deployment, Facts, Instants, Losses, Retention, WriterError, WriterSpec};
pub use storage::{DirectoryStorage, Entry, Storage, StoredFile};
pub use writer::Writer;
