//! The command line: what is wrong is one clear line and an exit code.

use std::process::{Command, Output};

use clap::CommandFactory as _;
use listen_queue_exporter::cli::Flags;

use crate::common::exporter::{BINARY, Exporter};
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, label};

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

/// Runs it, expects this exit code, nothing on standard output, and returns the one line on standard error.
fn refused(code: i32, arguments: &[&str]) -> String {
    refusal(code, Command::new(BINARY).args(arguments))
}

fn refusal(code: i32, command: &mut Command) -> String {
    let output = command.output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {line}");
    assert!(output.stdout.is_empty(), "{command:?}");
    assert_eq!(line.lines().count(), 1, "{command:?}: {line}");
    line
}

#[test]
fn a_bad_flag_is_one_line_that_shows_a_good_one_and_exit_2() {
    for (arguments, parts) in [
        (
            &["--listener", "gunicorn"][..],
            &["gunicorn", "unix:/run/"][..],
        ),
        (
            &["--listener", "unix:g.sock"],
            &["unix:g.sock", "relative", "unix:/run/"],
        ),
        (&["--listener", "tcp:80"], &["tcp:80", "tcp::80"]),
        (
            &["--listener", "tcp:localhost:80"],
            &["not looked up", "tcp:127.0.0.1:80"],
        ),
        (
            &["--listener", "unix:/a,backlog=x"],
            &["backlog", "backlog=2048"],
        ),
        (
            &["--listener", "a=unix:/a", "--listener", "a=unix:/b"],
            &["named 'a'"],
        ),
        (&["--sample.interval", "0"], &["--sample.interval"]),
        (&["--sample.interval", "11s"], &["1ms to 10s"]),
        (&["--discover.exclude", "["], &["--discover.exclude"]),
        (&["--discover.limit", "x"], &["--discover.limit"]),
        (
            &["--web.listen-address", "localhost:1"],
            &["127.0.0.1:10128"],
        ),
        (&["--nonsense"], &["--nonsense"]),
        (&["nonsense"], &["nonsense"]),
    ] {
        let line = refused(2, arguments);
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

#[test]
fn every_flag_can_come_from_the_environment() {
    let _namespace = Namespace::enter();
    let flags = Flags::command();
    for flag in flags.get_arguments().filter_map(clap::Arg::get_long) {
        let variable = flag.to_uppercase().replace(['.', '-'], "_");
        let mut command = Command::new(BINARY);
        // No flag takes this value.
        command.env(format!("LISTEN_QUEUE_EXPORTER_{variable}"), "(");
        // Were the variable not read, it would end all the same, for another reason.
        let (code, other) = match flag {
            "path.procfs" | "web.config.file" => (1, ["--web.listen-address", "192.0.2.1:1"]),
            _ => (2, ["--path.procfs", "/nowhere"]),
        };
        command.args(other);
        let line = refusal(code, &mut command);
        let named = ["' ", "':", " "].map(|end| format!("--{flag}{end}"));
        assert!(named.iter().any(|n| line.contains(n)), "{flag}: {line}");
    }
}

#[cfg(not(feature = "ebpf"))]
#[test]
fn a_build_without_ebpf_says_which_one_has_it() {
    let line = refused(2, &["--ebpf"]);
    for part in ["without eBPF", "FEATURES=ebpf", "--features ebpf"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_port_that_is_taken_is_one_line_and_exit_1() {
    let _namespace = Namespace::enter();
    let _other = Listener::tcp("127.0.0.1:10128", 5);
    let line = refused(1, &["--web.listen-address", "127.0.0.1:10128"]);
    assert!(line.contains("127.0.0.1:10128"), "{line}");
    assert!(line.contains("in use"), "{line}");
    let line = refused(1, &[]);
    assert!(line.contains(":10128"), "{line}");
}

#[test]
fn a_proc_root_that_cannot_be_read_is_one_line_that_names_it_and_exit_1() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().to_str().unwrap();
    let line = refused(1, &["--path.procfs", path]);
    assert!(line.contains(path), "{line}");
    assert!(line.contains("procfs"), "{line}");
}

#[test]
fn proc_may_be_mounted_elsewhere() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let directory = directory();
    let proc = directory.path().join("proc");
    mounts.bind("/proc".as_ref(), &proc);
    let path = directory.path().join("g.sock");
    let _listener = Listener::unix(&path, 5);
    let name = label(&path);
    let exporter = Exporter::start(&["--path.procfs", proc.to_str().unwrap(), "--listener", &name]);
    let page = exporter.fresh();
    assert!(page.queue(&name).is_some());
    assert_eq!(page.get("listen_queue_somaxconn"), Some(4096.0));
    assert!(page.get("process_open_fds") > Some(0.0));
}

#[test]
fn help_and_version_go_to_standard_output_and_exit_0() {
    let help = run(&["--help"]);
    assert!(help.status.success() && help.stderr.is_empty());
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in [
        "--listener",
        "--discover.exclude",
        "--discover.limit",
        "--sample.interval",
        "--sample.peak-window",
        "--web.listen-address",
        "--web.telemetry-path",
        "--path.procfs",
        "--log.level",
        "--log.format",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert_eq!(
        String::from_utf8(version.stdout).unwrap().trim_end(),
        concat!("listen-queue-exporter ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn without_flags_it_serves_on_port_10128_of_both_families() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let mut exporter = Exporter::spawn_elsewhere(
        Command::new(BINARY),
        "[::]:10128",
        "127.0.0.1:10128".parse().unwrap(),
    );
    assert_eq!(exporter.shows("unix:@name").listeners().len(), 1);
    let v6 = crate::common::http::get("[::1]:10128".parse().unwrap(), "/metrics", &[]);
    assert_eq!(v6.status, 200);
    exporter.signal(rustix::process::Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
}

#[test]
fn json_logs_are_one_object_a_line() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let mut command = Command::new(BINARY);
    command.args([
        "--web.listen-address",
        "127.0.0.1:0",
        "--log.format",
        "json",
    ]);
    let mut process =
        crate::common::program::Process::start(command.stderr(std::process::Stdio::piped()));
    let mut log = std::io::BufReader::new(process.stderr().unwrap());
    let mut found = String::new();
    while !found.contains("listener found") {
        found.clear();
        let length = std::io::BufRead::read_line(&mut log, &mut found).unwrap();
        assert!(length > 0, "the log ended");
        let python = crate::common::program::command("python3");
        let mut python = Command::new(python.get_program());
        let check = "import json, sys; assert type(json.loads(sys.argv[1])) is dict";
        crate::common::program::run(python.args(["-c", check, &found]));
    }
    assert!(found.contains("unix:@name"), "{found}");
}
