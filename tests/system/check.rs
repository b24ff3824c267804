//! `check`: every diagnosis from the situation that it is about, in a pipe and at a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};

use crate::cli::with_open_files;
use crate::common::exporter::BINARY;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::site::Site;
use crate::common::socket::{Listener, Tcp, connect, connect_all, connect_tcp, knock_tcp, label};
use crate::common::wait;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("check").args(arguments);
    command
}

/// The exit code and what was printed.
fn check(arguments: &[&str]) -> (i32, String) {
    let output = command(arguments).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

fn check_json(arguments: &[&str]) -> Value {
    let (code, text) = check(&[arguments, &["--format", "json"]].concat());
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["exit_code"], code);
    found
}

/// The kinds of what was diagnosed, in order.
fn kinds(found: &Value) -> Vec<&str> {
    let diagnoses = found["diagnoses"].as_array().unwrap().iter();
    diagnoses.map(|d| d["kind"].as_str().unwrap()).collect()
}

fn evidence<'a>(found: &'a Value, kind: &str) -> &'a str {
    let mut all = found["diagnoses"].as_array().unwrap().iter();
    let diagnosis = all.find(|d| d["kind"] == kind);
    diagnosis.unwrap_or_else(|| panic!("no {kind} in {found:#}"))["evidence"]
        .as_str()
        .unwrap()
}

struct Queue {
    listener: Listener,
    path: PathBuf,
    clients: Vec<OwnedFd>,
    _directory: tempfile::TempDir,
}

fn queue(backlog: i32, depth: usize) -> Queue {
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, backlog);
    let clients = connect_all(&path, depth);
    Queue {
        listener,
        path,
        clients,
        _directory: directory,
    }
}

const SHORT: &str = "200ms";
const REUSE_PORT: Tcp = Tcp {
    reuse_port: true,
    dual_stack: false,
    multipath: false,
};

#[test]
fn with_nothing_wrong_it_says_so_and_ends_with_0() {
    let _namespace = Namespace::enter();
    let queue = queue(128, 3);
    let _tcp = Listener::tcp("127.0.0.1:8000", 5);
    let (code, text) = check(&["--for", SHORT]);
    assert_eq!(code, 0, "{text}");
    let said = "No problem found: 2 listeners, none near its limit within 0.2 s.";
    assert!(text.contains(said), "{text}");
    let row = text.lines().find(|line| line.contains(&label(&queue.path)));
    let row: Vec<&str> = row.unwrap().split_whitespace().collect();
    assert_eq!(row[1..6], ["3", "3", "129", "2", "%"]);
    assert_eq!(kinds(&check_json(&["--for", SHORT])), [""; 0]);
}

#[test]
fn a_full_queue_is_critical_and_says_who_sleeps_before_it() {
    let _namespace = Namespace::enter();
    let queue = queue(5, 6);
    assert!(connect(&queue.path).is_err());
    let path = queue.path.clone();
    let sleeper = thread::spawn(move || std::os::unix::net::UnixStream::connect(path));
    let found = wait::until("the sleeper to be seen", || {
        let found = check_json(&["--for", SHORT]);
        (found["listeners"][0]["blocked_connects"] == 1).then_some(found)
    });
    assert_eq!(found["exit_code"], 3);
    assert_eq!(
        evidence(&found, "full"),
        "the queue is full with 6 of 6 connections: the next connect() fails with EAGAIN, or sleeps if it is blocking. 1 blocked connect waits for space"
    );
    drop(queue.listener);
    assert!(sleeper.join().unwrap().is_err());
}

#[test]
fn counts_of_one_are_in_the_singular() {
    let _namespace = Namespace::enter();
    let _full = queue(0, 1);
    let found = check_json(&["--for", SHORT]);
    let said = evidence(&found, "full");
    assert!(said.starts_with("the queue is full with 1 of 1 connection: "));
    let _stuck = Listener::tcp_with("127.0.0.1:8000", 0, REUSE_PORT);
    let _client = connect_tcp("127.0.0.1:8000");
    let _empty = Listener::tcp_with("127.0.0.1:8000", 0, REUSE_PORT);
    let found = check_json(&["--listener", "tcp:127.0.0.1:8000", "--for", SHORT]);
    let said = evidence(&found, "stuck_member");
    assert!(said.starts_with("one of its 2 sockets is full (1 connection waiting, inode "));
}

