//! Evaluates the rules with Prometheus in cases whose series are functions of time, at every scrape interval that is in use.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use super::{PROMETHEUS, PROMTOOLS, promtool};

/// Seconds between scrapes.
const INTERVALS: [u32; 4] = [5, 15, 30, 60];
/// Those of the newer Prometheus, unless `make test-rules` asks for all.
const INTERVALS_OF_NEWER: [u32; 2] = [15, 60];
const ALL: &str = "LISTEN_QUEUE_TEST_ALL_RULES";
/// Seconds between evaluations: off every grid of scrapes.
const EVALUATION: u32 = 7;

/// A value at a second; `None` while the series does not exist.
type Values = Box<dyn Fn(u32) -> Option<f64>>;

/// Series, and which alerts fire on them when.
pub(crate) struct Case {
    name: &'static str,
    series: Vec<(String, Values)>,
    /// Scrapes that are lost: by the second from which on the next one fails.
    lost: Option<u32>,
    expected: Vec<(u32, Scrapes, Vec<&'static str>)>,
    expected_while_lost: Option<Vec<&'static str>>,
}

/// How many scrapes after a moment.
#[derive(Debug, Clone, Copy)]
struct Scrapes(u32);

/// A series with a constant value.
pub(crate) fn always(value: f64) -> impl Fn(u32) -> Option<f64> {
    move |_| Some(value)
}

/// A series that is 0 before a second and this value from then on.
pub(crate) fn from(second: u32, value: f64) -> impl Fn(u32) -> Option<f64> {
    move |at| Some(if at < second { 0.0 } else { value })
}

/// A series that does not exist before a second, and has this value from then on.
pub(crate) fn born(second: u32, value: f64) -> impl Fn(u32) -> Option<f64> {
    move |at| (at >= second).then_some(value)
}

impl Case {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            series: Vec::new(),
            lost: None,
            expected: Vec::new(),
            expected_while_lost: None,
        }
    }

    pub(crate) fn series(
        mut self,
        series: impl Into<String>,
        values: impl Fn(u32) -> Option<f64> + 'static,
    ) -> Self {
        self.series.push((series.into(), Box::new(values)));
        self
    }

    /// The series of a healthy exporter itself, from a second on.
    pub(crate) fn exporter(self, labels: &str, started: u32) -> Self {
        let all = format!("instance=\"a\",job=\"j\"{labels}");
        self.series(format!("up{{{all}}}"), born(started, 1.0))
            .series(
                format!("process_start_time_seconds{{{all}}}"),
                born(started, f64::from(started)),
            )
            .series(
                format!("listen_queue_exporter_build_info{{{all}}}"),
                born(started, 1.0),
            )
            .series(
                format!("listen_queue_somaxconn{{{all}}}"),
                born(started, 128.0),
            )
            .series(format!("listen_queue_samples_total{{{all}}}"), move |at| {
                at.checked_sub(started)
                    .map(|since| f64::from(since) * 100.0)
            })
            .series(
                format!("listen_queue_samples_late_total{{{all}}}"),
                born(started, 0.0),
            )
            .series(
                format!("listen_queue_source_up{{{all},source=\"unix_diag\"}}"),
                born(started, 1.0),
            )
    }

    /// An idle listener of that exporter, but for what the case says of it besides.
    pub(crate) fn listener(self, family: &str, backlog: u32) -> Self {
        let info = format!("family=\"{family}\",address=\"x\",limit=\"kernel\"");
        self.series(listener("info", &info), always(1.0))
            .series(listener("listener_up", ""), always(1.0))
            .series(listener("listener_sockets", ""), always(1.0))
            .series(listener("backlog", ""), always(f64::from(backlog)))
            .series(listener("capacity", ""), always(f64::from(backlog + 1)))
    }

    /// The first scrape from a second on fails.
    pub(crate) fn loses_a_scrape(mut self, second: u32) -> Self {
        self.lost = Some(second);
        self
    }

    /// These alerts fire then, and no other.
    pub(crate) fn fires(mut self, second: u32, alerts: &[&'static str]) -> Self {
        self.expected.push((second, Scrapes(0), alerts.to_vec()));
        self
    }

    /// These alerts fire two scrapes and an evaluation after a second, with one more if one is lost.
    pub(crate) fn fires_soon(mut self, second: u32, alerts: &[&'static str]) -> Self {
        self.expected.push((second, Scrapes(2), alerts.to_vec()));
        self
    }

    /// These alerts fire between the lost scrape and the next, and no other.
    pub(crate) fn fires_while_lost(mut self, alerts: &[&'static str]) -> Self {
        self.expected_while_lost = Some(alerts.to_vec());
        self
    }

    /// Alerts that fire in it at some time.
    pub(crate) fn firing(&self) -> impl Iterator<Item = &'static str> {
        self.expected
            .iter()
            .flat_map(|(_, _, alerts)| alerts.iter().copied())
    }

    fn write(&self, out: &mut String, interval: u32) {
        let lost = self.lost.map(|second| second.div_ceil(interval) * interval);
        let after_lost = u32::from(self.lost.is_some());
        let at = |second: u32, scrapes: Scrapes| match scrapes {
            Scrapes(0) => second,
            Scrapes(count) => second + (count + after_lost) * interval + EVALUATION,
        };
        let end = self
            .expected
            .iter()
            .map(|(second, scrapes, _)| at(*second, *scrapes))
            .max();
        let end = end.expect("something is expected") + EVALUATION;
        let _ = writeln!(
            out,
            "  - name: \"{}, {interval} s\"\n    interval: {interval}s\n    input_series:",
            self.name
        );
        for (series, values) in &self.series {
            let value = |at: u32| match values(at) {
                // As Prometheus does when a scrape fails.
                Some(_) if Some(at) == lost && series.starts_with("up{") => "0".to_owned(),
                Some(_) if Some(at) == lost => "stale".to_owned(),
                Some(value) => value.to_string(),
                None => "_".to_owned(),
            };
            let values: Vec<String> = (0..=end).step_by(interval as usize).map(value).collect();
            let _ = writeln!(
                out,
                "      - series: '{series}'\n        values: {}",
                values.join(" ")
            );
        }
        let _ = writeln!(out, "    promql_expr_test:");
        let expected =
            (self.expected.iter()).map(|(second, scrapes, alerts)| (at(*second, *scrapes), alerts));
        // An evaluation at or after the lost scrape, and before the next.
        let while_lost = self.expected_while_lost.iter().map(|alerts| {
            let evaluation = lost.expect("a scrape is lost").next_multiple_of(EVALUATION);
            (evaluation, alerts)
        });
        for (second, alerts) in expected.chain(while_lost) {
            let _ = writeln!(
                out,
                "      - expr: group by (alertname) (ALERTS{{alertstate=\"firing\"}})\n        eval_time: {second}s\n        exp_samples:"
            );
            for alert in alerts.iter().collect::<BTreeSet<_>>() {
                let _ = writeln!(
                    out,
                    "          - {{labels: '{{alertname=\"{alert}\"}}', value: 1}}"
                );
            }
        }
    }
}

/// A series of the one listener.
pub(crate) fn listener(metric: &str, labels: &str) -> String {
    let name = if metric == "info" {
        "listener_info"
    } else {
        metric
    };
    let comma = if labels.is_empty() { "" } else { "," };
    format!("listen_queue_{name}{{listener=\"g\",instance=\"a\",job=\"j\"{comma}{labels}}}")
}

/// Tries all cases, with a run of promtool for each interval.
pub(crate) fn try_all(cases: &[Case]) {
    std::thread::scope(|scope| {
        for interval in INTERVALS {
            let mut text = format!(
                "rule_files: ['{PROMETHEUS}/rules.yaml']\nevaluation_interval: {EVALUATION}s\ntests:\n"
            );
            for case in cases {
                case.write(&mut text, interval);
            }
            scope.spawn(move || {
                let directory = tempfile::tempdir().unwrap();
                let file = directory.path().join("cases.yaml");
                fs::write(&file, text).unwrap();
                let [older, newer] = PROMTOOLS;
                promtool(older, &["test", "rules", file.to_str().unwrap()]);
                if INTERVALS_OF_NEWER.contains(&interval) || std::env::var_os(ALL).is_some() {
                    promtool(newer, &["test", "rules", file.to_str().unwrap()]);
                }
            });
        }
    });
}
