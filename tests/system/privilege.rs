//! Everything works for a user who may do nothing, and what a sandbox takes away costs only its own series.

use std::os::unix::fs::PermissionsExt;

use crate::common::exporter::Exporter;
use crate::common::exposition::Queue;
use crate::common::namespace::Namespace;
use crate::common::program::directory;
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
    exporter.logged(&["listener=link", "may not search", &directory]);
}
