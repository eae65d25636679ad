//! The two data trees of an archive, constants and module attributes. Their tensors are read on demand.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::archive::Archive;
use super::pickle::{Id, Node, Pickle};
use crate::ir::tensor::{Data, Positions, count};
use crate::limits::Limits;
use crate::meter::Meter;
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
    /// The calls that rebuild a tensor.
    layouts: BTreeMap<Id, Layout>,
    /// Decoded storages, by the type and name in the file. Several tensors may share one.
    storages: HashMap<(Rc<str>, Rc<str>), Rc<Data>>,
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
        let pickle =
            Pickle::parse(&bytes, limits, archive.meter()).map_err(|problem| problem.within(name))?;
        let layouts = Layout::all(&pickle, limits, archive.meter())?;
        Ok(Self { pickle, folder, layouts, storages: HashMap::new(), tensors: HashMap::new() })
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

    fn read_tensor(&mut self, id: Id, archive: &mut Archive<'_>, limits: &Limits) -> Result<Stored, Refusal> {
        let layout = self.layouts.get(&id).ok_or_else(|| {
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
        let known = (layout.storage.clone(), layout.key.clone());
        let storage = match self.storages.get(&known) {
            Some(storage) => storage.clone(),
            None => {
                let meter = archive.meter().clone();
                let mark = meter.mark();
                let bytes = archive.read(&name)?;
                let storage =
                    decode(&layout.storage, &bytes, &meter).map_err(|problem| problem.within(&name))?;
                drop(bytes);
                meter.release(mark);
                self.storages.entry(known).or_insert(Rc::new(storage)).clone()
            }
        };
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
        if layout.is_whole(elements, storage.len()) {
            return Ok(Stored { data: storage, shape: layout.shape.clone() });
        }
        // Strides of zero make a tensor of any size from one stored element.
        archive.meter().kept_bytes(elements.saturating_mul(storage.dtype().size()))?;
        archive.meter().work(elements)?;
        let data = storage.gather(Positions::new(&layout.shape, &layout.strides, layout.offset));
        Ok(Stored { data: Rc::new(data), shape: layout.shape.clone() })
    }

    /// The shapes of all tensors, in the order of the pickle.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &[usize]> + Clone {
        self.layouts.values().map(|layout| &*layout.shape)
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
    storage: Rc<str>,
    key: Rc<str>,
    declared: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The most dimensions of a stored tensor.
const MAX_STORED_RANK: usize = 16;

impl Layout {
    /// The layouts of every tensor in a pickle.
    fn all(pickle: &Pickle, limits: &Limits, meter: &Meter) -> Result<BTreeMap<Id, Self>, Refusal> {
        meter.work(pickle.len())?;
        let mut layouts = BTreeMap::new();
        for id in 0..pickle.len() {
            if let Node::Call { .. } = pickle.get(id) {
                // Many calls may share one long name or shape, so what each keeps is charged.
                let key_and_storage = 2 * limits.name_bytes;
                meter.work(4 * MAX_STORED_RANK)?;
                let Some(layout) = Self::parse(pickle, id, limits) else { continue };
                let sizes = 2 * layout.shape.len() * size_of::<usize>();
                meter.bytes(2 * size_of::<Self>() + sizes + layout.key.len().min(key_and_storage))?;
                layouts.insert(id, layout);
            }
        }
        Ok(layouts)
    }

    fn parse(pickle: &Pickle, id: Id, limits: &Limits) -> Option<Self> {
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
            let members = pickle.sequence(id).filter(|members| members.len() <= MAX_STORED_RANK)?;
            members.iter().map(|&member| pickle.size(member)).collect()
        };
        let layout = Self {
            storage: pickle.global(class)?.strip_prefix("torch.")?.strip_suffix("Storage")?.into(),
            key: pickle.text(key).filter(|key| key.len() <= limits.name_bytes)?.into(),
            declared: pickle.size(declared)?,
            offset: pickle.size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        };
        (layout.shape.len() == layout.strides.len()).then_some(layout)
    }

    /// Whether the tensor is its whole storage, in the same order.
    fn is_whole(&self, elements: usize, stored: usize) -> bool {
        if self.offset != 0 || elements != stored || elements == 0 {
            return false;
        }
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }

    /// The storage position of the last element. Returns `None` if it overflows.
    fn furthest(&self) -> Option<usize> {
        self.shape.iter().zip(&self.strides).try_fold(self.offset, |position, (&size, &stride)| {
            position.checked_add(size.saturating_sub(1).checked_mul(stride)?)
        })
    }
}

fn decode(storage: &str, bytes: &[u8], meter: &Meter) -> Result<Data, Refusal> {
    let elements = Elements { bytes, meter };
    Ok(match storage {
        "Float" => Data::F32(elements.read(f32::from_le_bytes)?),
        "Double" => Data::F64(elements.read(f64::from_le_bytes)?),
        "Half" => Data::F32(elements.read(|half| half_to_f32(u16::from_le_bytes(half)))?),
        "BFloat16" => {
            Data::F32(elements.read(|half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16))?)
        }
        "Long" => Data::I64(elements.read(i64::from_le_bytes)?),
        "Int" => Data::I64(elements.read(|value| i64::from(i32::from_le_bytes(value)))?),
        "Short" => Data::I64(elements.read(|value| i64::from(i16::from_le_bytes(value)))?),
        "Char" => Data::I64(elements.read(|value| i64::from(i8::from_le_bytes(value)))?),
        "Byte" => Data::I64(elements.read(|value: [u8; 1]| i64::from(value[0]))?),
        "Bool" => Data::Bool(elements.read(|value: [u8; 1]| value[0] != 0)?),
        other => return Err(Refusal::unsupported(format!("tensors of type {other} are not run natively"))),
    })
}

/// The bytes of one storage.
struct Elements<'a> {
    bytes: &'a [u8],
    meter: &'a Meter,
}

impl Elements<'_> {
    fn read<const N: usize, T>(&self, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Refusal> {
        let Self { bytes, meter } = self;
        let (chunks, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(Refusal::malformed(format!(
                "{} bytes are not a whole number of elements",
                bytes.len()
            )));
        }
        // Decoded storages are shared by all attempts to lower the file.
        meter.kept_bytes(chunks.len().saturating_mul(size_of::<T>()))?;
        meter.work(chunks.len())?;
        Ok(chunks.iter().map(|&chunk| read(chunk)).collect())
    }
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
