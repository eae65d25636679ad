//! The snapshot as a screenful for a person.

use crate::halt::LatchState;
use serde_json::Value;
use std::fmt::Write as _;

/// Renders what `--json` prints. Fields that a snapshot does not have are left out.
pub(super) fn render(snapshot: &Value, latch: &LatchState, trouble: Option<&str>) -> String {
    let text = |field: &str| snapshot[field].as_str().unwrap_or("?");
    let number = |field: &str| snapshot[field].as_u64();
    let since = snapshot["since"].as_str().map_or_else(String::new, |since| format!(" since {since}"));
    let mut page = format!("{}: {}{since}\n", text("agent"), text("condition"));
    let mut line = |name: &str, meaning: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "  {name:<12} {meaning}");
    };
    if let Some(summary) = latch.summary() {
        line("halted", summary);
        line("", "nothing starts until `escapement rearm`".to_owned());
    } else if text("state") == "halted" {
        line("reason", text("reason").to_owned());
    }
    if let Some(trouble) = trouble {
        line("trouble", format!("the daemon does not answer: {trouble}"));
    }
    let mut process = Vec::new();
    if let Some(pid) = number("pid") {
        process.push(if text("condition") == "dead" || snapshot["counters"].is_null() && trouble.is_none() {
            format!("pid {pid} is gone")
        } else {
            format!("pid {pid}")
        });
    }
    process.extend(number("epoch").map(|epoch| format!("epoch {epoch}")));
    process.extend(number("heartbeat_age_ns").map(|age| format!("heartbeat {} ago", duration(age))));
    if !process.is_empty() {
        line("process", process.join(", "));
    }
    policy(snapshot, &mut line);
    deadline(snapshot, &mut line);
    feed(snapshot, &mut line);
    outcomes(snapshot, &mut line);
    misses(snapshot, &mut line);
    latencies(snapshot, &mut line);
    for degraded in snapshot["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        line("degraded", degraded.to_owned());
    }
    line("state in", text("state_directory").to_owned());
    page
}

fn policy(snapshot: &Value, line: &mut impl FnMut(&str, String)) {
    let policy = &snapshot["policy"];
    let sha256 = snapshot["bundle_sha256"].as_str().filter(|hash| hash.bytes().any(|digit| digit != b'0'));
    let mut parts = Vec::new();
    parts.extend(snapshot["backend"].as_str().map(|backend| format!("backend {backend}")));
    parts.extend(policy["name"].as_str().map(str::to_owned));
    parts.extend(policy["kind"].as_str().map(str::to_owned));
    parts.extend(sha256.map(|hash| format!("sha256 {}…", hash.get(..16).unwrap_or(hash))));
    if !parts.is_empty() {
        line("policy", parts.join(", "));
    }
}

/// What is enforced, by which settings, and what became of the last reload.
fn deadline(snapshot: &Value, line: &mut impl FnMut(&str, String)) {
    let (deadline, reloads) = (&snapshot["deadline"], &snapshot["reloads"]);
    if deadline.is_null() {
        return;
    }
    line(
        "deadline",
        format!(
            "inference {} us, end to end {} us, {}; guard {}s, hung after {} ms",
            deadline["inference_us"],
            deadline["end_to_end_us"],
            if deadline["enforce"] == true { "enforced" } else { "NOT enforced" },
            deadline["guard"].as_str().unwrap_or_default(),
            deadline["hang_timeout_ms"]
        ),
    );
    let last = reloads["recent"].as_array().and_then(|recent| recent.last());
    let last = last.map_or_else(String::new, |last| {
        let at = last["at"].as_str().unwrap_or_default();
        match last["refused"].as_str() {
            Some(why) => format!("; the last one, {at}, was refused: {why}"),
            None => format!("; the last one {at}"),
        }
    });
    line(
        "settings",
        format!(
            "generation {}; {} reloads, {} refused{last}",
            reloads["generation"], reloads["applied"], reloads["refused"]
        ),
    );
    let waiting =
        reloads["recent"].as_array().and_then(|recent| recent.last()?["waits_for_restart"].as_array());
    let waiting: Vec<_> = waiting.into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        line("", format!("needs a restart: {}", waiting.join(", ")));
    }
}

fn feed(snapshot: &Value, line: &mut impl FnMut(&str, String)) {
    if let Some(feed) = snapshot["feed"].as_str() {
        let last = snapshot["last_sequence"].as_u64();
        let last = last.map_or_else(String::new, |sequence| format!(", last answered sequence {sequence}"));
        line("feed", format!("{feed}{last}"));
    } else if let Some(age) = snapshot["feed_heartbeat_age_ns"].as_u64() {
        line("feed", format!("heartbeat {} ago", duration(age)));
    }
}

fn outcomes(snapshot: &Value, line: &mut impl FnMut(&str, String)) {
    let counters = &snapshot["counters"];
    let count = |field: &str| counters[field].as_u64().unwrap_or_default();
    if counters.is_null() {
        return;
    }
    line(
        "observations",
        format!(
            "{} = {} answered + {} skipped; {} answers discarded, {} by the fallback; {} records lost",
            count("observations"),
            count("actions"),
            count("skipped"),
            count("discarded"),
            count("fallbacks"),
            count("records_lost")
        ),
    );
    let outcomes = counters["outcomes"].as_object();
    for (index, (reason, count)) in outcomes.into_iter().flatten().enumerate() {
        line(if index == 0 { "outcomes" } else { "" }, format!("{reason:<28} {:>14}", count.to_string()));
    }
}

/// Misses by cause, as far as there are any, and what this machine hides about them.
fn misses(snapshot: &Value, line: &mut impl FnMut(&str, String)) {
    let misses = &snapshot["misses"];
    let counts = misses["by_cause"].as_object().into_iter().flatten();
    let counts =
        counts.filter_map(|(cause, count)| Some((cause, count.as_u64().filter(|count| *count > 0)?)));
    for (index, (cause, count)) in counts.enumerate() {
        line(if index == 0 { "misses" } else { "" }, format!("{cause:<28} {:>14}", count.to_string()));
    }
    for hidden in misses["cannot_tell"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        line("cannot tell", hidden.to_owned());
    }
}

fn latencies(snapshot: &Value, line: &mut impl FnMut(&str, String)) {
    let latencies = &snapshot["latency_ns"];
    if latencies.is_null() {
        return;
    }
    let columns = ["p50", "p99", "p999", "max"];
    line(
        "latency, us",
        format!("{:<20}{:>12}{}", "", "count", columns.map(|it| format!("{it:>12}")).concat()),
    );
    for kind in ["queue", "inference", "tick_to_action", "guard_past_deadline"] {
        let at = |column: &str| latencies[kind][column].as_u64().unwrap_or_default();
        let figures = columns.map(|column| format!("{:>12.1}", at(column) as f64 / 1e3)).concat();
        line("", format!("{kind:<20}{:>12}{figures}", at("count")));
    }
}

/// A span of time in the unit that suits it.
fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}
