//! The live page: complete as rendered, and kept up to date by its script with a stream of events.

use std::fmt::Write as _;

use crate::report::{ListenerReport, QueueReport, Report, TotalsReport};

/// The browser loads only the script and style of the page, and nothing can be injected.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The script.
pub(super) const SCRIPT: &str = include_str!("page.js");
/// The style.
pub(super) const STYLE: &str = include_str!("page.css");

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>listen-queue-exporter</title>
<link rel=\"icon\" href=\"data:,\">
<link rel=\"stylesheet\" href=\"-/page.css\">
<script src=\"-/page.js\" defer></script>
</head>
";
const COLUMNS: &str = "<thead><tr>\
<th scope=\"col\">Listener</th>\
<th scope=\"col\">Waiting</th>\
<th scope=\"col\" class=\"live\">Last five minutes</th>\
<th scope=\"col\" title=\"Highest depth of the peak window\">Peak</th>\
<th scope=\"col\" title=\"Since the exporter first saw the listener\">Time full</th>\
<th scope=\"col\" title=\"Time that the head of the queue has waited, as a lower bound\">Oldest wait</th>\
<th scope=\"col\" title=\"Refused unix connects, from the nginx log or eBPF; if both are enabled, the higher count\">Refused</th>\
<th scope=\"col\" title=\"Packets dropped at a TCP listener\">Drops</th>\
</tr></thead>
";

/// Renders the page from one report.
pub(super) fn render(report: &Report, telemetry_path: &str) -> String {
    let full: Vec<&str> = report
        .listeners
        .iter()
        .filter(|listener| listener.queue.as_ref().is_some_and(QueueReport::is_full))
        .map(ListenerReport::title)
        .collect();
    let mut html = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<body{}>\n<p id=\"alarm\" role=\"alert\"{}>FULL: <span>{}</span></p>\n\
         <header><h1>listen-queue-exporter</h1>\n<p id=\"connection\" role=\"status\">As of the time of loading.</p>\n\
         <p>Version {}, revision {}. <a href=\"{}\">Metrics</a>, <a href=\"api/v1/listeners\">JSON</a></p></header>\n\
         <main><table>\n<caption>Queues of connections waiting for accept()</caption>\n{COLUMNS}<tbody>\n",
        if full.is_empty() {
            ""
        } else {
            " class=\"full\""
        },
        if full.is_empty() { " hidden" } else { "" },
        escape(&full.join(", ")),
        crate::VERSION,
        escape(crate::REVISION),
        // Links are relative to the page: a proxy may serve it under another path.
        escape(telemetry_path.trim_start_matches('/')),
    );
    for listener in &report.listeners {
        write_row(&mut html, listener);
    }
    html.push_str("</tbody>\n</table></main>\n<template>");
    html.push_str(&cells("", "", (0, 1), "", ["", "", "", "", "", ""]));
    html.push_str("</template>\n</body>\n</html>\n");
    html
}

/// The explanation of the limit, preceded by the problem of a group.
fn explained(queue: &QueueReport) -> String {
    match &queue.stuck_member {
        Some(stuck) => format!("{stuck}; {}", queue.limit),
        None => queue.limit.clone(),
    }
}

fn write_row(html: &mut String, listener: &ListenerReport) {
    let name = escape(listener.title());
    let totals = listener.totals.as_ref();
    let peak = totals.map(|totals| totals.depth_peak.to_string());
    let full = totals.and_then(|totals: &TotalsReport| totals.full_seconds);
    let full = full.map(|seconds| format!("{seconds:.2} s"));
    let drops = totals
        .and_then(|totals| totals.drops)
        .map(|drops| drops.to_string());
    let refused = listener.refused_connects.values().max();
    let figures = |oldest: Option<f64>, limit: &str| {
        [
            peak.clone().unwrap_or_default(),
            full.clone().unwrap_or_default(),
            oldest.map_or(String::new(), |wait| format!("{wait:.2} s")),
            refused.map_or(String::new(), ToString::to_string),
            drops.clone().unwrap_or_default(),
            escape(limit),
        ]
    };
    let (class, depth, waiting, figures) = if let Some(queue) = &listener.queue {
        (
            if queue.is_full() { "full" } else { "" },
            (
                queue.depth,
                queue.capacity.or(queue.capacity_at_most).unwrap_or(1),
            ),
            match queue.capacity {
                Some(capacity) => format!("{} of {capacity}", queue.depth),
                None => queue.depth.to_string(),
            },
            figures(queue.oldest_wait_seconds, &explained(queue)),
        )
    } else {
        let reason = escape(listener.reason.as_deref().unwrap_or_default());
        ("missing", (0, 1), reason, figures(None, ""))
    };
    let figures = figures.each_ref().map(String::as_str);
    html.push_str(&cells(class, &name, depth, &waiting, figures));
}

/// A row. The script fills the same cells. All arguments must be escaped.
fn cells(
    class: &str,
    name: &str,
    (depth, capacity): (u64, u64),
    waiting: &str,
    [peak, full, oldest, refused, drops, limit]: [&str; 6],
) -> String {
    // Yellow above three quarters, red when full, like the alerts.
    let (near, last) = (capacity * 3 / 4, capacity - 1);
    format!(
        "<tr class=\"{class}\" data-name=\"{name}\"><th scope=\"row\">{name}</th>\
         <td class=\"waiting\"><meter min=\"0\" max=\"{capacity}\" low=\"{near}\" high=\"{last}\" optimum=\"0\" value=\"{depth}\" aria-label=\"waiting connections\"></meter> \
         <span>{waiting}</span><small>{limit}</small></td>\
         <td class=\"live\"><canvas role=\"img\" aria-label=\"depth in the last five minutes\"></canvas></td>\
         <td>{peak}</td><td>{full}</td><td>{oldest}</td><td>{refused}</td><td>{drops}</td></tr>\n"
    )
}

fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;
    use crate::listener::{Address, Listener};
    use crate::sample::{Absence, Presence, Sample, Waiting, Watched};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_hostile_name_is_text() {
        let address = Address::parse("unix:@<script>\"&'").unwrap();
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        ledger.record(&Sample {
            listeners: vec![Watched {
                listener: Arc::new(Listener::discovered(address)),
                presence: Presence::Missing(Absence::NotListening),
                readings: Vec::new(),
                limit: crate::sample::LimitSource::Kernel,
                waiting: Waiting::default(),
            }],
            ..Sample::default()
        });
        let html = render(&Report::new(ledger.view()), "/metrics");
        let name = "unix:@&lt;script&gt;&quot;&amp;&#39;";
        assert!(html.contains(&format!(
            "data-name=\"{name}\"><th scope=\"row\">{name}</th>"
        )));
        assert_eq!(html.matches("<script").count(), 1);
    }
}
