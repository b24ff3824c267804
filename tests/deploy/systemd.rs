//! The unit for systemd: sound, tightly shut, and open enough for what the exporter does.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::exporter::{BINARY, Exporter};
use crate::common::http;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::socket::{Listener, connect_abstract, connect_all, label};
use crate::common::wait;
use crate::files::{ROOT, container_tool, read};
use listen_queue_exporter::cli::{ENVIRONMENT_PREFIX, PORT};

const UNIT: &str = "deploy/systemd/listen-queue-exporter.service";
const DROP_IN: &str = "deploy/systemd/node.conf";
const ENVIRONMENT: &str = "deploy/systemd/listen-queue-exporter.env";
const INSTALLED: &str = "/usr/local/bin/listen-queue-exporter";
/// Of systemd-analyze security, in tenths.
const MOST_EXPOSURE: &str = "20";

#[test]
fn systemd_accepts_the_unit() {
    let unit = read(UNIT);
    assert!(unit.contains(&format!("ExecStart={INSTALLED}\n")));
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("listen-queue-exporter.service");
    fs::write(&copy, unit.replace(INSTALLED, BINARY)).unwrap();
    let mut verify = container_tool("systemd-analyze");
    let output = verify.arg("verify").arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn systemd_accepts_the_drop_in_for_hosts_with_containers_and_it_allows_what_is_needed() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("listen-queue-exporter.service");
    fs::write(&copy, read(UNIT).replace(INSTALLED, BINARY)).unwrap();
    let drop_ins = directory.path().join("listen-queue-exporter.service.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(drop_ins.join("node.conf"), read(DROP_IN)).unwrap();
    let mut verify = container_tool("systemd-analyze");
    let output = verify.arg("verify").arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(allowed_calls().contains("setns"));
    let lines = read(DROP_IN);
    let flags = lines
        .lines()
        .filter_map(|line| line.strip_prefix("Environment="));
    let flags: Vec<_> = flags.filter_map(|flag| flag.split_once('=')).collect();
    assert_eq!(flags, [("LISTEN_QUEUE_EXPORTER_NODE", "true")]);
}

/// Starts the exporter at the first connection to an address, as a `.socket` unit does.
fn activate(arguments: &[&str]) -> Process {
    let mut activate = container_tool("systemd-socket-activate");
    activate
        .args(arguments)
        .args([BINARY, "--web.systemd-socket"]);
    Process::start(activate.stderr(Stdio::piped()))
}

#[test]
fn it_serves_on_the_sockets_that_systemd_passes() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"app", 5);
    let addresses = ["127.0.0.1:9001", "127.0.0.1:9002"];
    let _exporter = activate(&["--listen", addresses[0], "--listen", addresses[1]]);
    for address in addresses {
        wait::until_true("systemd", || TcpStream::connect(address).is_ok());
        let page = wait::until("a sample", || {
            let answer = http::get(address.parse().unwrap(), "/metrics", &[]);
            let text = answer.text().to_owned();
            text.contains("unix:@app").then_some(text)
        });
        // Its own sockets are none of what it watches.
        for own in addresses {
            assert!(!page.contains(own), "{page}");
        }
    }
}

#[test]
fn a_socket_of_systemd_that_takes_no_tcp_connections_is_refused_with_what_to_do() {
    let _namespace = Namespace::enter();
    for arguments in [
        &["--datagram", "--listen", "127.0.0.1:9003"][..],
        &["--listen", "@stream"],
    ] {
        let mut exporter = activate(arguments);
        let mut log = BufReader::new(exporter.stderr().unwrap())
            .lines()
            .map(Result::unwrap);
        assert!(log.any(|line| line.starts_with("Listening on")));
        if arguments.len() == 3 {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", "127.0.0.1:9003").unwrap();
        } else {
            connect_abstract(b"stream").unwrap();
        }
        let refusal = "socket 1 of those that systemd passed is not a listening TCP socket";
        assert!(log.any(|line| line.contains(refusal) && line.contains("ListenStream=")));
        let ended = wait::until("the exporter to end", || exporter.ended());
        assert_eq!(ended.code(), Some(1));
    }
}

