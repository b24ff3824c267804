//! The failure that this project exists for, as `make demo` shows it: each run checks what it shows and says so by its exit code.

use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn demo(transport: &str) {
    let output = Command::new("python3")
        .arg(format!("{ROOT}/tests/demo/demo.py"))
        .args(["--exporter", env!("CARGO_BIN_EXE_listen-queue-exporter")])
        .args(["--transport", transport])
        .output()
        .expect("python3 is missing: tests/install.sh base");
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{shown}{errors}");
    assert!(output.status.success());
    assert!(shown.contains("  ok: 200s: 200 (expected 200)"));
}

#[test]
fn over_a_unix_socket_the_requests_on_top_get_a_502_and_the_alert_says_so() {
    demo("unix");
}

#[test]
fn over_tcp_nobody_is_refused_and_overflows_raise_their_alert() {
    demo("tcp");
}
