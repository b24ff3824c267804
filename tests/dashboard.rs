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
        "listen_queue_discovery_excluded_listeners",
        "what the user or the default asked to leave out is nothing to act on",
    ),
    (
        "listen_queue_namespace_info",
        "shows how a namespace is read; docs/node.md describes it",
    ),
    (
        "listen_queue_idle_listeners",
        "listeners that never had a queue",
    ),
];

fn dashboard() -> Value {
    let text = fs::read_to_string(format!("{ROOT}/grafana/dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

/// Those of panels and of annotations.
fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard)
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    targets
        .flatten()
        .chain(annotations)
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
    let expected = [
        "cluster",
        "datasource",
        "instance",
        "job",
        "listener",
        "namespace",
        "pod",
    ];
    assert_eq!(names, expected.into());
    // With everything selected, series without the label are there, too.
    for variable in variables.iter().filter(|v| v["type"] == "query") {
        assert_eq!(variable["allValue"], ".*");
    }
    let variable = Regex::new(r"\$(\w+)").unwrap();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (index, expression) in expressions(&dashboard).into_iter().enumerate() {
        for used in variable.captures_iter(expression) {
            let own = ["__rate_interval", "__range", "__range_s"].contains(&&used[1]);
            assert!(own || names.contains(&used[1]), "{expression}");
        }
        let plain =
            variable.replace_all(expression, |used: &regex_lite::Captures| match &used[1] {
                "__rate_interval" => "1m",
                "__range" => "1h",
                "__range_s" => "3600",
                _ => ".*",
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

/// What a Prometheus answers to the dashboard about an hour of some pods, by panel and expression.
fn answers(pods: u32) -> (Value, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("answers.json");
    let namespace = [
        "--net",
        "sh",
        "-c",
        "ip link set lo up && exec \"$@\"",
        "sh",
    ];
    let result = Command::new("unshare")
        .args(namespace)
        .args(["python3", &format!("{ROOT}/tests/dashboard/pods.py")])
        .args([
            "--pods",
            &pods.to_string(),
            "--prometheus",
            &format!("{ROOT}/target/tools/prometheus3"),
        ])
        .arg(&output)
        .output()
        .unwrap();
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    let text = fs::read_to_string(&output).unwrap();
    (serde_json::from_str(&text).unwrap(), directory)
}

/// The last values of an expression of a panel, with their labels.
fn last<'a>(answers: &'a Value, title: &str, expression: &str) -> Vec<(&'a Value, f64)> {
    let dashboard = dashboard();
    let panel = panels(&dashboard).iter().find(|p| p["title"] == title);
    let id = panel.unwrap()["id"].to_string();
    let series = answers["answers"][id][expression].as_array().unwrap();
    let value = |values: &Value| values.as_array().unwrap().last().unwrap()[1].clone();
    series
        .iter()
        .map(|each| {
            let text = value(&each["values"]);
            (&each["metric"], text.as_str().unwrap().parse().unwrap())
        })
        .collect()
}

/// A value to the nearest whole number.
fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn only(answers: &Value, title: &str, expression: &str) -> String {
    let values = last(answers, title, expression);
    assert_eq!(values.len(), 1, "{title}");
    whole(values[0].1)
}

const FIRST: &str = "Pods that were full or refused, of all";
const WORST: &str = "The worst 20";

#[test]
fn of_two_hundred_pods_it_counts_those_that_were_hit_and_lists_the_worst() {
    let (answers, _directory) = answers(200);
    // A burst in one pod of 16, and the pod that took the place of another. Of all: it, two hundred pods, and the host.
    let hit: Vec<u32> = (0..200).filter(|number| number % 16 == 3).collect();
    assert_eq!(only(&answers, FIRST, "A"), (hit.len() + 1).to_string());
    assert_eq!(only(&answers, FIRST, "B"), "202");
    let refused = |number: u32| (2 + number % 7) * 60 * (1 + number % 5);
    let all: u32 = hit.iter().map(|number| refused(*number)).sum();
    let shown = only(&answers, "Refused connects", "A");
    assert_eq!(shown, (all + 250).to_string());
    for expression in ["A", "B", "C", "D", "E", "F", "G", "H"] {
        let rows = last(&answers, WORST, expression);
        assert_eq!(rows.len(), 2 * 201 + 1, "{expression}");
    }
    let column = last(&answers, WORST, "E");
    let of = |pod: &str, listener: &str| {
        let row = column
            .iter()
            .find(|(labels, _)| labels["pod"] == pod && labels["listener"] == listener);
        whole(row.unwrap().1)
    };
    assert_eq!(of("web-200", "gunicorn"), "250");
    assert_eq!(of("web-3", "gunicorn"), refused(3).to_string());
    assert_eq!(
        of("web-3", "nginx"),
        "NaN",
        "no source counts them over TCP"
    );
    let mut scores = last(&answers, WORST, "H");
    scores.sort_by(|one, other| other.1.total_cmp(&one.1));
    let worst = hit.iter().max_by_key(|number| refused(**number)).unwrap();
    assert_eq!(scores[0].0["pod"], format!("web-{worst}"));
    let limits = last(&answers, WORST, "G");
    let host = limits
        .iter()
        .find(|(labels, _)| labels["instance"] == "db.example.org:10128");
    let (labels, limit) = host.unwrap();
    assert_eq!(labels["why"], "net.core.somaxconn");
    assert_eq!(whole(*limit), "4096");
    assert_eq!(last(&answers, "Refused connects a second", "A").len(), 20);
    assert_eq!(last(&answers, "Depth against capacity", "B").len(), 20);
}

#[test]
fn of_one_pod_and_a_host_it_shows_both() {
    let (answers, _directory) = answers(1);
    assert_eq!(only(&answers, FIRST, "A"), "0");
    assert_eq!(only(&answers, FIRST, "B"), "2");
    assert_eq!(only(&answers, "Refused connects", "A"), "0");
    // Those after an exporter for a node was there; as far as `increase` tells from a part of the hour.
    let overflows: u32 = only(&answers, "TCP overflows", "A").parse().unwrap();
    assert!((3..=4).contains(&overflows), "{overflows}");
    assert_eq!(last(&answers, WORST, "A").len(), 3);
    assert_eq!(last(&answers, "Depth against capacity", "A").len(), 3);
}

#[test]
fn its_data_source_knows_how_often_the_example_scrapes() {
    let [source, prometheus] = [
        "grafana/provisioning/datasources/prometheus.yaml",
        "deploy/compose/prometheus.yaml",
    ]
    .map(|file| fs::read_to_string(format!("{ROOT}/{file}")).unwrap());
    let interval = Regex::new(r"(?:timeInterval|scrape_interval): (\S+)").unwrap();
    let of = |text: &str| interval.captures(text).unwrap()[1].to_owned();
    assert_eq!(of(&source), of(&prometheus));
}

#[test]
fn its_links_lead_to_runbooks_that_exist_and_to_the_live_page() {
    let text = dashboard().to_string();
    let runbook = Regex::new(r"deploy/prometheus/runbooks/(\w+\.md)").unwrap();
    let pages: BTreeSet<&str> = runbook
        .captures_iter(&text)
        .map(|found| found.get(1).unwrap().as_str())
        .collect();
    assert!(pages.len() > 10);
    for page in pages {
        let path = format!("{ROOT}/deploy/prometheus/runbooks/{page}");
        assert!(fs::exists(path).unwrap(), "{page}");
    }
    assert!(text.contains("http://${__data.fields.instance}/"));
}
