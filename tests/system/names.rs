//! Any byte can be in a socket's name; the page stays valid and no two names become one.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use crate::common::exporter::Exporter;
use crate::common::exposition::Queue;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::socket::{Listener, connect, connect_abstract};
use crate::common::wait;

/// `promtool check metrics` on the page as it was served.
fn check_with_promtool(page: &str) {
    let mut command = program::command("promtool");
    command.args(["check", "metrics"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut promtool = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}{}\n{page}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn paths_of_any_bytes_are_distinguished_and_leave_the_page_valid() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let names: [(&[u8], &str); 12] = [
        (b"plain", "plain"),
        (b"two words", "two words"),
        (b"new\nline", r"new\x0aline"),
        (br"new\x0aline", r"new\x5cx0aline"),
        (b"quo\"te", "quo\"te"),
        (b"back\\slash", r"back\x5cslash"),
        (b"not\xffutf8", r"not\xffutf8"),
        (br"not\xffutf8", r"not\x5cxffutf8"),
        (b"cut\xe2\x82", r"cut\xe2\x82"),
        ("umlaut ä".as_bytes(), "umlaut ä"),
        (b"{a=\"b\"} 1", "{a=\"b\"} 1"),
        (b"tab\t\x7f", r"tab\x09\x7f"),
    ];
    let mut sockets = Vec::new();
    for (index, (name, _)) in names.iter().enumerate() {
        let path = directory.path().join(OsStr::from_bytes(name));
        let backlog = i32::try_from(index).unwrap();
        let listener = Listener::unix(&path, backlog);
        sockets.push((listener, connect(&path).unwrap()));
    }
    let exporter = Exporter::start(&[]);
    let label = |printed: &str| format!("unix:{}/{printed}", directory.path().display());
    exporter.shows(&label("plain"));
    let page = exporter.fresh();
    let expected = names.map(|(_, printed)| label(printed));
    let expected = expected.iter().map(String::as_str).collect();
    assert_eq!(page.listeners(), expected);
    for (backlog, (_, printed)) in (0..).zip(names) {
        assert_eq!(
            page.queue(&label(printed)),
            Queue::of(1, backlog),
            "{printed}"
        );
    }
    check_with_promtool(&exporter.scrape_text());

    // Each label can be typed, and means the same socket.
    let arguments = names.map(|(_, printed)| label(printed));
    let arguments: Vec<_> = arguments
        .iter()
        .flat_map(|label| ["--listener", label])
        .collect();
    let configured = Exporter::start(&arguments);
    let page = configured.fresh();
    for (backlog, (_, printed)) in (0..).zip(names) {
        assert_eq!(
            page.queue(&label(printed)),
            Queue::of(1, backlog),
            "{printed}"
        );
    }
    check_with_promtool(&configured.scrape_text());
}

#[test]
fn abstract_names_with_nul_bytes_are_distinguished() {
    let _namespace = Namespace::enter();
    let longest = [b'x'; 107];
    let names: [(&[u8], String); 7] = [
        (b"abs", "unix:@abs".into()),
        (b"abs\0", r"unix:@abs\x00".into()),
        (b"abs\0\0", r"unix:@abs\x00\x00".into()),
        (b"\0abs", r"unix:@\x00abs".into()),
        (b"@abs", "unix:@@abs".into()),
        (b"a\n\xff\"", "unix:@a\\x0a\\xff\"".into()),
        (&longest, format!("unix:@{}", "x".repeat(107))),
    ];
    let mut sockets = Vec::new();
    for (backlog, (name, _)) in (0..).zip(&names) {
        sockets.push((
            Listener::abstract_unix(name, backlog),
            connect_abstract(name).unwrap(),
        ));
    }
    // The other exporter has a port of its own.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    let arguments: Vec<_> = names
        .iter()
        .flat_map(|(_, label)| ["--listener", label])
        .collect();
    let configured = Exporter::start(&arguments);
    for exporter in [discovering, configured] {
        exporter.shows("unix:@abs");
        let page = exporter.fresh();
        assert_eq!(page.listeners().len(), names.len());
        for (backlog, (_, label)) in (0..).zip(&names) {
            assert_eq!(page.queue(label), Queue::of(1, backlog), "{label}");
        }
        check_with_promtool(&exporter.scrape_text());
    }
}

/// Binds a path of 108 bytes, which leaves no room for the NUL that most programs think there must be.
const BIND_108: &str = "
import ctypes, signal, socket, struct, sys
path = sys.argv[1].encode()
assert len(path) == 108
address = struct.pack('H', socket.AF_UNIX) + path
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.socket(socket.AF_UNIX)
clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
assert libc.bind(listener.fileno(), address, len(address)) == 0, ctypes.get_errno()
listener.listen(5)
for client in clients:
    assert libc.connect(client.fileno(), address, len(address)) == 0, ctypes.get_errno()
open(sys.argv[2], 'w').close()
signal.pause()
";

#[test]
fn a_path_of_108_bytes_keeps_its_last_byte() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let prefix = format!("{}/", directory.path().display());
    let path = format!("{prefix}{:z<1$}", "", 108 - prefix.len());
    let ready = directory.path().join("ready");
    let mut python = Command::new(program::command("python3").get_program());
    let _server = Process::start(python.args(["-c", BIND_108, &path]).arg(&ready));
    wait::until_true("the server", || ready.exists());
    let label = format!("unix:{path}");
    // The other exporter has a port of its own.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    let configured = Exporter::start(&["--listener", &label]);
    for exporter in [discovering, configured] {
        let page = exporter.shows(&label);
        assert_eq!(page.queue(&label), Queue::of(2, 5));
        assert_eq!(page.listeners().len(), 1);
        check_with_promtool(&exporter.scrape_text());
    }
}

#[test]
fn a_page_of_every_kind_of_listener_pleases_promtool() {
    let _namespace = Namespace::enter();
    let _abstract = Listener::abstract_unix(b"name", 5);
    let _v4 = Listener::tcp("127.0.0.1:8000", 5);
    let _v6 = Listener::tcp("[::1]:8000", 5);
    let exporter = Exporter::start(&[
        "--listener",
        "quo\"te=unix:@name,backlog=5",
        "--listener",
        "tcp:127.0.0.1:8000",
        "--listener",
        r"back\slash=tcp:[::1]:8000",
        "--listener",
        "tcp::9",
    ]);
    let page = exporter.fresh();
    for name in ["quo\"te", "tcp:127.0.0.1:8000", r"back\slash"] {
        assert_eq!(page.queue(name), Queue::of(0, 5));
    }
    assert_eq!(page.queue("tcp::9"), None);
    check_with_promtool(&exporter.scrape_text());
}
