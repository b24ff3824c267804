//! The command line: what is wrong is one clear line and an exit code.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use clap::CommandFactory as _;
use listen_queue_exporter::REVISION;
use listen_queue_exporter::cli::Flags;

use crate::common::exporter::{BINARY, Exporter};
use crate::common::exposition::Page;
use crate::common::http;
use crate::common::namespace::Namespace;
use crate::common::program::{self, directory};
use crate::common::socket::{Listener, label};
use crate::common::wait;

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
            &["not resolved", "tcp:127.0.0.1:80"],
        ),
        (
            &["--listener", "unix:/a,backlog=x"],
            &["backlog", "backlog=2048"],
        ),
        (
            &["--listener", "a=unix:/a", "--listener", "a=unix:/b"],
            &["the name 'a'"],
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
    // Any path is a good one here; tests/system/node.rs has it from the environment.
    let is_any = |flag: &&str| *flag == "path.pod-logs";
    let flags = flags.get_arguments().filter_map(clap::Arg::get_long);
    for flag in flags.filter(|flag| !is_any(flag)) {
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
    for part in ["not include eBPF", "FEATURES=ebpf", "--features ebpf"] {
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
    // As the exporters of Prometheus print it.
    let version = String::from_utf8(version.stdout).unwrap();
    let (first, rest) = version.split_once('\n').unwrap();
    let expected = concat!("listen-queue-exporter, version ", env!("CARGO_PKG_VERSION"));
    assert_eq!(first, format!("{expected} (revision: {REVISION})"));
    let fields: Vec<_> = rest
        .lines()
        .map(|line| line.split_once(':').unwrap())
        .collect();
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["  features", "  rustc version", "  platform"]);
    assert!(fields[1].1.trim().starts_with("1."), "{version}");
    assert!(fields[2].1.trim().starts_with("linux/"), "{version}");
}

#[test]
fn config_check_reads_flags_and_web_config_and_exits() {
    let directory = directory();
    let file = directory.path().join("web.yml");
    std::fs::write(&file, "http_server_config: {http2: false}\n").unwrap();
    let file = file.to_str().unwrap();
    let good = run(&["--config.check", "--web.config.file", file]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert_eq!(good.stdout, b"the configuration is valid\n");
    assert!(good.stderr.is_empty());
    std::fs::write(file, "basic_auth_users: {admin: plain}\n").unwrap();
    let line = refused(2, &["--config.check", "--web.config.file", file]);
    assert!(
        line.contains("admin") && line.contains("--web.config.file"),
        "{line}"
    );
    let line = refused(2, &["--config.check", "--listener", "tcp:80"]);
    assert!(line.contains("tcp::80"), "{line}");
    let line = refused(2, &["--config.check", "--web.config.file", "/nowhere.yml"]);
    assert!(line.contains("/nowhere.yml"), "{line}");
}

#[test]
fn without_exporter_metrics_the_rest_of_the_page_is_whole() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let names = |arguments: &[&str]| -> BTreeSet<String> {
        let page = Exporter::start(arguments).shows("unix:@name");
        page.series.keys().map(|(name, _)| name.clone()).collect()
    };
    let (whole, less) = (names(&[]), names(&["--web.disable-exporter-metrics"]));
    let omitted: Vec<&str> = whole.difference(&less).map(String::as_str).collect();
    assert_eq!(
        omitted,
        [
            "listen_queue_sample_duration_seconds_bucket",
            "listen_queue_sample_duration_seconds_count",
            "listen_queue_sample_duration_seconds_sum",
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_threads",
            "process_virtual_memory_bytes",
        ]
    );
    assert!(less.is_subset(&whole));
}

#[test]
fn a_hangup_is_logged_and_ends_nothing() {
    let _namespace = Namespace::enter();
    let mut exporter = Exporter::start(&[]);
    for _ in 0..2 {
        exporter.signal(rustix::process::Signal::HUP);
    }
    exporter.logged(&["nothing to reload", "signal=SIGHUP"]);
    exporter.fresh();
    exporter.signal(rustix::process::Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
}

#[test]
fn sockets_of_systemd_that_are_not_there_are_one_line_and_exit_1() {
    let _namespace = Namespace::enter();
    let line = refused(1, &["--web.systemd-socket"]);
    assert!(
        line.contains("LISTEN_FDS") && line.contains(".socket"),
        "{line}"
    );
    // They are another process', and no numbers.
    for (pid, count) in [("1", "1"), ("self", "many"), ("", "")] {
        let mut command = Command::new(BINARY);
        command.env("LISTEN_PID", pid).env("LISTEN_FDS", count);
        let line = refusal(1, command.arg("--web.systemd-socket"));
        assert!(line.contains("LISTEN_FDS"), "{line}");
    }
}

#[test]
fn in_a_terminal_and_without_flags_a_line_says_what_was_found_and_where_the_page_is() {
    let _namespace = Namespace::enter();
    let _listeners = [b"one", b"two"].map(|name| Listener::abstract_unix(name, 5));
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut exporter = program::Process::start(Command::new(BINARY).stderr(terminal.slave));
    let mut terminal = std::io::BufReader::new(std::fs::File::from(terminal.master));
    let mut line = String::new();
    while !line.starts_with("Found") {
        line.clear();
        std::io::BufRead::read_line(&mut terminal, &mut line).unwrap();
    }
    assert_eq!(
        line.trim_end(),
        "Found 2 listeners (unix:@one, unix:@two). Live page: http://localhost:10128/"
    );
    exporter.signal(rustix::process::Signal::TERM);
    wait::until("the exporter to end", || exporter.ended());
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

/// The exporter with this limit of open files.
pub(crate) fn with_open_files(limit: u32, arguments: &[&str]) -> Command {
    with_sockets_and_open_files(0, limit, arguments)
}

/// The exporter with this many sockets as from systemd, a file that was not announced if there are any, and this limit of open files.
fn with_sockets_and_open_files(sockets: u32, limit: u32, arguments: &[&str]) -> Command {
    let mut command = program::command("python3");
    command.args([
        "-c",
        START,
        &sockets.to_string(),
        &limit.to_string(),
        BINARY,
    ]);
    command.args(arguments);
    command
}

/// Without what cargo and its callers have open.
const START: &str = r#"
import os, resource, socket, sys
count, limit = int(sys.argv[1]), int(sys.argv[2])
os.closerange(3, 1024)
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
for one in sockets:
    one.set_inheritable(True)
if count:
    os.set_inheritable(os.open("/dev/null", os.O_RDONLY), True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
os.execv(sys.argv[3], sys.argv[3:])
"#;

#[test]
fn too_few_open_files_are_refused_with_the_number_that_is_needed_and_with_that_it_serves() {
    let _namespace = Namespace::enter();
    for limit in [8, 12, 16, 31] {
        let line = refusal(
            1,
            &mut with_open_files(limit, &["--web.listen-address", "127.0.0.1:0"]),
        );
        assert!(
            line.contains(&format!(
                "is {limit}, but the exporter requires at least 32"
            )),
            "{line}"
        );
    }
    let _listener = Listener::abstract_unix(b"app", 5);
    let syslog = directory();
    let syslog = label(syslog.path().join("log.sock"));
    let command = with_open_files(
        32,
        &[
            "--web.listen-address",
            "127.0.0.1:0",
            "--nginx.syslog",
            &syslog,
        ],
    );
    let exporter = Exporter::spawn(command);
    let idle: Vec<_> = (0..100)
        .map(|_| http::connect(exporter.address()))
        .collect();
    for _ in 0..5 {
        assert!(exporter.fresh().queue("unix:@app").is_some());
    }
    drop(idle);
    let log = exporter.log();
    assert!(!log.contains("cannot accept"), "{log}");
}

#[test]
fn further_addresses_and_inherited_descriptors_count_among_the_open_files_that_are_needed() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"app", 5);
    let three_addresses = ["--web.listen-address=127.0.0.1:0"; 3];
    let of_addresses = |limit| with_open_files(limit, &three_addresses);
    let of_systemd = |limit| with_sockets_and_open_files(3, limit, &["--web.systemd-socket"]);
    let cases: [(u32, &dyn Fn(u32) -> Command); 2] = [(34, &of_addresses), (35, &of_systemd)];
    for (needed, command) in cases {
        let line = refusal(1, &mut command(needed - 1));
        let said = format!(
            "is {}, but the exporter requires at least {needed}:",
            needed - 1
        );
        assert!(line.contains(&said), "{line}");
        let exporter = Exporter::spawn(command(needed));
        let idle: Vec<_> = (0..100)
            .map(|_| http::connect(exporter.address()))
            .collect();
        assert!(exporter.fresh().queue("unix:@app").is_some());
        drop(idle);
        let log = exporter.log();
        assert!(!log.contains("cannot") && !log.contains("failed"), "{log}");
    }
}

#[test]
fn to_run_out_of_open_files_is_logged_once_and_the_rounds_go_on() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"app", 5);
    let exporter = Exporter::start(&[]);
    exporter.shows("unix:@app");
    let limit = |files: usize| {
        let mut prlimit = program::command("prlimit");
        let id = exporter.id().to_string();
        program::run(prlimit.args(["--pid", &id, &format!("--nofile={files}:1024")]));
    };
    let rounds = |page: &Page| page.get("listen_queue_samples_total").unwrap();
    let before = rounds(&exporter.scrape());
    let files = std::fs::read_dir(format!("/proc/{}/fd", exporter.id()))
        .unwrap()
        .count();
    limit(files.min(8));
    let waiting: Vec<_> = (0..3).map(|_| http::connect(exporter.address())).collect();
    exporter.logged(&["cannot accept connections", "LimitNOFILE"]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(
        exporter.log().matches("cannot accept").count(),
        1,
        "logged once"
    );
    limit(1024);
    exporter.logged(&["connections are accepted again"]);
    drop(waiting);
    let page = exporter.scrape();
    // A second was waited for; the clock of the rounds is their own.
    assert!(
        rounds(&page) > before + 50.0,
        "{} after {before}",
        rounds(&page)
    );
    assert!(page.queue("unix:@app").is_some());
}

#[test]
fn a_variable_that_belongs_to_no_flag_is_named_in_the_log_by_check_and_by_config_check() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let misspelled = "LISTEN_QUEUE_EXPORTER_LISTENERS";
    for arguments in [&["--config.check"][..], &["check", "--for", "100ms"]] {
        let mut command = Command::new(BINARY);
        let output = command.args(arguments).env(misspelled, "secret").output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let line = String::from_utf8(output.stderr).unwrap();
        let expected = format!("warning: {misspelled}: this environment variable");
        assert!(line.starts_with(&expected), "{line}");
        assert!(!line.contains("secret"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
    let mut command = Exporter::command(&[]);
    command.env(misspelled, "secret");
    let exporter = Exporter::spawn(command);
    let line = exporter.logged(&[misspelled, "level=warn", "belongs to no flag"]);
    assert!(!line.contains("secret"), "{line}");
}
