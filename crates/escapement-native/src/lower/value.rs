//! The values of TorchScript expressions during lowering. Everything except the elements of tensors is known
//! exactly.

use std::cell::RefCell;
use std::rc::Rc;

use crate::readers::torchscript::pickle::Id;

/// The index of a tensor in the table of tensors. Names share a tensor by sharing its index, so that an
/// operation in place is visible through all of them.
pub(super) type TensorId = usize;

#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Rc<RefCell<Vec<Value>>>),
    Tuple(Rc<[Value]>),
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

impl Value {
    pub(super) fn list(members: Vec<Self>) -> Self {
        Self::List(Rc::new(RefCell::new(members)))
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
    pub(super) fn members(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(members) => Some(members.borrow().clone()),
            Self::Tuple(members) => Some(members.to_vec()),
            _ => None,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Python's `==` between values that contain no tensors. Returns `None` if it is not defined here, or if
    /// it takes more than `fuel` comparisons: values that share parts could otherwise take exponentially
    /// many.
    pub(super) fn equals(&self, other: &Self, fuel: &mut usize) -> Option<bool> {
        *fuel = fuel.checked_sub(1)?;
        Some(match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::List(_) | Self::Tuple(_), Self::List(_) | Self::Tuple(_)) => {
                let (a, b) = (self.members()?, other.members()?);
                if a.len() != b.len() {
                    return Some(false);
                }
                for (a, b) in a.iter().zip(&b) {
                    if !a.equals(b, fuel)? {
                        return Some(false);
                    }
                }
                true
            }
            (Self::None, _) | (_, Self::None) => false,
            _ => self.number()? == other.number()?,
        })
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
