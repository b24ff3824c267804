//! The dashboard: sound, complete, and in agreement with the table of metrics and the rules.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use listen_queue_exporter::metrics::TABLE;
use regex_lite::Regex;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Metrics on no panel and in no rule, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "process_virtual_memory_bytes",
        "resident memory is what counts against a limit",
    ),
    (
        "process_open_fds",
        "a handful, bounded by the connection limit",
    ),
    ("process_max_fds", "as process_open_fds"),
    ("process_threads", "three at most"),
    (
        "process_start_time_seconds",
        "for queries about restarts; up and build_info show them",
    ),
];

fn dashboard() -> Value {
    let text = fs::read_to_string(format!("{ROOT}/grafana/dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard)
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    targets
        .flatten()
        .map(|target| target["expr"].as_str().unwrap())
        .collect()
}

#[test]
fn its_uid_does_not_change_and_its_rows_answer_the_questions_in_order() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "listen-queue-exporter");
    let rows = panels(&dashboard)
        .iter()
        .filter(|panel| panel["type"] == "row");
    let titles: Vec<&str> = rows.map(|row| row["title"].as_str().unwrap()).collect();
    let expected = [
        "Is anything being refused?",
        "How full?",
        "How long do they wait?",
        "Why is the limit what it is?",
        "TCP",
        "The exporter itself",
    ];
    assert_eq!(titles, expected);
}

#[test]
fn every_panel_has_a_title_a_description_a_unit_and_a_place_of_its_own() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(
                    x < 24 && cells.insert((x, y)),
                    "{title} overlaps at {x}, {y}"
                );
            }
        }
        if panel["type"] != "row" {
            assert!(
                !panel["description"].as_str().unwrap().is_empty(),
                "{title}"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{title}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn every_expression_uses_variables_that_exist_and_parses() {
    let dashboard = dashboard();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: BTreeSet<&str> = variables
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "listener", "namespace", "pod"].into());
    let variable = Regex::new(r"\$(\w+)").unwrap();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (index, expression) in expressions(&dashboard).into_iter().enumerate() {
        for used in variable.captures_iter(expression) {
            assert!(
                &used[1] == "__rate_interval" || names.contains(&used[1]),
                "{expression}"
            );
        }
        let plain = variable.replace_all(expression, |used: &regex_lite::Captures| {
            if &used[1] == "__rate_interval" {
                "1m"
            } else {
                ".*"
            }
        });
        writeln!(
            rules,
            "  - record: panel:{index}\n    expr: {}",
            Value::from(&*plain)
        )
        .unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yaml");
    fs::write(&file, rules).unwrap();
    let output = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output();
    let output = output.expect("promtool is missing: tests/install.sh base");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_metric_is_on_a_panel_or_in_a_rule_or_said_to_be_neither() {
    let rules = fs::read_to_string(format!("{ROOT}/deploy/prometheus/rules.yaml")).unwrap();
    let shown = [expressions(&dashboard()).join("\n"), rules].join("\n");
    let name = Regex::new(r"\b(listen_queue|process)_\w+").unwrap();
    let used: BTreeSet<String> = name
        .find_iter(&shown)
        .map(|found| without_suffix(found.as_str()).to_owned())
        .collect();
    for metric in TABLE {
        let elsewhere = ELSEWHERE.iter().any(|(name, _)| *name == metric.name);
        assert!(used.contains(metric.name) != elsewhere, "{}", metric.name);
    }
    let known: BTreeSet<&str> = TABLE.iter().map(|metric| metric.name).collect();
    for name in expressions(&dashboard())
        .iter()
        .flat_map(|e| name.find_iter(e))
    {
        assert!(
            known.contains(without_suffix(name.as_str())),
            "{}",
            name.as_str()
        );
    }
}

#[test]
fn grafana_knows_every_key() {
    let python = format!("{ROOT}/target/tools/bin/python");
    let script = format!("{ROOT}/tests/dashboard/round_trip.py");
    let output = Command::new(python).arg(script).output();
    let output = output.expect("the Python tools are missing: tests/install.sh base");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn without_suffix(name: &str) -> &str {
    let parts = ["_bucket", "_sum", "_count"];
    parts
        .iter()
        .find_map(|part| name.strip_suffix(part))
        .unwrap_or(name)
}
