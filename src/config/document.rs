//! The text as a tree with places, read key by key. Every read is noted, so that a walk at the end finds the
//! keys that were never read. Every problem is noted as well, so that one run reports all of them.

use super::error::{ConfigError, Problem};
use super::rule::{Node, Place, Rule};
use escapement_policy::escape::escaped;
use std::cell::RefCell;
use std::path::Path;
use toml::Spanned;
use toml::de::DeTable;

/// Characters of a key or value that a message shows.
const SHOWN_CHARACTERS: usize = 60;
/// Problems that are reported. More would not help, and a hostile file may have any number.
const REPORTED_PROBLEMS: usize = 50;
/// The longest key, in characters, for which a hint is searched. Every known key is less than half as long.
const HINT_CHARACTERS: usize = 64;

/// A value that follows the rule of its key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Setting<T> {
    pub(super) value: T,
    pub(super) path: String,
    /// Where it is written; `None` for a default.
    pub(super) place: Option<Place>,
}

/// One file: its text, the tree, and the problems found so far.
pub(super) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    /// Paths of the keys that were asked for.
    keys: RefCell<Vec<String>>,
    tables: RefCell<Vec<String>>,
    /// Each with its place, for the order.
    problems: RefCell<Vec<(usize, Problem)>>,
}

/// One table of the file, which may be missing.
pub(super) struct Table<'d, 't> {
    document: &'d Document<'t>,
    path: String,
    entries: Option<&'d DeTable<'t>>,
    /// Where it begins; `None` if it is not there.
    place: Option<Place>,
}

impl<'t> Document<'t> {
    /// Parses the text. Fails with the first place that is not TOML, because what follows it cannot be
    /// understood.
    pub(super) fn parse(text: &'t str, file: &'t Path) -> Result<Self, ConfigError> {
        let (root, mut errors) = DeTable::parse_recoverable(text);
        errors.sort_by_key(|error| error.span().map_or(text.len(), |place| place.start));
        let document = Self {
            file,
            text,
            root,
            keys: RefCell::default(),
            tables: RefCell::default(),
            problems: RefCell::default(),
        };
        match errors.first() {
            None => Ok(document),
            Some(error) => {
                let at = error.span().map_or(text.len(), |place| place.start);
                let column = text
                    .get(..at)
                    .map_or(1, |before| before.rsplit('\n').next().unwrap_or_default().chars().count() + 1);
                let what = format!("not TOML at column {column}: {}", escaped(error.message()));
                let line = 1 + line_breaks(text, 0..at);
                Err(ConfigError::unintelligible(file, line, what))
            }
        }
    }

    /// Returns the table at `path`, which may stand in another one: `policy.recurrent`.
    pub(super) fn table(&self, path: &str) -> Table<'_, 't> {
        let mut names = path.split('.');
        let outer = names.next().unwrap_or_default();
        let table = self.table_at(self.root.get_ref().get(outer), outer.to_owned());
        names.fold(table, |table, name| table.table(name))
    }

    /// Returns where the table at `path` begins; `None` if it is not there.
    pub(super) fn place_of_table(&self, path: &str) -> Option<Place> {
        let mut entries = self.root.get_ref();
        let mut found = None;
        for name in path.split('.') {
            let node = entries.get(name)?;
            found = Some(node.span());
            match node.get_ref().as_table() {
                Some(inner) => entries = inner,
                None => break,
            }
        }
        found
    }

