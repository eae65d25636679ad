//! A report as one self-contained HTML page: the table, and the latency distributions over their percentiles.

use super::LatencyReport;
use escapement_engine::telemetry::{Histogram, Percentiles};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const MARGIN: f64 = 60.0;

/// Percentiles along the horizontal axis: each step is ten times rarer.
const DECADES: &[(f64, &str)] =
    &[(0.0, "0 %"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %"), (5.0, "99.999 %")];

/// The series of a report, with their names and the colours of their curves.
fn series(report: &LatencyReport) -> [(&'static str, &Histogram, &'static str); 4] {
    [
        ("paced", &report.paced.inference, "#1f5fbf"),
        ("hiccups beside them", &report.paced.hiccup, "#c9761a"),
        ("back to back", &report.back_to_back.inference, "#7fb2ef"),
        ("hiccups beside these", &report.back_to_back.hiccup, "#ecc08e"),
    ]
}

/// Renders the page. `title` names the policy.
pub fn html(report: &LatencyReport, title: &str) -> String {
    let summary = report.summary();
    let verdict = if report.holds() { "met" } else { "missed" };
    let plot = plot(report);
    let rows = series(report).map(|(name, histogram, _)| row(name, &histogram.percentiles())).concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:920px;margin:2rem auto;padding:0 1rem;color:#1c1c1c}}\
         table{{border-collapse:collapse}}td,th{{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}}\
         td:first-child,th:first-child{{text-align:left}}.pass{{color:#176f2c}}.fail{{color:#b3261e}}\
         svg text{{font:12px system-ui,sans-serif;fill:#444}}</style></head>\n<body><h1>{title}</h1>\n\
         <p>Backend <b>{backend}</b>. Deadline {deadline} µs: {within:.4} % of {paced} paced calls within, \
         {required} % asked for: <b class=\"{class}\">objective {verdict}</b>. Back to back: {back_to_back:.4} % \
         of {calls}.</p>\n\
         <p>Paced: {arrivals}{feed}; {keep_warm}.</p>\n\
         <table><tr><th>ns</th><th>count</th><th>min</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
         <th>max</th></tr>{rows}</table>\n{plot}\n\
         {causes}<p>One paced call is made for each observation that arrives. In between the thread polls, and the core \
         may go cold. Back to back, a call begins when the last one has returned. Hiccups are busy loops of a typical \
         call's length on the same core in the same run, in turn with the calls: what they take beyond that length, the \
         machine takes. All are service times, from a call's begin to its return.</p>\n\
         </body></html>\n",
        title = escape(title),
        causes = causes(&summary.paced.calls.misses_by_cause),
        backend = escape(&summary.backend),
        paced = summary.paced.calls.trials,
        calls = summary.back_to_back.trials,
        deadline = report.objective.deadline.0 as f64 / 1e3,
        within = summary.paced.calls.within_deadline * 100.0,
        back_to_back = summary.back_to_back.within_deadline * 100.0,
        required = report.objective.share * 100.0,
        class = summary.verdict,
        arrivals = escape(&summary.paced.arrivals),
        feed = if report.is_fed { ", from a feed's process" } else { "" },
        keep_warm = summary.paced.keep_warm.words(),
    )
}

/// Renders late paced calls by cause; empty if there are none.
fn causes(counts: &std::collections::BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return String::new();
    }
    let rows: String =
        counts.iter().map(|(cause, count)| format!("<tr><td>{cause}</td><td>{count}</td></tr>")).collect();
    format!("<table><tr><th>late by cause</th><th>paced calls</th></tr>{rows}</table>\n")
}

fn row(name: &str, figures: &Percentiles) -> String {
    let Percentiles { count, min, p50, p90, p99, p999, max } = figures;
    format!(
        "<tr><td>{name}</td><td>{count}</td><td>{min}</td><td>{p50}</td><td>{p90}</td><td>{p99}</td><td>{p999}</td>\
         <td>{max}</td></tr>"
    )
}

fn plot(report: &LatencyReport) -> String {
    let deadline = report.objective.deadline.0;
    let highest = series(report).map(|(_, histogram, _)| histogram.percentiles().max);
    let highest = highest.into_iter().fold(deadline, u64::max);
    let top_decade = (highest.max(10) as f64).log10().ceil();
    let x = |decade: f64| MARGIN + decade / 5.0 * (WIDTH - 2.0 * MARGIN);
    let y = |nanos: f64| HEIGHT - MARGIN - nanos.max(1.0).log10() / top_decade * (HEIGHT - 2.0 * MARGIN);

    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency by percentile\" \
         style=\"width:100%;margin-top:1.5rem\">"
    );
    // Writing to a string cannot fail.
    let mut add = |part: std::fmt::Arguments<'_>| svg.write_fmt(part).expect("a string takes all");
    for (decade, label) in DECADES {
        let at = x(*decade);
        add(format_args!(
            "<line x1=\"{at}\" y1=\"{MARGIN}\" x2=\"{at}\" y2=\"{}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            HEIGHT - MARGIN,
            HEIGHT - MARGIN + 20.0
        ));
    }
    for decade in 0..=top_decade as u32 {
        let at = y(10f64.powi(decade as i32));
        add(format_args!(
            "<line x1=\"{MARGIN}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            WIDTH - MARGIN,
            MARGIN - 8.0,
            at + 4.0,
            nanos_label(decade)
        ));
    }
    for (index, (name, histogram, colour)) in series(report).into_iter().enumerate() {
        let points: Vec<String> = curve(histogram)
            .map(|(decade, nanos)| format!("{:.1},{:.1}", x(decade), y(nanos as f64)))
            .collect();
        let legend = MARGIN + 16.0 * (index + 1) as f64;
        add(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{legend}\" style=\"fill:{colour}\">{name}</text>",
            points.join(" "),
            MARGIN + 10.0
        ));
    }
    let at = y(deadline as f64);
    add(format_args!(
        "<line x1=\"{MARGIN}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"#b3261e\" stroke-dasharray=\"5 4\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\" style=\"fill:#b3261e\">deadline</text></svg>",
        WIDTH - MARGIN,
        WIDTH - MARGIN,
        at - 5.0
    ));
    svg
}

/// Returns the points of the curve: the percentile in decades, and the latency. It ends where samples end.
fn curve(histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> + '_ {
    let samples = histogram.percentiles().count.max(1) as f64;
    let last = samples.log10().min(5.0);
    (0..=100).map(move |step| {
        let decade = last * f64::from(step) / 100.0;
        (decade, histogram.quantile_ns(1.0 - 10f64.powf(-decade)))
    })
}

fn nanos_label(decade: u32) -> String {
    let unit = ["ns", "µs", "ms", "s"][(decade / 3).min(3) as usize];
    format!("{} {unit}", 10u64.pow(if decade >= 9 { decade - 9 } else { decade % 3 }))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{KeepWarmUse, Objective, Series};
    use escapement_engine::KeepWarm;
    use escapement_ring::clock::Nanos;

    #[test]
    fn the_page_is_whole_and_says_the_verdict() {
        let mut inference = Histogram::new();
        (1..=1000).for_each(|nanos| inference.record(nanos));
        let series = Series {
            met: 500,
            hiccup: inference.clone(),
            inference: inference.clone(),
            slice_medians_ns: vec![500],
            misses: [(crate::evidence::Cause::PageFault, 3)].into(),
        };
        let report = LatencyReport {
            backend: "native",
            objective: Objective { deadline: Nanos(500), share: 0.9 },
            arrivals: "20.0 a second on average, as in <gaps>".to_owned(),
            is_fed: false,
            keep_warm: KeepWarmUse {
                setting: KeepWarm::Auto,
                interval: Some(KeepWarm::SHORTEST),
                why_off: None,
                lengths: inference,
                delayed: 1,
                delay: Nanos(100),
            },
            paced: series.clone(),
            back_to_back: Series { met: 1000, hiccup: Histogram::new(), ..series },
        };
        let page = html(&report, "a <policy>");
        assert!(page.contains("a &lt;policy&gt;") && page.contains("objective missed"), "{page}");
        for part in [
            "50.0000 % of 1000 paced calls",
            "Back to back: 100.0000 %",
            "as in &lt;gaps&gt;; keep-warm auto",
        ] {
            assert!(page.contains(part), "{page} lacks {part}");
        }
        assert!(!page.contains("NaN") && !page.contains(">inf<") && !page.contains("\"inf"));
        for tag in ["svg", "table", "html"] {
            assert_eq!(page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
        }
        assert!(!page.contains("http"), "the page must be self-contained");
    }

    #[test]
    fn labels_of_the_vertical_axis() {
        assert_eq!([0, 2, 3, 6, 9, 10].map(nanos_label), ["1 ns", "100 ns", "1 µs", "1 ms", "1 s", "10 s"]);
    }
}
