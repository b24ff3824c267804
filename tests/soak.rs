//! A short run of what `make soak` does for ten minutes or for hours: it checks what it shows and says so by its exit code.

use std::process::Command;

#[test]
fn nothing_grows_and_every_counter_is_true_under_load_restarts_and_reloads() {
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/soak/soak.py"))
        .args(["--exporter", env!("CARGO_BIN_EXE_listen-queue-exporter")])
        .args(["--duration", "24s"])
        .output()
        .expect("python3 is missing: tests/install.sh base");
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{shown}{errors}");
    assert!(output.status.success());
    assert!(shown.contains("  ok: replacements of gunicorn: 1.0 (expected 1)"));
}
