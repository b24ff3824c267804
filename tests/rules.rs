//! Alerts, recording rules and runbooks: sound, tried out, and in agreement with the table of metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use listen_queue_exporter::metrics::{Kind, TABLE};
use regex_lite::Regex;

const PROMETHEUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
const RUNBOOK_URL: &str = "https://github.com/listen-queue-exporter/listen-queue-exporter/blob/main/deploy/prometheus/runbooks/";
/// Labels that the target, not the exporter, brings, and those of the rules themselves.
const OTHER_LABELS: &[&str] = &["instance", "job", "le", "severity", "reason"];

#[test]
fn promtool_accepts_the_rules_and_the_example_configuration() {
    promtool(&["check", "rules", "rules.yaml"]);
    promtool(&["check", "config", "prometheus.yaml"]);
}

#[test]
fn every_alert_fires_on_its_case_and_stays_silent_otherwise() {
    promtool(&["test", "rules", "rules_test.yaml"]);
}

#[test]
fn every_alert_was_seen_firing_and_silent() {
    let tests = read("rules_test.yaml");
    for alert in alerts() {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels");
        let silent = format!("alertname: {alert}, exp_alerts: []");
        assert!(tests.contains(&fires), "{alert} never fires in a test");
        assert!(tests.contains(&silent), "{alert} is never silent in a test");
    }
}

#[test]
fn every_alert_says_how_bad_what_and_what_to_do() {
    let rules = read("rules.yaml");
    for rule in rules.split("      - alert: ").skip(1) {
        let (alert, body) = rule.split_once('\n').unwrap();
        assert!(alert.starts_with("ListenQueue"), "{alert}");
        for part in ["expr: ", "summary: ", "description: "] {
            assert!(body.contains(part), "{alert} has no {part}");
        }
        let severities = ["critical", "warning", "info"].map(|s| format!("severity: {s}\n"));
        assert!(
            severities.iter().any(|severity| body.contains(severity)),
            "{alert}"
        );
        assert!(
            body.contains(&format!("runbook_url: {RUNBOOK_URL}{alert}.md\n")),
            "{alert}"
        );
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let pages: BTreeSet<String> = runbooks()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(pages, alerts());
    for page in runbooks() {
        let text = fs::read_to_string(&page).unwrap();
        let headings: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("## "))
            .collect();
        let expected = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"];
        assert_eq!(headings, expected, "{}", page.display());
        for link in Regex::new(r"\]\(([^)]+)\)").unwrap().captures_iter(&text) {
            assert!(
                page.with_file_name(&link[1]).exists(),
                "{}: {}",
                page.display(),
                &link[1]
            );
        }
    }
}

#[test]
fn the_operator_gets_the_same_rules() {
    let script = Command::new(format!("{PROMETHEUS}/prometheusrule.sh"))
        .output()
        .unwrap();
    assert!(script.status.success());
    let made = String::from_utf8(script.stdout).unwrap();
    assert_eq!(
        made,
        read("prometheusrule.yaml"),
        "run prometheusrule.sh, as it says"
    );
}

#[test]
fn every_metric_and_label_of_rules_and_runbooks_exists() {
    let metric = Regex::new(r"\b(listener:)?(listen_queue|process)_\w+(:\w+)*").unwrap();
    let label = Regex::new(r"(\w+)=~?\\?[\x22%]|(?:ignoring|without|by|on) \(([\w, ]+)\)").unwrap();
    let known = known_metrics();
    let labels: BTreeSet<&str> = TABLE
        .iter()
        .flat_map(|metric| metric.labels.iter().copied())
        .collect();
    let files = ["rules.yaml", "rules_test.yaml"].map(|name| Path::new(PROMETHEUS).join(name));
    for path in files.into_iter().chain(runbooks()) {
        let text = fs::read_to_string(&path).unwrap();
        for found in metric.find_iter(&text) {
            assert!(
                known.contains(found.as_str()),
                "{}: {}",
                path.display(),
                found.as_str()
            );
        }
        for found in label.captures_iter(&text) {
            let names = found.get(1).or(found.get(2)).unwrap().as_str();
            for name in names.split(", ") {
                let fine = labels.contains(name) || OTHER_LABELS.contains(&name) || name == "s";
                assert!(fine, "{}: label {name}", path.display());
            }
        }
    }
}

/// Names that a scrape or a recording rule makes.
fn known_metrics() -> BTreeSet<String> {
    let scraped = TABLE.iter().flat_map(|metric| {
        let suffixes: &[&str] = match metric.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count", ""],
            Kind::Counter | Kind::Gauge => &[""],
        };
        suffixes
            .iter()
            .map(|suffix| format!("{}{suffix}", metric.name))
    });
    let rules = read("rules.yaml");
    let recorded = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "));
    scraped.chain(recorded.map(str::to_owned)).collect()
}

fn alerts() -> BTreeSet<String> {
    let rules = read("rules.yaml");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

fn runbooks() -> impl Iterator<Item = PathBuf> {
    let pages = fs::read_dir(format!("{PROMETHEUS}/runbooks")).unwrap();
    pages.map(|page| page.unwrap().path())
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("{PROMETHEUS}/{name}")).unwrap()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(PROMETHEUS)
        .output();
    let output = output.expect("promtool is missing: tests/install.sh base");
    assert!(
        output.status.success(),
        "promtool {arguments:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
