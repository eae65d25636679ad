//! The two data trees of an archive, constants and module attributes. Their tensors are read on demand.

use std::collections::HashMap;
use std::rc::Rc;

use super::archive::Archive;
use super::pickle::{Id, Node, Pickle};
use crate::ir::tensor::{Data, Positions, count};
use crate::limits::Limits;
use crate::refusal::Refusal;

/// A tensor as stored: contiguous elements and their shape.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) data: Rc<Data>,
    pub(crate) shape: Vec<usize>,
}

/// One pickle, with the folder of its tensors.
pub(crate) struct Tree {
    pickle: Pickle,
    folder: &'static str,
    tensors: HashMap<Id, Stored>,
}

impl Tree {
    /// Reads `name` from the archive. Its tensors are in `folder`.
    pub(crate) fn read(
        archive: &mut Archive<'_>,
        name: &str,
        folder: &'static str,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        let bytes = archive.read(name)?;
        let pickle = Pickle::parse(&bytes, limits).map_err(|problem| problem.within(name))?;
        Ok(Self { pickle, folder, tensors: HashMap::new() })
    }

    /// The values of the pickle.
    pub(crate) fn pickle(&self) -> &Pickle {
        &self.pickle
    }

    /// Returns the tensor that the call at `id` would rebuild. It is read from the archive on first use.
    pub(crate) fn tensor(
        &mut self,
        id: Id,
        archive: &mut Archive<'_>,
        limits: &Limits,
    ) -> Result<Stored, Refusal> {
        if let Some(stored) = self.tensors.get(&id) {
            return Ok(stored.clone());
        }
        let stored = self.read_tensor(id, archive, limits)?;
        self.tensors.insert(id, stored.clone());
        Ok(stored)
    }

    fn read_tensor(&self, id: Id, archive: &mut Archive<'_>, limits: &Limits) -> Result<Stored, Refusal> {
        let layout = Layout::parse(&self.pickle, id).ok_or_else(|| {
            Refusal::malformed(format!("value {id} of {}.pkl is not a tensor", self.folder))
        })?;
        let name = format!("{}/{}", self.folder, layout.key);
        let elements =
            count(&layout.shape).filter(|&elements| elements <= limits.elements).ok_or_else(|| {
                Refusal::malformed(format!(
                    "{name}: shape {:?} is beyond {} elements",
                    layout.shape, limits.elements
                ))
            })?;
        let bytes = archive.read(&name)?;
        let storage = decode(&layout.storage, &bytes).map_err(|problem| problem.within(&name))?;
        if storage.len() < layout.declared {
            return Err(Refusal::malformed(format!(
                "{name}: {} elements are declared, {} are stored",
                layout.declared,
                storage.len()
            )));
        }
        // The furthest element decides whether the view stays inside. Gathering then needs no further check.
        let furthest = layout.furthest().filter(|&last| elements == 0 || last < storage.len());
        if furthest.is_none() {
            return Err(Refusal::malformed(format!(
                "{name}: shape {:?} with strides {:?} from {} leaves the {} stored elements",
                layout.shape,
                layout.strides,
                layout.offset,
                storage.len()
            )));
        }
        let data = storage.gather(Positions::new(&layout.shape, &layout.strides, layout.offset));
        Ok(Stored { data: Rc::new(data), shape: layout.shape })
    }

    /// The shapes of all tensors, in the order of the pickle.
    pub(crate) fn shapes(&self) -> Vec<Vec<usize>> {
        (0..self.pickle.len())
            .filter_map(|id| Layout::parse(&self.pickle, id))
            .map(|layout| layout.shape)
            .collect()
    }

    /// Whether the value at `id` is a tensor.
    pub(crate) fn is_tensor(&self, id: Id) -> bool {
        let Node::Call { function, .. } = self.pickle.get(id) else { return false };
        self.pickle.global(*function) == Some(REBUILD)
    }
}

const REBUILD: &str = "torch._utils._rebuild_tensor_v2";

/// The arguments of `_rebuild_tensor_v2`.
struct Layout {
    storage: String,
    key: String,
    declared: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Layout {
    fn parse(pickle: &Pickle, id: Id) -> Option<Self> {
        let Node::Call { function, arguments } = pickle.get(id) else { return None };
        if pickle.global(*function) != Some(REBUILD) {
            return None;
        }
        let [persistent, offset, shape, strides, ..] = *pickle.sequence(*arguments)? else { return None };
        let Node::Persistent(storage) = pickle.get(persistent) else { return None };
        let [tag, class, key, _device, declared] = *pickle.sequence(*storage)? else { return None };
        if pickle.text(tag) != Some("storage") {
            return None;
        }
        let sizes = |id: Id| -> Option<Vec<usize>> {
            pickle.sequence(id)?.iter().map(|&member| pickle.size(member)).collect()
        };
        let layout = Self {
            storage: pickle.global(class)?.strip_prefix("torch.")?.strip_suffix("Storage")?.to_owned(),
            key: pickle.text(key)?.to_owned(),
            declared: pickle.size(declared)?,
            offset: pickle.size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        };
        (layout.shape.len() == layout.strides.len() && layout.shape.len() <= 16).then_some(layout)
    }

    /// The storage position of the last element. Returns `None` if it overflows.
    fn furthest(&self) -> Option<usize> {
        self.shape.iter().zip(&self.strides).try_fold(self.offset, |position, (&size, &stride)| {
            position.checked_add(size.saturating_sub(1).checked_mul(stride)?)
        })
    }
}

fn decode(storage: &str, bytes: &[u8]) -> Result<Data, Refusal> {
    fn elements<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Refusal> {
        let (chunks, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(Refusal::malformed(format!(
                "{} bytes are not a whole number of elements",
                bytes.len()
            )));
        }
        Ok(chunks.iter().map(|&chunk| read(chunk)).collect())
    }
    Ok(match storage {
        "Float" => Data::F32(elements(bytes, f32::from_le_bytes)?),
        "Double" => Data::F64(elements(bytes, f64::from_le_bytes)?),
        "Half" => Data::F32(elements(bytes, |half| half_to_f32(u16::from_le_bytes(half)))?),
        "BFloat16" => {
            Data::F32(elements(bytes, |half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16))?)
        }
        "Long" => Data::I64(elements(bytes, i64::from_le_bytes)?),
        "Int" => Data::I64(elements(bytes, |value| i64::from(i32::from_le_bytes(value)))?),
        "Short" => Data::I64(elements(bytes, |value| i64::from(i16::from_le_bytes(value)))?),
        "Char" => Data::I64(elements(bytes, |value| i64::from(i8::from_le_bytes(value)))?),
        "Byte" => Data::I64(elements(bytes, |value: [u8; 1]| i64::from(value[0]))?),
        "Bool" => Data::Bool(elements(bytes, |value: [u8; 1]| value[0] != 0)?),
        other => return Err(Refusal::unsupported(format!("tensors of type {other} are not run natively"))),
    })
}

/// Converts IEEE 754 binary16 to binary32, exactly.
fn half_to_f32(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((half >> 10) & 0x1f);
    let fraction = f32::from(half & 0x3ff);
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::half_to_f32;

    #[test]
    fn half_precision_is_widened_exactly() {
        for (bits, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x3555, 0.333_251_95),
        ] {
            assert_eq!(half_to_f32(bits), value);
        }
        assert_eq!(half_to_f32(0xfc00), f32::NEG_INFINITY);
        assert!(half_to_f32(0x7e00).is_nan());
    }
}
