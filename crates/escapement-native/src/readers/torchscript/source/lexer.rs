//! Splits source into tokens with their lines. Indentation becomes `Indent` and `Dedent`, as in Python's own
//! tokenizer.

use std::rc::Rc;

use super::ast::{Expression, Statement};
use crate::limits::Limits;
use crate::meter::Meter;
use crate::refusal::Refusal;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Name(Rc<str>),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    /// One of `( ) [ ] { } , : . = - + * / < >` or `->`.
    Symbol(&'static str),
    Newline,
    Indent,
    Dedent,
    End,
}

impl Token {
    /// The token for a message. A long text is cut.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Str(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Self::Name(text) => text.chars().take(80).collect(),
            other => format!("{other:?}"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) line: u32,
}

const SYMBOLS: [&str; 17] =
    ["->", "(", ")", "[", "]", "{", "}", ",", ":", ".", "=", "-", "+", "*", "/", "<", ">"];

/// What one token takes: its place among the tokens, which grow by doubling, and what the parser makes of it.
/// The parser makes at most one expression of a token, in a vector that starts with room for four, and at
/// most one statement of two tokens.
const TOKEN_BYTES: usize =
    2 * size_of::<Spanned>() + 4 * size_of::<Expression>() + 2 * size_of::<Statement>();
/// Work of reading and parsing one token.
const TOKEN_STEPS: usize = 32;

pub(super) fn tokenize(text: &str, limits: &Limits, meter: &Meter) -> Result<Vec<Spanned>, (u32, Refusal)> {
    meter.work(text.len()).map_err(|problem| (0, problem))?;
    let (indents, tokens) = (vec![0], Vec::new());
    Lexer { text, at: 0, line: 1, brackets: 0, indents, limits, meter, tokens }.run()
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    /// The number of open brackets. Inside them, line ends and indentation have no meaning.
    brackets: usize,
    indents: Vec<usize>,
    limits: &'a Limits,
    meter: &'a Meter,
    tokens: Vec<Spanned>,
}

