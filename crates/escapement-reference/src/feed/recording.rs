//! The `.obs` file: recorded observations. `docs/FORMATS-obs.md` describes it byte by byte, and
//! `scripts/convert_capture.py` writes it.

use escapement_ring::wire::MAX_DIMENSION;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

pub(super) const MAGIC: [u8; 8] = *b"ESCOBSV1";
const HEADER_BYTES: usize = 64;
const ALIGNMENT: u64 = 64;
const PREFIX_BYTES: usize = 16;

/// An open recording, read one observation at a time.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    file: BufReader<File>,
    data_offset: u64,
    dimension: usize,
    count: u64,
    next: u64,
    record: Vec<u8>,
    last_ts_event_ns: u64,
}

/// Why a recording is not usable.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The recording.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's content is not a recording.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The recording.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Recording {
    /// Opens a recording and checks its header against its size.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not a recording.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let io = |source| RecordingError::Io { path: path.to_owned(), source };
        let malformed = |what: String| RecordingError::Malformed { path: path.to_owned(), what };
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(malformed("not a file".to_owned()));
        }
        let mut header = [0; HEADER_BYTES];
        if metadata.len() < HEADER_BYTES as u64 || {
            file.read_exact(&mut header).map_err(io)?;
            header[..8] != MAGIC
        } {
            return Err(malformed(
                "not a recording: it does not begin with ESCOBSV1 and its header".to_owned(),
            ));
        }
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (header_bytes, dimension, names_bytes) = (u64::from(word(8)), word(12), u64::from(word(24)));
        let count = u64::from(word(16)) | u64::from(word(20)) << 32;
        if !(1..=MAX_DIMENSION as u32).contains(&dimension) {
            return Err(malformed(format!("dimension is {dimension}; allowed: 1 to {MAX_DIMENSION}")));
        }
        if !header_bytes.is_multiple_of(ALIGNMENT) || header_bytes < HEADER_BYTES as u64 + names_bytes {
            let what = format!("header_bytes is {header_bytes}, with {names_bytes} bytes of names");
            return Err(malformed(what));
        }
        let record_bytes = PREFIX_BYTES + 4 * dimension as usize;
        let expected = u128::from(header_bytes) + u128::from(count) * record_bytes as u128;
        if u128::from(metadata.len()) != expected {
            return Err(malformed(format!(
                "{} bytes; {count} observations of {dimension} values take {expected}",
                metadata.len()
            )));
        }
        if count == 0 {
            return Err(malformed("no observations".to_owned()));
        }
        file.seek(SeekFrom::Start(header_bytes)).map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 18, file),
            data_offset: header_bytes,
            dimension: dimension as usize,
            count,
            next: 0,
            record: vec![0; record_bytes],
            last_ts_event_ns: 0,
        })
    }

    /// The number of elements of an observation.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Reads the next observation and returns its time in nanoseconds; `None` after the last one.
    pub fn next_into(&mut self, payload: &mut [f32]) -> Result<Option<u64>, RecordingError> {
        if self.next == self.count {
            return Ok(None);
        }
        self.file
            .read_exact(&mut self.record)
            .map_err(|source| RecordingError::Io { path: self.path.clone(), source })?;
        let ts = u64::from_le_bytes(self.record[8..16].try_into().expect("eight bytes"));
        if ts < self.last_ts_event_ns {
            let what = format!("ts_event_ns of observation {} is before its predecessor's", self.next);
            return Err(RecordingError::Malformed { path: self.path.clone(), what });
        }
        self.last_ts_event_ns = ts;
        for (value, bytes) in payload.iter_mut().zip(self.record[PREFIX_BYTES..].chunks_exact(4)) {
            *value = f32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
        }
        self.next += 1;
        Ok(Some(ts))
    }

    /// Goes back to the first observation.
    pub fn rewind(&mut self) -> Result<(), RecordingError> {
        self.file
            .seek(SeekFrom::Start(self.data_offset))
            .map_err(|source| RecordingError::Io { path: self.path.clone(), source })?;
        self.next = 0;
        self.last_ts_event_ns = 0;
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A recording of `observations`, each with its time.
    pub(in crate::feed) fn recording(names: &[&str], observations: &[(u64, &[f32])]) -> Vec<u8> {
        let names = names.join("\n");
        let header_bytes = (HEADER_BYTES + names.len()).next_multiple_of(ALIGNMENT as usize);
        let dimension = observations.first().map_or(1, |(_, values)| values.len());
        let mut bytes = MAGIC.to_vec();
        bytes.extend((header_bytes as u32).to_le_bytes());
        bytes.extend((dimension as u32).to_le_bytes());
        bytes.extend((observations.len() as u64).to_le_bytes());
        bytes.extend((names.len() as u32).to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend(names.as_bytes());
        bytes.resize(header_bytes, 0);
        for (index, (ts, values)) in observations.iter().enumerate() {
            bytes.extend((index as u64 + 1).to_le_bytes());
            bytes.extend(ts.to_le_bytes());
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recorded.obs");
        std::fs::write(&path, bytes).unwrap();
        (directory, path)
    }

    #[test]
    fn observations_come_back_as_they_were_written() {
        let (_directory, path) = written(&recording(&["a", "b"], &[(10, &[1.0, 2.0]), (25, &[3.0, -4.5])]));
        let mut recording = Recording::open(&path).unwrap();
        assert_eq!(recording.dimension(), 2);
        let mut payload = [0.0; 2];
        for _ in 0..2 {
            assert_eq!(recording.next_into(&mut payload).unwrap(), Some(10));
            assert_eq!(recording.next_into(&mut payload).unwrap(), Some(25));
            assert_eq!(payload, [3.0, -4.5]);
            assert_eq!(recording.next_into(&mut payload).unwrap(), None);
            recording.rewind().unwrap();
        }
    }

    #[test]
    fn every_truncation_and_a_time_that_goes_back_are_refused() {
        let whole = recording(&["a"], &[(10, &[1.0]), (25, &[3.0])]);
        for length in 0..whole.len() {
            let (_directory, path) = written(&whole[..length]);
            assert!(Recording::open(&path).is_err(), "{length} bytes");
        }
        let (_directory, path) = written(&recording(&["a"], &[(10, &[1.0]), (9, &[3.0])]));
        let mut recording = Recording::open(&path).unwrap();
        recording.next_into(&mut [0.0]).unwrap();
        let error = recording.next_into(&mut [0.0]).unwrap_err().to_string();
        assert!(error.contains("observation 1 is before"), "{error}");
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let whole = recording(&["a"], &[(10, &[1.0])]);
        for (at, value) in [(8, 63u8), (8, 0), (12, 0), (15, 255), (16, 9), (23, 255), (24, 200), (0, b'X')] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let (_directory, path) = written(&bytes);
            let error = Recording::open(&path).unwrap_err().to_string();
            assert!(error.contains("recorded.obs: "), "{error}");
        }
    }
}
