//! The syntax tree. Type annotations are parsed as expressions and mostly ignored, because TorchScript has
//! checked them.

use std::rc::Rc;

/// The classes and free functions of one file.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    pub(crate) classes: Vec<Class>,
    pub(crate) functions: Vec<Function>,
}

#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) name: String,
    /// `name : Final[int] = 4`: attributes whose value is in the source.
    pub(crate) constants: Vec<(Rc<str>, Rc<Expression>)>,
    /// `name : Type` without a value. These are the fields of a NamedTuple, in order.
    pub(crate) fields: Vec<String>,
    pub(crate) methods: Vec<Rc<Function>>,
}

impl Class {
    pub(crate) fn method(&self, name: &str) -> Option<&Rc<Function>> {
        self.methods.iter().find(|method| *method.name == *name)
    }
}

#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: Rc<str>,
    /// The archive member that contains it.
    pub(crate) file: Rc<str>,
    pub(crate) line: u32,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) body: Vec<Statement>,
}

#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: Rc<str>,
    pub(crate) default: Option<Expression>,
}

#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) line: u32,
    pub(crate) kind: StatementKind,
}

#[derive(Debug)]
pub(crate) enum StatementKind {
    /// `a, b, = value`. `unpack` distinguishes `a, = value` from `a = value`.
    Assign {
        targets: Vec<Expression>,
        unpack: bool,
        value: Expression,
    },
    Evaluate(Expression),
    Return(Option<Expression>),
    If {
        condition: Expression,
        then: Vec<Statement>,
        otherwise: Vec<Statement>,
    },
    While {
        condition: Expression,
        body: Vec<Statement>,
    },
    For {
        target: Rc<str>,
        over: Expression,
        body: Vec<Statement>,
    },
    Assert {
        condition: Expression,
    },
    Pass,
}

#[derive(Debug)]
pub(crate) struct Expression {
    pub(crate) line: u32,
    pub(crate) kind: ExpressionKind,
}

#[derive(Debug)]
pub(crate) enum ExpressionKind {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    Name(Rc<str>),
    Attribute(Box<Expression>, Rc<str>),
    Subscript(Box<Expression>, Box<Expression>),
    Call { function: Box<Expression>, positional: Vec<Expression>, keyword: Vec<(Rc<str>, Expression)> },
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Negative(Box<Expression>),
    Conditional { condition: Box<Expression>, then: Box<Expression>, otherwise: Box<Expression> },
}
