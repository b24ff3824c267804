//! The failure that this project exists for, as `make demo` shows it: each run checks what it shows and says so by its exit code.

use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn demo(transport: &str, more: &[&str]) -> String {
    let output = Command::new("python3")
        .arg(format!("{ROOT}/tests/demo/demo.py"))
        .args(["--exporter", env!("CARGO_BIN_EXE_listen-queue-exporter")])
        .args(["--transport", transport])
        .args(more)
        .output()
        .expect("python3 is missing: tests/install.sh base");
    let (shown, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{shown}{errors}");
    assert!(output.status.success());
    shown.into_owned()
}

#[test]
fn over_a_unix_socket_the_requests_on_top_get_a_502_and_the_alert_says_so() {
    let shown = demo("unix", &[]);
    assert!(shown.contains("  ok: 200s: 200 (expected 200)"));
}

#[test]
fn over_tcp_no_connect_is_refused_and_overflows_raise_their_alert() {
    let shown = demo("tcp", &[]);
    assert!(shown.contains("  ok: 200s: 200 (expected 200)"));
}

fn without_sock_diag(backlog: &str, alerts: &[&str]) {
    let shown = demo("unix", &["--without-sock-diag", backlog]);
    for alert in alerts {
        assert!(shown.contains(&format!("  ok: the alert {alert} fired")));
    }
    assert!(
        shown.contains("  ok: peak depth: [129.0] (expected [129])"),
        "{shown}"
    );
}

#[test]
fn without_sock_diag_the_alert_fires_if_the_backlog_is_configured() {
    without_sock_diag(
        "configured",
        &["ListenQueueFull", "ListenQueueConnectionsRefused"],
    );
}

#[test]
fn without_sock_diag_a_warning_fires_if_the_backlog_is_unknown() {
    without_sock_diag("unknown", &["ListenQueueMayBeFull"]);
}
