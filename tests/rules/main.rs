//! Alerts, recording rules and runbooks: valid, tested, and consistent with the table of metrics.

mod case;
mod cases;
mod mixin;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use listen_queue_exporter::metrics::{Kind, TABLE};
use regex_lite::Regex;

const PROMETHEUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
/// Debian 12's Prometheus 2.42, and 3.5 or newer.
const PROMTOOLS: [&str; 2] = [
    "promtool",
    concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tools/prometheus3/promtool"
    ),
];
const RUNBOOK_URL: &str = "https://github.com/listen-queue-exporter/listen-queue-exporter/blob/main/deploy/prometheus/runbooks/";
/// Labels that the target adds, not the exporter, and those of the rules themselves.
const OTHER_LABELS: &[&str] = &[
    "alertname",
    "alertstate",
    "cluster",
    "instance",
    "job",
    "le",
    "namespace",
    "pod",
    "workload",
    "cgroup",
    "severity",
    "reason",
    // Those that the rules make from a value.
    "capacity",
    "requested",
];

#[test]
fn promtool_accepts_the_rules_and_the_example_configuration() {
    for program in PROMTOOLS {
        promtool(program, &["check", "rules", "rules.yaml"]);
        promtool(program, &["check", "config", "prometheus.yaml"]);
    }
}

#[test]
fn each_case_makes_its_alerts_fire_and_no_other_at_every_scrape_interval() {
    case::try_all(&cases::all());
}

#[test]
fn both_major_versions_of_prometheus_are_asked() {
    let version = |program: &str| {
        let output = Command::new(program).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let version = Regex::new(r"version (\d+)\.(\d+)").unwrap();
        let numbers = version.captures(&text).unwrap();
        [1, 2].map(|part| numbers[part].parse::<u32>().unwrap())
    };
    let [two, three] = PROMTOOLS.map(version);
    assert_eq!(two[0], 2);
    assert!(three >= [3, 5], "{three:?}");
}

#[test]
fn texts_have_the_listener_the_pod_and_the_numbers() {
    for program in PROMTOOLS {
        promtool(program, &["test", "rules", "../../tests/rules/texts.yaml"]);
    }
    let texts = read("../../tests/rules/texts.yaml");
    let tried = Regex::new(r"alertname: (\w+)").unwrap();
    let tried: BTreeSet<String> = tried
        .captures_iter(&texts)
        .map(|found| found[1].to_owned())
        .collect();
    assert_eq!(tried, alerts());
    let description = Regex::new(r"description: '(.+)'").unwrap();
    for found in description.captures_iter(&texts) {
        let sentences = format!("{} ", found[1].trim_end()).matches(". ").count();
        assert!((1..=3).contains(&sentences), "{}", &found[1]);
    }
}

#[test]
fn every_alert_fires_in_a_case() {
    let cases = cases::all();
    let firing: BTreeSet<String> = cases
        .iter()
        .flat_map(case::Case::firing)
        .map(str::to_owned)
        .collect();
    assert_eq!(firing, alerts());
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
    // The chart has every alert, also the one that has to be switched on.
    let chart = read("../helm/listen-queue-exporter/files/rules.yaml");
    let alert = Regex::new(r"(?m)- alert: (\w+)$").unwrap();
    let expected: BTreeSet<String> = alert
        .captures_iter(&chart)
        .map(|alert| alert[1].to_owned())
        .collect();
    assert!(alerts().is_subset(&expected));
    assert_eq!(pages, expected);
    for page in runbooks() {
        let text = fs::read_to_string(&page).unwrap();
        let headings: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("## "))
            .collect();
        let expected = [
            "## Look",
            "## Meaning",
            "## Impact",
            "## Who is affected",
            "## Diagnosis",
            "## False alarms",
            "## Mitigation",
        ];
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
fn the_page_on_alerts_lists_each_with_its_severity() {
    let page = fs::read_to_string(Path::new(PROMETHEUS).join("../../docs/alerts.md")).unwrap();
    let row = Regex::new(r"(?m)^\| `(ListenQueue\w+)` \| (\w+) \|").unwrap();
    let rows: BTreeSet<(String, String)> = row
        .captures_iter(&page)
        .map(|row| (row[1].to_owned(), row[2].to_owned()))
        .collect();
    let rules = read("rules.yaml");
    let severity = Regex::new(r"severity: (\w+)").unwrap();
    let expected: BTreeSet<(String, String)> = rules
        .split("- alert: ")
        .skip(1)
        .map(|rule| {
            let name = rule.lines().next().unwrap().to_owned();
            (name, severity.captures(rule).unwrap()[1].to_owned())
        })
        .collect();
    assert_eq!(rows, expected);
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
    let rules = Path::new(PROMETHEUS).join("rules.yaml");
    for path in std::iter::once(rules).chain(runbooks()) {
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

fn promtool(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(PROMETHEUS)
        // Takes a fifth less time, and more memory.
        .env("GOGC", "400")
        .output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: tests/install.sh base"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
