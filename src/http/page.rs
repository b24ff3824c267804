//! The landing page: the listeners in a table, and where the metrics are.

use std::fmt::Write as _;

use crate::ledger::{ListenerLedger, View};
use crate::sample::Presence;

/// Nothing but the page's own style is loaded.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>listen-queue-exporter</title>
<style>
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 2rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.full { background: #c00; color: #fff; }
</style>
</head>
<body>
<h1>listen-queue-exporter</h1>
";

/// The page for a moment's figures.
pub(super) fn render(view: &View, telemetry_path: &str) -> String {
    let mut html = String::from(HEAD);
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "<p>Version {}, revision {}. <a href=\"{}\">Metrics</a></p>\n\
         <table>\n<caption>Listeners</caption>\n\
         <thead><tr><th scope=\"col\">Listener</th><th scope=\"col\">Depth</th><th scope=\"col\">Peak</th>\
         <th scope=\"col\">Capacity</th><th scope=\"col\">Time full</th></tr></thead>\n<tbody>\n",
        crate::VERSION,
        escape(crate::REVISION),
        escape(telemetry_path),
    );
    for (name, ledger) in &view.listeners {
        write_row(&mut html, name, ledger);
    }
    html.push_str("</tbody>\n</table>\n</body>\n</html>\n");
    html
}

fn write_row(html: &mut String, name: &str, ledger: &ListenerLedger) {
    let name = escape(name);
    let _ = match (&ledger.presence, &ledger.totals) {
        (Presence::Up, Some(totals)) => writeln!(
            html,
            "<tr{}><td>{name}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.2} s</td></tr>",
            if ledger.full() { " class=\"full\"" } else { "" },
            ledger.depth(),
            totals.peak.highest(),
            ledger.capacity(),
            totals.full.as_secs_f64(),
        ),
        (Presence::Missing(absence), _) => writeln!(
            html,
            "<tr><td>{name}</td><td colspan=\"4\">{}</td></tr>",
            escape(&absence.to_string())
        ),
        _ => writeln!(
            html,
            "<tr><td>{name}</td><td colspan=\"4\">unknown: its source fails, see the log</td></tr>"
        ),
    };
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
    use crate::sample::{Absence, Sample, Waiting, Watched};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn a_hostile_name_is_text() {
        let address = Address::parse("unix:@<script>\"&'").unwrap();
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        ledger.book(&Sample {
            listeners: vec![Watched {
                listener: Arc::new(Listener::discovered(address)),
                presence: Presence::Missing(Absence::NotListening),
                readings: Vec::new(),
                waiting: Waiting::default(),
            }],
            ..Sample::default()
        });
        let html = render(ledger.view(), "/metrics");
        assert!(html.contains("unix:@&lt;script&gt;&quot;&amp;&#39;</td>"));
        assert!(!html.contains("<script"));
    }
}
