//! If `sock_diag` is denied, the tables of `/proc/net` provide a part of the figures, and the others are absent.

use rustix::io::Errno;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::namespace::Namespace;
use crate::common::sandbox::{self, Refused};
use crate::common::socket::{Listener, connect_abstract, connect_tcp, knock_tcp};

const SERVE: [&str; 2] = ["--web.listen-address", "127.0.0.1:0"];

fn connect(name: &[u8], count: usize) -> Vec<impl Sized> {
    let connect = |_| connect_abstract(name).unwrap();
    (0..count).map(connect).collect()
}

fn limit_is(page: &Page, listener: &str, address: &str, limit: &str) -> bool {
    let (family, _) = address.split_once(':').unwrap();
    let labels = [
        ("listener", listener),
        ("family", family),
        ("address", address),
        ("limit", limit),
    ];
    page.labelled("listen_queue_listener_info", &labels) == Some(1.0)
}

fn up(page: &Page, source: &str) -> Option<f64> {
    page.labelled("listen_queue_source_up", &[("source", source)])
}

/// The tables work in the place of `sock_diag`, and what does not need it works anyway.
fn assert_sources(page: &Page) {
    for (source, is_up) in [
        ("unix_diag", 0.0),
        ("inet_diag", 0.0),
        ("proc_net_unix", 1.0),
        ("proc_net_tcp", 1.0),
        ("netstat", 1.0),
        ("sysctl", 1.0),
    ] {
        assert_eq!(up(page, source), Some(is_up), "{source}");
    }
    assert_eq!(page.get("listen_queue_somaxconn"), Some(128.0));
}

#[test]
fn whatever_refuses_sock_diag_full_queues_are_seen_and_what_is_not_known_is_absent() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let _full = Listener::abstract_unix(b"full", 5);
    let mut full_clients = connect(b"full", 6);
    assert_eq!(connect_abstract(b"full").unwrap_err(), Errno::AGAIN);
    full_clients.truncate(4);
    let _cut = Listener::abstract_unix(b"cut", 4096);
    let _cut_clients = connect(b"cut", 3);
    let _other = Listener::abstract_unix(b"other", 5);
    let _other_clients = connect(b"other", 3);
    let _tcp = Listener::tcp("127.0.0.1:8000", 5);
    let _tcp6 = Listener::tcp("[::1]:8001", 5);
    let _tcp_clients: Vec<_> = (0..6).map(|_| connect_tcp("127.0.0.1:8000")).collect();
    let _tcp6_client = connect_tcp("[::1]:8001");
    knock_tcp("127.0.0.1:8000");
    let listeners = [
        "full=unix:@full,backlog=5",
        "cut=unix:@cut,backlog=4096",
        "other=unix:@other",
        "tcp=tcp:127.0.0.1:8000,backlog=5",
        "tcp6=tcp:[::1]:8001",
    ];
    let listeners = listeners
        .iter()
        .flat_map(|listener| ["--listener", listener]);
    let arguments: Vec<&str> = SERVE.into_iter().chain(listeners).collect();

    for (refused, errno) in [
        (Refused::Socket, Errno::PERM),
        (Refused::Socket, Errno::NOSYS),
        (Refused::Socket, Errno::ACCESS),
        (Refused::Socket, Errno::AFNOSUPPORT),
        (Refused::Send, Errno::ACCESS),
    ] {
        let exporter = Exporter::spawn(sandbox::exporter(refused, errno, &arguments));
        let page = exporter.when("time full", |page| {
            let full = |name| page.of("listen_queue_full_seconds_total", name);
            full("full") >= Some(0.1) && full("tcp") >= Some(0.1)
        });
        assert_eq!(page.queue("full"), Queue::of(6, 5), "{errno:?}");
        assert_eq!(page.queue("cut"), Queue::of(3, 128));
        assert_eq!(page.queue("tcp"), Queue::of(6, 5));
        assert_eq!(
            page.of("listen_queue_full_episodes_total", "full"),
            Some(1.0)
        );
        assert_eq!(page.of("listen_queue_depth_peak", "full"), Some(6.0));
        assert_eq!(
            page.of("listen_queue_abandoned_connections", "full"),
            Some(2.0)
        );
        assert_eq!(page.of("listen_queue_blocked_connects", "full"), Some(0.0));
        for (name, depth) in [("other", 3.0), ("tcp6", 1.0)] {
            assert_eq!(page.of("listen_queue_listener_up", name), Some(1.0));
            assert_eq!(page.of("listen_queue_depth", name), Some(depth));
            for figure in [
                "backlog",
                "capacity",
                "full_seconds_total",
                "full_episodes_total",
            ] {
                assert_eq!(page.of(&format!("listen_queue_{figure}"), name), None);
            }
            assert_eq!(page.of("listen_queue_utilization_ratio_count", name), None);
        }
        for (figure, name) in [
            ("oldest_wait_seconds", "full"),
            ("wait_seconds_count", "full"),
            ("unanchored_rounds_total", "full"),
            ("listener_drops_total", "tcp"),
            ("syn_queue_depth", "tcp"),
            ("oldest_wait_seconds", "tcp"),
            ("abandoned_connections", "tcp"),
        ] {
            assert_eq!(
                page.of(&format!("listen_queue_{figure}"), name),
                None,
                "{figure}"
            );
        }
        assert!(limit_is(&page, "full", "unix:@full", "told"));
        assert!(limit_is(&page, "other", "unix:@other", "unknown"));
        assert!(limit_is(&page, "tcp", "tcp:127.0.0.1:8000", "told"));
        assert!(limit_is(&page, "tcp6", "tcp:[::1]:8001", "unknown"));
        assert_sources(&page);
        for source in ["unix_diag", "inet_diag"] {
            let line = exporter.logged(&["source failed", source, "backlog=", "/proc/net/"]);
            let remedy = match errno {
                Errno::ACCESS => "virt_sandbox_use_netlink",
                _ => "AF_NETLINK",
            };
            assert!(line.contains(remedy), "{line}");
        }
        let failures = exporter.log().matches("source failed").count();
        assert_eq!(failures, 2, "one line a source:\n{}", exporter.log());
    }
}