    fn table_at<'d>(&'d self, node: Option<&'d Node<'t>>, path: String) -> Table<'d, 't> {
        if !self.tables.borrow().contains(&path) {
            self.tables.borrow_mut().push(path.clone());
        }
        let entries = node.and_then(|node| node.get_ref().as_table());
        if let (Some(node), None) = (node, entries) {
            let what = format!("wrong type ({})", node.get_ref().type_str());
            let value = self.written(&node.span());
            self.note(&path, node.span().start, value, what, Some("a table".to_owned()));
        }
        Table { document: self, path, entries, place: node.map(Spanned::span) }
    }

    /// Notes that a setting, right in itself, contradicts others. The caller must name a setting that is
    /// written in the file: a default has no place.
    pub(super) fn contradicts<T>(&self, setting: &Setting<T>, what: String, allowed: String) {
        let place = setting.place.clone().unwrap_or(0..0);
        self.note(&setting.path, place.start, self.written(&place), what, Some(allowed));
    }

    /// Notes that one element of a setting contradicts others.
    pub(super) fn element_contradicts(
        &self,
        path: &str,
        (index, place): (usize, &Place),
        what: String,
        allowed: String,
    ) {
        self.note(&format!("{path}[{index}]"), place.start, self.written(place), what, Some(allowed));
    }

    /// Notes a problem with the key at `path`.
    pub(super) fn note(
        &self,
        path: &str,
        at: usize,
        value: Option<String>,
        what: String,
        allowed: Option<String>,
    ) {
        // The line is counted when all problems are known and in order.
        let (file, key) = (self.file.to_owned(), Some(path.to_owned()));
        self.problems.borrow_mut().push((at, Problem { file, line: 0, key, value, what, allowed }));
    }

    /// Returns the text at a place, shortened and on one line; `None` if it is empty.
    pub(super) fn written(&self, place: &Place) -> Option<String> {
        let text = self.text.get(place.clone()).filter(|text| !text.is_empty())?;
        Some(shortened(&text.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    /// Whether no problem was found so far.
    pub(super) fn is_good(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// Notes every key and table of the file that was never read. The caller must have read all of them.
    pub(super) fn refuse_unknown(&self) {
        self.refuse_unknown_in(self.root.get_ref(), "");
    }

    fn refuse_unknown_in(&self, entries: &DeTable<'_>, table: &str) {
        let keys = self.keys.borrow();
        let tables = self.tables.borrow();
        for (name, node) in entries {
            let path = join(table, name.get_ref());
            if tables.contains(&path) {
                if let Some(entries) = node.get_ref().as_table() {
                    self.refuse_unknown_in(entries, &path);
                }
                continue;
            }
            if keys.contains(&path) || self.problems.borrow().len() >= REPORTED_PROBLEMS {
                continue;
            }
            let known = keys.iter().map(String::as_str).chain(tables.iter().map(String::as_str));
            let mut here: Vec<_> = known.clone().filter_map(|known| member_of(known, table)).collect();
            here.dedup();
            let hint = nearest(&path, known).map_or_else(String::new, |near| format!(" (is {near} meant?)"));
            let is_table = node.get_ref().is_table();
            let value = if is_table { None } else { self.written(&node.span()) };
            let what = format!("unknown {}{hint}", if is_table { "table" } else { "key" });
            self.note(&shortened(&path), name.span().start, value, what, Some(here.join(", ")));
        }
    }

    /// Returns the problems, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(at, _)| *at);
        // A value in a table's place is noted once for itself and once for every table inside it.
        problems.dedup();
        problems.truncate(REPORTED_PROBLEMS);
        let (mut line, mut counted) = (1, 0);
        let mut place = |(at, mut problem): (usize, Problem)| {
            line += line_breaks(self.text, counted..at);
            counted = at;
            problem.line = line;
            problem
        };
        problems.into_iter().map(&mut place).collect()
    }
}

impl<'d, 't> Table<'d, 't> {
    /// A table in this one.
    fn table(&self, name: &str) -> Table<'d, 't> {
        let node = self.entries.and_then(|entries| entries.get(name));
        self.document.table_at(node, join(&self.path, name))
    }

    /// Reads a key that must be set. Returns `None` only if a problem was noted.
    pub(super) fn required<R: Rule>(&self, name: &str, rule: R) -> Option<Setting<R::Value>> {
        let node = self.ask(name);
        // If another value stands in the table's place, only that is reported.
        let is_no_table = self.entries.is_none() && self.place.is_some();
        if node.is_none() && !is_no_table {
            let at = self.place.as_ref().map_or(0, |place| place.start);
            let allowed = Some(rule.allowed().to_string());
            self.document.note(&join(&self.path, name), at, None, "missing".to_owned(), allowed);
        }
        self.read(name, &rule, node?)
    }

    /// Reads a key with a default. For a wrong value, it notes a problem and returns the default.
    pub(super) fn or<R: Rule>(&self, name: &str, rule: R, default: R::Value) -> Setting<R::Value> {
        let node = self.ask(name);
        node.and_then(|node| self.read(name, &rule, node)).unwrap_or_else(|| Setting {
            value: default,
            path: join(&self.path, name),
            place: None,
        })
    }

    /// Reads a key that may be left out. Returns `None` if it is left out, or if a problem was noted.
    pub(super) fn optional<R: Rule>(&self, name: &str, rule: R) -> Option<Setting<R::Value>> {
        let node = self.ask(name);
        self.read(name, &rule, node?)
    }

    fn ask(&self, name: &str) -> Option<&'d Node<'t>> {
        self.document.keys.borrow_mut().push(join(&self.path, name));
        self.entries.and_then(|entries| entries.get(name))
    }

    fn read<R: Rule>(&self, name: &str, rule: &R, node: &Node<'_>) -> Option<Setting<R::Value>> {
        let path = join(&self.path, name);
        match rule.read(node) {
            Ok(value) => Some(Setting { value, path, place: Some(node.span()) }),
            Err(wrong) => {
                let (path, place) = match wrong.element {
                    Some((index, place)) => (format!("{path}[{index}]"), place),
                    None => (path, node.span()),
                };
                let value = self.document.written(&place);
                let allowed = Some(rule.allowed().to_string());
                self.document.note(&path, place.start, value, wrong.what, allowed);
                None
            }
        }
    }
}

/// Returns the text on one line, cut to a readable length.
fn shortened(text: &str) -> String {
    let mut shown = escaped(&text.chars().take(SHOWN_CHARACTERS).collect::<String>());
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}

fn line_breaks(text: &str, place: Place) -> usize {
    text.as_bytes()[place].iter().filter(|byte| **byte == b'\n').count()
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// Returns the name, relative to `table`, of a key or table directly in it.
fn member_of<'k>(path: &'k str, table: &str) -> Option<&'k str> {
    let name = if table.is_empty() { path } else { path.strip_prefix(table)?.strip_prefix('.')? };
    (!name.contains('.')).then_some(name)
}

/// Returns the known path that is closest to `path`, if a typing error explains the difference. A known name
/// in the wrong table counts as one edit.
fn nearest<'k>(path: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let name = last(path);
    if path.chars().count() > HINT_CHARACTERS {
        return None;
    }
    let distance = |known: &str| {
        if last(known) == name { 1 } else { edit_distance(path, known) }
    };
    let (distance, nearest) = known.map(|known| (distance(known), known)).min()?;
    (distance <= 1 + name.chars().count() / 3).then_some(nearest)
}

/// Returns how many characters must be inserted, removed or replaced (Levenshtein distance, computed row by
/// row).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, character) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 0..to.len() {
            let replaced = diagonal + usize::from(to[column] != character);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (from, to, edits) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("core", "cores", 1)]
        {
            assert_eq!(edit_distance(from, to), edits, "{from} → {to}");
            assert_eq!(edit_distance(to, from), edits, "{to} → {from}");
        }
    }

    #[test]
    fn hints_only_at_slips() {
        let known = ["deadline.inference_us", "deadline.on_miss", "engine.core"];
        assert_eq!(nearest("deadline.inference_ms", known.into_iter()), Some("deadline.inference_us"));
        assert_eq!(nearest("policy.on_miss", known.into_iter()), Some("deadline.on_miss"));
        assert_eq!(nearest("engine.colour_of_the_sky", known.into_iter()), None);
    }
}
