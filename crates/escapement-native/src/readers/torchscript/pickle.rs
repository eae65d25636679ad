//! The subset of pickle protocol 2 that TorchScript archives use, as a data tree.
//!
//! Nothing is constructed or called. A reference to a class or function is kept as its name, and a call as
//! that name with its arguments. Values are in one table and refer to each other by index. A file whose memo
//! refers back to itself therefore costs no more than its bytes. Code that walks the table must bound the
//! depth of its walk.
//! Opcodes: CPython `Lib/pickletools.py`; the ones in use: `torch/csrc/jit/serialization/pickler.cpp`.

use std::rc::Rc;

use crate::limits::Limits;
use crate::meter::Meter;
use crate::refusal::Refusal;

/// The index of a value in its [`Pickle`].
pub(crate) type Id = usize;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    /// `module name`, joined with a dot.
    Global(Rc<str>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A call that was not made: the function and the tuple of its arguments.
    Call {
        function: Id,
        arguments: Id,
    },
    /// An object that was not made: its class and, after its build opcode, its state.
    Object {
        class: Id,
        state: Option<Id>,
    },
    /// A reference to data that is stored outside of the pickle.
    Persistent(Id),
}

/// A parsed pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

impl Pickle {
    /// Parses `bytes`.
    pub(crate) fn parse(bytes: &[u8], limits: &Limits, meter: &Meter) -> Result<Self, Refusal> {
        Machine::new(bytes, limits, meter).run()
    }

    /// The final value of the pickle.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// The number of values. Every smaller number is a valid id.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The value at `id`. Every id found in a value of this pickle is valid.
    pub(crate) fn get(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The text of a string value.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The name of a class or function reference.
    pub(crate) fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }

    /// The members of a tuple or list.
    pub(crate) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Node::Tuple(members) | Node::List(members) => Some(members),
            _ => None,
        }
    }

    /// A non-negative integer.
    pub(crate) fn size(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }
}

/// Work of one opcode.
const OPCODE_STEPS: usize = 8;

