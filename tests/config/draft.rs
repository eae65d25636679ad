//! Configuration files to test with.

use escapement::config::{self, AgentConfig, ConfigError, Problem};
use std::collections::BTreeMap;
use std::path::Path;

pub const AGENT: &str = include_str!("../../config/agent.toml");
pub const FILE: &str = "some/agent.toml";

pub fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
    config::parse(text, Path::new(FILE))
}

pub fn problems(text: &str) -> Vec<Problem> {
    match parse(text) {
        Ok(config) => panic!("accepted as {config:?}:\n{text}"),
        Err(error) => error.problems().to_vec(),
    }
}

/// A file as keys and values, so that a test can change one of them.
#[derive(Clone)]
pub struct Draft(pub BTreeMap<String, String>);

impl Draft {
    /// Returns the file with the required keys and no others.
    pub fn minimal() -> Self {
        let keys = [
            ("agent.name", "\"a\""),
            ("policy.path", "\"p\""),
            ("observation.dimension", "2"),
            ("action.dimension", "2"),
            ("action.low", "-1"),
            ("action.high", "1"),
            ("action.safe_default", "[0, 0]"),
        ];
        Self(keys.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.0.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.0.remove(key);
        self
    }

    /// Sets the other keys that `value` requires, so that it contradicts none of them.
    pub fn with_company(self, key: &str, value: &str) -> Self {
        match key {
            "deadline.inference_us" => {
                self.set("deadline.end_to_end_us", "10000000").set("deadline.hang_timeout_ms", "600000")
            }
            "deadline.end_to_end_us" => {
                self.set("deadline.inference_us", "1").set("deadline.hang_timeout_ms", "600000")
            }
            "policy.recurrent.on_miss" | "policy.recurrent.on_gap" if value.contains("burn_in") => {
                self.set("policy.recurrent.burn_in", "5")
            }
            "policy.recurrent.burn_in" => self.set("policy.recurrent.on_gap", "\"burn_in\""),
            "deadline.budget.misses" => self.set("deadline.budget.window", "1048576"),
            "errors.budget.misses" => self.set("errors.budget.window", "1048576"),
            "errors.budget.window" => self.set("errors.budget.misses", "0"),
            "policy.require_signature" => self
                .set("policy.public_keys", "[\"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\"]"),
            "policy.seed" => self.set("policy.deterministic", "false"),
            "engine.idle_sleep_us" => self.set("engine.idle", "\"backoff\""),
            "policy.backend" if value == "\"null\"" => self.without("policy.path"),
            "action.dimension" => {
                let zeros = vec!["0"; value.parse().unwrap_or(0)].join(", ");
                self.set("action.safe_default", &format!("[{zeros}]"))
            }
            _ => self,
        }
    }

    /// Returns the file's text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut current = "";
        for (key, value) in &self.0 {
            let (table, name) = key.rsplit_once('.').expect("keys stand in tables");
            if table != current {
                text += &format!("[{table}]\n");
                current = table;
            }
            text += &format!("{name} = {value}\n");
        }
        text
    }

    pub fn line_of(&self, key: &str) -> usize {
        let (table, name) = key.rsplit_once('.').expect("keys stand in tables");
        let text = self.text();
        let from = text.lines().position(|line| line == format!("[{table}]")).expect("the table is there");
        let below = text.lines().skip(from).position(|line| line.starts_with(&format!("{name} =")));
        1 + from + below.expect("the key is there")
    }
}
