//! Rust source as tokens: enough to tell code from comments, strings and tests.

/// A word or a single punctuation mark, with its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
    /// Whether it is in an item that is compiled for tests only.
    pub test: bool,
}

/// Returns the tokens of a file. Comments are left out. A string or character literal is one token, its
/// opening quote.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let (length, is_token) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = literal(rest) {
            (length, true)
        } else if first.is_alphanumeric() || first == '_' {
            (rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()), true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        if is_token {
            let text = if rest.starts_with('"') || literal(rest).is_some() { "\"" } else { &rest[..length] };
            found.push(Token { text, line, test: false });
        }
        line += rest[..length].matches('\n').count();
        at += length;
    }
    mark_tests(&mut found);
    found
}

/// Returns the length of the block comment at the start of `rest`. Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Returns the length of the string, byte string, raw string or character literal at the start of `rest`, if
/// there is one.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r"].into_iter().find(|prefix| {
        let after = rest.strip_prefix(*prefix).unwrap_or("");
        after.starts_with('"') || (prefix.ends_with('r') && after.starts_with("#") && after.contains("#\""))
    });
    let prefix = prefix.unwrap_or("");
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let inner = body[hashes..].strip_prefix('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = inner.find(&close).map_or(inner.len(), |end| end + close.len());
        return Some(prefix.len() + hashes + 1 + end);
    }
    if body.starts_with('"') {
        return Some(prefix.len() + quoted(body, '"'));
    }
    // A lifetime is a quote and a word without a closing quote.
    let mut following = body.strip_prefix('\'')?.chars();
    let character = following.next()?;
    (character == '\\' || following.next() == Some('\'')).then(|| quoted(body, '\''))
}

fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in body.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

/// Marks the items under `#[cfg(test)]`, `#[cfg(all(test, ...))]`, `#[cfg(loom)]` or `#[test]`, to their
/// ends.
fn mark_tests(tokens: &mut [Token<'_>]) {
    let mut at = 0;
    while at < tokens.len() {
        if !(tokens[at].text == "#" && tokens.get(at + 1).is_some_and(|next| next.text == "[")) {
            at += 1;
            continue;
        }
        let end = closing(tokens, at + 1);
        let attribute: Vec<_> = tokens[at + 2..end].iter().map(|token| token.text).collect();
        let negated = attribute.windows(3).any(|window| window == ["not", "(", "test"]);
        // Items under `cfg(loom)` are compiled for the model check only.
        let is_test = matches!(attribute[..], ["test"] | ["cfg", "(", "loom", ")"])
            || (attribute.first() == Some(&"cfg") && attribute.contains(&"test") && !negated);
        if !is_test {
            at = end + 1;
            continue;
        }
        let mut item_end = end + 1;
        while item_end < tokens.len() && tokens[item_end].text != ";" {
            if ["{", "(", "["].contains(&tokens[item_end].text) {
                let was_body = tokens[item_end].text == "{";
                item_end = closing(tokens, item_end);
                if was_body {
                    break;
                }
            }
            item_end += 1;
        }
        let item_end = (item_end + 1).min(tokens.len());
        tokens[at..item_end].iter_mut().for_each(|token| token.test = true);
        at = item_end;
    }
}

/// Returns the index of the bracket that closes the one at `open`, or of the last token.
pub fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

#[test]
fn comments_strings_and_tests_are_not_code() {
    let source = r##"
        use a::b; // use c::d
        /* use e::f /* nested */ */
        const S: &str = "use \" g::h"; const R: &str = r#"x " y"#; let c = '"'; let l: &'static str = b"z";
        #[cfg(all(test, not(loom)))]
        mod tests { use i::j; fn k() { l(); } }
        #[cfg(not(test))]
        fn real() {}
    "##;
    let all = tokens(source);
    let words = |test: bool| -> Vec<_> {
        let wordy = |token: &&Token<'_>| token.test == test && token.text.chars().all(char::is_alphanumeric);
        all.iter().filter(wordy).map(|token| token.text).collect()
    };
    assert_eq!(
        words(true),
        ["cfg", "all", "test", "not", "loom", "mod", "tests", "use", "i", "j", "fn", "k", "l"]
    );
    let code = words(false);
    assert!(code.contains(&"real") && code.contains(&"static"), "{code:?}");
    for hidden in ["c::d", "d", "e", "f", "g", "h", "nested", "x", "y", "z"] {
        assert!(hidden == "c::d" || !code.contains(&hidden), "{hidden} in {code:?}");
    }
    assert_eq!(all.iter().find(|token| token.text == "real").map(|token| token.line), Some(8));
}
