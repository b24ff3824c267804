//! The mixin: what is committed is what it makes, and what a user changes comes out right.

use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn python(arguments: &[&str]) -> String {
    let output = Command::new(format!("{ROOT}/target/tools/bin/python"))
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .expect("the Python tools are missing: tests/install.sh base");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The rules with a change of the configuration.
fn rules(change: &str) -> String {
    made(change, "prometheusAlerts")
}

fn made(change: &str, field: &str) -> String {
    let snippet =
        format!("((import 'deploy/mixin/mixin.libsonnet') + {{ _config+:: {change} }}).{field}");
    python(&[
        "-c",
        "import sys, _jsonnet; print(_jsonnet.evaluate_snippet('', sys.argv[1]))",
        &snippet,
    ])
}

#[test]
fn the_files_made_from_the_mixin_are_committed_as_it_makes_them() {
    python(&["deploy/mixin/generate.py", "--check"]);
}

#[test]
fn a_changed_threshold_selector_label_severity_and_runbook_come_out_right_in_the_rules() {
    let plain = rules("{}");
    assert!(!plain.contains("ListenQueueExporterAbsent"));
    let changed = rules(
        "{ selector: 'cluster=\"one\"', nearlyFull: '0.9', extraLabels: { team: 'web' }, severities+: { critical: 'page' }, \
         runbookPrefix: 'https://wiki/', absent: true }",
    );
    let rules: serde_json::Value = serde_json::from_str(&changed).unwrap();
    let mut alerts = 0;
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let text = rule["expr"].as_str().unwrap();
        let metrics =
            text.matches("listen_queue_").count() - text.matches("listener:listen_queue_").count();
        assert!(text.matches("cluster=\"one\"").count() >= metrics, "{text}");
        let Some(name) = rule["alert"].as_str() else {
            continue;
        };
        alerts += 1;
        assert_eq!(rule["labels"]["team"], "web", "{name}");
        assert_ne!(rule["labels"]["severity"], "critical", "{name}");
        assert_eq!(
            rule["annotations"]["runbook_url"],
            format!("https://wiki/{name}.md")
        );
    }
    assert!(alerts > 15 && changed.contains("> 0.9") && changed.contains("\"page\""));
    assert!(changed.contains("ListenQueueExporterAbsent"));
}

#[test]
fn a_description_has_at_most_one_query_and_a_summary_none() {
    let rules: serde_json::Value = serde_json::from_str(&rules("{}")).unwrap();
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let Some(name) = rule["alert"].as_str() else {
            continue;
        };
        let [summary, description] =
            ["summary", "description"].map(|text| rule["annotations"][text].as_str().unwrap());
        assert!(summary.contains("$labels"), "{name}");
        assert!(!summary.contains("query"), "{name}");
        assert!(description.matches("| query").count() <= 1, "{name}");
    }
}

#[test]
fn a_changed_selector_label_threshold_and_runbook_come_out_right_on_the_dashboard() {
    let changed = made(
        "{ selector: 'team=\"web\"', dashboardLabels: ['zone', 'job', 'instance'], nearlyFull: '0.9', runbookPrefix: 'https://wiki/' }",
        "grafanaDashboards['listen-queue-exporter.json']",
    );
    let dashboard: serde_json::Value = serde_json::from_str(&changed).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["datasource", "zone", "job", "instance", "listener"]);
    for variable in &variables[1..] {
        let query = variable["query"]["query"].as_str().unwrap();
        assert!(query.contains("team=\"web\""), "{query}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    for target in targets.flatten() {
        let expression = target["expr"].as_str().unwrap();
        assert!(expression.contains("team=\"web\""), "{expression}");
        assert!(!expression.contains("$pod"), "{expression}");
        let zone = expression.contains("zone=~\"$zone\"");
        assert!(zone, "{expression}");
    }
    assert!(changed.contains("\"url\": \"https://wiki/ListenQueueFull.md\""));
    assert!(changed.contains("\"value\": 0.9"));
}

#[test]
fn a_changed_window_is_that_of_every_rule_and_leaves_the_recorded_names_true() {
    let changed = rules("{ window: '10m' }");
    assert!(changed.contains("[10m]") && changed.contains("< 600)"));
    assert!(changed.contains("refused within 10m. "));
    let rules: serde_json::Value = serde_json::from_str(&changed).unwrap();
    let names = |key: &'static str| {
        let rules = rules["groups"][0]["rules"].as_array().unwrap();
        rules.iter().filter_map(move |rule| rule[key].as_str())
    };
    assert!(!names("record").any(|name| name.contains(char::is_numeric)));
}
