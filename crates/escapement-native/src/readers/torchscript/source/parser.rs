//! A recursive-descent parser over the tokens of one file, with bounded depth.

use std::rc::Rc;

use super::ast::{
    Class, Definitions, Expression, ExpressionKind, Function, Parameter, Statement, StatementKind,
};
use super::lexer::{Spanned, Token, tokenize};
use crate::limits::Limits;
use crate::meter::Meter;
use crate::refusal::Refusal;

/// The longest chain of attributes, calls and subscripts. Qualified class names have up to a dozen links.
const LINKS: usize = 32;

type Parsed<T> = Result<T, (u32, Refusal)>;

pub(super) fn parse(
    file: &Rc<str>,
    text: &str,
    limits: &Limits,
    meter: &Meter,
) -> Result<Definitions, Refusal> {
    let at = |(line, problem): (u32, Refusal)| problem.within(&format!("{file}:{line}"));
    let tokens = tokenize(text, limits, meter).map_err(at)?;
    Parser { file, tokens, at: 0, depth: 0, limit: limits.depth }.file().map_err(at)
}

struct Parser<'a> {
    file: &'a Rc<str>,
    tokens: Vec<Spanned>,
    at: usize,
    depth: usize,
    limit: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        // The last token is `End` and is never consumed.
        &self.tokens[self.at].token
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn fail<T>(&self, wanted: &str) -> Parsed<T> {
        Err((self.line(), Refusal::malformed(format!("{wanted} expected, found {}", self.peek().shown()))))
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if &**found == word)
    }

    fn accept(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        if found {
            self.at += 1;
        }
        found
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.accept(symbol) { Ok(()) } else { self.fail(symbol) }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.accept_word(word) { Ok(()) } else { self.fail(word) }
    }

    fn expect_token(&mut self, token: &Token, name: &str) -> Parsed<()> {
        if self.peek() == token {
            self.next();
            Ok(())
        } else {
            self.fail(name)
        }
    }

    fn name(&mut self) -> Parsed<Rc<str>> {
        match self.next() {
            Token::Name(name) => Ok(name),
            _ => {
                self.at = self.at.saturating_sub(1);
                self.fail("a name")
            }
        }
    }

    fn skip_newlines(&mut self) {
        while *self.peek() == Token::Newline {
            self.at += 1;
        }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= self.limit {
            return Err((self.line(), Refusal::malformed(format!("nested deeper than {}", self.limit))));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn file(mut self) -> Result<Definitions, (u32, Refusal)> {
        let mut definitions = Definitions::default();
        loop {
            self.skip_newlines();
            if *self.peek() == Token::End {
                return Ok(definitions);
            }
            if self.is_word("class") {
                definitions.classes.push(self.class()?);
            } else if self.is_word("def") {
                definitions.functions.push(self.function()?);
            } else {
                return self.fail("class or def");
            }
        }
    }

    fn class(&mut self) -> Parsed<Class> {
        self.expect_word("class")?;
        let name = self.name()?.to_string();
        if self.accept("(") {
            self.name()?;
            self.expect(")")?;
        }
        self.block_start()?;
        let mut class = Class { name, constants: Vec::new(), fields: Vec::new(), methods: Vec::new() };
        loop {
            self.skip_newlines();
            if *self.peek() == Token::Dedent {
                self.next();
                return Ok(class);
            }
            if self.is_word("def") {
                class.methods.push(Rc::new(self.function()?));
            } else if !self.accept_word("pass") {
                self.class_member(&mut class)?;
            }
        }
    }

    /// `name : Type`, `name : Final[Type] = value`, `__annotations__["0"] = Type` or `__parameters__ = […]`.
    fn class_member(&mut self, class: &mut Class) -> Parsed<()> {
        let target = self.expression()?;
        let annotated = self.accept(":");
        if annotated {
            self.expression()?;
        }
        let value = if self.accept("=") { Some(self.expression()?) } else { None };
        if let (true, ExpressionKind::Name(name)) = (annotated, target.kind) {
            match value {
                Some(value) => class.constants.push((name, Rc::new(value))),
                None => class.fields.push(name.to_string()),
            }
        }
        self.line_end()
    }

    fn block_start(&mut self) -> Parsed<()> {
        self.expect(":")?;
        self.expect_token(&Token::Newline, "a line end")?;
        self.skip_newlines();
        self.expect_token(&Token::Indent, "an indented block")
    }

    fn line_end(&mut self) -> Parsed<()> {
        match self.peek() {
            Token::Newline => {
                self.next();
                Ok(())
            }
            Token::End | Token::Dedent => Ok(()),
            _ => self.fail("a line end"),
        }
    }

    fn function(&mut self) -> Parsed<Function> {
        let line = self.line();
        self.expect_word("def")?;
        let name = self.name()?;
        self.expect("(")?;
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.accept(")") {
            if self.accept("*") {
                // This marks the parameters after it as keyword-only. Arguments are bound by name, so the
                // mark is not needed.
            } else {
                let name = self.name()?;
                if self.accept(":") {
                    self.expression()?;
                }
                let default = if self.accept("=") { Some(self.expression()?) } else { None };
                parameters.push(Parameter { name, default });
            }
            if !self.is_symbol(")") {
                self.expect(",")?;
            }
        }
        if self.accept("->") {
            self.expression()?;
        }
        let body = self.block()?;
        Ok(Function { name, file: self.file.clone(), line, parameters, body })
    }

    fn block(&mut self) -> Parsed<Vec<Statement>> {
        self.block_start()?;
        let mut statements = Vec::new();
        loop {
            self.skip_newlines();
            match self.peek() {
                Token::Dedent => {
                    self.next();
                    return Ok(statements);
                }
                Token::End => return Ok(statements),
                _ => {
                    let statement = self.nested(Self::statement)?;
                    statements.push(statement);
                }
            }
        }
    }

    fn statement(&mut self) -> Parsed<Statement> {
        let line = self.line();
        let kind = if self.accept_word("return") {
            let value = if *self.peek() == Token::Newline { None } else { Some(self.expression_list()?) };
            self.line_end()?;
            StatementKind::Return(value)
        } else if self.accept_word("pass") {
            self.line_end()?;
            StatementKind::Pass
        } else if self.accept_word("if") {
            self.conditional()?
        } else if self.accept_word("while") {
            let condition = self.expression()?;
            StatementKind::While { condition, body: self.block()? }
        } else if self.accept_word("for") {
            let target = self.name()?;
            self.expect_word("in")?;
            let over = self.expression()?;
            StatementKind::For { target, over, body: self.block()? }
        } else if self.accept_word("assert") {
            let condition = self.expression()?;
            if self.accept(",") {
                self.expression()?;
            }
            self.line_end()?;
            StatementKind::Assert { condition }
        } else {
            self.assignment()?
        };
        Ok(Statement { line, kind })
    }

    fn conditional(&mut self) -> Parsed<StatementKind> {
        let condition = self.expression()?;
        let then = self.block()?;
        self.skip_newlines();
        let otherwise = if self.accept_word("else") { self.block()? } else { Vec::new() };
        Ok(StatementKind::If { condition, then, otherwise })
    }

    fn assignment(&mut self) -> Parsed<StatementKind> {
        let mut targets = vec![self.expression()?];
        let mut unpack = false;
        while self.accept(",") {
            unpack = true;
            if self.is_symbol("=") {
                break;
            }
            targets.push(self.expression()?);
        }
        if self.accept(":") {
            self.expression()?;
        }
        if self.accept("=") {
            let value = self.expression_list()?;
            self.line_end()?;
            return Ok(StatementKind::Assign { targets, unpack, value });
        }
        self.line_end()?;
        match (targets.pop(), unpack) {
            (Some(only), false) => Ok(StatementKind::Evaluate(only)),
            _ => self.fail("="),
        }
    }

    /// Parses one expression, or several separated by commas, which form a tuple.
    fn expression_list(&mut self) -> Parsed<Expression> {
        let line = self.line();
        let first = self.expression()?;
        if !self.is_symbol(",") {
            return Ok(first);
        }
        let mut members = vec![first];
        while self.accept(",") {
            if matches!(self.peek(), Token::Newline | Token::End) || self.is_symbol("]") {
                break;
            }
            members.push(self.expression()?);
        }
        Ok(Expression { line, kind: ExpressionKind::Tuple(members) })
    }

    fn expression(&mut self) -> Parsed<Expression> {
        self.nested(|parser| {
            let line = parser.line();
            let then = parser.postfix()?;
            if !parser.accept_word("if") {
                return Ok(then);
            }
            let condition = Box::new(parser.expression()?);
            parser.expect_word("else")?;
            let otherwise = Box::new(parser.expression()?);
            let kind = ExpressionKind::Conditional { condition, then: Box::new(then), otherwise };
            Ok(Expression { line, kind })
        })
    }

    fn postfix(&mut self) -> Parsed<Expression> {
        let line = self.line();
        if self.accept("-") {
            let operand = self.nested(Self::postfix)?;
            let kind = match operand.kind {
                ExpressionKind::Int(value) => ExpressionKind::Int(value.wrapping_neg()),
                ExpressionKind::Float(value) => ExpressionKind::Float(-value),
                other => ExpressionKind::Negative(Box::new(Expression { line, kind: other })),
            };
            return Ok(Expression { line, kind });
        }
        let mut expression = self.atom()?;
        // A chain makes the tree as deep as the chain is long, so its length is bounded too. The product of
        // both bounds limits the depth of the whole tree.
        let mut links = 0;
        loop {
            let line = self.line();
            let kind = if self.accept(".") {
                ExpressionKind::Attribute(Box::new(expression), self.name()?)
            } else if self.accept("(") {
                self.call(expression)?
            } else if self.accept("[") {
                let index = self.expression_list()?;
                self.expect("]")?;
                ExpressionKind::Subscript(Box::new(expression), Box::new(index))
            } else {
                return Ok(expression);
            };
            links += 1;
            if links > LINKS {
                return Err((line, Refusal::malformed(format!("a chain of more than {LINKS} links"))));
            }
            expression = Expression { line, kind };
        }
    }

    fn call(&mut self, function: Expression) -> Parsed<ExpressionKind> {
        let mut positional = Vec::new();
        let mut keyword = Vec::new();
        while !self.accept(")") {
            let argument = self.expression()?;
            match (&argument.kind, self.is_symbol("=")) {
                (ExpressionKind::Name(name), true) => {
                    let name = name.clone();
                    self.expect("=")?;
                    keyword.push((name, self.expression()?));
                }
                _ => positional.push(argument),
            }
            if !self.is_symbol(")") {
                self.expect(",")?;
            }
        }
        Ok(ExpressionKind::Call { function: Box::new(function), positional, keyword })
    }

    fn atom(&mut self) -> Parsed<Expression> {
        let line = self.line();
        let kind = match self.peek().clone() {
            Token::Int(value) => {
                self.next();
                ExpressionKind::Int(value)
            }
            Token::Float(value) => {
                self.next();
                ExpressionKind::Float(value)
            }
            Token::Str(text) => {
                self.next();
                ExpressionKind::Str(text)
            }
            Token::Name(name) => {
                self.next();
                match &*name {
                    "None" => ExpressionKind::None,
                    "True" => ExpressionKind::Bool(true),
                    "False" => ExpressionKind::Bool(false),
                    _ => ExpressionKind::Name(name),
                }
            }
            Token::Symbol("(") => {
                self.next();
                let (mut members, comma) = self.members(")")?;
                match members.pop() {
                    Some(only) if members.is_empty() && !comma => only.kind,
                    Some(last) => {
                        members.push(last);
                        ExpressionKind::Tuple(members)
                    }
                    None => ExpressionKind::Tuple(members),
                }
            }
            Token::Symbol("[") => {
                self.next();
                ExpressionKind::List(self.members("]")?.0)
            }
            _ => return self.fail("an expression"),
        };
        Ok(Expression { line, kind })
    }

    /// Parses expressions up to `close`. Also returns whether a comma followed the last one.
    fn members(&mut self, close: &str) -> Parsed<(Vec<Expression>, bool)> {
        let mut members = Vec::new();
        let mut comma = false;
        while !self.accept(close) {
            members.push(self.expression()?);
            comma = self.accept(",");
            if !comma {
                self.expect(close)?;
                break;
            }
        }
        Ok((members, comma))
    }
}