#[test]
fn a_queue_that_was_full_during_the_check_is_critical_though_it_is_empty_now() {
    let _namespace = Namespace::enter();
    let queue = queue(5, 0);
    let (name, duration) = (label(&queue.path), ["--for", "3s"]);
    let check = thread::spawn(move || {
        let arguments = [&duration[..], &["--listener", &name, "--format", "json"]].concat();
        command(&arguments).output().unwrap()
    });
    // The check takes three seconds. The queue fills in the middle of them.
    thread::sleep(Duration::from_millis(1500));
    let clients = connect_all(&queue.path, 6);
    thread::sleep(Duration::from_millis(100));
    drop(queue.listener.accept_all());
    drop(clients);
    let output = check.join().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{found:#}");
    assert_eq!(kinds(&found), ["was_full"]);
    let said = evidence(&found, "was_full");
    assert!(
        said.starts_with("was full for ") && said.contains(" ms (once) within 3.0 s"),
        "{said}"
    );
    assert!(found["listeners"][0]["full_seconds"].as_f64().unwrap() >= 0.05);
}

#[test]
fn a_queue_near_its_limit_is_a_warning_from_three_quarters_on() {
    let _namespace = Namespace::enter();
    let mut queue = queue(7, 5);
    assert_eq!(kinds(&check_json(&["--for", SHORT])), [""; 0]);
    queue.clients.push(connect(&queue.path).unwrap());
    let found = check_json(&["--for", SHORT]);
    assert_eq!(found["exit_code"], 1);
    assert_eq!(
        evidence(&found, "nearly_full"),
        "the peak depth was 6 of 8 connections"
    );
}

#[test]
fn gunicorn_cut_by_somaxconn_is_found_by_its_default_and_its_owner() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let site = Site::start(2, "gate", "");
    let name = label(&site.socket);
    let found = check_json(&["--listener", &name, "--for", SHORT]);
    assert_eq!(found["exit_code"], 0);
    assert_eq!(
        evidence(&found, "cut_by_somaxconn"),
        "the limit is 128, the value of net.core.somaxconn, but gunicorn requests 2048 by default"
    );
    let owner = &found["owners"][&name];
    assert_eq!(
        (&owner["name"], &owner["processes"]),
        (&json!("gunicorn"), &json!(3))
    );

    // Raised afterwards: the listener keeps what it was granted.
    namespace.set_somaxconn(4096);
    let found = check_json(&["--listener", &name, "--for", SHORT]);
    let said = evidence(&found, "opened_before_raise");
    assert!(
        said.starts_with(
            "the limit is 128, although net.core.somaxconn is 4096 and gunicorn requests 2048 by default"
        ),
        "{said}"
    );
    // A configured backlog takes precedence over a default.
    let configured = format!("{name},backlog=128");
    assert_eq!(
        kinds(&check_json(&["--listener", &configured, "--for", SHORT])),
        [""; 0]
    );
}

#[test]
fn an_owner_that_may_not_be_seen_is_absent_with_a_hint() {
    let _namespace = Namespace::enter();
    let _queue = queue(128, 0);
    let directory = directory();
    let copy = directory.path().join("exporter");
    std::fs::copy(BINARY, &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
    ]);
    let output = command
        .arg(copy)
        .args(["check", "--for", SHORT])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("shareProcessNamespace: true"), "{text}");
    let seen = check(&["--for", SHORT]).1;
    assert!(!seen.contains("shareProcessNamespace"), "{seen}");
}

#[test]
fn a_socket_file_whose_listener_is_in_another_namespace_is_distinguished_from_a_missing_one() {
    let directory = directory();
    let path = directory.path().join("g.sock");
    let elsewhere = path.clone();
    let (made, is_made) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let _namespace = Namespace::enter();
        let _listener = Listener::unix(&elsewhere, 5);
        made.send(()).unwrap();
        let _ = ended.recv();
    });
    is_made.recv().unwrap();
    let _namespace = Namespace::enter();
    let found = check_json(&["--listener", &label(&path), "--for", SHORT]);
    assert_eq!(found["exit_code"], 4);
    assert_eq!(kinds(&found), ["listener_elsewhere"]);
    let missing = label(directory.path().join("no.sock"));
    let found = check_json(&["--listener", &missing, "--for", SHORT]);
    assert_eq!(
        (kinds(&found), &found["exit_code"]),
        (vec!["missing"], &json!(4))
    );
    drop(end);
    other.join().unwrap();
}

