//! A configuration as JSON, under the names of the file's own keys.

use super::built::AgentConfig;
use super::keys::keys;
use serde_json::{Map, Value};

/// Returns every key and its value, in tables that are nested and named as in the file.
pub fn to_json(config: &AgentConfig) -> Map<String, Value> {
    let mut root = Map::new();
    for key in keys() {
        let mut names: Vec<_> = key.path.split('.').collect();
        let Some(name) = names.pop() else { continue };
        let mut table = &mut root;
        for name in names {
            let nested = table.entry(name).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(nested) = nested else { unreachable!("a key is not a table as well") };
            table = nested;
        }
        table.insert(name.to_owned(), (key.json)(config));
    }
    root
}
