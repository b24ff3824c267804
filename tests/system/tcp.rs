//! Queues of TCP listeners, and the namespace's own figures.

use std::collections::BTreeMap;

use crate::common::exporter::Exporter;
use crate::common::exposition::Queue;
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, Tcp, connect_tcp, knock_tcp};

const DROPS: &str = "listen_queue_listener_drops_total";

#[test]
fn six_clients_fill_a_backlog_of_five_and_each_further_one_is_a_drop() {
    let _namespace = Namespace::enter();
    let address = "127.0.0.1:8000";
    let listener = Listener::tcp(address, 5);
    let exporter = Exporter::start(&[]);
    let name = "tcp:127.0.0.1:8000";
    assert_eq!(exporter.shows(name).queue(name), Queue::of(0, 5));

    let _clients: Vec<_> = (0..6).map(|_| connect_tcp(address)).collect();
    let full = exporter.fresh();
    assert_eq!(full.queue(name), Queue::of(6, 5));
    assert_eq!(full.of(DROPS, name), Some(0.0));
    assert_eq!(full.of("listen_queue_full_episodes_total", name), Some(1.0));

    (0..7).for_each(|_| knock_tcp(address));
    let page = exporter.fresh();
    assert_eq!(page.queue(name), Queue::of(6, 5));
    assert_eq!(page.of(DROPS, name), Some(7.0));

    let _accepted = listener.accept().unwrap();
    let drained = exporter.fresh();
    assert_eq!(drained.queue(name), Queue::of(5, 5));
    let later = exporter.when("overflows of the namespace", |page| {
        page.get("listen_queue_tcp_listen_overflows_total") == Some(7.0)
    });
    assert_eq!(later.get("listen_queue_tcp_listen_drops_total"), Some(7.0));
    assert_eq!(later.of(DROPS, name), Some(7.0));
    assert_eq!(later.of("listen_queue_depth_peak", name), Some(6.0));
    assert_eq!(
        later.of("listen_queue_full_seconds_total", name),
        drained.of("listen_queue_full_seconds_total", name)
    );
}

#[test]
fn a_backlog_above_somaxconn_is_cut_to_it() {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(128);
    let _listener = Listener::tcp("127.0.0.1:8000", 4096);
    let _clients: Vec<_> = (0..129).map(|_| connect_tcp("127.0.0.1:8000")).collect();
    knock_tcp("127.0.0.1:8000");
    let exporter = Exporter::start(&["--listener", "web=tcp:127.0.0.1:8000,backlog=4096"]);
    let page = exporter.fresh();
    assert_eq!(page.queue("web"), Queue::of(129, 128));
    assert_eq!(page.of(DROPS, "web"), Some(1.0));
    assert_eq!(
        page.of("listen_queue_requested_backlog", "web"),
        Some(4096.0)
    );
}

#[test]
fn a_group_with_one_full_member_is_full_while_the_others_are_idle() {
    let _namespace = Namespace::enter();
    let address = "127.0.0.1:8000";
    let options = Tcp {
        reuse_port: true,
        ..Tcp::default()
    };
    let members: Vec<_> = (0..4)
        .map(|_| Listener::tcp_with(address, 5, options))
        .collect();
    let exporter = Exporter::start(&[]);
    let name = "tcp:127.0.0.1:8000";
    exporter.shows(name);

    // The kernel chooses a member for each client. Three serve theirs at once, the fourth lets them wait.
    let (stuck, others) = members.split_first().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..10_000 {
        let client = connect_tcp(address);
        if others.iter().all(|member| member.accept().is_none()) {
            waiting.push(client);
        }
        if waiting.len() == 6 {
            break;
        }
    }
    assert_eq!(waiting.len(), 6, "clients of the stuck member");
    let page = exporter.fresh();
    assert_eq!(page.queue(name), Queue::of_group(4, 6, 20, 24));
    assert_eq!(page.listeners().len(), 1);
    assert_eq!(page.of("listen_queue_full_episodes_total", name), Some(1.0));
    let ratio = "listen_queue_utilization_ratio";
    assert!(page.bucket(ratio, name, "0.99") < page.bucket(ratio, name, "1"));

    // Clients of the others are served, those of the full member are dropped.
    let before = page.of(DROPS, name).unwrap();
    let mut dropped = 0;
    for _ in 0..200 {
        let client = connect_tcp(address);
        if others.iter().all(|member| member.accept().is_none()) {
            dropped += 1;
        }
        drop(client);
    }
    assert!(dropped > 0, "none of 200 clients came to the full member");
    let page = exporter.fresh();
    assert_eq!(page.of(DROPS, name), Some(before + f64::from(dropped)));
    assert_eq!(page.queue(name), Queue::of_group(4, 6, 20, 24));
    assert_eq!(stuck.accept_all().len(), 6);
    assert_eq!(exporter.fresh().queue(name), Queue::of_group(4, 0, 20, 24));
}

