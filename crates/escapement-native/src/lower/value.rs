//! The values of TorchScript expressions during lowering. Everything except the elements of tensors is known
//! exactly.

use std::cell::{Cell, Ref, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use crate::meter::Meter;
use crate::readers::torchscript::pickle::Id;
use crate::refusal::Refusal;

/// The index of a tensor in the table of tensors. Names share a tensor by sharing its index, so that an
/// operation in place is visible through all of them.
pub(super) type TensorId = usize;

/// Work of one comparison.
const COMPARISON: usize = 4;

#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Rc<List>),
    Tuple(Rc<Tuple>),
    Tensor(TensorId),
    /// An argument of `forward` whose shape is not known yet.
    Unshaped(usize),
    /// A module or other object of `data.pkl`.
    Object(Id),
    /// Any other dotted name: a class, a function, a namespace.
    Path(Rc<str>),
    /// The result of a branch that raises.
    Uninitialized,
}

/// How deep lists and tuples may nest. No deeper value is ever made, so that walking and dropping one takes
/// little stack.
const MAX_DEPTH: usize = 128;

/// A list. Its depth is that of its first members: an append never makes it deeper.
#[derive(Debug)]
pub(super) struct List {
    depth: usize,
    unshaped: Cell<Option<usize>>,
    members: RefCell<Vec<Value>>,
}

impl List {
    /// Appends a value that is neither a list nor a tuple. Returns `false` if it is one: a list inside a list
    /// could come to contain itself.
    pub(super) fn append(&self, value: &Value) -> bool {
        let fits = value.depth() == 0;
        if fits {
            self.unshaped.set(self.unshaped.get().or(value.unshaped()));
            self.members.borrow_mut().push(value.clone());
        }
        fits
    }
}

#[derive(Debug)]
pub(super) struct Tuple {
    depth: usize,
    unshaped: Option<usize>,
    members: Box<[Value]>,
}

/// The members of a list or tuple, borrowed.
pub(super) enum Members<'v> {
    List(Ref<'v, Vec<Value>>),
    Tuple(&'v [Value]),
}

impl Deref for Members<'_> {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        match self {
            Self::List(members) => members,
            Self::Tuple(members) => members,
        }
    }
}

/// The depth of a list or tuple with these members. Fails if it is too deep.
fn depth_of(members: &[Value]) -> Result<usize, Refusal> {
    let depth = 1 + members.iter().map(Value::depth).max().unwrap_or(0);
    if depth > MAX_DEPTH {
        return Err(Refusal::malformed(format!("lists and tuples nest deeper than {MAX_DEPTH}")));
    }
    Ok(depth)
}

impl Value {
    /// Bytes of one member of a list or tuple. A list grows by doubling, and a member may own an allocation.
    pub(super) const MEMBER_BYTES: usize = 2 * size_of::<Self>() + 32;

    /// A list of these members. The caller has charged them.
    pub(super) fn list(members: Vec<Self>) -> Result<Self, Refusal> {
        let depth = depth_of(&members)?;
        let unshaped = Cell::new(members.iter().find_map(Self::unshaped));
        Ok(Self::List(Rc::new(List { depth, unshaped, members: RefCell::new(members) })))
    }

    /// A tuple of these members. The caller has charged them.
    pub(super) fn tuple(members: impl Into<Box<[Self]>>) -> Result<Self, Refusal> {
        let members = members.into();
        let depth = depth_of(&members)?;
        let unshaped = members.iter().find_map(Self::unshaped);
        Ok(Self::Tuple(Rc::new(Tuple { depth, unshaped, members })))
    }

    /// An argument without a shape that the value is, or that one of its members is.
    pub(super) fn unshaped(&self) -> Option<usize> {
        match self {
            Self::Unshaped(input) => Some(*input),
            Self::List(list) => list.unshaped.get(),
            Self::Tuple(tuple) => tuple.unshaped,
            _ => None,
        }
    }

    /// How deep lists and tuples nest in the value. Zero for any other value.
    fn depth(&self) -> usize {
        match self {
            Self::List(list) => list.depth,
            Self::Tuple(tuple) => tuple.depth,
            _ => 0,
        }
    }

    /// The name of the type, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Tensor(_) | Self::Unshaped(_) => "Tensor",
            Self::Object(_) => "object",
            Self::Path(_) => "name",
            Self::Uninitialized => "uninitialized value",
        }
    }

    /// The members of a list or tuple.
    pub(super) fn members(&self) -> Option<Members<'_>> {
        match self {
            Self::List(list) => Some(Members::List(list.members.borrow())),
            Self::Tuple(tuple) => Some(Members::Tuple(&tuple.members)),
            _ => None,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Python's `==` between values that contain no tensors. Returns `None` if it is not defined here, or if
    /// it takes more than `fuel` comparisons: values that share parts could otherwise take exponentially
    /// many. Fails if the comparisons are too much work.
    pub(super) fn equals(
        &self,
        other: &Self,
        fuel: &mut usize,
        meter: &Meter,
    ) -> Result<Option<bool>, Refusal> {
        let Some(rest) = fuel.checked_sub(1) else { return Ok(None) };
        *fuel = rest;
        meter.work(COMPARISON)?;
        let numbers = || Some(self.number()? == other.number()?);
        Ok(Some(match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => {
                meter.work(a.len().min(b.len()))?;
                a == b
            }
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::List(_) | Self::Tuple(_), Self::List(_) | Self::Tuple(_)) => {
                let (Some(a), Some(b)) = (self.members(), other.members()) else { return Ok(None) };
                if a.len() != b.len() {
                    return Ok(Some(false));
                }
                for (a, b) in a.iter().zip(&*b) {
                    match a.equals(b, fuel, meter)? {
                        Some(true) => {}
                        unequal => return Ok(unequal),
                    }
                }
                true
            }
            (Self::None, _) | (_, Self::None) => false,
            _ => return Ok(numbers()),
        }))
    }

    /// The value of a bool, int or float.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }
}
