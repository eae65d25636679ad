//! The paths that two pages name in backquotes, and the links of every page, held to the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The pages, with the least number of paths that each names. A search that finds fewer is broken.
const PAGES: [(&str, usize); 2] = [("CONTRIBUTING.md", 20), ("docs/ARCHITECTURE.md", 1)];

/// Extensions of files that the pages name.
const EXTENSIONS: [&str; 9] = ["rs", "md", "toml", "sh", "py", "h", "c", "service", "ring"];

/// Files and folders that the pages name and the repository does not hold.
const NOT_IN_THE_TREE: [&str; 2] = ["observations.ring", "actions.ring"];

/// Returns the code spans of a page outside its fenced blocks, with their line.
fn spans(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(|span| (index + 1, span)));
        }
    }
    found
}

/// Returns whether a code span is a path, and no command, key, type or option.
fn is_path(span: &str) -> bool {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "/._-@".contains(letter);
    let has_extension = span.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension));
    span.chars().all(letters) && !span.starts_with(['-', '.']) && (span.contains('/') || has_extension)
}

/// Returns the paths of a page, and what is wrong with them. A name in capitals, as in `src/cli/NAME.rs`, stands
/// for any name: the folder must exist. A bare file name must be somewhere in the tree.
fn check(page: &str, root: &Path, names: &BTreeSet<String>) -> (usize, Vec<String>) {
    let paths: Vec<_> = spans(page).into_iter().filter(|(_, span)| is_path(span)).collect();
    let mut problems = Vec::new();
    for (line, path) in &paths {
        let stem = path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
        let is_placeholder = path.contains('/') && stem == "NAME";
        let exists = if is_placeholder {
            Path::new(path).parent().is_some_and(|folder| root.join(folder).is_dir())
        } else if path.contains('/') {
            root.join(path).exists()
        } else {
            names.contains(*path)
        };
        if !exists && !NOT_IN_THE_TREE.contains(path) {
            problems.push(format!("line {line}: `{path}` does not exist"));
        }
    }
    (paths.len(), problems)
}

/// Collects the names of all files of the tree.
fn collect(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a directory of the tree can be read") {
        let entry = entry.expect("a directory entry can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().expect("its type is known").is_dir() {
            if !name.starts_with('.') && name != "target" {
                collect(&entry.path(), names);
            }
        } else {
            names.insert(name);
        }
    }
}

fn this_tree() -> (&'static Path, BTreeSet<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    collect(root, &mut names);
    (root, names)
}

#[test]
fn every_path_that_a_contributor_is_shown_exists() {
    let (root, names) = this_tree();
    for (page, least) in PAGES {
        let text = fs::read_to_string(root.join(page)).expect("the page is there");
        let (count, problems) = check(&text, root, &names);
        assert!(problems.is_empty(), "{page}:\n{}", problems.join("\n"));
        assert!(count >= least, "{page}: {count} paths found, at least {least} expected");
    }
}

#[test]
fn a_planted_path_that_does_not_exist_is_found() {
    let (root, names) = this_tree();
    let good =
        "`src/main.rs`, `src/cli`, `crates/`, `src/cli/NAME.rs`, `Cargo.toml`\n```sh\nls `no/such`\n```\n";
    assert_eq!(check(good, root, &names), (5, Vec::new()));
    let planted =
        ["`src/no_such.rs`", "`no_such/`", "`src/no_such/NAME.rs`", "`no_such_file.toml`", "x `a/b` y"];
    for planted in planted {
        let (_, problems) = check(&format!("{good}{planted}"), root, &names);
        assert!(problems.len() == 1 && problems[0].contains("line 5"), "{planted}: {problems:?}");
    }
    let other = "`cargo test --test tidy`, `unwrap()`, `policy.path`, `Box<dyn Policy>`, `--json`, `SAFETY:`";
    assert_eq!(check(other, root, &names).0, 0);
}

/// Returns the links of a page that do not lead to a file or folder of the tree. Addresses with a scheme and
/// anchors are not followed.
fn broken_links(page: &str, folder: &Path) -> (usize, Vec<String>) {
    let (mut count, mut problems) = (0, Vec::new());
    for (index, line) in page.lines().enumerate() {
        for rest in line.split("](").skip(1) {
            let Some((target, _)) = rest.split_once(')') else { continue };
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") {
                continue;
            }
            count += 1;
            if !folder.join(file).exists() {
                problems.push(format!("line {}: the link to {target} is broken", index + 1));
            }
        }
    }
    (count, problems)
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("python/README.md")];
    let docs = fs::read_dir(root.join("docs")).expect("there are pages");
    pages.extend(docs.map(|entry| entry.expect("a directory entry can be read").path()));
    let mut links = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).expect("the page can be read");
        let (count, problems) = broken_links(&text, page.parent().expect("a page lies in a folder"));
        assert!(problems.is_empty(), "{}:\n{}", page.display(), problems.join("\n"));
        links += count;
    }
    assert!(links > 50, "{links} links found: the search is broken");
}

#[test]
fn a_planted_broken_link_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let good = "[a](README.md) [b](docs/README.md#terms) [c](#here) [d](https://example.org/x) [e](docs)";
    assert_eq!(broken_links(good, root), (3, Vec::new()));
    assert_eq!(
        broken_links("\n[a](docs/no_such.md)", root).1,
        ["line 2: the link to docs/no_such.md is broken"]
    );
}
