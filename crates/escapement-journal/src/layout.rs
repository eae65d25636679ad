//! Every byte of a segment. `docs/FORMATS-journal.md` has the same tables; a test compares them.
//!
//! ```text
//! +--------------------+-----------------------+----------+----------+-----+----------------+
//! | SegmentHeader 512  | context, zero padding | record 0 | record 1 | ... | zeros: not yet |
//! +--------------------+-----------------------+----------+----------+-----+----------------+
//! 0                   512             header_bytes         record_bytes each
//! ```

use core::mem::{offset_of, size_of};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first bytes of a segment.
pub const MAGIC: [u8; 8] = *b"ESCPJRNL";
/// The version of the format. A change that an old reader would misread gets a new one.
pub const FORMAT_VERSION: u32 = 1;
/// `header_bytes` is a multiple of this.
pub const HEADER_ALIGN: usize = 4096;
/// The longest context.
pub const MAX_CONTEXT: usize = 1 << 20;
/// The most elements of an observation or an action.
pub const MAX_DIMENSION: u32 = 4096;

/// Text in a field of fixed size: UTF-8, filled up with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FixedText<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> FixedText<BYTES> {
    /// Takes as much of the text as fits.
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0; BYTES];
        bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        Self(bytes)
    }

    /// Returns the text. What is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        let end = self.0.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        String::from_utf8_lossy(&self.0[..end]).into_owned()
    }
}

impl<const BYTES: usize> Default for FixedText<BYTES> {
    fn default() -> Self {
        Self([0; BYTES])
    }
}

/// The beginning of a segment: what holds for all of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentHeader {
    /// `ESCPJRNL`.
    pub magic: [u8; 8],
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Where the records begin: a multiple of 4096.
    pub header_bytes: u32,
    /// Bytes of each record.
    pub record_bytes: u32,
    /// Elements of an observation.
    pub observation_dimension: u32,
    /// Elements of an action.
    pub action_dimension: u32,
    /// How often a daemon had started on the agent's rings, including this start.
    pub epoch: u32,
    /// The revision of the settings: 1 at the start, one more after each reload.
    pub revision: u32,
    /// Bytes of the context, which follows this header: the configuration's text.
    pub context_bytes: u32,
    /// The number of the segment: 1 for a journal's first one.
    pub segment: u64,
    /// The number of the first record.
    pub first_record: u64,
    /// The checksum of the last record that counts in the segment before; zero if there is none.
    pub previous_checksum: u32,
    /// Zero.
    pub reserved: u32,
    /// When the segment was made, on `CLOCK_MONOTONIC`.
    pub created_monotonic_ns: u64,
    /// The same instant on the wall clock, in nanoseconds since the Unix epoch.
    pub created_wall_ns: u64,
    /// How far the wall clock may be from UTC; all ones if that is not known.
    pub clock_error_ns: u64,
    /// The size of the file while it is written.
    pub segment_bytes: u64,
    /// SHA-256 of the configuration's text.
    pub configuration_sha256: [u8; 32],
    /// SHA-256 of the bundle; zeros if no policy is loaded.
    pub bundle_sha256: [u8; 32],
    /// The machine's name.
    pub host: FixedText<64>,
    /// The processor's name.
    pub cpu: FixedText<64>,
    /// The kernel's clock source.
    pub clock_source: FixedText<32>,
    /// The version of the program that wrote the segment.
    pub program: FixedText<32>,
    /// Zeros.
    pub unused: [u8; 156],
    /// CRC-32C of everything before this field, then of the context.
    pub checksum: u32,
}

/// The beginning of each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecordHeader {
    /// CRC-32C of bytes 4 to `length`, seeded with the checksum of the record before, or of the segment's
    /// header for the first record.
    pub checksum: u32,
    /// Bytes of the record, which is `record_bytes` of the segment.
    pub length: u32,
    /// The number of the record: one more than the record before, also across segments.
    pub number: u64,
    /// A [`RecordKind`].
    pub kind: u16,
    /// Zero.
    pub reserved: u16,
    /// The epoch of the daemon that wrote it.
    pub epoch: u32,
}

/// What one observation led to. The observation and the action follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TickBody {
    /// The observation's sequence.
    pub sequence: u64,
    /// Its position in the observation ring.
    pub position: u64,
    /// When it happened at the venue, on the wall clock.
    pub ts_event_ns: u64,
    /// When the feed committed it. This and the other instants are on `CLOCK_MONOTONIC`.
    pub ts_publish_ns: u64,
    /// When the engine peeked it.
    pub ts_peek_ns: u64,
    /// When the policy was called; zero if it was not.
    pub ts_called_ns: u64,
    /// The instant of the verdict.
    pub ts_commit_ns: u64,
    /// When the guard had committed; zero if the engine committed.
    pub ts_done_ns: u64,
    /// The instant after which the tick was late; zero if nothing was enforced.
    pub deadline_ns: u64,
    /// From the policy's call to its return.
    pub inference_ns: u64,
    /// Observations that were skipped just before this one.
    pub skipped_before: u64,
    /// The seed of the noise; zero without noise.
    pub noise_seed: u64,
    /// The revision of the settings that the tick used.
    pub revision: u32,
    /// The bits that the action's frame carries.
    pub flags: u32,
    /// A hash of the policy's carried state before the tick; zero without one.
    pub state_hash: u32,
    /// The flags of the observation's frame.
    pub observation_flags: u32,
    /// The checksum in the observation's frame.
    pub observation_checksum: u32,
    /// Number of the outcome; zero if there was no action.
    pub outcome: u16,
    /// Number of the reason.
    pub reason: u16,
    /// Zero.
    pub reserved: u64,
}