#[test]
fn a_listener_that_was_full_and_was_removed_is_reported() {
    let _namespace = Namespace::enter();
    let _other = Listener::abstract_unix(b"other", 5);
    let queue = queue(5, 0);
    let name = label(&queue.path);
    let checks = [&["--for", "3s"][..], &["--for", "3s", "--listener", &name]].map(|arguments| {
        let mut command = command(&[arguments, &["--format", "json"]].concat());
        command.stdout(Stdio::piped()).spawn().unwrap()
    });
    thread::sleep(Duration::from_millis(1500));
    let clients = connect_all(&queue.path, 6);
    thread::sleep(Duration::from_millis(100));
    drop((queue, clients));
    for check in checks {
        let output = check.wait_with_output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(3), "{found:#}");
        let said = evidence(&found, "was_full");
        assert!(said.ends_with("and no longer exists"), "{said}");
    }
}

#[test]
fn listeners_that_were_not_checked_are_counted() {
    let _namespace = Namespace::enter();
    let _one = Listener::abstract_unix(b"one", 5);
    let _two = Listener::abstract_unix(b"two", 5);
    let found = check_json(&["--for", SHORT, "--discover.limit", "1"]);
    assert_eq!(
        (kinds(&found), &found["exit_code"]),
        (vec!["ignored"], &json!(4))
    );
    assert_eq!(found["ignored_listeners"], 1);
}

#[test]
fn where_the_filter_leaves_out_everything_it_says_so() {
    let _namespace = Namespace::enter();
    let _excluded = Listener::tcp("127.0.0.1:40000", 5);
    let found = check_json(&["--for", SHORT]);
    assert_eq!(kinds(&found), ["no_listener"]);
    assert_eq!(found["excluded_listeners"], 1);
    let said = evidence(&found, "no_listener");
    assert_eq!(said, "the discovery filter excludes all listeners (1)");
    let not_looked_at =
        "Not checked: 1 listener, excluded by --discover.exclude or --discover.include.\n";
    let (_, text) = check(&["--for", SHORT]);
    assert!(!text.contains(not_looked_at), "{text}");
    let _watched = Listener::tcp("127.0.0.1:8000", 5);
    let (code, text) = check(&["--for", SHORT]);
    assert!(code == 0 && text.contains(not_looked_at), "{text}");
}

#[test]
fn a_group_of_different_limits_has_no_limit_that_could_be_compared() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let shared = Tcp {
        reuse_port: true,
        ..Tcp::default()
    };
    let _members = [0, 100].map(|backlog| Listener::tcp_with("127.0.0.1:8000", backlog, shared));
    // One of the two gets it; clients are spread by their port.
    let _clients: Vec<_> = (0..8).map(|_| connect_tcp("127.0.0.1:8000")).collect();
    let configured = "tcp:127.0.0.1:8000,backlog=50";
    let found = check_json(&["--for", SHORT, "--listener", configured]);
    assert_eq!(
        found["listeners"][0]["limit"],
        "the sockets have different limits"
    );
    let said = evidence(&found, "full");
    assert!(said.starts_with("one of its 2 sockets (inode "), "{said}");
    assert!(!kinds(&found).contains(&"opened_before_raise"), "{found:#}");
}

#[test]
fn a_stale_listener_that_holds_connections_is_a_warning() {
    let _namespace = Namespace::enter();
    let queue = queue(128, 4);
    std::fs::remove_file(&queue.path).unwrap();
    let _new = Listener::unix(&queue.path, 128);
    for arguments in [
        &["--for", SHORT][..],
        &["--for", SHORT, "--listener", &label(&queue.path)],
    ] {
        let found = check_json(arguments);
        assert_eq!(found["exit_code"], 1);
        let said = evidence(&found, "stale_listener");
        assert!(said.ends_with("holds 4 connections"), "{said}");
    }
    drop(queue.listener);
    assert_eq!(kinds(&check_json(&["--for", SHORT])), [""; 0]);
}

