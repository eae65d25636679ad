//! Who may import whom: the table of the crate's documentation, as a rule.

use crate::lexer::{Token, closing};

/// Each top-level module and its height: the layer's number, times ten, and the order within where there is one. A
/// module imports from strictly lower ones only.
pub const HEIGHTS: &[(&str, u32)] = &[
    // L0
    ("sync", 0),
    ("clock", 1),
    ("backing", 1),
    ("denormals", 1),
    // L1
    ("wire", 10),
    ("noise", 10),
    // L2
    ("ring", 20),
    ("handover", 20),
    ("bundle", 21),
    ("policy", 20),
    ("shm", 20),
    ("telemetry", 20),
    // L3
    ("engine", 30),
    ("journal", 30),
    ("attribution", 31),
    ("validation", 32),
    // L4
    ("agent", 40),
    ("config", 40),
    ("host", 41),
    ("feed", 42),
    ("gateway", 43),
    // L5
    ("daemon", 50),
    ("cli", 51),
];

/// What stays forbidden although the heights would allow it.
const NEVER: &[(&str, &str, &str)] = &[
    ("ring", "wire", "the algorithm runs on any memory, and moves bytes"),
    ("ring", "clock", "a ring has no notion of time"),
    ("handover", "ring", "a right passes whatever it is about"),
    ("shm", "ring", "a region knows nothing of what lies in it"),
    ("policy", "wire", "backends are compared by one conformance suite"),
    ("policy", "ring", "backends are compared by one conformance suite"),
    ("policy", "clock", "backends are compared by one conformance suite"),
    ("engine", "shm", "a tick is tested and replayed with no operating system"),
    ("bundle", "wire", "a bundle is files, not frames"),
];

/// The top-level module that a file belongs to; `None` for the crate's roots.
pub fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let module = inside.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    (!["lib", "main"].contains(&module)).then_some(module)
}

/// Modules named in the file by a path from the crate's root, with the line.
pub fn imports(path: &str, tokens: &[Token<'_>]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    // How many `super` lead from the file's own module to the crate's root.
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    let depth = inside.split('/').filter(|part| *part != "mod").count();
    let word_at = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let path_follows = |at: usize| word_at(at) == ":" && word_at(at + 1) == ":";
    for at in 0..tokens.len() {
        let mut next = at;
        match word_at(at) {
            "crate" if path_follows(at + 1) => next += 3,
            "super" if at < 2 || word_at(at - 1) != ":" => {
                let mut climbed = 0;
                while word_at(next) == "super" && path_follows(next + 1) {
                    climbed += 1;
                    next += 3;
                }
                // Deeper than the file only inside an inline module; then the name is looked up in the table.
                let known = HEIGHTS.iter().any(|(name, _)| *name == word_at(next));
                if climbed < depth || !(known || word_at(next) == "{") {
                    continue;
                }
            }
            _ => continue,
        }
        if word_at(next) == "{" {
            let end = closing(tokens, next);
            let mut inner = next + 1;
            while inner < end {
                found.push((word_at(inner).to_owned(), tokens[inner].line));
                while inner < end && word_at(inner) != "," {
                    inner = if word_at(inner) == "{" { closing(tokens, inner) + 1 } else { inner + 1 };
                }
                inner += 1;
            }
        } else {
            found.push((word_at(next).to_owned(), tokens[at].line));
        }
    }
    found
}

/// Why `module` may not import `imported`, if so.
pub fn objection(module: &str, imported: &str) -> Option<String> {
    let height = |name: &str| HEIGHTS.iter().find(|(known, _)| *known == name).map(|(_, height)| *height);
    // What has no height is a macro or an item of the crate's root, or stands beside this file.
    let above = height(imported)?;
    if module == imported {
        return None;
    }
    if let Some((_, _, why)) = NEVER.iter().find(|(from, to, _)| (*from, *to) == (module, imported)) {
        return Some(format!("{module} never imports {imported}: {why}"));
    }
    match height(module) {
        None => Some(format!("module {module} is not in the table of layers")),
        Some(own) if own <= above => Some(format!("{module} imports {imported}, which is not below it")),
        Some(_) => None,
    }
}