/// Something that happened to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventBody {
    /// An [`EventKind`].
    pub kind: u16,
    /// A number whose meaning depends on the kind: a reason, or a cause.
    pub code: u16,
    /// The revision of the settings.
    pub revision: u32,
    /// When it happened, on `CLOCK_MONOTONIC`.
    pub ts_ns: u64,
    /// The same instant on the wall clock.
    pub wall_ns: u64,
    /// The sequence of the observation that it belongs to; zero for none.
    pub sequence: u64,
    /// Figures whose meaning depends on the kind.
    pub values: [u64; 4],
    /// SHA-256 of the configuration's text; zeros if it does not matter.
    pub configuration_sha256: [u8; 32],
    /// SHA-256 of the bundle; zeros if it does not matter.
    pub bundle_sha256: [u8; 32],
}

/// Records that are missing here, counted exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GapBody {
    /// Ticks that were lost because the queue was full.
    pub ticks_queue_full: u64,
    /// Ticks that were lost because they could not be written or synced.
    pub ticks_not_written: u64,
    /// Events that were lost because they could not be written or synced.
    pub events_not_written: u64,
    /// When the writer noticed the first loss, on `CLOCK_MONOTONIC`.
    pub from_ns: u64,
    /// When the writer could write again.
    pub until_ns: u64,
    /// Zeros.
    pub unused: [u64; 11],
}

/// Where the body of a record begins.
pub const BODY_OFFSET: usize = size_of::<RecordHeader>();
/// Where the observation of a tick begins. The action follows it.
pub const PAYLOAD_OFFSET: usize = BODY_OFFSET + size_of::<TickBody>();

const _: () = {
    assert!(size_of::<SegmentHeader>() == 512);
    assert!(offset_of!(SegmentHeader, checksum) == 508);
    assert!(size_of::<RecordHeader>() == 24);
    assert!(size_of::<TickBody>() == 128);
    assert!(size_of::<EventBody>() == 128);
    assert!(size_of::<GapBody>() == 128);
    assert!(PAYLOAD_OFFSET == 152);
};

/// Returns the bytes of each record of a segment for vectors of these widths.
pub const fn record_bytes(observation: usize, action: usize) -> usize {
    (PAYLOAD_OFFSET + 4 * (observation + action)).next_multiple_of(8)
}

/// Declares an enum whose numbers stand in segments and are never reused.
macro_rules! numbers {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$of:meta])* $variant:ident = $number:literal, $text:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum $name { $($(#[$of])* $variant = $number,)* }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number in a segment.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The variant of a number; `None` for one that this version does not know.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }

            /// The name in reports and CSV.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

numbers! {
    /// What a record holds.
    RecordKind {
        /// A [`TickBody`], an observation and an action.
        Tick = 1, "tick";
        /// An [`EventBody`].
        Event = 2, "event";
        /// A [`GapBody`].
        Gap = 3, "gap";
    }
}

numbers! {
    /// What happened to the agent.
    EventKind {
        /// A daemon began to serve.
        Start = 1, "start";
        /// The daemon ended in order.
        Stop = 2, "stop";
        /// New settings were applied; `revision` is theirs.
        Reload = 3, "reload";
        /// The agent halted; `code` is the reason.
        Halt = 4, "halt";
        /// A person had re-armed the agent before this start.
        Rearm = 5, "rearm";
        /// The clock: `values` are the wall clock's offset from UTC as two's complement and its error bound,
        /// both in nanoseconds; all ones if not known.
        Clock = 6, "clock";
        /// Why the tick `sequence` missed its deadline; `code` is the cause.
        Cause = 7, "cause";
    }
}

impl Default for SegmentHeader {
    fn default() -> Self {
        Self {
            magic: MAGIC,
            format_version: FORMAT_VERSION,
            header_bytes: HEADER_ALIGN as u32,
            record_bytes: 0,
            observation_dimension: 0,
            action_dimension: 0,
            epoch: 0,
            revision: 0,
            context_bytes: 0,
            segment: 0,
            first_record: 0,
            previous_checksum: 0,
            reserved: 0,
            created_monotonic_ns: 0,
            created_wall_ns: 0,
            clock_error_ns: u64::MAX,
            segment_bytes: 0,
            configuration_sha256: [0; 32],
            bundle_sha256: [0; 32],
            host: FixedText::default(),
            cpu: FixedText::default(),
            clock_source: FixedText::default(),
            program: FixedText::default(),
            unused: [0; 156],
            checksum: 0,
        }
    }
}

impl SegmentHeader {
    /// Returns the checksum of this header with this context.
    pub fn computed_checksum(&self, context: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.as_bytes()[..offset_of!(Self, checksum)]), context)
    }

    /// Returns the wall clock's time of an instant on `CLOCK_MONOTONIC`, by the pair in this header.
    pub fn wall_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.wrapping_add(self.created_wall_ns.wrapping_sub(self.created_monotonic_ns))
    }
}

/// Returns the checksum of a record, of which `bytes` is everything, after a record with the checksum `seed`.
#[inline]
pub fn chained_checksum(seed: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(seed, &bytes[size_of::<u32>()..])
}