impl Lexer<'_> {
    fn run(mut self) -> Result<Vec<Spanned>, (u32, Refusal)> {
        while self.at < self.text.len() {
            if self.brackets == 0 && self.at_line_start() && !self.indentation()? {
                continue;
            }
            self.token()?;
        }
        self.push(Token::Newline)?;
        while self.indents.len() > 1 {
            self.indents.pop();
            self.push(Token::Dedent)?;
        }
        self.push(Token::End)?;
        Ok(self.tokens)
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, reason: impl AsRef<str>) -> Result<T, (u32, Refusal)> {
        Err((self.line, Refusal::malformed(reason)))
    }

    fn push(&mut self, token: Token) -> Result<(), (u32, Refusal)> {
        let text = match &token {
            Token::Name(text) | Token::Str(text) => text.len(),
            _ => 0,
        };
        // A class, function or parameter keeps a copy of its name.
        let charged = self.meter.bytes(TOKEN_BYTES + 2 * text).and_then(|()| self.meter.work(TOKEN_STEPS));
        charged.map_err(|problem| (self.line, problem))?;
        self.tokens.push(Spanned { token, line: self.line });
        Ok(())
    }

    fn at_line_start(&self) -> bool {
        self.at == 0 || self.text.as_bytes()[self.at - 1] == b'\n'
    }

    /// Measures a line's indentation. Skips blank and comment lines, and returns `false` for them.
    fn indentation(&mut self) -> Result<bool, (u32, Refusal)> {
        let width = self.rest().len() - self.rest().trim_start_matches(' ').len();
        self.at += width;
        match self.rest().bytes().next() {
            None => return Ok(false),
            Some(b'\n') => {
                self.at += 1;
                self.line += 1;
                return Ok(false);
            }
            Some(b'#') => {
                self.comment();
                if self.at < self.text.len() {
                    self.at += 1;
                    self.line += 1;
                }
                return Ok(false);
            }
            Some(_) => {}
        }
        let current = self.indents.last().copied().unwrap_or(0);
        if width > current {
            if self.indents.len() > self.limits.depth {
                return self.fail(format!("blocks nest deeper than {}", self.limits.depth));
            }
            self.indents.push(width);
            self.push(Token::Indent)?;
        }
        while width < self.indents.last().copied().unwrap_or(0) {
            self.indents.pop();
            self.push(Token::Dedent)?;
        }
        if width != self.indents.last().copied().unwrap_or(0) {
            return self.fail("indentation fits no open block");
        }
        Ok(true)
    }

    fn comment(&mut self) {
        let length = self.rest().find('\n').unwrap_or(self.rest().len());
        self.at += length;
    }

    fn token(&mut self) -> Result<(), (u32, Refusal)> {
        let Some(first) = self.rest().chars().next() else { return Ok(()) };
        match first {
            ' ' | '\t' | '\r' => self.at += 1,
            '\n' => {
                if self.brackets == 0 {
                    self.push(Token::Newline)?;
                }
                self.at += 1;
                self.line += 1;
            }
            '#' => self.comment(),
            '"' | '\'' => self.string(first)?,
            '0'..='9' => self.number()?,
            '_' | 'a'..='z' | 'A'..='Z' => {
                let length = self
                    .rest()
                    .bytes()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
                    .count();
                if length > self.limits.name_bytes {
                    return self.fail(format!(
                        "a name of {length} bytes, at most {} are allowed",
                        self.limits.name_bytes
                    ));
                }
                let name = self.rest()[..length].into();
                self.at += length;
                self.push(Token::Name(name))?;
            }
            _ => self.symbol()?,
        }
        Ok(())
    }

    fn symbol(&mut self) -> Result<(), (u32, Refusal)> {
        let Some(&symbol) = SYMBOLS.iter().find(|symbol| self.rest().starts_with(**symbol)) else {
            let found: String = self.rest().chars().take(1).collect();
            return self.fail(format!("{found:?} has no place in TorchScript source"));
        };
        match symbol {
            "(" | "[" | "{" => self.brackets += 1,
            ")" | "]" | "}" => match self.brackets.checked_sub(1) {
                Some(brackets) => self.brackets = brackets,
                None => return self.fail(format!("{symbol:?} closes nothing")),
            },
            _ => {}
        }
        self.at += symbol.len();
        self.push(Token::Symbol(symbol))
    }

    fn number(&mut self) -> Result<(), (u32, Refusal)> {
        let bytes = self.rest().as_bytes();
        let mut length = 0;
        let mut float = false;
        while let Some(&byte) = bytes.get(length) {
            match byte {
                b'0'..=b'9' => {}
                b'.' => float = true,
                b'e' | b'E' => {
                    float = true;
                    if matches!(bytes.get(length + 1), Some(b'+' | b'-')) {
                        length += 1;
                    }
                }
                _ => break,
            }
            length += 1;
        }
        let text = &self.rest()[..length];
        let token =
            if float { text.parse().map(Token::Float).ok() } else { text.parse().map(Token::Int).ok() };
        let Some(token) = token else {
            let shown: String = text.chars().take(40).collect();
            return self.fail(format!("{shown} is not a number that fits"));
        };
        self.at += length;
        self.push(token)
    }

    fn string(&mut self, quote: char) -> Result<(), (u32, Refusal)> {
        let mut value = String::new();
        let mut characters = self.rest().char_indices().skip(1);
        while let Some((position, character)) = characters.next() {
            match character {
                '\n' => break,
                '\\' => {
                    let Some((_, escaped)) = characters.next() else { break };
                    value.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                }
                _ if character == quote => {
                    self.at += position + 1;
                    return self.push(Token::Str(value.into()));
                }
                _ => value.push(character),
            }
        }
        self.fail("a string does not end on its line")
    }
}