#[test]
fn a_listener_that_another_was_renamed_over_is_stale_too() {
    let _namespace = Namespace::enter();
    let queue = queue(128, 4);
    let fresh = queue.path.with_extension("new");
    let _new = Listener::unix(&fresh, 128);
    std::fs::rename(&fresh, &queue.path).unwrap();
    let found = check_json(&["--for", SHORT, "--listener", &label(&queue.path)]);
    assert_eq!(kinds(&found), ["stale_listener"]);
    assert!(evidence(&found, "stale_listener").ends_with("holds 4 connections"));
}

#[test]
fn a_socket_of_the_same_name_on_another_file_system_belongs_to_another_container() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let queue = queue(128, 4);
    mounts.tmpfs(queue.path.parent().unwrap());
    let _here = Listener::unix(&queue.path, 128);
    let found = check_json(&["--for", SHORT, "--listener", &label(&queue.path)]);
    assert_eq!(kinds(&found), [""; 0], "{found:#}");
}

#[test]
fn connections_without_a_client_are_a_warning() {
    let _namespace = Namespace::enter();
    let mut queue = queue(128, 4);
    queue.clients.truncate(1);
    let found = check_json(&["--for", SHORT]);
    assert_eq!(found["exit_code"], 1);
    assert_eq!(
        evidence(&found, "abandoned"),
        "the clients of 3 of 4 waiting connections have disconnected"
    );
}

#[test]
fn a_queue_that_does_not_move_is_a_warning_after_a_second() {
    let _namespace = Namespace::enter();
    let _queue = queue(128, 2);
    let _tcp = Listener::tcp("127.0.0.1:8000", 128);
    let _client = connect_tcp("127.0.0.1:8000");
    thread::sleep(Duration::from_millis(100));
    let found = check_json(&["--for", "1s"]);
    assert_eq!(kinds(&found), ["not_moving", "not_moving"]);
    assert_eq!(found["exit_code"], 1);
    let said = evidence(&found, "not_moving");
    assert!(
        said.contains(" s, and no connection left the queue during the check, although the listener has 1 process"),
        "{said}"
    );
}

#[test]
fn a_queue_that_moves_slowly_moves() {
    let _namespace = Namespace::enter();
    let queue = queue(128, 60);
    let tcp = Listener::tcp("127.0.0.1:8000", 128);
    let _tcp_clients: Vec<_> = (0..60).map(|_| connect_tcp("127.0.0.1:8000")).collect();
    thread::sleep(Duration::from_millis(100));
    let looking = thread::spawn(|| check_json(&["--for", "2s"]));
    while !looking.is_finished() {
        drop((queue.listener.accept(), tcp.accept()));
        thread::sleep(Duration::from_millis(100));
    }
    let found = looking.join().unwrap();
    assert!(!kinds(&found).contains(&"not_moving"), "{found:#}");
}

#[test]
fn tcp_overflows_are_critical_while_they_happen_and_history_afterwards() {
    let _namespace = Namespace::enter();
    let full = Listener::tcp("127.0.0.1:8000", 0);
    let client = connect_tcp("127.0.0.1:8000");
    let looking = thread::spawn(|| {
        let arguments = ["--for", "3s", "--format", "json"];
        command(&arguments).output().unwrap()
    });
    thread::sleep(Duration::from_millis(1500));
    knock_tcp("127.0.0.1:8000");
    let found: Value = serde_json::from_slice(&looking.join().unwrap().stdout).unwrap();
    assert_eq!(found["exit_code"], 3);
    assert_eq!(
        evidence(&found, "overflowing"),
        "a full TCP queue dropped 1 connection attempt during the check (ListenOverflows)"
    );
    drop((full, client));
    let _tcp = Listener::tcp("127.0.0.1:8001", 5);
    let found = check_json(&["--for", SHORT]);
    assert_eq!(
        (kinds(&found), &found["exit_code"]),
        (vec!["history"], &json!(0))
    );
    let said = evidence(&found, "history");
    assert!(
        said.contains(": 1 TCP overflow, 0 SYN cookies and 0 SYNs dropped"),
        "{said}"
    );
}