#[test]
fn without_sock_diag_check_the_page_and_the_probe_use_somaxconn_as_a_bound() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(4);
    let _listener = Listener::abstract_unix(b"name", 4);
    let _clients = connect(b"name", 5);
    let mut check = sandbox::exporter(
        Refused::Socket,
        Errno::PERM,
        &["check", "--for", "300ms", "--listener", "unix:@name"],
    );
    let output = check.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    for part in [
        "<= 5",
        "5 connections waited at the peak. The limit is unknown, and the capacity is at most 5",
        "allow AF_NETLINK",
        "WARNING",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }

    let arguments = [&SERVE[..], &["--listener", "unix:@name"]].concat();
    let exporter = Exporter::spawn(sandbox::exporter(Refused::Socket, Errno::PERM, &arguments));
    exporter.when("the depth", |page| {
        page.of("listen_queue_depth", "unix:@name") == Some(5.0)
    });
    let page = exporter.get("/").text().to_owned();
    assert!(page.contains("limit unknown (at most 4)"), "{page}");
    let json: serde_json::Value =
        serde_json::from_str(exporter.get("/api/v1/listeners").text()).unwrap();
    let listener = &json["listeners"][0];
    assert_eq!(
        (&listener["depth"], &listener["capacity_at_most"]),
        (&5.into(), &5.into())
    );
    for unknown in ["capacity", "full", "full_seconds"] {
        assert_eq!(listener.get(unknown), None, "{unknown}");
    }
    let saturated = "/-/saturated?listener=unix:@name&above=0.9&for=250ms";
    crate::common::wait::until_true("saturation", || exporter.get(saturated).status == 503);
    let answer = exporter.get(saturated).text().to_owned();
    assert!(
        answer.contains("above 0.9 of 5 (the highest capacity that the unknown limit allows) for")
    );
}

#[test]
fn discovery_without_sock_diag_finds_listeners_by_name_and_lets_them_go() {
    let _namespace = Namespace::enter();
    let listener = Listener::abstract_unix(b"name", 5);
    let _clients = connect(b"name", 2);
    let tcp = Listener::tcp("127.0.0.1:8000", 5);
    let exporter = Exporter::spawn(sandbox::exporter(Refused::Socket, Errno::PERM, &SERVE));
    exporter.when("both", |page| {
        page.of("listen_queue_depth", "unix:@name") == Some(2.0)
            && page.of("listen_queue_depth", "tcp:127.0.0.1:8000") == Some(0.0)
    });
    drop((listener, tcp));
    exporter.when("neither", |page| {
        page.of("listen_queue_listener_up", "unix:@name").is_none()
            && page
                .of("listen_queue_listener_up", "tcp:127.0.0.1:8000")
                .is_none()
    });
}