#[test]
fn a_member_that_leaves_takes_no_drops_with_it() {
    let _namespace = Namespace::enter();
    let address = "127.0.0.1:8000";
    let options = Tcp {
        reuse_port: true,
        ..Tcp::default()
    };
    let first = Listener::tcp_with(address, 0, options);
    let second = Listener::tcp_with(address, 0, options);
    let exporter = Exporter::start(&[]);
    let name = "tcp:127.0.0.1:8000";
    exporter.shows(name);
    // Enough for both members: each takes one client, and the rest are dropped.
    let clients: Vec<_> = (0..64).map(|_| connect_tcp(address)).collect();
    drop(clients);
    let page = exporter.fresh();
    assert_eq!(page.queue(name), Queue::of_group(2, 2, 0, 2));
    assert_eq!(page.of(DROPS, name), Some(62.0));

    drop(first);
    let page = exporter.when("one member", |page| {
        page.queue(name).is_some_and(|queue| queue.sockets < 2.0)
    });
    assert_eq!(page.of(DROPS, name), Some(62.0));
    (0..10).for_each(|_| knock_tcp(address));
    assert_eq!(exporter.fresh().of(DROPS, name), Some(72.0));
    drop(second);
}

#[test]
fn a_dual_stack_listener_is_seen_once_with_the_clients_of_both_families() {
    let _namespace = Namespace::enter();
    let options = Tcp {
        dual_stack: true,
        ..Tcp::default()
    };
    let _listener = Listener::tcp_with("[::]:8000", 5, options);
    let _clients = [connect_tcp("127.0.0.1:8000"), connect_tcp("[::1]:8000")];
    let exporter = Exporter::start(&[]);
    let page = exporter.shows("tcp:[::]:8000");
    assert_eq!(page.listeners(), ["tcp:[::]:8000"].into());
    assert_eq!(page.queue("tcp:[::]:8000"), Queue::of(2, 5));
}

#[test]
fn a_port_without_host_means_the_wildcard_listeners_of_both_families_and_no_other() {
    let _namespace = Namespace::enter();
    let _v4 = Listener::tcp("0.0.0.0:8000", 5);
    let _v6 = Listener::tcp("[::]:8000", 7);
    let reuse_port = Tcp {
        reuse_port: true,
        ..Tcp::default()
    };
    let _one_address = Listener::tcp_with("127.0.0.2:8001", 8, reuse_port);
    let _every_address = Listener::tcp_with("0.0.0.0:8001", 9, reuse_port);
    let _clients = [connect_tcp("127.0.0.1:8000"), connect_tcp("[::1]:8000")];
    let _other = connect_tcp("127.0.0.2:8001");
    let exporter = Exporter::start(&["--listener", "web=tcp::8000", "--listener", "tcp::8001"]);
    let page = exporter.fresh();
    assert_eq!(page.queue("web"), Queue::of_group(2, 2, 12, 14));
    assert_eq!(page.queue("tcp::8001"), Queue::of(0, 9));
    assert_eq!(page.listeners().len(), 2);
}

#[test]
fn an_address_means_the_listener_of_that_address_alone() {
    let _namespace = Namespace::enter();
    let _wildcard = Listener::tcp("0.0.0.0:8000", 5);
    let _v6 = Listener::tcp("[::1]:8000", 6);
    let _client = connect_tcp("[::1]:8000");
    let exporter = Exporter::start(&[
        "--listener",
        "any=tcp:0.0.0.0:8000",
        "--listener",
        "tcp:[::1]:8000",
        "--listener",
        "tcp:127.0.0.1:8000",
    ]);
    let page = exporter.fresh();
    assert_eq!(page.queue("any"), Queue::of(0, 5));
    assert_eq!(page.queue("tcp:[::1]:8000"), Queue::of(1, 6));
    // The wildcard listener answers there, but no socket is listening on the address itself.
    assert_eq!(page.queue("tcp:127.0.0.1:8000"), None);
    assert_eq!(
        page.of("listen_queue_listener_up", "tcp:127.0.0.1:8000"),
        Some(0.0)
    );
}

