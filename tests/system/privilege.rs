//! Everything works for a user who may do nothing, and what a sandbox takes away costs only its own series.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::exporter::{BINARY, Exporter};
use crate::common::exposition::Queue;
use crate::common::namespace::Namespace;
use crate::common::program::{self, directory};
use crate::common::socket::{Listener, Tcp, connect_all, connect_tcp, knock_tcp, label};

#[test]
fn uid_65534_without_capabilities_sees_everything() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let directory = directory();
    let path = directory.path().join("g.sock");
    let _unix = Listener::unix(&path, 4096);
    let _unix_clients = connect_all(&path, 129);
    let options = Tcp {
        dual_stack: true,
        ..Tcp::default()
    };
    let _tcp = Listener::tcp_with("[::]:8000", 5, options);
    let _tcp_clients: Vec<_> = (0..6).map(|_| connect_tcp("127.0.0.1:8000")).collect();
    (0..3).for_each(|_| knock_tcp("127.0.0.1:8000"));
    let unix = label(&path);

    for arguments in [
        &[][..],
        &["--listener", &unix, "--listener", "tcp:[::]:8000"],
    ] {
        let command = Exporter::command_as_nobody(directory.path(), arguments);
        let exporter = Exporter::spawn(command);
        let status = format!("/proc/{}/status", exporter.id());
        let status = std::fs::read_to_string(status).unwrap();
        for line in [
            "Uid:\t65534\t65534\t65534\t65534",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(status.contains(line), "{line} in {status}");
        }
        exporter.shows(&unix);
        let page = exporter.fresh();
        assert_eq!(page.queue(&unix), Queue::of(129, 128));
        assert_eq!(page.queue("tcp:[::]:8000"), Queue::of(6, 5));
        assert_eq!(
            page.of("listen_queue_listener_drops_total", "tcp:[::]:8000"),
            Some(3.0)
        );
        assert_eq!(page.get("listen_queue_somaxconn"), Some(128.0));
        assert_eq!(
            page.get("listen_queue_tcp_listen_overflows_total"),
            Some(3.0)
        );
        for source in ["unix_diag", "inet_diag", "netstat", "sysctl"] {
            let up = page.labelled("listen_queue_source_up", &[("source", source)]);
            assert_eq!(up, Some(1.0), "{source}");
        }
        assert!(page.get("process_resident_memory_bytes") > Some(0.0));
    }
}

#[test]
fn a_read_only_root_is_enough() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let directory = directory();
    let run = directory.path().join("run");
    mounts.tmpfs(&run);
    let path = run.join("g.sock");
    let _listener = Listener::unix(&path, 5);
    let _clients = connect_all(&path, 2);
    let name = label(&path);
    let command = Exporter::command_as_nobody(&run, &["--listener", &name]);
    mounts.read_only_root();
    assert!(std::fs::write(directory.path().join("x"), "").is_err());
    let exporter = Exporter::spawn(command);
    assert_eq!(exporter.fresh().queue(&name), Queue::of(2, 5));
}

#[test]
fn behind_a_directory_that_may_not_be_searched_the_bound_name_still_counts() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let closed = directory.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let bound = closed.join("g.sock");
    let _listener = Listener::unix(&bound, 5);
    let _clients = connect_all(&bound, 2);
    std::os::unix::fs::symlink("g.sock", closed.join("link.sock")).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let command = Exporter::command_as_nobody(
        directory.path(),
        &[
            "--listener",
            &format!("bound={}", label(&bound)),
            "--listener",
            &format!("link={}", label(closed.join("link.sock"))),
        ],
    );
    let exporter = Exporter::spawn(command);
    let page = exporter.fresh();
    assert_eq!(page.queue("bound"), Queue::of(2, 5));
    assert_eq!(page.queue("link"), None);
    assert_eq!(page.of("listen_queue_listener_up", "link"), Some(0.0));
    let directory = closed.display().to_string();
    exporter.logged(&["listener=link", &directory, "may not be searched"]);
}

/// Starts a program under a seccomp filter that refuses netlink sockets with EPERM, as a container's profile may.
const WITHOUT_NETLINK: &str = "
import ctypes, os, platform, struct, sys
socket_call = {'x86_64': 41, 'aarch64': 198}[platform.machine()]
def op(code, jump_true, jump_false, value):
    return struct.pack('HBBI', code, jump_true, jump_false, value)
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
program = b''.join([
    op(LOAD, 0, 0, 0), op(EQUAL, 0, 3, socket_call),
    op(LOAD, 0, 0, 16), op(EQUAL, 0, 1, 16),
    op(RETURN, 0, 0, 0x00050001),
    op(RETURN, 0, 0, 0x7fff0000),
])
instructions = ctypes.create_string_buffer(program)
filter = ctypes.create_string_buffer(struct.pack('HxxxxxxP', 6, ctypes.addressof(instructions)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()
assert libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn without_netlink_the_sources_that_need_it_are_down_and_the_others_go_on() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let _unix = Listener::abstract_unix(b"name", 5);
    let _tcp = Listener::tcp("127.0.0.1:8000", 0);
    let _client = connect_tcp("127.0.0.1:8000");
    knock_tcp("127.0.0.1:8000");
    let names = ["unix:@name", "tcp:127.0.0.1:8000"];
    let mut command = Command::new(program::command("python3").get_program());
    command.args(["-c", WITHOUT_NETLINK, BINARY]);
    command.args(["--web.listen-address", "127.0.0.1:0"]);
    command.args(names.iter().flat_map(|name| ["--listener", name]));
    let exporter = Exporter::spawn(command);
    let page = exporter.fresh();
    for source in ["unix_diag", "inet_diag"] {
        let labels = [("source", source)];
        assert_eq!(page.labelled("listen_queue_source_up", &labels), Some(0.0));
        assert!(page.labelled("listen_queue_source_errors_total", &labels) > Some(0.0));
        exporter.logged(&[
            "source failed",
            source,
            "Operation not permitted",
            "sandbox",
        ]);
    }
    for name in names {
        // It is not known whether they listen.
        assert_eq!(page.queue(name), None);
        assert_eq!(page.of("listen_queue_listener_up", name), None);
    }
    for source in ["netstat", "sysctl"] {
        let up = page.labelled("listen_queue_source_up", &[("source", source)]);
        assert_eq!(up, Some(1.0), "{source}");
    }
    assert_eq!(page.get("listen_queue_somaxconn"), Some(128.0));
    assert_eq!(
        page.get("listen_queue_tcp_listen_overflows_total"),
        Some(1.0)
    );
    let failures = exporter.log().matches("source failed").count();
    assert_eq!(failures, 2, "one line a source:\n{}", exporter.log());
}
