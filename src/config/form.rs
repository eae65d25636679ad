//! The forms that texts must have.

/// Whether this can be an agent's name. Names become directories, lock files and systemd instances, so that
/// dots, slashes and everything that one of those reads differently are refused.
pub(super) fn is_name(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=64).contains(&text.len())
        && text.bytes().all(allowed)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

pub(super) fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

pub(super) fn is_absolute_path(text: &str) -> bool {
    is_path(text) && text.starts_with('/')
}

/// Whether this is a log filter in which every word without `=` is a level. `tracing-subscriber` takes a
/// misspelt level for a module's name, and then logs nothing.
pub(super) fn is_log_filter(text: &str) -> bool {
    const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
    let is_module = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'))
    };
    text.split(',').all(|directive| match directive.split_once('=') {
        None => LEVELS.contains(&directive),
        Some((module, level)) => is_module(module) && LEVELS.contains(&level),
    })
}
