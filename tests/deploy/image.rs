//! The image: the binary and nothing else, for a user without any right.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::program;
use crate::dockerfile::REVISION;
use crate::files::{ROOT, container_tool};
use crate::podman::{exporter_image, podman};
use listen_queue_exporter::VERSION;
use listen_queue_exporter::cli::PORT;

const LARGEST: u64 = 5 * 1024 * 1024;

#[test]
fn the_image_holds_the_static_binary_and_nothing_else() {
    let (podman, _turn) = podman();
    let root = podman.run(&["image", "mount", &exporter_image()]);
    let root = Path::new(root.trim());
    let entries: Vec<_> = fs::read_dir(root).unwrap().map(Result::unwrap).collect();
    let names: Vec<_> = entries.iter().map(fs::DirEntry::file_name).collect();
    assert_eq!(names, ["listen-queue-exporter"]);
    let size = entries[0].metadata().unwrap().len();
    println!("{size} bytes");
    assert!(size < LARGEST, "{size} bytes");
    podman.run(&["image", "unmount", &exporter_image()]);
}

#[test]
fn the_image_says_what_it_is_and_runs_as_nobody_in_particular() {
    let (podman, _turn) = podman();
    let inspected = podman.run(&["image", "inspect", &exporter_image()]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let config = &inspected[0]["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], json!(["/listen-queue-exporter"]));
    assert_eq!(config["ExposedPorts"], json!({ format!("{PORT}/tcp"): {} }));
    let label = |name: &str| &config["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("title"), "listen-queue-exporter");
    assert_eq!(label("version"), VERSION);
    assert_eq!(label("revision"), REVISION);
    assert_eq!(label("licenses"), "Apache-2.0");
}

#[test]
fn the_image_runs_without_a_network_a_capability_or_a_place_to_write() {
    let (podman, _turn) = podman();
    let image = exporter_image();
    let printed = podman.run(&[
        "run",
        "--rm",
        "--network=none",
        "--read-only",
        "--cap-drop=all",
        &image,
        "--version",
    ]);
    assert_eq!(printed, format!("listen-queue-exporter {VERSION}\n"));
}

#[test]
fn hadolint_finds_nothing() {
    let mut hadolint = container_tool("hadolint");
    program::run(hadolint.arg("Dockerfile").current_dir(ROOT));
}
