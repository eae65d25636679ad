//! Float32 matrices in NumPy's `.npy` format (NumPy Enhancement Proposal 1).
//!
//! It supports what `numpy.save` writes for a C-ordered float32 matrix. Crates that read the whole format
//! parse the header as Python, and need a C compiler in the default build. This header has few fixed forms.

use super::exit::{ExitCode, Failure};
use escapement_policy::file;
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 30;
/// The header ends at a multiple of this many bytes.
const ALIGN: usize = 64;

/// A float32 matrix, row by row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) values: Vec<f32>,
}

impl Matrix {
    /// Reads a `.npy` file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = file::read(path, MAX_BYTES).map_err(|error| Failure::from_io(path, &error.into()))?;
        Self::parse(&bytes)
            .map_err(|reason| Failure::new(ExitCode::Usage, format!("{}: {reason}", path.display())))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let rest = bytes.strip_prefix(MAGIC).ok_or("not a .npy file")?;
        let (header, data) = split_header(rest).ok_or("the .npy header is cut off")?;
        let descriptor = entry(header, "'descr'")?;
        if descriptor != "'<f4'" {
            return Err(format!("dtype {descriptor}; allowed: '<f4' (float32)"));
        }
        let order = entry(header, "'fortran_order'")?;
        if order != "False" {
            return Err("Fortran order; allowed: C order".to_owned());
        }
        let shape = entry(header, "'shape'")?;
        let (rows, width) = two_dimensions(shape)
            .ok_or_else(|| format!("shape {shape}; allowed: (n, width) with a width of at least 1"))?;
        let expected = rows.checked_mul(width).and_then(|count| count.checked_mul(4));
        if expected != Some(data.len()) {
            return Err(format!("shape {shape} does not go with {} bytes of data", data.len()));
        }
        let values = data.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Ok(Self { rows, width, values })
    }

    /// Writes a file beside the target and renames it, so that a full disk leaves no partial file.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        std::fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(&self.to_bytes()))
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(|error| Failure::from_io(path, &error))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", self.rows, self.width);
        // Magic, two bytes of version and two of length precede it; a newline ends it.
        let unpadded = MAGIC.len() + 4 + header.len() + 1;
        header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGN) - unpadded));
        header.push('\n');
        let length = u16::try_from(header.len()).expect("the header is some hundred bytes");
        let mut bytes = [MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat();
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }
}

/// Returns the header's text and the bytes after it. The length field has two bytes in version 1, four in
/// later ones.
fn split_header(rest: &[u8]) -> Option<(&str, &[u8])> {
    let (version, rest) = rest.split_at_checked(2)?;
    let field = if version[0] == 1 { 2 } else { 4 };
    let (length, rest) = rest.split_at_checked(field)?;
    let length = length.iter().rev().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
    let (header, data) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(header).ok()?, data))
}

/// Returns the value of a key in the header's dictionary.
fn entry<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let missing = || format!("the .npy header has no {key}");
    let (_, after) = header.split_once(key).ok_or_else(missing)?;
    let value = after.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start();
    let end =
        if value.starts_with('(') { value.find(')').map(|end| end + 1) } else { value.find([',', '}']) };
    Ok(value[..end.ok_or_else(missing)?].trim())
}

fn two_dimensions(shape: &str) -> Option<(usize, usize)> {
    let inside = shape.strip_prefix('(')?.strip_suffix(')')?;
    let (rows, width) = inside.split_once(',')?;
    let (rows, width) = (rows.trim().parse().ok()?, width.trim().trim_end_matches(',').parse().ok()?);
    (width > 0).then_some((rows, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_on_an_aligned_header() {
        let matrix =
            Matrix { rows: 3, width: 2, values: vec![1.0, -2.5, 0.0, f32::MAX, f32::MIN_POSITIVE, 7.0] };
        let bytes = matrix.to_bytes();
        assert_eq!((bytes.len() - 24) % ALIGN, 0);
        assert_eq!(Matrix::parse(&bytes).unwrap(), matrix);
    }

    #[test]
    fn an_empty_matrix_keeps_its_width() {
        let matrix = Matrix { rows: 0, width: 5, values: vec![] };
        assert_eq!(Matrix::parse(&matrix.to_bytes()).unwrap(), matrix);
    }

    #[test]
    fn what_is_not_taken_is_named() {
        let good = Matrix { rows: 1, width: 2, values: vec![1.0, 2.0] }.to_bytes();
        let text = |from: &str, to: &str| {
            let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
        };
        for (bytes, expected) in [
            (b"PK\x03\x04".to_vec(), "not a .npy file"),
            (good[..8].to_vec(), "cut off"),
            (good[..good.len() - 1].to_vec(), "7 bytes"),
            (text("'<f4'", "'<f8'"), "allowed: '<f4'"),
            (text("False", "True "), "C order"),
            (text("(1, 2)", "(2,)  "), "allowed: (n, width)"),
            (text("(1, 2)", "(1, 0)"), "at least 1"),
            (text("'shape'", "'shaqe'"), "no 'shape'"),
        ] {
            let reason = Matrix::parse(&bytes).unwrap_err();
            assert!(reason.contains(expected), "{reason:?} does not say {expected:?}");
        }
    }

    #[test]
    fn every_prefix_is_refused_without_a_panic() {
        let good = Matrix { rows: 2, width: 2, values: vec![1.0; 4] }.to_bytes();
        for end in 0..good.len() {
            assert!(Matrix::parse(&good[..end]).is_err());
        }
    }
}