#[test]
fn its_exposure_is_below_2() {
    let mut security = container_tool("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]);
    security.arg(format!("--threshold={MOST_EXPOSURE}"));
    println!("{}", program::run(security.arg(UNIT).current_dir(ROOT)));
}

#[test]
fn every_system_call_and_address_family_that_the_exporter_uses_is_allowed() {
    let allowed = allowed_calls();
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let _listener = Listener::unix(&path, 5);
    let _clients = connect_all(&path, 2);
    let trace = directory.path().join("trace");
    let mut command = container_tool("strace");
    // Behind the exporter, which is the process that was started.
    command
        .args(["--daemonize", "--follow-forks", "--output"])
        .arg(&trace);
    command.args([BINARY, "--web.listen-address", "127.0.0.1:0"]);
    let syslog = label(directory.path().join("log.sock"));
    command.args(["--listener", &label(&path), "--nginx.syslog", &syslog]);
    let mut exporter = Exporter::spawn(command);
    exporter.shows(&label(&path));
    exporter.signal(rustix::process::Signal::TERM);
    exporter.wait();
    let trace = wait::until("the end of the trace", || {
        let trace = fs::read_to_string(&trace).unwrap();
        trace.contains("+++ exited with 0 +++").then_some(trace)
    });
    let calls: BTreeSet<&str> = trace
        .lines()
        .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('))
        .map(|(call, _)| call)
        .filter(|call| {
            call.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        })
        .collect();
    assert!(
        calls.contains("socket") && calls.contains("accept4"),
        "{calls:?}"
    );
    let refused: Vec<_> = calls.iter().filter(|c| !allowed.contains(**c)).collect();
    assert!(refused.is_empty(), "{refused:?}");

    let families: BTreeSet<&str> = trace
        .lines()
        .filter_map(|line| line.split_once(" socket(")?.1.split(',').next())
        .collect();
    let unit = read(UNIT);
    let listed = unit
        .lines()
        .find_map(|line| line.strip_prefix("RestrictAddressFamilies="))
        .unwrap();
    let listed: BTreeSet<&str> = listed.split(' ').collect();
    assert!(families.contains("AF_NETLINK"), "{families:?}");
    assert!(families.is_subset(&listed), "{families:?} in {listed:?}");
}

/// What the unit's SystemCallFilter lines come to, and what systemd always allows.
fn allowed_calls() -> BTreeSet<String> {
    let unit = read(UNIT);
    let filters: Vec<_> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        .collect();
    assert_eq!(filters, ["@system-service", "~@privileged @resources"]);
    let mut allowed = calls_of("@system-service");
    for set in ["@privileged", "@resources"] {
        let refused = calls_of(set);
        allowed.retain(|call| !refused.contains(call));
    }
    allowed.extend(calls_of("@default"));
    // systemd itself executes the program.
    allowed.insert("execve".to_owned());
    allowed
}

fn calls_of(set: &str) -> BTreeSet<String> {
    let mut analyze = container_tool("systemd-analyze");
    let printed = program::run(analyze.args(["syscall-filter", "--no-pager", set]));
    let mut calls = BTreeSet::new();
    for line in printed.lines().skip(1).map(str::trim) {
        if line.starts_with('@') {
            calls.extend(calls_of(line));
        } else if !line.is_empty() && !line.starts_with('#') {
            calls.insert(line.to_owned());
        }
    }
    calls
}

#[test]
fn the_environment_file_is_understood_as_it_is_and_with_every_line_in_force() {
    let text = read(ENVIRONMENT);
    let variables: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.strip_prefix('#').unwrap_or(line).split_once('='))
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
        .map(|(name, value)| {
            (
                name,
                value.strip_prefix('"').unwrap().strip_suffix('"').unwrap(),
            )
        })
        .collect();
    assert_eq!(variables.len(), 4);
    let namespace = Namespace::enter();
    // What the unit's RuntimeDirectory= makes.
    let mut mounts = namespace.own_mounts();
    mounts.tmpfs(Path::new("/run"));
    std::fs::create_dir("/run/listen-queue").unwrap();
    let mut command = Command::new(BINARY);
    command.envs(variables);
    let exporter = Exporter::spawn(command);
    assert_eq!(exporter.address().to_string(), format!("127.0.0.1:{PORT}"));
    let page = exporter.scrape();
    assert_eq!(page.listeners(), BTreeSet::from(["gunicorn", "nginx"]));
    assert_eq!(
        page.of("listen_queue_requested_backlog", "nginx"),
        Some(511.0)
    );
    assert!(Path::new("/run/listen-queue/nginx-log.socket").exists());
    let unit = read(UNIT);
    assert!(unit.contains("\nRuntimeDirectory=listen-queue\n"));
    assert!(unit.contains("EnvironmentFile=-/etc/default/listen-queue-exporter\n"));
    assert!(text.starts_with("# /etc/default/listen-queue-exporter: "));
}
