//! The source code inside an archive: the subset of Python that TorchScript's printer writes.

mod ast;
mod lexer;
mod parser;

use std::collections::HashMap;
use std::rc::Rc;

pub(crate) use ast::{Class, Expression, ExpressionKind, Function, Statement, StatementKind};

use super::archive::Archive;
use crate::limits::Limits;
use crate::meter::Meter;
use crate::refusal::Refusal;
use escapement_policy::escape::escaped;

/// Memory of a class or function in the table of definitions, beside its name.
const DEFINITION_BYTES: usize = 2 * size_of::<Function>();

/// Every class and function of an archive by its qualified name (`__torch__.torch.nn.modules.linear.Linear`).
#[derive(Debug, Default)]
pub(crate) struct Library {
    classes: HashMap<String, Rc<Class>>,
    functions: HashMap<String, Rc<Function>>,
}

impl Library {
    /// Parses all of `code/**/*.py`.
    pub(crate) fn read(archive: &mut Archive<'_>, limits: &Limits) -> Result<Self, Refusal> {
        let mut library = Self::default();
        let mut bytes_left = limits.source_bytes;
        for name in archive.names("code/", ".py")? {
            let bytes = archive.read(&name)?;
            bytes_left = bytes_left.checked_sub(bytes.len()).ok_or_else(|| {
                Refusal::malformed(format!("{name}: more than {} bytes of source", limits.source_bytes))
            })?;
            let text =
                String::from_utf8(bytes).map_err(|_| Refusal::malformed(format!("{name}: not UTF-8")))?;
            let prefix = name.trim_start_matches("code/").trim_end_matches(".py").replace('/', ".");
            library.add(&name, &prefix, &text, limits, archive.meter())?;
        }
        Ok(library)
    }

    /// Parses `text`, the source of one file. Its definitions get names that start with `prefix`.
    pub(crate) fn add(
        &mut self,
        file: &str,
        prefix: &str,
        text: &str,
        limits: &Limits,
        meter: &Meter,
    ) -> Result<(), Refusal> {
        // Plans and reports name the file.
        let file: Rc<str> = escaped(file).into();
        let definitions = parser::parse(&file, text, limits, meter)?;
        let names = definitions.classes.len() + definitions.functions.len();
        meter.bytes(names.saturating_mul(2 * (prefix.len() + limits.name_bytes + DEFINITION_BYTES)))?;
        for class in definitions.classes {
            self.classes.insert(format!("{prefix}.{}", class.name), Rc::new(class));
        }
        for function in definitions.functions {
            self.functions.insert(format!("{prefix}.{}", function.name), Rc::new(function));
        }
        Ok(())
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Rc<Class>> {
        self.classes.get(name)
    }

    pub(crate) fn function(&self, name: &str) -> Option<&Rc<Function>> {
        self.functions.get(name)
    }
}
