//! Which module may import which: the table of the crate's documentation as a rule.

use crate::lexer::{Token, closing};

/// Each top-level module of each package, with its height. A module imports only lower modules of its
/// package. Cargo enforces which package may import which.
pub const HEIGHTS: &[(&str, &str, u32)] = &[
    ("escapement-ring", "sync", 0),
    ("escapement-ring", "backing", 1),
    ("escapement-ring", "clock", 1),
    ("escapement-ring", "wire", 2),
    ("escapement-ring", "shm", 2),
    ("escapement-ring", "ring", 3),
    ("escapement-ring", "directory", 4),
    ("escapement-ring", "feed", 5),
    ("escapement-ring", "gateway", 5),
    ("escapement-policy", "denormals", 0),
    ("escapement-policy", "escape", 0),
    ("escapement-policy", "file", 0),
    ("escapement-policy", "error", 1),
    ("escapement-policy", "words", 0),
    ("escapement-policy", "null", 1),
    ("escapement-policy", "random", 0),
    ("escapement-engine", "budget", 0),
    ("escapement-engine", "carried_state", 0),
    ("escapement-engine", "checks", 0),
    ("escapement-engine", "command", 0),
    ("escapement-engine", "deadline", 0),
    ("escapement-engine", "idle", 0),
    ("escapement-engine", "lease", 0),
    ("escapement-engine", "noise", 0),
    ("escapement-engine", "policies", 0),
    ("escapement-engine", "progress", 0),
    ("escapement-engine", "resume", 0),
    ("escapement-engine", "state_copy", 0),
    ("escapement-engine", "telemetry", 0),
    ("escapement-engine", "input_check", 1),
    ("escapement-engine", "record", 1),
    ("escapement-engine", "keep_warm", 0),
    ("escapement-engine", "settings", 1),
    ("escapement-engine", "admission", 2),
    ("escapement-engine", "verdict", 2),
    ("escapement-engine", "responder", 3),
    ("escapement-engine", "private_responder", 4),
    ("escapement-engine", "guard", 5),
    ("escapement-engine", "pipeline", 4),
    ("escapement-engine", "dry_run", 5),
    ("escapement-engine", "update", 6),
    ("escapement-engine", "tick", 7),
    ("escapement-engine", "apply_update", 8),
    ("escapement-engine", "run_dry", 8),
    ("escapement-engine", "warm_up", 8),
    ("escapement-engine", "run", 9),
    ("escapement-engine", "tests", 10),
    ("escapement", "hex", 0),
    ("escapement-journal", "layout", 0),
    ("escapement-journal", "storage", 0),
    ("escapement-journal", "segment", 1),
    ("escapement-journal", "spec", 1),
    ("escapement-journal", "journal", 2),
    ("escapement-journal", "open", 2),
    ("escapement-journal", "writer", 3),
    ("escapement-journal", "tests", 4),
    ("escapement-native", "limits", 0),
    ("escapement-native", "refusal", 0),
    ("escapement-native", "kernels", 0),
    ("escapement-native", "choice", 1),
    ("escapement-native", "meter", 1),
    ("escapement-native", "ir", 2),
    ("escapement-native", "reference", 3),
    ("escapement-native", "readers", 3),
    ("escapement-native", "lower", 4),
    ("escapement-native", "plan", 4),
    ("escapement", "policy", 10),
    ("escapement", "bundle", 11),
    ("escapement", "os", 10),
    ("escapement", "evidence", 11),
    ("escapement", "latency", 12),
    ("escapement", "agent", 13),
    ("escapement", "config", 12),
    ("escapement", "agent_files", 12),
    ("escapement", "halt", 13),
    ("escapement", "status", 14),
    ("escapement", "daemon", 20),
    ("escapement", "cli", 21),
];

/// Imports that the heights would allow, and that stay forbidden.
const NEVER: &[(&str, &str, &str, &str)] = &[
    ("escapement-ring", "ring", "wire", "the algorithm runs on any memory, and moves bytes"),
    ("escapement-ring", "ring", "clock", "a ring has no notion of time"),
    ("escapement-ring", "ring", "shm", "the algorithm runs on any memory"),
    ("escapement", "halt", "config", "a halt depends on no setting"),
    ("escapement", "halt", "evidence", "a halt waits for no analysis"),
    ("escapement", "halt", "policy", "a halt runs nothing of a policy"),
    ("escapement", "halt", "bundle", "a halt reads nothing of a policy"),
    ("escapement", "config", "os", "`check` needs no machine to parse a configuration"),
];

/// Returns a file's package and its path inside the package's `src`, or `None` if it is not in a `src`.
pub fn place_of(path: &str) -> Option<(&str, &str)> {
    match path.strip_prefix("crates/") {
        Some(inside) => {
            let (package, rest) = inside.split_once('/')?;
            Some((package, rest.strip_prefix("src/")?))
        }
        None => Some(("escapement", path.strip_prefix("src/")?)),
    }
}

/// Returns the package and the top-level module of a file. Returns `None` for a package's root and for
/// packages whose modules have no order.
pub fn module_of(path: &str) -> Option<(&str, &str)> {
    let (package, inside) = place_of(path)?;
    let module = inside.split('/').next()?;
    let module = module.strip_suffix(".rs").unwrap_or(module);
    let has_order = HEIGHTS.iter().any(|(known, _, _)| *known == package);
    (has_order && !["lib", "main"].contains(&module)).then_some((package, module))
}

/// Returns the modules that the file names by a path from the crate's root, with the line.
pub fn imports(path: &str, tokens: &[Token<'_>]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    // How many `super` lead from the file's own module to the crate's root.
    let inside = place_of(path).map_or(path, |(_, inside)| inside).trim_end_matches(".rs");
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
                // Only an inline module is deeper than the file. Then the table decides whether the name is a
                // module.
                let known = HEIGHTS.iter().any(|(_, name, _)| *name == word_at(next));
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

/// Returns why `module` of a package may not import its module `imported`, if it may not.
pub fn objection(package: &str, module: &str, imported: &str) -> Option<String> {
    let height = |name: &str| {
        let known = HEIGHTS.iter().find(|(owner, known, _)| (*owner, *known) == (package, name));
        known.map(|(_, _, height)| *height)
    };
    // A name without a height is a macro, an item of the crate's root, or a module beside this file.
    let above = height(imported)?;
    if module == imported {
        return None;
    }
    let never = NEVER.iter().find(|(owner, from, to, _)| (*owner, *from, *to) == (package, module, imported));
    if let Some((_, _, _, why)) = never {
        return Some(format!("{module} never imports {imported}: {why}"));
    }
    match height(module) {
        None => Some(format!("module {module} is not in the table of layers")),
        Some(own) if own <= above => Some(format!("{module} imports {imported}, which is not below it")),
        Some(_) => None,
    }
}