/// The pickle virtual machine: a stack of values, marks into it, and a memo.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    limits: &'a Limits,
    meter: &'a Meter,
    nodes: Vec<Node>,
    /// The number of values in lists, tuples and dicts together.
    members: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8], limits: &'a Limits, meter: &'a Meter) -> Self {
        Self {
            bytes,
            at: 0,
            limits,
            meter,
            nodes: Vec::new(),
            members: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Pickle, Refusal> {
        loop {
            let start = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                let root = self.pop()?;
                return Ok(Pickle { nodes: self.nodes, root });
            }
            self.step(opcode).map_err(|problem| problem.within(&format!("pickle byte {start}")))?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Refusal> {
        // An opcode pushes at most one entry on the stack or the marks. Both grow by doubling.
        self.meter.work(OPCODE_STEPS)?;
        self.meter.bytes(4 * size_of::<Id>())?;
        match opcode {
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 4 {
                    return Err(Refusal::malformed(format!("protocol {protocol} is not read")));
                }
            }
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'K' => {
                let value = i64::from(self.byte()?);
                self.push(Node::Int(value))?;
            }
            b'M' => {
                let value = i64::from(u16::from_le_bytes(self.array()?));
                self.push(Node::Int(value))?;
            }
            b'J' => {
                let value = i64::from(i32::from_le_bytes(self.array()?));
                self.push(Node::Int(value))?;
            }
            0x8a => self.long()?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(value))?;
            }
            b'X' | b'T' => {
                let length = u32::from_le_bytes(self.array()?) as usize;
                self.string(length)?;
            }
            0x8c => {
                let length = usize::from(self.byte()?);
                self.string(length)?;
            }
            b'c' => self.global()?,
            b'(' => self.marks.push(self.stack.len()),
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b't' => {
                let members = self.pop_marked()?;
                self.push_tuple(members)?;
            }
            0x85..=0x87 => {
                let members = self.pop_many(usize::from(opcode - 0x84))?;
                self.push_tuple(members)?;
            }
            b'a' => {
                let member = self.pop()?;
                self.append(vec![member])?;
            }
            b'e' => {
                let members = self.pop_marked()?;
                self.append(members)?;
            }
            b's' => {
                let members = self.pop_many(2)?;
                self.set_items(members)?;
            }
            b'u' => {
                let members = self.pop_marked()?;
                self.set_items(members)?;
            }
            b'R' => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.push(Node::Call { function, arguments })?;
            }
            0x81 => {
                let _arguments = self.pop()?;
                let class = self.pop()?;
                self.push(Node::Object { class, state: None })?;
            }
            b'b' => self.build()?,
            b'Q' => {
                let key = self.pop()?;
                self.push(Node::Persistent(key))?;
            }
            b'q' => {
                let slot = usize::from(self.byte()?);
                self.memoize(slot)?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.array()?) as usize;
                self.memoize(slot)?;
            }
            b'h' => {
                let slot = usize::from(self.byte()?);
                self.recall(slot)?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.array()?) as usize;
                self.recall(slot)?;
            }
            other => {
                return Err(Refusal::malformed(format!(
                    "opcode 0x{other:02x} is not used in TorchScript files"
                )));
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(Refusal::malformed(format!("pickle ends early, at byte {}", self.at)));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Refusal> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, Refusal> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().take(self.limits.name_bytes).position(|&byte| byte == b'\n') else {
            return Err(Refusal::malformed("a name does not end"));
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| Refusal::malformed("a name is not UTF-8"))
    }

    fn string(&mut self, length: usize) -> Result<(), Refusal> {
        let bytes = self.take(length)?;
        self.meter.bytes(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Refusal::malformed("a string is not UTF-8"))?;
        self.push(Node::Str(text.into()))
    }

    /// Reads an integer of up to eight little-endian bytes. The last byte carries the sign.
    fn long(&mut self) -> Result<(), Refusal> {
        let length = usize::from(self.byte()?);
        if length > 8 {
            return Err(Refusal::malformed(format!("an integer of {length} bytes, at most 8 are read")));
        }
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut extended = if negative { [0xff; 8] } else { [0; 8] };
        extended[..length].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(extended)))
    }

    fn global(&mut self) -> Result<(), Refusal> {
        let module = self.line()?;
        let name = self.line()?;
        self.meter.bytes(2 * (module.len() + name.len()))?;
        self.push(Node::Global(format!("{module}.{name}").into()))
    }

    fn push(&mut self, node: Node) -> Result<(), Refusal> {
        if self.nodes.len() >= self.limits.pickle_values {
            return Err(Refusal::malformed(format!("more than {} values", self.limits.pickle_values)));
        }
        // The table grows by doubling.
        self.meter.room::<Node>(2)?;
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    fn count_members(&mut self, count: usize) -> Result<(), Refusal> {
        self.members += count;
        if self.members > self.limits.pickle_values {
            return Err(Refusal::malformed(format!("more than {} members", self.limits.pickle_values)));
        }
        // They are moved from the stack to a vector, which may grow by doubling.
        self.meter.room::<Id>(count.saturating_mul(3))
    }

    fn push_tuple(&mut self, members: Vec<Id>) -> Result<(), Refusal> {
        self.count_members(members.len())?;
        self.push(Node::Tuple(members))
    }

    /// The lowest stack position that may be popped. Everything below belongs to an open mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, Refusal> {
        if self.stack.len() <= self.floor() {
            return Err(Refusal::malformed("the stack is empty"));
        }
        self.stack.pop().ok_or_else(|| Refusal::malformed("the stack is empty"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Refusal> {
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
        let Some(start) = start else { return Err(Refusal::malformed("the stack is too short")) };
        Ok(self.stack.split_off(start))
    }

    fn pop_marked(&mut self) -> Result<Vec<Id>, Refusal> {
        let start = self.marks.pop().ok_or_else(|| Refusal::malformed("no mark to return to"))?;
        Ok(self.stack.split_off(start))
    }

    fn top(&self) -> Result<Id, Refusal> {
        if self.stack.len() <= self.floor() {
            return Err(Refusal::malformed("the stack is empty"));
        }
        self.stack.last().copied().ok_or_else(|| Refusal::malformed("the stack is empty"))
    }

    fn append(&mut self, mut members: Vec<Id>) -> Result<(), Refusal> {
        self.count_members(members.len())?;
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::List(list) => list.append(&mut members),
            _ => return Err(Refusal::malformed("append to something that is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, members: Vec<Id>) -> Result<(), Refusal> {
        if !members.len().is_multiple_of(2) {
            return Err(Refusal::malformed("a key without a value"));
        }
        self.count_members(members.len())?;
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::Dict(dict) => dict.extend(members.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(Refusal::malformed("items set on something that is not a dict")),
        }
        Ok(())
    }

    fn build(&mut self) -> Result<(), Refusal> {
        let built = self.pop()?;
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::Object { state, .. } if state.is_none() => *state = Some(built),
            _ => return Err(Refusal::malformed("state for something that is not a new object")),
        }
        Ok(())
    }

    fn memoize(&mut self, slot: usize) -> Result<(), Refusal> {
        let id = self.top()?;
        // The writer numbers its slots from zero, so a slot beyond the values made so far means damage.
        if slot > self.nodes.len() {
            return Err(Refusal::malformed(format!("memo slot {slot} is out of sequence")));
        }
        if self.memo.len() <= slot {
            self.meter.room::<Option<Id>>(2 * (slot + 1 - self.memo.len()))?;
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(id);
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<(), Refusal> {
        let id = self.memo.get(slot).copied().flatten();
        let Some(id) = id else { return Err(Refusal::malformed(format!("memo slot {slot} is empty"))) };
        // Each recall costs one byte of the file, so the stack stays within the file's size.
        self.stack.push(id);
        Ok(())
    }
}
