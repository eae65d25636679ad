//! Walks `forward` once, knowing every value but the elements of tensors, and leaves a [`Graph`] behind.
//!
//! Submodule calls are followed where they stand (inlining), conditions are decided, loops unrolled. What would need
//! a tensor's elements to decide is refused.

use std::collections::HashMap;
use std::rc::Rc;

use super::builtins;
use super::graph::{Graph, Origin, Place, View};
use super::value::{TensorId, Value};
use crate::policy::native::archive::Archive;
use crate::policy::native::limits::Limits;
use crate::policy::native::module::Tree;
use crate::policy::native::pickle::{Id, Node};
use crate::policy::native::problem::Problem;
use crate::policy::native::source::{
    Expression, ExpressionKind, Function, Library, Statement, StatementKind,
};
use crate::policy::native::tensor::{DType, Data};

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file cannot be run natively.
    Refused(Problem),
    /// The shape of this argument must be known to go on; `suggestion` is the only one that fits, where that is clear.
    NeedsShape { input: usize, suggestion: Option<Vec<usize>> },
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

pub(super) type Step<T> = Result<T, Stop>;

/// Refuses a construct; the place is added on the way out.
pub(super) fn unsupported<T>(reason: impl Into<String>) -> Step<T> {
    Err(Stop::Refused(Problem::unsupported(reason)))
}

/// Refuses shapes or types that PyTorch itself would refuse.
pub(super) fn mismatch<T>(reason: impl Into<String>) -> Step<T> {
    Err(Stop::Refused(Problem::shape(reason)))
}

struct Tensor {
    view: View,
    /// The operator that has overwritten (part of) the elements since; reading them here would give old values.
    overwritten: Option<Rc<str>>,
    /// A number of the source that TorchScript stored as a constant without dimensions. PyTorch lets its type give
    /// way, as that of a Python number does.
    number: bool,
}

/// An archive opened for lowering. Attributes and source are shared by all attempts.
pub(super) struct Program<'a> {
    pub(super) archive: Archive<'a>,
    pub(super) library: Library,
    pub(super) attributes: Tree,
    pub(super) constants: Tree,
    pub(super) limits: Limits,
}

enum Flow {
    Next,
    Return(Value),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Attributes,
    Constants,
}

pub(super) struct Interpreter<'p, 'a> {
    program: &'p mut Program<'a>,
    pub(super) graph: Graph,
    tensors: Vec<Tensor>,
    loaded: HashMap<(Source, Id), TensorId>,
    evaluations: usize,
    depth: usize,
    file: Rc<str>,
    line: u32,
    operator: Rc<str>,
}

type Scope = HashMap<String, Value>;

impl<'p, 'a> Interpreter<'p, 'a> {
    pub(super) fn new(program: &'p mut Program<'a>) -> Self {
        Self {
            program,
            graph: Graph::default(),
            tensors: Vec::new(),
            loaded: HashMap::new(),
            evaluations: 0,
            depth: 0,
            file: "code".into(),
            line: 0,
            operator: "forward".into(),
        }
    }

