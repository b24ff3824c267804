//! The image: the binary and nothing else, for a user without any right.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::exporter::BINARY;
use crate::common::program;
use crate::dockerfile::{self, REVISION};
use crate::files::{ROOT, container_tool};
use crate::podman::{Podman, exporter_image, podman};
use listen_queue_exporter::VERSION;
use listen_queue_exporter::cli::PORT;

const LARGEST: u64 = 5 * 1024 * 1024;

#[test]
fn the_released_binary_is_a_hardened_static_pie() {
    let binary = dockerfile::builder().join("src/image/listen-queue-exporter");
    let mut readelf = container_tool("readelf");
    let headers = program::run(
        readelf
            .arg("--headers")
            .arg("--wide")
            .arg("--dynamic")
            .arg(&binary),
    );
    let has = |parts: &[&str]| {
        headers
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)))
    };
    assert!(
        has(&["Type:", "DYN (Position-Independent Executable"]),
        "PIE: {headers}"
    );
    assert!(
        has(&["(FLAGS_1)", "NOW", "PIE"]) && has(&["GNU_RELRO"]),
        "full RELRO: {headers}"
    );
    assert!(
        has(&["GNU_STACK", " RW  "]) && !has(&["GNU_STACK", "RWE"]),
        "NX: {headers}"
    );
    assert!(
        !has(&["INTERP"]) && !has(&["(NEEDED)"]),
        "static: {headers}"
    );
    assert!(
        !headers
            .lines()
            .any(|line| line.contains("LOAD") && line.contains("RWE")),
        "W^X: {headers}"
    );
}

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
fn the_image_has_labels_and_runs_as_an_unprivileged_user() {
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
    let expected = format!("listen-queue-exporter, version {VERSION} (revision: {REVISION})\n");
    assert!(printed.starts_with(&expected), "{printed}");
}

/// A container of an application, for as long as a test needs it.
struct Application(String);

impl Application {
    /// As another user than that of the image.
    fn start(podman: &Podman) -> Self {
        let run = ["run", "--detach", "--network=none", "--user=1000:1000"];
        let id = podman.run(&[&run[..], &[&exporter_image()]].concat());
        Self(id.trim().to_owned())
    }
}

#[test]
fn check_runs_in_a_container_of_its_own_beside_one_without_preparation() {
    let (podman, _turn) = podman();
    let application = Application::start(podman);
    let network = format!("--network=container:{}", application.0);
    let processes = format!("--pid=container:{}", application.0);
    let image = exporter_image();
    // As docker run --network container:NAME.
    let printed = podman.run(&["run", "--rm", &network, &image, "check"]);
    assert!(printed.contains(&format!("tcp:[::]:{PORT}")), "{printed}");
    // As kubectl debug --target: the processes are shared, too, so that their user sees the owner, and nobody else does.
    for (user, is_seen) in [("1000:1000", true), ("65532:65532", false)] {
        let user = format!("--user={user}");
        let entrypoint = "--entrypoint=/listen-queue-exporter";
        let debug = ["run", "--rm", &network, &processes, &user, entrypoint];
        let printed = podman.run(&[&debug[..], &[&image, "check"]].concat());
        assert_eq!(printed.contains("listen-queue-e"), is_seen, "{printed}");
    }
    // From the host, without an image.
    let process = podman.run(&["inspect", "--format={{.State.Pid}}", &application.0]);
    let mut nsenter = program::command("nsenter");
    nsenter.args(["-t", process.trim(), "-n", BINARY, "check"]);
    let printed = program::run(&mut nsenter);
    assert!(printed.contains(&format!("tcp:[::]:{PORT}")), "{printed}");
    podman.run(&["rm", "--force", "--time=0", &application.0]);
}

#[test]
fn hadolint_finds_nothing() {
    let mut hadolint = container_tool("hadolint");
    program::run(hadolint.arg("Dockerfile").current_dir(ROOT));
}
