//! The report as text for a person.

use crate::policy::{WeightCandidate, WeightChoice, WeightKernel};
use crate::status::{PolicyStatus, StatusPage, StatusReport, StatusSource, WeightCandidateStatus};
use escapement_engine::telemetry::Percentiles;
use escapement_policy::words::Words;
use std::fmt::Write as _;

/// The text under construction: a title, and lines with a name and a meaning.
struct Text(String);

impl Text {
    fn line(&mut self, name: &str, meaning: impl AsRef<str>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "  {name:<12} {}", meaning.as_ref());
    }

    /// A list under one name, which stands on its first line only.
    fn list(&mut self, name: &str, meanings: impl IntoIterator<Item = String>) {
        for (index, meaning) in meanings.into_iter().enumerate() {
            self.line(if index == 0 { name } else { "" }, meaning);
        }
    }
}

/// Renders a report. `trouble` says why a daemon that runs has no page here.
pub(super) fn render(report: &StatusReport, trouble: Option<&str>) -> String {
    let source = &report.source;
    let since = match source {
        StatusSource::Daemon(page) => format!(" since {}", page.since),
        StatusSource::Rings(_) => String::new(),
    };
    let mut text = Text(format!("{}: {}{since}\n", source.agent(), report.condition));
    if let Some(summary) = source.latch().summary() {
        text.line("halted", summary);
        text.line("", "nothing starts until `escapement rearm`");
    } else if source.state() == Some("halted") {
        text.line("reason", source.reason().unwrap_or("?"));
    }
    if let Some(trouble) = trouble {
        text.line("trouble", trouble);
    }
    process(report, trouble.is_some(), &mut text);
    policy(source, &mut text);
    match source {
        StatusSource::Daemon(page) => running(page, &mut text),
        StatusSource::Rings(rings) => {
            let age = rings.observations.and_then(|ring| ring.feed_heartbeat_age_ns);
            if let Some(age) = age {
                text.line("feed", format!("heartbeat {} ago", duration(age)));
            }
        }
    }
    text.line("state in", report.state_directory.display().to_string());
    text.0
}

fn process(report: &StatusReport, is_silent: bool, text: &mut Text) {
    let (pid, epoch, heartbeat) = match &report.source {
        StatusSource::Daemon(page) => (Some(page.pid), Some(page.epoch), Some(page.heartbeat_age_ns)),
        StatusSource::Rings(rings) => {
            let ring = rings.actions.as_ref();
            (rings.pid, ring.map(|ring| ring.epoch), ring.and_then(|ring| ring.heartbeat_age_ns))
        }
    };
    let is_gone = matches!(report.source, StatusSource::Rings(_)) && !is_silent;
    let mut parts = Vec::new();
    parts.extend(pid.map(|pid| if is_gone { format!("pid {pid} is gone") } else { format!("pid {pid}") }));
    parts.extend(epoch.map(|epoch| format!("epoch {epoch}")));
    parts.extend(heartbeat.map(|age| format!("heartbeat {} ago", duration(age))));
    if !parts.is_empty() {
        text.line("process", parts.join(", "));
    }
}

fn policy(source: &StatusSource, text: &mut Text) {
    let mut parts = Vec::new();
    let sha256 = match source {
        StatusSource::Daemon(page) => {
            parts.push(format!("backend {}", page.backend));
            parts.extend(page.policy.name.clone());
            parts.push(page.policy.kind.name().to_owned());
            Some(&page.bundle_sha256)
        }
        StatusSource::Rings(rings) => rings.actions.as_ref().map(|ring| &ring.bundle_sha256),
    };
    let sha256 = sha256.filter(|hash| hash.bytes().any(|digit| digit != b'0'));
    parts.extend(sha256.map(|hash| format!("sha256 {}…", hash.get(..16).unwrap_or(hash))));
    if !parts.is_empty() {
        text.line("policy", parts.join(", "));
    }
    if let StatusSource::Daemon(page) = source {
        text.list("weights", weights(&page.policy));
    }
}

/// How the native engine holds the weights, and what it was compared with. A kernel that this version does
/// not know is left out.
fn weights(policy: &PolicyStatus) -> Option<String> {
    let kernel = WeightKernel::from_word(policy.weight_kernel.as_deref()?)?;
    let candidate = |it: &WeightCandidateStatus| {
        let kernel = WeightKernel::from_word(&it.kernel)?;
        Some(WeightCandidate { kernel, ns: it.ns, refused: it.refused.clone() })
    };
    let candidates = policy.weight_candidates.iter().filter_map(candidate).collect();
    Some(WeightChoice { kernel, candidates }.to_string())
}

/// What only a running daemon can tell.
fn running(page: &StatusPage, text: &mut Text) {
    deadline(page, text);
    let last = page.last_sequence.map(|sequence| format!(", last answered sequence {sequence}"));
    text.line("feed", format!("{}{}", page.feed.name(), last.unwrap_or_default()));
    peers(page, text);
    outcomes(page, text);
    misses(page, text);
    keep_warm(page, text);
    latencies(page, text);
    for degraded in &page.degraded {
        text.line("degraded", degraded);
    }
}

