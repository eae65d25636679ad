//! Walks `forward` once and builds the graph. Every value except the elements of tensors is known.
//!
//! Submodule calls are inlined, conditions are decided, and loops are unrolled. A construct whose result
//! depends on a tensor's elements is refused.

use std::rc::Rc;

use super::builtins;
use super::interpreter::{Interpreter, Scope, Step, Stop, mismatch, unsupported};
use super::value::Value;
use crate::readers::torchscript::pickle::{Id, Node};
use crate::readers::torchscript::source::{Expression, ExpressionKind, Function, Statement, StatementKind};
use crate::refusal::{Place, Refusal};

/// Work of finding and binding what is called.
const CALL_STEPS: usize = 64;
/// Work of one statement beside its expressions.
const STATEMENT_STEPS: usize = 8;

enum Flow {
    Next,
    Return(Value),
}

impl Interpreter<'_, '_> {
    /// Calls `forward` on the archive's root object. An argument without a shape is [`Value::Unshaped`].
    pub(super) fn forward(&mut self, shapes: &[Option<Vec<usize>>]) -> Step<Value> {
        let root = self.program.attributes.pickle().root();
        let arguments = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| match shape {
                Some(shape) => {
                    let view = self.graph.input(index, shape)?;
                    self.tensor(view)
                }
                None => Ok(Value::Unshaped(index)),
            })
            .collect::<Step<Vec<Value>>>()?;
        self.method(root, "forward", arguments, Vec::new()).map_err(|stop| self.located(stop))
    }

    fn located(&self, stop: Stop) -> Stop {
        match stop {
            Stop::Refused(problem) => Stop::Refused(problem.found_at(|| Place {
                file: self.file.to_string(),
                line: self.line,
                operator: self.operator.to_string(),
            })),
            other => other,
        }
    }

    /// Calls method `name` of the object at `id`.
    pub(super) fn method(
        &mut self,
        id: Id,
        name: &str,
        positional: Vec<Value>,
        keyword: Vec<(Rc<str>, Value)>,
    ) -> Step<Value> {
        self.meter.work(CALL_STEPS)?;
        let class_name = self.class_name(id)?;
        let Some(class) = self.program.library.class(&class_name) else {
            return Err(Refusal::malformed(format!("class {class_name} has no source in the archive")).into());
        };
        self.meter.work(class.methods.len())?;
        let Some(function) = class.method(name).cloned() else {
            return unsupported(format!("class {class_name} has no method {name}"));
        };
        let mut arguments = Vec::with_capacity(positional.len() + 1);
        arguments.push(Value::Object(id));
        arguments.extend(positional);
        self.call(&function, arguments, keyword)
    }

    pub(super) fn class_name(&self, id: Id) -> Step<String> {
        let pickle = self.program.attributes.pickle();
        match pickle.get(id) {
            Node::Object { class, .. } => match pickle.global(*class) {
                Some(name) => Ok(name.to_owned()),
                None => Err(Refusal::malformed("an object's class has no name").into()),
            },
            _ => Err(Refusal::malformed("data.pkl does not hold a module").into()),
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
        self.meter.work(function.parameters.len().saturating_mul(keyword.len() + 1))?;
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
            self.bind(&parameter.name, value, &mut scope)?;
        }
        let caller = (self.file.clone(), self.line, self.operator.clone());
        self.file = function.file.clone();
        self.line = function.line;
        self.operator = function.name.clone();
        let flow = self.block(&function.body, &mut scope)?;
        (self.file, self.line, self.operator) = caller;
        Ok(match flow {
            Flow::Return(value) => value,
            Flow::Next => Value::None,
        })
    }

    /// Enters one level of nesting. The caller must leave it when it returns without an error.
    fn descend(&mut self) -> Step<()> {
        self.depth += 1;
        // A module call takes about four levels, and modules may nest as deep as source.
        let limit = self.program.limits.depth * 4;
        if self.depth > limit {
            return Err(Refusal::malformed(format!("calls nest deeper than {limit} levels")).into());
        }
        Ok(())
    }

    /// Binds a name. A new name takes memory.
    fn bind(&mut self, name: &Rc<str>, value: Value, scope: &mut Scope) -> Step<()> {
        if let Some(bound) = scope.get_mut(name) {
            *bound = value;
            return Ok(());
        }
        self.meter.bytes(4 * size_of::<(Rc<str>, Value)>())?;
        scope.insert(name.clone(), value);
        Ok(())
    }

    /// Runs a block one level deeper, as nested blocks take stack.
    fn block(&mut self, statements: &[Statement], scope: &mut Scope) -> Step<Flow> {
        self.descend()?;
        let flow = self.statements(statements, scope)?;
        self.depth -= 1;
        Ok(flow)
    }

    fn statements(&mut self, statements: &[Statement], scope: &mut Scope) -> Step<Flow> {
        for statement in statements {
            self.line = statement.line;
            self.meter.work(STATEMENT_STEPS)?;
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
                return self.block(branch, scope);
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
                // The body may append to the list, and the loop does not see that.
                let members = self.copied(&members)?;
                for member in members {
                    self.charge(1)?;
                    self.bind(target, member, scope)?;
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
            ExpressionKind::Name(name) => Ok(name.clone()),
            _ => unsupported("assigns to something other than a name"),
        };
        if let ([target], false) = (targets, unpack) {
            return self.bind(&name(target)?, value, scope);
        }
        let members = match value.members() {
            Some(members) if members.len() == targets.len() => members,
            _ => {
                return mismatch(format!(
                    "{} names cannot take the members of a {}",
                    targets.len(),
                    value.kind()
                ));
            }
        };
        for (target, member) in targets.iter().zip(&*members) {
            self.bind(&name(target)?, member.clone(), scope)?;
        }
        Ok(())
    }

    fn condition(&mut self, expression: &Expression, scope: &mut Scope) -> Step<bool> {
        let value = self.evaluate(expression, scope)?;
        self.truth(&value)
    }

    pub(super) fn evaluate(&mut self, expression: &Expression, scope: &mut Scope) -> Step<Value> {
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
            ExpressionKind::List(members) => Value::list(self.evaluate_all(members, scope)?)?,
            ExpressionKind::Tuple(members) => Value::tuple(self.evaluate_all(members, scope)?)?,
            ExpressionKind::Negative(operand) => match self.evaluate(operand, scope)? {
                Value::Int(value) => Value::Int(value.wrapping_neg()),
                Value::Float(value) => Value::Float(-value),
                // This is `-inf` when the name is not bound.
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
        self.room(expressions.len())?;
        expressions.iter().map(|expression| self.evaluate(expression, scope)).collect()
    }

    fn subscript(&mut self, base: &Value, index: &Value) -> Step<Value> {
        let (Some(members), Value::Int(index)) = (base.members(), index) else {
            return unsupported(format!("subscripts a {}", base.kind()));
        };
        let position = if *index < 0 { index.wrapping_add(members.len() as i64) } else { *index };
        match usize::try_from(position).ok().and_then(|position| members.get(position)) {
            Some(member) => Ok(member.clone()),
            None => mismatch(format!("index {index} is outside the {} members", members.len())),
        }
    }

    fn call_expression(
        &mut self,
        function: &Expression,
        positional: &[Expression],
        keyword: &[(Rc<str>, Expression)],
        scope: &mut Scope,
    ) -> Step<Value> {
        // The first argument of these is a type, not a value.
        if let ExpressionKind::Name(name) = &function.kind {
            match (&**name, positional) {
                ("annotate" | "unchecked_cast", [_, value]) => return self.evaluate(value, scope),
                ("uninitialized", [_]) => return Ok(Value::Uninitialized),
                _ => {}
            }
        }
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
        // Arguments may be on other lines, and in other files if they call modules.
        self.line = function.line;
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
        self.meter.work(CALL_STEPS)?;
        self.operator = path.clone();
        builtins::call(self, path, positional, keyword)
    }
}
