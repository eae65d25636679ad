//! Looks up attributes of modules, of `CONSTANTS` and of dotted names, and loads the pickled values behind
//! them.

use super::interpreter::{Interpreter, Scope, Source, Step, unsupported};
use super::value::Value;
use crate::ir::tensor::DType;
use crate::readers::torchscript::pickle::{Id, Node};
use crate::refusal::Refusal;

/// The longest dotted name, in bytes. Qualified class names have a few hundred.
const MAX_PATH: usize = 4096;

impl Interpreter<'_, '_> {
    /// Returns the attribute `name` of an object, of `CONSTANTS`, or of a dotted name.
    pub(super) fn attribute(&mut self, base: &Value, name: &str) -> Step<Value> {
        match base {
            Value::Object(id) => self.object_attribute(*id, name),
            Value::Path(path) if &**path == "CONSTANTS" => self.constant(name),
            Value::Path(path) => {
                let length = path.len() + name.len() + 1;
                if length > MAX_PATH {
                    return unsupported(format!("a dotted name of {length} bytes"));
                }
                self.meter.bytes(2 * length)?;
                Ok(Value::Path(format!("{path}.{name}").into()))
            }
            other => unsupported(format!("attribute {name} of a {}", other.kind())),
        }
    }

    fn constant(&mut self, name: &str) -> Step<Value> {
        let pickle = self.program.constants.pickle();
        let index = name.strip_prefix('c').and_then(|digits| digits.parse::<usize>().ok());
        let id = index.and_then(|index| pickle.sequence(pickle.root())?.get(index).copied());
        match id {
            Some(id) => self.load(Source::Constants, id, 0),
            None => Err(Refusal::malformed(format!("CONSTANTS.{name} is not in constants.pkl")).into()),
        }
    }

    fn object_attribute(&mut self, id: Id, name: &str) -> Step<Value> {
        let pickle = self.program.attributes.pickle();
        if let Node::Object { state: Some(state), .. } = pickle.get(id)
            && let Node::Dict(items) = pickle.get(*state)
            && let () = self.meter.work(items.len())?
            && let Some((_, value)) = items.iter().find(|(key, _)| pickle.text(*key) == Some(name))
        {
            let value = *value;
            return self.load(Source::Attributes, value, 0);
        }
        let class_name = self.class_name(id)?;
        let constants = self.program.library.class(&class_name).map_or(0, |class| class.constants.len());
        self.meter.work(constants)?;
        let constant = self
            .program
            .library
            .class(&class_name)
            .and_then(|class| class.constants.iter().find(|(constant, _)| **constant == *name))
            .map(|(_, value)| value.clone());
        match constant {
            Some(value) => self.evaluate(&value, &mut Scope::new()),
            None => unsupported(format!("class {class_name} has no attribute {name}")),
        }
    }

    /// Converts a pickled value to a [`Value`]. Tensors are read once and shared.
    fn load(&mut self, source: Source, id: Id, depth: usize) -> Step<Value> {
        self.charge(1)?;
        if depth > self.program.limits.depth {
            return Err(
                Refusal::malformed(format!("values nest deeper than {}", self.program.limits.depth)).into()
            );
        }
        if let Some(&tensor) = self.loaded.get(&(source, id)) {
            return Ok(Value::Tensor(tensor));
        }
        let program = &mut *self.program;
        let tree = match source {
            Source::Attributes => &mut program.attributes,
            Source::Constants => &mut program.constants,
        };
        if tree.is_tensor(id) {
            let stored = tree.tensor(id, &mut program.archive, &program.limits)?;
            let view = self.graph.constant(stored.data, &stored.shape, true)?;
            let value = self.tensor(view)?;
            if let Value::Tensor(tensor) = value {
                let constant = source == Source::Constants && stored.shape.is_empty();
                self.tensors[tensor].number =
                    constant && matches!(self.tensors[tensor].view.dtype, DType::F64 | DType::I64);
                self.loaded.insert((source, id), tensor);
            }
            return Ok(value);
        }
        // A copy of its members, because the members load by the same tree.
        if let Some(members) = tree.pickle().sequence(id) {
            self.meter.work(members.len())?;
            self.meter.bytes(members.len().saturating_mul(Value::MEMBER_BYTES + size_of::<Id>()))?;
        }
        match tree.pickle().get(id).clone() {
            Node::None => Ok(Value::None),
            Node::Bool(value) => Ok(Value::Bool(value)),
            Node::Int(value) => Ok(Value::Int(value)),
            Node::Float(value) => Ok(Value::Float(value)),
            Node::Str(text) => Ok(Value::Str(text)),
            Node::List(members) => {
                let members: Step<Vec<Value>> =
                    members.into_iter().map(|member| self.load(source, member, depth + 1)).collect();
                // Not a list: an item appended to one of the module's lists would have to outlive the call.
                Ok(Value::tuple(members?)?)
            }
            Node::Tuple(members) => {
                let members: Step<Vec<Value>> =
                    members.into_iter().map(|member| self.load(source, member, depth + 1)).collect();
                Ok(Value::tuple(members?)?)
            }
            Node::Object { .. } if source == Source::Attributes => Ok(Value::Object(id)),
            Node::Call { function, arguments } => {
                // `build_intlist`, `build_tensorlist` and `restore_type_tag` only add a type to their first
                // argument.
                let typed =
                    tree.pickle().global(function).is_some_and(|name| name.starts_with("torch.jit._pickle."));
                match tree.pickle().sequence(arguments).and_then(|arguments| arguments.first().copied()) {
                    Some(value) if typed => self.load(source, value, depth + 1),
                    _ => unsupported("an attribute that only code could rebuild"),
                }
            }
            _ => unsupported("an attribute of a type that is not run natively"),
        }
    }
}