#[test]
fn a_specific_listener_in_front_of_a_wildcard_one_hides_neither() {
    let _namespace = Namespace::enter();
    let options = Tcp {
        reuse_port: true,
        ..Tcp::default()
    };
    let _wildcard = Listener::tcp_with("0.0.0.0:8000", 5, options);
    let _specific = Listener::tcp_with("127.0.0.1:8000", 6, options);
    let _to_specific = [connect_tcp("127.0.0.1:8000"), connect_tcp("127.0.0.1:8000")];
    let _to_wildcard = connect_tcp("127.0.0.2:8000");
    let exporter = Exporter::start(&[]);
    exporter.shows("tcp:0.0.0.0:8000");
    let page = exporter.fresh();
    assert_eq!(page.queue("tcp:0.0.0.0:8000"), Queue::of(1, 5));
    assert_eq!(page.queue("tcp:127.0.0.1:8000"), Queue::of(2, 6));
}

#[test]
fn a_multipath_listener_is_seen_once() {
    let _namespace = Namespace::enter();
    let options = Tcp {
        multipath: true,
        ..Tcp::default()
    };
    let _listener = Listener::tcp_with("127.0.0.1:8000", 5, options);
    let _clients = [connect_tcp("127.0.0.1:8000"), connect_tcp("127.0.0.1:8000")];
    let exporter = Exporter::start(&[]);
    let page = exporter.shows("tcp:127.0.0.1:8000");
    assert_eq!(page.listeners().len(), 1);
    assert_eq!(page.queue("tcp:127.0.0.1:8000"), Queue::of(2, 5));
}

#[test]
fn settings_are_those_of_the_namespace() {
    let namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    for (name, file, value) in [
        ("listen_queue_somaxconn", "core/somaxconn", 333),
        (
            "listen_queue_tcp_max_syn_backlog",
            "ipv4/tcp_max_syn_backlog",
            77,
        ),
        (
            "listen_queue_tcp_abort_on_overflow",
            "ipv4/tcp_abort_on_overflow",
            1,
        ),
        ("listen_queue_tcp_syncookies", "ipv4/tcp_syncookies", 2),
    ] {
        namespace.set(file, value);
        exporter.when(&format!("{name} {value}"), |page| {
            page.get(name) == Some(value.into())
        });
    }
}

#[test]
fn the_counters_of_the_namespace_are_the_kernels_own() {
    let namespace = Namespace::enter();
    namespace.set("ipv4/tcp_syncookies", 0);
    let address = "127.0.0.1:8000";
    // On Linux 5.10 a backlog of 0 has no room for handshakes either, and a SYN that is dropped for that is no overflow.
    let _listener = Listener::tcp(address, 1);
    let _waiting = [connect_tcp(address), connect_tcp(address)];
    (0..5).for_each(|_| knock_tcp(address));
    let exporter = Exporter::start(&[]);
    let kernel = tcp_ext();
    assert_eq!(
        (kernel["ListenOverflows"], kernel["ListenDrops"]),
        (5.0, 5.0)
    );
    let page = exporter.fresh();
    for (name, field) in [
        ("listen_queue_tcp_listen_overflows_total", "ListenOverflows"),
        ("listen_queue_tcp_listen_drops_total", "ListenDrops"),
        (
            "listen_queue_tcp_request_queue_full_drops_total",
            "TCPReqQFullDrop",
        ),
        (
            "listen_queue_tcp_request_queue_full_cookies_total",
            "TCPReqQFullDoCookies",
        ),
    ] {
        assert_eq!(page.get(name), Some(kernel[field]), "{name}");
    }
}

/// `TcpExt` of the thread's namespace by field.
fn tcp_ext() -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let names = lines.next().unwrap().split(' ').map(str::to_owned);
    let values = lines.next().unwrap().split(' ').map(|v| v.parse().unwrap());
    names.zip(values).collect()
}
