//! Facts that are written in more than one place: the image's name, the version, the port, flags and metrics.

use std::collections::BTreeSet;
use std::path::Path;

use clap::CommandFactory;
use regex_lite::Regex;

use crate::dockerfile::stages;
use crate::files::{IMAGE, ROOT, all, read};
use listen_queue_exporter::VERSION;
use listen_queue_exporter::cli::{ENVIRONMENT_PREFIX, Flags, PORT};
use listen_queue_exporter::metrics::{Kind, TABLE};

const PLACES: &[&str] = &[
    "deploy",
    "Dockerfile",
    "Makefile",
    "README.md",
    "docs",
    ".github/workflows",
];

fn matches<'t>(pattern: &str, text: &'t str) -> Vec<&'t str> {
    let pattern = Regex::new(pattern).unwrap();
    pattern
        .find_iter(text)
        .map(|found| found.as_str())
        .collect()
}

/// Where the chart is pushed to, and its name there.
const CHARTS: &str = "ghcr.io/listen-queue-exporter/charts";

#[test]
fn the_image_has_one_name_and_the_tag_is_the_version() {
    let mut tagged = 0;
    for (path, text) in all(PLACES) {
        for name in matches(
            r"ghcr\.io/[a-z0-9/_.-]*[a-z0-9](:[0-9A-Za-z_][\w.-]*)?",
            &text,
        ) {
            match name.strip_prefix(IMAGE) {
                Some("") => {}
                Some(tag) => {
                    assert_eq!(tag, format!(":{VERSION}"), "{path}");
                    tagged += 1;
                }
                None => {
                    let chart = name.strip_prefix(CHARTS).map(|rest| rest.split_once(':'));
                    let version = chart.unwrap_or_else(|| panic!("{path}: {name}"));
                    assert!(
                        version.is_none_or(|(_, version)| version == VERSION),
                        "{path}"
                    );
                }
            }
        }
        for reference in matches(r"\?ref=[\w.-]+", &text) {
            assert_eq!(reference, format!("?ref=v{VERSION}"), "{path}");
        }
        for file in matches(r"\blisten-queue-exporter[_-][0-9]+\.[0-9]+\.[0-9]+", &text) {
            assert!(file.ends_with(VERSION), "{path}: {file}");
        }
        for release in matches(r"/(blob|download)/v[0-9][\w.-]*", &text) {
            assert!(
                release.ends_with(&format!("/v{VERSION}")),
                "{path}: {release}"
            );
        }
    }
    assert!(tagged >= 3, "the two sidecars and compose");
}

#[test]
fn the_changelog_and_the_readme_say_whether_this_version_is_released() {
    let changelog = read("CHANGELOG.md");
    let released = matches(r"(?m)^## \[[0-9][^\]]*\]", &changelog);
    let is_out = released
        .first()
        .inspect(|heading| assert_eq!(**heading, format!("## [{VERSION}]")))
        .is_some();
    let readme = read("README.md");
    let (head, _) = readme.split_once("\n## ").unwrap();
    assert_eq!(
        head.contains("Nothing is published yet"),
        !is_out,
        "the first lines of README.md until the first release"
    );
    let lock = read("Cargo.lock");
    assert!(lock.contains(&format!(
        "name = \"listen-queue-exporter\"\nversion = \"{VERSION}\"\n"
    )));
}

#[test]
fn the_port_is_the_same_everywhere() {
    let expose = &stages()[1];
    let expose = expose.iter().find(|i| i.word == "EXPOSE").unwrap();
    assert_eq!(expose.rest, PORT.to_string());
    for (path, port) in [
        ("deploy/compose/prometheus.yaml", format!("nginx:{PORT}\"")),
        (
            "deploy/prometheus/targets.yaml",
            format!("- localhost:{PORT}\n"),
        ),
        (
            "deploy/systemd/listen-queue-exporter.env",
            format!("port {PORT} "),
        ),
    ] {
        assert!(read(path).contains(&port), "{path}");
    }
    for (path, text) in all(&["deploy", "Dockerfile"]) {
        for port in matches(r"\b10[0-9]{3}\b", &text) {
            assert_eq!(port, PORT.to_string(), "{path}");
        }
    }
}

#[test]
fn every_flag_and_variable_exists() {
    let command = Flags::command();
    let flags: BTreeSet<_> = command
        .get_arguments()
        .filter_map(|a| a.get_long())
        .collect();
    let variables: BTreeSet<_> = command
        .get_arguments()
        .filter_map(|a| a.get_env()?.to_str())
        .collect();
    let (mut seen_flags, mut seen_variables) = (0, 0);
    for (path, text) in all(&["deploy", "docs", "README.md"]) {
        let dotted = r"--(listener\b|(sample|web|discover|nginx|log|path)(\.[a-z-]*[a-z])+)";
        for flag in matches(dotted, &text) {
            // Programs of others have dotted flags, too.
            if flag != "--web.listen-address" || !text.contains("--config.file") {
                assert!(flags.contains(&flag[2..]), "{path}: {flag}");
                seen_flags += 1;
            }
        }
        for variable in matches(&format!("{ENVIRONMENT_PREFIX}[A-Z_]*[A-Z]"), &text) {
            assert!(variables.contains(variable), "{path}: {variable}");
            seen_variables += 1;
        }
    }
    assert!(seen_flags > 5 && seen_variables > 3);
}

#[test]
fn every_metric_exists() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for metric in TABLE {
        known.insert(metric.name.to_owned());
        if metric.kind == Kind::Histogram {
            known.extend(["bucket", "sum", "count"].map(|s| format!("{}_{s}", metric.name)));
        }
    }
    // The name that prometheus-adapter gives it.
    known.insert("listen_queue_utilization".to_owned());
    let mut seen = 0;
    let folders = ["kubernetes", "compose", "systemd", "nginx", "gunicorn"];
    for folder in folders {
        for (path, text) in all(&[&format!("deploy/{folder}")]) {
            for name in matches("listen_queue_[a-z_]+", &text) {
                if name != "listen_queue_exporter" {
                    assert!(known.contains(name), "{path}: {name}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 5);
}

#[test]
fn every_path_that_readme_names_is_there() {
    let readme = read("README.md");
    let paths = matches(r"\b(deploy|grafana|tests)/[\w./-]*\w", &readme);
    assert!(paths.len() > 8);
    for path in paths {
        assert!(Path::new(ROOT).join(path).exists(), "{path}");
    }
}
