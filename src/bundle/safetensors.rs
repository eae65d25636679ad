//! A reader of the safetensors format for float32 tensors, under limits.
//!
//! Eight bytes of header length (little-endian), a JSON object from names to dtype, shape and byte range,
//! then the bytes. The ranges must tile the rest of the file without gap or overlap, so that every byte
//! belongs to one tensor.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The longest header that is read, in bytes.
const MAX_HEADER_BYTES: u64 = 64 << 10;
/// The most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// One tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// Reads every tensor of a file. Fails with the reason if the file is not valid.
pub(super) fn read(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, String> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("shorter than its header's length")?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!("a header of {length} bytes; at most {MAX_HEADER_BYTES} are read"));
    }
    let (header, data) = rest
        .split_at_checked(length as usize)
        .ok_or_else(|| format!("a header of {length} bytes does not fit the file"))?;
    let mut entries: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|error| format!("the header is not JSON: {error}"))?;
    entries.remove("__metadata__");

    let mut tensors = BTreeMap::new();
    let mut ranges = Vec::new();
    for (name, entry) in entries {
        let entry: Entry = serde_json::from_value(entry).map_err(|error| format!("{name:?}: {error}"))?;
        let [begin, end] = entry.data_offsets;
        let tensor = tensor(&entry, data).map_err(|reason| format!("{name:?}: {reason}"))?;
        ranges.push((begin, end));
        tensors.insert(name, tensor);
    }
    ranges.sort_unstable();
    let mut due = 0;
    for (begin, end) in ranges {
        if begin != due {
            return Err(format!("the tensors leave a gap or overlap at byte {due} of the data"));
        }
        due = end;
    }
    if due != data.len() {
        return Err(format!("{} bytes of data, the tensors cover {due}", data.len()));
    }
    Ok(tensors)
}

fn tensor(entry: &Entry, data: &[u8]) -> Result<Tensor, String> {
    if entry.dtype != "F32" {
        return Err(format!("dtype {:?}; expected F32", entry.dtype));
    }
    if entry.shape.len() > MAX_RANK {
        return Err(format!("{} dimensions; at most {MAX_RANK} are read", entry.shape.len()));
    }
    let elements = entry.shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
    let [begin, end] = entry.data_offsets;
    let bytes = data.get(begin..end).ok_or("its bytes lie outside the file")?;
    if elements.and_then(|elements| elements.checked_mul(4)) != Some(bytes.len()) {
        return Err(format!("{} bytes do not hold the shape {:?}", bytes.len(), entry.shape));
    }
    let (words, _) = bytes.as_chunks::<4>();
    let values = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    Ok(Tensor { shape: entry.shape.clone(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn reads_what_tiles_the_file() {
        let header = r#"{"__metadata__":{"a":"b"},
            "b":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
        let data: Vec<u8> = [1.5f32, -2.0, 3.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensors = read(&file(header, &data)).unwrap();
        assert_eq!(tensors["a"], Tensor { shape: vec![], values: vec![1.5] });
        assert_eq!(tensors["b"], Tensor { shape: vec![1, 2], values: vec![-2.0, 3.0] });
    }

    #[test]
    fn refuses_what_does_not() {
        let one = |range: &str, shape: &str, dtype: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{range}}}}}"#)
        };
        let hostile = [
            (one("[0,4]", "[1]", "F64"), "expected F32"),
            (one("[0,8]", "[1]", "F32"), "do not hold"),
            (one("[4,8]", "[1]", "F32"), "gap"),
            (one("[8,4]", "[1]", "F32"), "outside"),
            (one("[0,4]", "[18446744073709551615,18446744073709551615]", "F32"), "do not hold"),
            (one("[0,4]", "[1]", "F32"), "cover 4"),
            (one("[0,99]", "[1]", "F32"), "outside"),
            ("{".to_owned(), "JSON"),
            ("[]".to_owned(), "JSON"),
            (format!("{}{}", "[".repeat(5000), "]".repeat(5000)), "JSON"),
        ];
        for (header, reason) in hostile {
            let error = read(&file(&header, &[0; 8])).unwrap_err();
            assert!(error.contains(reason), "{header:.80}: {error}");
        }
        assert!(read(&[0; 7]).is_err());
        assert!(read(&u64::MAX.to_le_bytes()).unwrap_err().contains("at most"));
        assert!(read(&100u64.to_le_bytes()).unwrap_err().contains("does not fit"));
    }
}
