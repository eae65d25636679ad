//! The macro that turns the table of keys ([`super::keys`]) into everything that stands once for each key.

use super::built::AgentConfig;
use super::rule::Allowed;
use serde_json::Value;

/// One key of the file format, with everything that is decided once for it.
#[derive(Debug, Clone)]
pub struct Key {
    /// Table and name, as in `deadline.inference_us`.
    pub path: &'static str,
    /// What it may hold.
    pub allowed: Allowed,
    /// Whether it must be set.
    pub presence: Presence,
    /// What a reload does with a changed value.
    pub reload: Reload,
    /// Whether the text of `escapement check` shows it.
    pub text: CheckText,
    /// Its value in a configuration, as the JSON of `escapement check` shows it.
    pub json: fn(&AgentConfig) -> Value,
}

/// Whether a key must be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must be set.
    Required,
    /// It may be left out: there is a default value.
    Default,
    /// It may be left out: without it the feature is off, or follows from other keys.
    Optional,
}

/// What a reload does with a changed value.
#[derive(Debug, Clone, Copy)]
pub enum Reload {
    /// The new value is in force from the next tick on.
    NextTick,
    /// The reload is refused: the rest of the file means nothing without the new value.
    Refused {
        /// Whether both configurations have the same value.
        same: fn(&AgentConfig, &AgentConfig) -> bool,
    },
    /// The old value stays in force until the next start, and the key is named.
    Restart {
        /// Whether both configurations have the same value.
        same: fn(&AgentConfig, &AgentConfig) -> bool,
        /// Gives the first configuration the value of the second.
        keep: fn(&mut AgentConfig, &AgentConfig),
    },
    /// The value is a part of this other key's, which decides for both.
    PartOf(&'static str),
}

/// Whether the text of `escapement check` shows a key. Its JSON shows every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckText {
    /// The text changes with the value.
    Shown,
    /// The text does not mention it.
    Omitted,
}

/// Turns the table of keys into one structure and one reader for each table of the file, and into the list of
/// keys.
///
/// An entry reads:
///
/// ```text
/// NAME: TYPE = PRESENCE(RULE[, DEFAULT]);
///     reload WHEN [FIELD OF AgentConfig], text SHOWN_OR_OMITTED, json |config| VALUE;
/// ```
///
/// The type is what the rule reads. A missing part does not compile; a key that nothing reads is an unused
/// field.
macro_rules! config_keys {
    ($(
        $(#[$table_doc:meta])*
        [$path:literal] $table:ident: $Table:ident {
            $(
                $(#[$doc:meta])*
                $name:ident: $Value:ty = $presence:ident($rule:expr $(, $default:expr)?);
                reload $reload:ident $($($place:ident).+)?, text $text:ident, json |$config:ident| $json:expr;
            )+
        }
    )+) => {
        /// Every key of the file, each right in itself.
        pub(super) struct Raw {
            $(pub(super) $table: $Table,)+
        }

        $(
            $(#[$table_doc])*
            pub(super) struct $Table {
                $($(#[$doc])* pub(super) $name: setting!($presence $Value),)+
            }

            impl $Table {
                /// Reads the keys of this table. `None` only where a problem was noted.
                fn read(table: &Table<'_, '_>) -> Option<Self> {
                    $(let $name = read_key!($presence table, stringify!($name), $rule $(, $default)?);)+
                    Some(Self { $($name: given!($presence $name),)+ })
                }
            }
        )+

        /// Reads every key, and notes those that are wrong or unknown. `None` only where a problem was noted.
        pub(super) fn read(document: &Document<'_>) -> Option<Raw> {
            // Every table is read before the first failure counts, so that one run reports every problem.
            $(let $table = $Table::read(&document.table($path));)+
            document.refuse_unknown();
            let raw = Raw { $($table: $table?,)+ };
            document.is_good().then_some(raw)
        }

        /// Returns every key of the file format, in the order in which messages list them.
        pub fn keys() -> Vec<Key> {
            vec![$($(Key {
                path: concat!($path, ".", stringify!($name)),
                allowed: $rule.allowed(),
                presence: presence!($presence),
                reload: reload!($reload $($($place).+)?),
                text: check_text!($text),
                json: |$config: &AgentConfig| json!($json),
            },)+)+]
        }
    };
}

macro_rules! setting {
    (required $Value:ty) => { Setting<$Value> };
    (default $Value:ty) => { Setting<$Value> };
    (optional $Value:ty) => { Option<Setting<$Value>> };
}

macro_rules! read_key {
    (required $table:ident, $name:expr, $rule:expr) => {
        $table.required($name, $rule)
    };
    (default $table:ident, $name:expr, $rule:expr, $default:expr) => {
        $table.or($name, $rule, $default)
    };
    (optional $table:ident, $name:expr, $rule:expr) => {
        $table.optional($name, $rule)
    };
}

macro_rules! given {
    (required $read:ident) => {
        $read?
    };
    (default $read:ident) => {
        $read
    };
    (optional $read:ident) => {
        $read
    };
}

macro_rules! presence {
    (required) => {
        Presence::Required
    };
    (default) => {
        Presence::Default
    };
    (optional) => {
        Presence::Optional
    };
}

macro_rules! reload {
    (next_tick) => { Reload::NextTick };
    (refused $($place:ident).+) => {
        Reload::Refused { same: |one, other| one.$($place).+ == other.$($place).+ }
    };
    (restart $($place:ident).+) => {
        Reload::Restart {
            same: |one, other| one.$($place).+ == other.$($place).+,
            keep: |asked, running| asked.$($place).+.clone_from(&running.$($place).+),
        }
    };
    (part_of $table:ident.$name:ident) => {
        Reload::PartOf(concat!(stringify!($table), ".", stringify!($name)))
    };
}

macro_rules! check_text {
    (shown) => {
        CheckText::Shown
    };
    (omitted) => {
        CheckText::Omitted
    };
}

pub(super) use {check_text, config_keys, given, presence, read_key, reload, setting};
