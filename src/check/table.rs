//! The result as text for people. Pure, except that it reads the width of the terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::diagnosis::{Diagnosis, NEAR, Severity};
use crate::counted::counted;
use crate::kernel::owner::Owner;
use crate::report::{ListenerReport, QueueReport, Report};

/// How the text is fitted to the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    /// Width in columns; if absent, lines are not wrapped.
    width: Option<u16>,
    colour: bool,
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";
const HEADINGS: [&str; 9] = [
    "LISTENER",
    "DEPTH",
    "PEAK",
    "CAPACITY",
    "USED",
    "TIME FULL",
    "OLDEST WAIT",
    "DROPS",
    "OWNER",
];
const UNKNOWN: &str = "-";

impl Style {
    /// For a terminal, its width, and colour unless `NO_COLOR` is set.
    pub(super) fn of(out: &(impl IsTerminal + AsFd)) -> Self {
        if !out.is_terminal() {
            return Self {
                width: None,
                colour: false,
            };
        }
        let size = rustix::termios::tcgetwinsize(out).ok();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        Self {
            width: size.map(|size| size.ws_col).filter(|width| *width > 0),
            colour: !no_color && !dumb,
        }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour && colour != PLAIN {
            format!("{colour}{text}{PLAIN}")
        } else {
            text.to_owned()
        }
    }

    fn table(self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table
    }
}

/// The table of listeners, and below it the diagnoses.
pub(super) fn render(
    report: &Report,
    owners: &BTreeMap<String, Owner>,
    diagnoses: &[Diagnosis],
    duration: Duration,
    style: Style,
) -> String {
    let mut text = String::new();
    if !report.listeners.is_empty() {
        let mut table = style.table();
        table.set_header(HEADINGS);
        for listener in &report.listeners {
            table.add_row(row(listener, owners.get(listener.title()), style));
        }
        for column in table.column_iter_mut().skip(1).take(7) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        push(&mut text, &table);
        text.push('\n');
    }
    if diagnoses.iter().all(|d| d.severity == Severity::Note) {
        let idle = report.idle_listeners.filter(|idle| *idle > 0);
        let idle = idle.map_or(String::new(), |idle| {
            format!(", and {idle} at which no connection waited")
        });
        let nothing = format!(
            "No problem found: {}, none near its limit within {:.1} s{idle}.",
            counted(report.listeners.len() as u64, "listener"),
            duration.as_secs_f64()
        );
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", style.paint(GREEN, &nothing));
    }
    let mut table = style.table();
    for diagnosis in diagnoses {
        let (label, colour) = label(diagnosis.severity);
        let evidence = match &diagnosis.listener {
            Some(listener) => format!("{listener}: {}.", diagnosis.evidence),
            None => sentence(&diagnosis.evidence),
        };
        table.add_row([style.paint(colour, label), evidence]);
        table.add_row([String::new(), sentence(&diagnosis.remedy)]);
    }
    if !diagnoses.is_empty() {
        push(&mut text, &table);
    }
    if report.excluded_listeners > 0 && !report.listeners.is_empty() {
        let _ = writeln!(
            text,
            "\nNot checked: {}, excluded by --discover.exclude or --discover.include.",
            counted(report.excluded_listeners as u64, "listener")
        );
    }
    if owners.is_empty()
        && report
            .listeners
            .iter()
            .any(|listener| listener.queue.is_some())
    {
        text.push_str(
            "\nThe owners of the sockets are not visible. To see them, run as the user of the application or as root. In a pod, also share the process namespace (shareProcessNamespace: true).\n",
        );
    }
    text
}

/// The text with a capital letter and a full stop. A flag or a name at the beginning stays unchanged.
fn sentence(text: &str) -> String {
    let is_word = text
        .split(' ')
        .next()
        .is_some_and(|first| first.chars().all(char::is_alphabetic));
    match text.chars().next() {
        Some(first) if is_word => {
            format!("{}{}.", first.to_uppercase(), &text[first.len_utf8()..])
        }
        _ => format!("{text}."),
    }
}

/// Rows without trailing spaces.
fn push(text: &mut String, table: &Table) {
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn label(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Critical => ("CRITICAL", RED),
        Severity::Blind => ("BLIND", YELLOW),
        Severity::Warning => ("WARNING", YELLOW),
        Severity::Note => ("NOTE", PLAIN),
    }
}

fn row(listener: &ListenerReport, owner: Option<&Owner>, style: Style) -> Vec<String> {
    let unknown = || UNKNOWN.to_owned();
    let (Some(queue), Some(totals)) = (&listener.queue, &listener.totals) else {
        let mut row = vec![listener.title().to_owned()];
        row.resize_with(HEADINGS.len(), unknown);
        return row;
    };
    let colour = match () {
        () if queue.is_full() => Some(RED),
        () if queue.utilization_at_least() >= Some(NEAR) => Some(YELLOW),
        () => None,
    };
    let paint = |text: String| match colour {
        Some(colour) => style.paint(colour, &text),
        None => text,
    };
    vec![
        listener.title().to_owned(),
        paint(queue.depth.to_string()),
        totals.depth_peak.to_string(),
        capacity(queue),
        paint(
            queue
                .utilization
                .map_or_else(unknown, |part| format!("{:.0} %", part * 100.0)),
        ),
        totals
            .full_seconds
            .map_or_else(unknown, |full| format!("{full:.2} s")),
        queue
            .oldest_wait_seconds
            .map_or_else(unknown, |wait| format!("{wait:.2} s")),
        totals.drops.map_or_else(unknown, |drops| drops.to_string()),
        owner.map_or_else(unknown, holders),
    ]
}

fn capacity(queue: &QueueReport) -> String {
    match (queue.capacity, queue.capacity_at_most) {
        (Some(capacity), _) => capacity.to_string(),
        (None, Some(bound)) => format!("<= {bound}"),
        (None, None) => UNKNOWN.to_owned(),
    }
}

fn holders(owner: &Owner) -> String {
    match owner.pids.len() {
        1 => format!("{} {}", owner.name, owner.pid()),
        processes => format!("{} {} +{}", owner.name, owner.pid(), processes - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let nowhere = std::fs::File::open("/dev/null").unwrap();
        let style = Style::of(&nowhere);
        assert_eq!(style.paint(RED, "x"), "x");
        assert_eq!(style.width, None);
    }
}