/// What is enforced, by which settings, and the last reload.
fn deadline(page: &StatusPage, text: &mut Text) {
    let (deadline, reloads) = (&page.deadline, &page.reloads);
    text.line(
        "deadline",
        format!(
            "inference {} us, end to end {} us, {}; guard {}s, hung after {} ms",
            deadline.inference_us,
            deadline.end_to_end_us,
            if deadline.enforce { "enforced" } else { "NOT enforced" },
            deadline.guard,
            deadline.hang_timeout_ms
        ),
    );
    let last = reloads.recent.back();
    let ending = last.map_or_else(String::new, |last| match &last.refused {
        Some(why) => format!("; the last one, {}, was refused: {why}", last.at),
        None => format!("; the last one {}", last.at),
    });
    text.line(
        "settings",
        format!(
            "generation {}; {} reloads, {} refused{ending}",
            reloads.revision, reloads.applied, reloads.refused
        ),
    );
    let waiting = last.map(|last| last.waits_for_restart.as_slice()).unwrap_or_default();
    if !waiting.is_empty() {
        text.line("", format!("needs a restart: {}", waiting.join(", ")));
    }
}

/// The gateway, the rings, and what other processes have changed.
fn peers(page: &StatusPage, text: &mut Text) {
    if let Some(peers) = &page.peers {
        let age = |age: Option<u64>| age.map_or("none".to_owned(), |age| format!("{} ago", duration(age)));
        let lost = match peers.gateway_losses {
            0 => String::new(),
            count => format!(", lost {count} times"),
        };
        text.line("gateway", format!("{}{lost}", peers.gateway.name()));
        let (feed, gateway) = (age(peers.feed_heartbeat_age_ns), age(peers.gateway_heartbeat_age_ns));
        text.line("heartbeats", format!("feed {feed}, gateway {gateway}"));
        let (observations, actions) = (peers.observations, peers.actions);
        text.line(
            "rings",
            format!(
                "{} of {} observations wait, {} of {} actions wait",
                observations.depth, observations.capacity, actions.depth, actions.capacity
            ),
        );
    }
    let Some(integrity) = &page.integrity else { return };
    text.list("LOST", integrity.lost_now.iter().cloned());
    if integrity.state_word_restored > 0 {
        let times = integrity.state_word_restored;
        text.line("scribbled", format!("the state word was changed by a peer and restored {times} times"));
    }
}

fn outcomes(page: &StatusPage, text: &mut Text) {
    let counters = &page.counters;
    text.line(
        "observations",
        format!(
            "{} = {} answered + {} skipped; {} answers discarded, {} by the fallback; {} records lost",
            counters.observations,
            counters.actions,
            counters.skipped,
            counters.discarded,
            counters.fallbacks,
            counters.records_lost
        ),
    );
    text.list("outcomes", counters.outcomes.iter().map(|(reason, count)| counted(reason, *count)));
}

/// Misses by cause, and what this machine cannot tell about them.
fn misses(page: &StatusPage, text: &mut Text) {
    let counts = page.misses.by_cause.iter().filter(|(_, count)| **count > 0);
    text.list("misses", counts.map(|(cause, count)| counted(cause, *count)));
    for hidden in &page.misses.cannot_tell {
        text.line("cannot tell", hidden);
    }
}

/// How the engine stays warm, and what that costs.
fn keep_warm(page: &StatusPage, text: &mut Text) {
    let Some(warm) = &page.keep_warm else { return };
    let interval = match (&warm.why_off, warm.interval_us) {
        (Some(why), _) => return text.line("keep-warm", format!("{}; none now: {why}", warm.setting)),
        (None, Some(interval)) => format!("a dry run after {interval:.0} us without work"),
        (None, None) if warm.setting == "off" => return text.line("keep-warm", "off"),
        (None, None) => "their length is being measured".to_owned(),
    };
    let us = |nanos: u64| nanos as f64 / 1e3;
    text.line("keep-warm", format!("{}: {interval}", warm.setting));
    text.line(
        "",
        format!(
            "{} dry runs of {:.2} us, longest {:.1}, {:.2} % of the time",
            warm.dry_runs,
            us(warm.typical_ns.unwrap_or_default()),
            us(warm.longest_ns),
            warm.share_of_time * 100.0
        ),
    );
    text.line(
        "",
        format!(
            "they delay an observation by {:.1} ns on average; {:.1} expected, {} delayed",
            warm.mean_delay_ns, warm.expected_delay_ns, warm.delayed
        ),
    );
}

fn counted(what: &str, count: u64) -> String {
    format!("{what:<28} {count:>14}")
}

fn latencies(page: &StatusPage, text: &mut Text) {
    let columns = ["p50", "p99", "p999", "max"].map(|name| format!("{name:>12}")).concat();
    text.line("latency, us", format!("{:<20}{:>12}{columns}", "", "count"));
    let latencies = &page.latency_ns;
    let rows: [(&str, &Percentiles); 4] = [
        ("queue", &latencies.queue),
        ("inference", &latencies.inference),
        ("tick_to_action", &latencies.tick_to_action),
        ("guard_past_deadline", &latencies.guard_past_deadline),
    ];
    for (name, row) in rows {
        let figures = [row.p50, row.p99, row.p999, row.max];
        let figures = figures.map(|figure| format!("{:>12.1}", figure as f64 / 1e3)).concat();
        text.line("", format!("{name:<20}{:>12}{figures}", row.count));
    }
}

/// Formats a span of time in the unit that suits it.
fn duration(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{:.0} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}
