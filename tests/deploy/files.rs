//! The project's files, and YAML as values.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::program;

pub(crate) const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The name of the image, wherever it is named.
pub(crate) const IMAGE: &str = "ghcr.io/listen-queue-exporter/listen-queue-exporter";

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below these folders and files of the project, by its path from the root.
pub(crate) fn all(places: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending: Vec<_> = places.iter().map(|place| (*place).to_owned()).collect();
    while let Some(place) = pending.pop() {
        let path = Path::new(ROOT).join(&place);
        if path.is_dir() {
            let inside = fs::read_dir(&path).unwrap().map(Result::unwrap);
            pending.extend(inside.map(|e| format!("{place}/{}", e.file_name().to_str().unwrap())));
        } else {
            let text = read(&place);
            found.insert(place, text);
        }
    }
    found
}

/// The documents of a YAML text.
pub(crate) fn yaml(text: &str) -> Vec<Value> {
    const TO_JSON: &str =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    // An argument may be shorter than a dashboard.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let mut python = container_tool("python");
    let json = program::run(python.args(["-c", TO_JSON]).arg(file.path()));
    serde_json::from_str(&json).unwrap()
}

/// What a kustomization makes.
pub(crate) fn kustomize(path: impl AsRef<Path>) -> String {
    let mut kubectl = container_tool("kubectl");
    program::run(
        kubectl
            .arg("kustomize")
            .arg(Path::new(ROOT).join(path.as_ref())),
    )
}

pub(crate) fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let documents = documents.iter();
    documents.filter(|d| d["kind"] == kind).collect()
}

/// The one container of this name in a list of them.
pub(crate) fn named<'a>(containers: &'a Value, name: &str) -> Option<&'a Value> {
    containers.as_array()?.iter().find(|c| c["name"] == name)
}

/// A program that `tests/install.sh containers` installs.
pub(crate) fn container_tool(name: &str) -> Command {
    program::command_of("containers", name)
}