#[test]
fn too_few_open_files_are_refused_with_the_number_that_is_needed_and_with_that_it_finds_owners() {
    let _namespace = Namespace::enter();
    let _queue = queue(5, 0);
    let _tcp = Listener::tcp("127.0.0.1:8000", 5);
    let mut sleep = program::command("sleep");
    sleep.arg("60");
    let _others: Vec<_> = (0..30).map(|_| Process::start(&mut sleep)).collect();
    let arguments = ["check", "--for", SHORT, "--format", "json"];
    for limit in [8, 12, 16, 23] {
        let output = with_open_files(limit, &arguments).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!(
                "error: the limit of open files is {limit}, but the exporter requires at least 24: raise it (ulimit -n, LimitNOFILE=)\n"
            )
        );
    }
    let output = with_open_files(24, &arguments).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((kinds(&found), &found["exit_code"]), (vec![], &json!(0)));
    let owner = &found["owners"]["tcp:127.0.0.1:8000"];
    assert_eq!(owner["pid"], std::process::id(), "{found:#}");
}

#[test]
fn what_it_cannot_check_has_a_reason_and_exit_code_4() {
    let _namespace = Namespace::enter();
    let (code, text) = check(&["--for", SHORT]);
    assert_eq!(code, 4);
    assert!(
        text.contains("No socket is listening in this network namespace."),
        "{text}"
    );
    let _queue = queue(128, 0);
    let found = check_json(&["--for", SHORT, "--path.procfs", "/nothing/here"]);
    assert_eq!(found["exit_code"], 4);
    assert!(kinds(&found).contains(&"source_failed"), "{found:#}");
    assert!(evidence(&found, "source_failed").contains("/nothing/here"));
}

#[test]
fn a_reader_that_has_enough_changes_nothing() {
    let _namespace = Namespace::enter();
    let _queue = queue(5, 6);
    for format in ["table", "json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(&["--for", SHORT, "--format", format]);
        let output = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn a_short_check_has_ten_samples_though_the_interval_is_long() {
    let _namespace = Namespace::enter();
    let _queue = queue(5, 6);
    let found = check_json(&["--for", SHORT, "--sample.interval", "10s"]);
    let full = found["listeners"][0]["full_seconds"].as_f64().unwrap();
    assert!((0.1..0.5).contains(&full), "{full}");
}

#[test]
fn a_missing_tcp_address_names_the_one_at_which_its_port_is_open() {
    let _namespace = Namespace::enter();
    let _any = Listener::tcp("[::]:8000", 5);
    let _one = Listener::tcp("127.0.0.2:8001", 5);
    for (wanted, found, selects) in [
        ("tcp:127.0.0.1:8000", "tcp:[::]:8000", "tcp::8000"),
        ("tcp:0.0.0.0:8000", "tcp:[::]:8000", "tcp::8000"),
        ("tcp::8001", "tcp:127.0.0.2:8001", "tcp:127.0.0.2:8001"),
    ] {
        let checked = check_json(&["--listener", wanted, "--for", SHORT]);
        assert_eq!(
            checked["diagnoses"][0]["evidence"],
            format!(
                "no socket is listening at this address, but one is listening at {found}, which --listener {selects} selects"
            )
        );
        let checked = check_json(&["--listener", selects, "--for", SHORT]);
        assert_eq!(checked["listeners"][0]["state"], "up", "{selects}");
    }
}

#[test]
fn its_json_has_the_documented_shape() {
    let _namespace = Namespace::enter();
    let _queue = Listener::abstract_unix(b"name", 5);
    let _tcp = Listener::tcp("127.0.0.1:8000", 7);
    let arguments = [
        "--listener",
        "g=unix:@name,backlog=9",
        "--listener",
        "tcp::1",
        "--listener",
        "tcp:127.0.0.1:8000",
    ];
    let mut found = check_json(&[&arguments[..], &["--for", SHORT]].concat());
    for owner in ["g", "tcp:127.0.0.1:8000"] {
        assert!(found["owners"][owner]["pid"].is_u64());
        found["owners"][owner]["pid"] = json!(1);
        assert!(found["owners"][owner]["name"].is_string());
        found["owners"][owner]["name"] = json!("test");
    }
    let totals =
        json!({"depth_peak": 0, "full_episodes": 0, "full_seconds": 0.0, "replacements": 0});
    let listener = |fields: Value| {
        let mut listener = totals.clone();
        listener
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        listener
    };
    let source = |name: &str| json!({"name": name, "up": true, "errors": 0});
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "somaxconn": 4096,
        "seconds": 0.2,
        "ignored_listeners": 0,
        "excluded_listeners": 0,
        "listeners": [
            listener(json!({
                "name": "g", "family": "unix", "address": "unix:@name", "state": "up", "sockets": 1,
                "depth": 0, "backlog": 5, "capacity": 6, "utilization": 0.0, "full": false, "requested_backlog": 9,
                "limit": "5: lower than the 9 that the application requests; net.core.somaxconn is 4096 now, so listen() was called before it was raised: reload the application",
                "oldest_wait_seconds": 0.0, "abandoned_connections": 0, "blocked_connects": 0,
            })),
            listener(json!({
                "name": "tcp:127.0.0.1:8000", "family": "tcp", "address": "tcp:127.0.0.1:8000", "state": "up", "sockets": 1,
                "depth": 0, "backlog": 7, "capacity": 8, "utilization": 0.0, "full": false,
                "limit": "7: as requested by the application, or net.core.somaxconn at the time of listen(); it is 4096 now",
                "oldest_wait_seconds": 0.0, "abandoned_connections": 0, "drops": 0,
            })),
            {
                "name": "tcp::1", "family": "tcp", "address": "tcp::1", "state": "missing",
                "reason": "no socket is listening at this address",
            },
        ],
        "sources": (["unix_diag", "inet_diag", "netstat", "sysctl"].map(source)),
        "owners": {
            "g": {"name": "test", "pid": 1, "processes": 1},
            "tcp:127.0.0.1:8000": {"name": "test", "pid": 1, "processes": 1},
        },
        "diagnoses": [
            {
                "severity": "blind", "kind": "missing", "listener": "tcp::1", "evidence": "no socket is listening at this address",
                "remedy": "start the application or correct the address",
            },
            {
                "severity": "note", "kind": "opened_before_raise", "listener": "g",
                "evidence": "the limit is 5, although net.core.somaxconn is 4096 and the application requests 9 according to backlog=: the listener was opened before somaxconn was raised",
                "remedy": "reload or restart the application so that it calls listen() again",
            },
        ],
        "exit_code": 4,
    });
    assert_eq!(found, expected, "{found:#}");
}