    /// Calls `forward` on the archive's root object. An argument without a shape is [`Value::Unshaped`].
    pub(super) fn forward(&mut self, shapes: &[Option<Vec<usize>>]) -> Step<Value> {
        let root = self.program.attributes.pickle().root();
        let arguments = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| match shape {
                Some(shape) => {
                    let view = self.graph.input(index, shape);
                    self.tensor(view)
                }
                None => Value::Unshaped(index),
            })
            .collect();
        self.method(root, "forward", arguments, Vec::new()).map_err(|stop| self.located(stop))
    }

    fn located(&self, stop: Stop) -> Stop {
        match stop {
            Stop::Refused(problem) => {
                Stop::Refused(problem.within(&format!("{}:{}: {}", self.file, self.line, self.operator)))
            }
            other => other,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.program.limits
    }

    pub(super) fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line, operator: self.operator.clone() }
    }

    /// Gives `view` a place in the table of tensors.
    pub(super) fn tensor(&mut self, view: View) -> Value {
        self.tensors.push(Tensor { view, overwritten: None, number: false });
        Value::Tensor(self.tensors.len() - 1)
    }

    /// The view behind a tensor value.
    pub(super) fn view(&self, id: TensorId) -> Step<View> {
        let tensor = &self.tensors[id];
        if let Some(operator) = &tensor.overwritten {
            return unsupported(format!(
                "reads a tensor through a view after {operator} wrote over it in place"
            ));
        }
        Ok(tensor.view.clone())
    }

    /// Whether a tensor stands for a number of the source.
    pub(super) fn is_number(&self, id: TensorId) -> bool {
        self.tensors[id].number
    }

    /// Makes `id` stand for `result` from now on, as an operation in place does, and every other view of the
    /// overwritten elements unreadable.
    pub(super) fn overwrite(&mut self, id: TensorId, result: View) -> Step<()> {
        let old = self.view(id)?;
        if matches!(self.graph.roots[old.root].origin, Origin::Constant { stored: true, .. }) {
            return unsupported("writes to a tensor of the module itself");
        }
        if old.shape != result.shape || old.dtype != result.dtype {
            return unsupported("changes the shape or type of a tensor in place");
        }
        let aliases = self.tensors.iter().filter(|tensor| tensor.view.root == old.root);
        self.charge(aliases.map(|tensor| tensor.view.len() / 64 + 1).sum())?;
        let written: std::collections::HashSet<usize> = old.positions().collect();
        let operator = self.operator.clone();
        for tensor in &mut self.tensors {
            if tensor.view.root != old.root {
                continue;
            }
            if tensor.view == old {
                tensor.view = result.clone();
            } else if tensor.view.positions().any(|position| written.contains(&position)) {
                tensor.overwritten = Some(operator.clone());
            }
        }
        Ok(())
    }

    /// Charges `cost` evaluations.
    pub(super) fn charge(&mut self, cost: usize) -> Step<()> {
        self.evaluations = self.evaluations.saturating_add(cost);
        let limit = self.program.limits.evaluations;
        if self.evaluations > limit {
            return Err(Problem::malformed(format!("takes more than {limit} evaluations")).into());
        }
        Ok(())
    }

    /// Calls method `name` of the object at `id`.
    pub(super) fn method(
        &mut self,
        id: Id,
        name: &str,
        positional: Vec<Value>,
        keyword: Vec<(Rc<str>, Value)>,
    ) -> Step<Value> {
        let class_name = self.class_name(id)?;
        let Some(class) = self.program.library.class(&class_name) else {
            return Err(Problem::malformed(format!("class {class_name} has no source in the archive")).into());
        };
        let Some(function) = class.method(name).cloned() else {
            return unsupported(format!("class {class_name} has no method {name}"));
        };
        let mut arguments = Vec::with_capacity(positional.len() + 1);
        arguments.push(Value::Object(id));
        arguments.extend(positional);
        self.call(&function, arguments, keyword)
    }

    fn class_name(&self, id: Id) -> Step<String> {
        let pickle = self.program.attributes.pickle();
        match pickle.get(id) {
            Node::Object { class, .. } => match pickle.global(*class) {
                Some(name) => Ok(name.to_owned()),
                None => Err(Problem::malformed("an object's class has no name").into()),
            },
            _ => Err(Problem::malformed("data.pkl does not hold a module").into()),
        }
    }

    fn call(
        &mut self,
        function: &Rc<Function>,
        positional: Vec<Value>,
        mut keyword: Vec<(Rc<str>, Value)>,
    ) -> Step<Value> {
        if positional.len() > function.parameters.len() {
            return mismatch(format!(
                "{} takes {} arguments, {} are given",
                function.name,
                function.parameters.len(),
                positional.len()
            ));
        }
        let mut scope = Scope::new();
        let mut given = positional.into_iter();
        for parameter in &function.parameters {
            let value = if let Some(value) = given.next() {
                value
            } else if let Some(at) = keyword.iter().position(|(name, _)| **name == *parameter.name) {
                keyword.swap_remove(at).1
            } else if let Some(default) = &parameter.default {
                self.evaluate(default, &mut Scope::new())?
            } else {
                return mismatch(format!("{} is called without {}", function.name, parameter.name));
            };
            scope.insert(parameter.name.clone(), value);
        }
        let caller = (self.file.clone(), self.line, self.operator.clone());
        self.file = function.file.clone();
        self.line = function.line;
        self.operator = function.name.as_str().into();
        self.descend()?;
        let flow = self.block(&function.body, &mut scope)?;
        self.depth -= 1;
        (self.file, self.line, self.operator) = caller;
        Ok(match flow {
            Flow::Return(value) => value,
            Flow::Next => Value::None,
        })
    }

    /// Counts one level of nesting; the caller takes it back when it returns without error.
    fn descend(&mut self) -> Step<()> {
        self.depth += 1;
        // A module call is about four levels, and modules nest as deep as source may.
        let limit = self.program.limits.depth * 4;
        if self.depth > limit {
            return Err(Problem::malformed(format!("calls nest deeper than {limit} levels")).into());
        }
        Ok(())
    }

    fn block(&mut self, statements: &[Statement], scope: &mut Scope) -> Step<Flow> {
        for statement in statements {
            self.line = statement.line;
            if let Flow::Return(value) = self.statement(statement, scope)? {
                return Ok(Flow::Return(value));
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &Statement, scope: &mut Scope) -> Step<Flow> {
        match &statement.kind {
            StatementKind::Pass => {}
            StatementKind::Evaluate(expression) => {
                self.evaluate(expression, scope)?;
            }
            StatementKind::Return(value) => {
                return Ok(Flow::Return(match value {
                    Some(value) => self.evaluate(value, scope)?,
                    None => Value::None,
                }));
            }
            StatementKind::Assign { targets, unpack, value } => {
                let value = self.evaluate(value, scope)?;
                self.assign(targets, *unpack, value, scope)?;
            }
            StatementKind::If { condition, then, otherwise } => {
                let branch = if self.condition(condition, scope)? { then } else { otherwise };
                self.descend()?;
                let flow = self.block(branch, scope)?;
                self.depth -= 1;
                return Ok(flow);
            }
            StatementKind::While { condition, body } => {
                while self.condition(condition, scope)? {
                    if let Flow::Return(value) = self.block(body, scope)? {
                        return Ok(Flow::Return(value));
                    }
                    self.line = statement.line;
                }
            }
            StatementKind::For { target, over, body } => {
                let over = self.evaluate(over, scope)?;
                let Some(members) = over.members() else {
                    return unsupported(format!("a loop over {}", over.kind()));
                };
                for member in members {
                    self.charge(1)?;
                    scope.insert(target.clone(), member);
                    if let Flow::Return(value) = self.block(body, scope)? {
                        return Ok(Flow::Return(value));
                    }
                }
            }
            StatementKind::Assert { condition } => {
                if !self.condition(condition, scope)? {
                    return mismatch("an assertion of forward fails at these shapes");
                }
            }
        }
        Ok(Flow::Next)
    }

    fn assign(&mut self, targets: &[Expression], unpack: bool, value: Value, scope: &mut Scope) -> Step<()> {
        let name = |target: &Expression| match &target.kind {
            ExpressionKind::Name(name) => Ok(name.to_string()),
            _ => unsupported("assigns to something other than a name"),
        };
        if let ([target], false) = (targets, unpack) {
            scope.insert(name(target)?, value);
            return Ok(());
        }
        let members = match value.members() {
            Some(members) if members.len() == targets.len() => members,
            _ => return mismatch(format!("{} names for a {}", targets.len(), value.kind())),
        };
        for (target, member) in targets.iter().zip(members) {
            scope.insert(name(target)?, member);
        }
        Ok(())
    }

    fn condition(&mut self, expression: &Expression, scope: &mut Scope) -> Step<bool> {
        let value = self.evaluate(expression, scope)?;
        self.truth(&value)
    }

    /// The truth of a value that is known while lowering.
    pub(super) fn truth(&self, value: &Value) -> Step<bool> {
        match value {
            Value::None => Ok(false),
            Value::Tensor(_) => Ok(self.scalar(value)?.number().unwrap_or(0.0) != 0.0),
            _ => match value.number() {
                Some(number) => Ok(number != 0.0),
                None => unsupported(format!("a condition that is a {}", value.kind())),
            },
        }
    }

    /// The number in a constant tensor of one element.
    pub(super) fn scalar(&self, value: &Value) -> Step<Value> {
        let Value::Tensor(id) = value else { return Ok(value.clone()) };
        let view = self.view(*id)?;
        if view.len() != 1 {
            return mismatch(format!("a tensor of shape {:?} where one number is wanted", view.shape));
        }
        let Some(data) = self.graph.constant_data(&view) else {
            return unsupported("depends on the elements of a tensor, which a fixed plan cannot branch on");
        };
        Ok(match &*data {
            Data::I64(values) => Value::Int(values[0]),
            Data::Bool(values) => Value::Bool(values[0]),
            other => Value::Float(other.as_f64(0)),
        })
    }

    fn evaluate(&mut self, expression: &Expression, scope: &mut Scope) -> Step<Value> {
        self.charge(1)?;
        self.descend()?;
        let value = self.expression(expression, scope)?;
        self.depth -= 1;
        Ok(value)
    }

    fn expression(&mut self, expression: &Expression, scope: &mut Scope) -> Step<Value> {
        Ok(match &expression.kind {
            ExpressionKind::None => Value::None,
            ExpressionKind::Bool(value) => Value::Bool(*value),
            ExpressionKind::Int(value) => Value::Int(*value),
            ExpressionKind::Float(value) => Value::Float(*value),
            ExpressionKind::Str(text) => Value::Str(text.clone()),
            ExpressionKind::Name(name) => match scope.get(&**name) {
                Some(value) => value.clone(),
                None if matches!(&**name, "inf" | "nan") => {
                    Value::Float(if &**name == "inf" { f64::INFINITY } else { f64::NAN })
                }
                None => Value::Path(name.clone()),
            },
            ExpressionKind::List(members) => Value::list(self.evaluate_all(members, scope)?),
            ExpressionKind::Tuple(members) => Value::Tuple(self.evaluate_all(members, scope)?.into()),
            ExpressionKind::Negative(operand) => match self.evaluate(operand, scope)? {
                Value::Int(value) => Value::Int(value.wrapping_neg()),
                Value::Float(value) => Value::Float(-value),
                // `-inf`, where the name is not bound to anything.
                other => return unsupported(format!("the negative of a {}", other.kind())),
            },
            ExpressionKind::Conditional { condition, then, otherwise } => {
                let branch = if self.condition(condition, scope)? { then } else { otherwise };
                self.evaluate(branch, scope)?
            }
            ExpressionKind::Attribute(base, name) => {
                let base = self.evaluate(base, scope)?;
                self.attribute(&base, name)?
            }
            ExpressionKind::Subscript(base, index) => {
                let base = self.evaluate(base, scope)?;
                let index = self.evaluate(index, scope)?;
                self.subscript(&base, &index)?
            }
            ExpressionKind::Call { function, positional, keyword } => {
                self.call_expression(function, positional, keyword, scope)?
            }
        })
    }

    fn evaluate_all(&mut self, expressions: &[Expression], scope: &mut Scope) -> Step<Vec<Value>> {
        expressions.iter().map(|expression| self.evaluate(expression, scope)).collect()
    }

    fn subscript(&mut self, base: &Value, index: &Value) -> Step<Value> {
        let (Some(members), Value::Int(index)) = (base.members(), index) else {
            return unsupported(format!("subscripts a {}", base.kind()));
        };
        let position = if *index < 0 { index.wrapping_add(members.len() as i64) } else { *index };
        match usize::try_from(position).ok().and_then(|position| members.get(position)) {
            Some(member) => Ok(member.clone()),
            None => mismatch(format!("index {index} of {} members", members.len())),
        }
    }

    fn call_expression(
        &mut self,
        function: &Expression,
        positional: &[Expression],
        keyword: &[(Rc<str>, Expression)],
        scope: &mut Scope,
    ) -> Step<Value> {
        // These take a type first, which is no value.
        if let ExpressionKind::Name(name) = &function.kind {
            match (&**name, positional) {
                ("annotate" | "unchecked_cast", [_, value]) => return self.evaluate(value, scope),
                ("uninitialized", [_]) => return Ok(Value::Uninitialized),
                _ => {}
            }
        }
        let line = self.line;
        let (target, method) = match &function.kind {
            ExpressionKind::Attribute(base, name) => match self.evaluate(base, scope)? {
                Value::Object(id) => (Value::Object(id), Some(name.clone())),
                other => (self.attribute(&other, name)?, None),
            },
            _ => (self.evaluate(function, scope)?, None),
        };
        let positional = self.evaluate_all(positional, scope)?;
        let mut named = Vec::with_capacity(keyword.len());
        for (name, value) in keyword {
            named.push((name.clone(), self.evaluate(value, scope)?));
        }
        self.line = line;
        match (target, method) {
            (Value::Object(id), Some(name)) => self.method(id, &name, positional, named),
            (Value::Path(path), _) => self.call_path(&path, positional, named),
            (other, _) => unsupported(format!("calls a {}", other.kind())),
        }
    }

    fn call_path(
        &mut self,
        path: &Rc<str>,
        positional: Vec<Value>,
        keyword: Vec<(Rc<str>, Value)>,
    ) -> Step<Value> {
        if let Some(function) = self.program.library.function(path).cloned() {
            return self.call(&function, positional, keyword);
        }
        if &**path == "getattr" {
            return match &*positional {
                [object, Value::Str(name)] => self.attribute(object, name),
                _ => unsupported("getattr without an object and a name"),
            };
        }
        self.operator = path.clone();
        builtins::call(self, path, positional, keyword)
    }

    /// The attribute `name` of a value: of an object, of `CONSTANTS`, or of a dotted name.
    fn attribute(&mut self, base: &Value, name: &str) -> Step<Value> {
        match base {
            Value::Object(id) => self.object_attribute(*id, name),
            Value::Path(path) if &**path == "CONSTANTS" => self.constant(name),
            Value::Path(path) => Ok(Value::Path(format!("{path}.{name}").into())),
            other => unsupported(format!("attribute {name} of a {}", other.kind())),
        }
    }

    fn constant(&mut self, name: &str) -> Step<Value> {
        let pickle = self.program.constants.pickle();
        let index = name.strip_prefix('c').and_then(|digits| digits.parse::<usize>().ok());
        let id = index.and_then(|index| pickle.sequence(pickle.root())?.get(index).copied());
        match id {
            Some(id) => self.load(Source::Constants, id, 0),
            None => Err(Problem::malformed(format!("CONSTANTS.{name} is not in constants.pkl")).into()),
        }
    }

    fn object_attribute(&mut self, id: Id, name: &str) -> Step<Value> {
        let pickle = self.program.attributes.pickle();
        if let Node::Object { state: Some(state), .. } = pickle.get(id)
            && let Node::Dict(items) = pickle.get(*state)
            && let Some((_, value)) = items.iter().find(|(key, _)| pickle.text(*key) == Some(name))
        {
            let value = *value;
            return self.load(Source::Attributes, value, 0);
        }
        let class_name = self.class_name(id)?;
        let constant = self
            .program
            .library
            .class(&class_name)
            .and_then(|class| class.constants.iter().find(|(constant, _)| constant == name))
            .map(|(_, value)| value.clone());
        match constant {
            Some(value) => self.evaluate(&value, &mut Scope::new()),
            None => unsupported(format!("class {class_name} has no attribute {name}")),
        }
    }

    /// Turns a pickled value into one of ours. Tensors are read once and shared.
    fn load(&mut self, source: Source, id: Id, depth: usize) -> Step<Value> {
        self.charge(1)?;
        if depth > self.program.limits.depth {
            return Err(
                Problem::malformed(format!("values nest deeper than {}", self.program.limits.depth)).into()
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
            let view = self.graph.constant(stored.data, &stored.shape, true);
            let value = self.tensor(view);
            if let Value::Tensor(tensor) = value {
                let constant = source == Source::Constants && stored.shape.is_empty();
                self.tensors[tensor].number =
                    constant && matches!(self.tensors[tensor].view.dtype, DType::F64 | DType::I64);
                self.loaded.insert((source, id), tensor);
            }
            return Ok(value);
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
                // Not a list: appending to one of the module's would have to outlive the call.
                Ok(Value::Tuple(members?.into()))
            }
            Node::Tuple(members) => {
                let members: Step<Vec<Value>> =
                    members.into_iter().map(|member| self.load(source, member, depth + 1)).collect();
                Ok(Value::Tuple(members?.into()))
            }
            Node::Object { .. } if source == Source::Attributes => Ok(Value::Object(id)),
            Node::Call { function, arguments } => {
                // `build_intlist`, `build_tensorlist`, `restore_type_tag`: a type around their first argument.
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
