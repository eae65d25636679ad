//! What a new configuration changes in a running agent, and what waits for a restart.
//!
//! Each key's entry in the configuration's table says what a reload does with it. The settings of a tick are
//! replaced together, at the next tick. Keys that rings or threads were made from wait for the next start,
//! and are named. A configuration of another agent, or with other widths, is refused as a whole: applying a
//! part of it would make a configuration that is in no file.

use crate::config::{self, AgentConfig, Reload};

/// What a reload does.
#[derive(Debug)]
pub(super) struct ReloadPlan {
    /// The configuration in force from now on: the new one, except for the keys below.
    pub(super) config: AgentConfig,
    /// Changed keys that wait for a restart.
    pub(super) waiting: Vec<&'static str>,
}

/// Changed keys without which the rest cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} changed: that needs a restart, and the rest means nothing without it; nothing was taken over",
    keys.join(", ")
)]
pub struct NeedsRestart {
    keys: Vec<&'static str>,
}

/// Compares the new configuration with the running one.
pub(super) fn plan_reload(running: &AgentConfig, mut asked: AgentConfig) -> Result<ReloadPlan, NeedsRestart> {
    let (mut refused, mut waiting) = (Vec::new(), Vec::new());
    for key in config::keys() {
        match key.reload {
            Reload::NextTick | Reload::PartOf(_) => {}
            Reload::Refused { same } if same(running, &asked) => {}
            Reload::Refused { .. } => refused.push(key.path),
            Reload::Restart { same, .. } if same(running, &asked) => {}
            Reload::Restart { keep, .. } => {
                keep(&mut asked, running);
                waiting.push(key.path);
            }
        }
    }
    if !refused.is_empty() {
        return Err(NeedsRestart { keys: refused });
    }
    // The file was checked with its own hang timeout. Here the running one stays in force, so it is checked
    // again.
    if asked.hang_timeout <= asked.settings.deadlines.end_to_end {
        return Err(NeedsRestart { keys: vec!["deadline.hang_timeout_ms"] });
    }
    Ok(ReloadPlan { config: asked, waiting })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const ANNOTATED: &str = include_str!("../../config/agent.toml");

    fn with(change: (&str, &str)) -> AgentConfig {
        let (from, to) = change;
        assert!(ANNOTATED.contains(from), "{from}");
        config::parse(&ANNOTATED.replace(from, to), Path::new("agent.toml")).expect("a good file")
    }

    #[test]
    fn what_a_tick_goes_by_is_taken_over() {
        let running = with(("", ""));
        for change in [
            ("enforce = true", "enforce = false"),
            ("end_to_end_us = 100", "end_to_end_us = 200"),
            ("max_age_us = 5000", "max_age_us = 1"),
            ("low = -200.0", "low = -3.0"),
            ("safe_default = [0.0, 0.0, 0.0]", "safe_default = [0.5, 0.0, 0.0]"),
            ("misses = 10\n", "misses = 11\n"),
            ("mode = \"count\"", "mode = \"clamp\""),
            ("path = \"example.bundle\"", "path = \"another.bundle\""),
            ("drain_timeout_ms = 1000", "drain_timeout_ms = 0"),
        ] {
            let asked = with(change);
            assert_ne!(asked, running, "{change:?}");
            let plan = plan_reload(&running, asked.clone()).expect("no restart");
            assert_eq!((plan.config, plan.waiting), (asked, vec![]), "{change:?}");
        }
    }

    #[test]
    fn what_waits_is_named_and_the_rest_is_taken_over() {
        let running = with(("", ""));
        for (change, key) in [
            (("strict = false", "strict = true"), "agent.strict"),
            (("log = \"info\"", "log = \"warn\""), "agent.log"),
            (("dimension = 32\n", "dimension = 32\ncapacity = 8192 #"), "observation.capacity"),
            (("hang_timeout_ms = 1000", "hang_timeout_ms = 999"), "deadline.hang_timeout_ms"),
            (("core = 1", "core = 2"), "engine.core"),
            (("idle = \"spin\"", "idle = \"pause\""), "engine.idle"),
            (("lock_memory = true", "lock_memory = false"), "engine.lock_memory"),
            (("core = \"any\"", "core = 0"), "guard.core"),
            (("wake = \"sleep\"", "wake = \"spin\""), "guard.wake"),
        ] {
            let changed =
                if key == "observation.capacity" { ("capacity = 4096", "capacity = 8192") } else { change };
            let mut asked = with(changed);
            asked.settings.enforce = false;
            let plan = plan_reload(&running, asked).expect("it waits");
            assert!(plan.waiting.contains(&key), "{key}: {:?}", plan.waiting);
            let mut expected = running.clone();
            expected.settings.enforce = false;
            assert_eq!(plan.config, expected, "{key}");
        }
    }

    /// A longer deadline that needs a longer hang timeout is not taken over without it.
    #[test]
    fn deadlines_beyond_the_hang_timeout_in_force_are_refused() {
        let running = with(("", ""));
        let text = ANNOTATED
            .replace("hang_timeout_ms = 1000", "hang_timeout_ms = 10000")
            .replace("end_to_end_us = 100", "end_to_end_us = 5000000");
        let asked = config::parse(&text, Path::new("agent.toml")).expect("a good file");
        let needs = plan_reload(&running, asked).expect_err("the running timeout is a second");
        assert_eq!(needs.keys, ["deadline.hang_timeout_ms"]);
    }

    #[test]
    fn another_agent_is_refused() {
        let running = with(("", ""));
        let needs = plan_reload(&running, with(("name = \"example\"", "name = \"other\"")))
            .expect_err("another agent");
        assert_eq!(needs.keys, ["agent.name"]);
        assert!(needs.to_string().starts_with("agent.name changed"));
        let needs =
            plan_reload(&running, with(("dimension = 32", "dimension = 33"))).expect_err("other widths");
        assert_eq!(needs.keys, ["observation.dimension"]);
    }
}