/// What it shows on a terminal of this width.
fn at_terminal(width: u16, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let size = Winsize {
        ws_row: 50,
        ws_col: width,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).unwrap();
    let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut command = command(arguments);
    command
        .stdout(slave())
        .stderr(slave())
        .env_remove("NO_COLOR");
    command
        .env("TERM", "xterm")
        .envs(environment.iter().copied());
    let mut child = command.spawn().unwrap();
    // Reading does not end while a process holds the other end.
    drop(command);
    drop(terminal.slave);
    let mut shown = Vec::new();
    // A terminal returns EIO if no process is left that can write to it.
    let _ = File::from(terminal.master).read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

#[test]
fn at_a_terminal_it_fits_the_width_and_is_coloured_unless_that_is_not_wanted() {
    let _namespace = Namespace::enter();
    let name = "a-name-that-is-far-too-long-for-a-narrow-terminal".repeat(2);
    let _queue = Listener::abstract_unix(name.as_bytes(), 0);
    let _client = crate::common::socket::connect_abstract(name.as_bytes()).unwrap();
    let _hostile = Listener::abstract_unix(b"\x1b[2J\xff\n", 5);

    let coloured = at_terminal(250, &["--for", SHORT], &[]);
    assert!(coloured.contains("\x1b[1;31mCRITICAL\x1b[0m"), "{coloured}");
    // Its own colours, and nothing of what a name brings.
    assert!(!coloured.contains("\x1b[2J"), "{coloured}");
    assert!(coloured.contains(r"unix:@\x1b[2J\xff\x0a"), "{coloured}");
    let plain = at_terminal(100, &["--for", SHORT], &[("NO_COLOR", "1")]);
    assert!(
        plain.contains("CRITICAL") && !plain.contains('\x1b'),
        "{plain}"
    );
    let lines: Vec<&str> = plain.lines().collect();
    assert!(
        lines.iter().all(|line| line.trim_end().len() <= 100),
        "{plain}"
    );
    assert!(lines.len() > 10, "{plain}");

    let (code, piped) = check(&["--for", SHORT]);
    assert_eq!(code, 3);
    assert!(!piped.contains('\x1b'), "{piped}");
    assert!(piped.lines().any(|line| line.len() > 150), "{piped}");
}

#[test]
fn a_long_check_at_a_terminal_shows_its_progress() {
    let _namespace = Namespace::enter();
    let _queue = queue(128, 0);
    let shown = at_terminal(100, &["--for", "3s"], &[]);
    for second in 0..3 {
        assert!(
            shown.contains(&format!("\rsampling: {second} s of 3 s ")),
            "{shown}"
        );
    }
    let short = at_terminal(100, &["--for", SHORT], &[]);
    assert!(!short.contains("sampling"), "{short}");
    // check() asserts that nothing goes to standard error without a terminal.
    assert_eq!(check(&["--for", "2100ms"]).0, 0);
}

#[test]
fn the_full_sockets_of_a_group_are_counted_and_a_single_one_is_named_with_its_process() {
    let _namespace = Namespace::enter();
    let address = "127.0.0.1:8000";
    let listeners = [0, 1].map(|_| Listener::tcp_with(address, 1, REUSE_PORT));
    let evidence_of = || {
        let found = check_json(&["--listener", "tcp:127.0.0.1:8000", "--for", SHORT]);
        assert_eq!(found["diagnoses"][0]["kind"], "full", "{found:#}");
        evidence(&found, "full").to_owned()
    };
    // The kernel chooses by the client's port.
    let clients: Vec<_> = (0..40).map(|_| connect_tcp(address)).collect();
    let all = evidence_of();
    let said = "all of its 2 sockets are full, and together they hold 4 of 4 connections.";
    assert!(all.starts_with(said), "{all}");
    // No client whose SYN was dropped tries again.
    drop(clients);
    drop(listeners[0].accept());
    let one = evidence_of();
    let held = format!(
        ", held by {} {}) is full, and together they hold 3 of 4 connections.",
        std::fs::read_to_string("/proc/self/comm").unwrap().trim(),
        std::process::id()
    );
    assert!(
        one.starts_with("one of its 2 sockets (inode ") && one.contains(&held),
        "{one}"
    );
}

#[test]
fn a_stuck_member_of_a_group_is_named_with_its_process_and_all_holders_are_counted() {
    let _namespace = Namespace::enter();
    let address = "127.0.0.1:8000";
    let listeners: Vec<Listener> = (0..3)
        .map(|_| Listener::tcp_with(address, 3, REUSE_PORT))
        .collect();
    // The kernel chooses by the client's port: until one socket is full, and the others take from theirs.
    let mut clients = Vec::new();
    wait::until_true("a full socket", || {
        clients.push(connect_tcp(address));
        for listener in &listeners[1..] {
            while listener.accept().is_some() {}
        }
        let found = check_json(&["--listener", "web=tcp:127.0.0.1:8000", "--for", SHORT]);
        found["listeners"][0]["members"]
            .as_array()
            .unwrap()
            .iter()
            .any(|member| member["full"] == true)
    });
    let found = check_json(&["--listener", "web=tcp:127.0.0.1:8000", "--for", SHORT]);
    let members = found["listeners"][0]["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    let depths: Vec<u64> = members
        .iter()
        .map(|member| member["depth"].as_u64().unwrap())
        .collect();
    assert_eq!(
        (depths.iter().sum::<u64>(), depths.iter().max()),
        (4, Some(&4))
    );
    let stuck = found["listeners"][0]["stuck_member"].as_str().unwrap();
    assert!(
        stuck.starts_with("one of its 3 sockets is full (4 connections waiting, inode "),
        "{stuck}"
    );
    let own = std::process::id();
    let diagnosis = &found["diagnoses"][0];
    assert_eq!(diagnosis["kind"], "stuck_member");
    assert!(
        diagnosis["evidence"]
            .as_str()
            .unwrap()
            .contains(&format!(" {own}")),
        "{diagnosis}"
    );
    assert_eq!(found["owners"]["web"]["processes"], 1);
    assert_eq!(found["exit_code"], 3);
}
