//! Many listeners, large pages.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::exposition::Queue;
use crate::common::http::connect;
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract, connect_tcp};

/// 500 unix and 500 TCP listeners, with a backlog and clients of each one's own number.
fn thousand() -> (Vec<(String, Option<Queue>)>, Vec<impl Sized>) {
    let mut expected = Vec::new();
    let mut sockets = Vec::new();
    for number in 0..500_u32 {
        let (depth, backlog) = (number % 4, 3 + number % 50);
        let abstract_name = format!("app-{number}");
        let address = format!("127.0.0.1:{}", 10_000 + number);
        let backlog_argument = i32::try_from(backlog).unwrap();
        let unix = Listener::abstract_unix(abstract_name.as_bytes(), backlog_argument);
        let tcp = Listener::tcp(&address, backlog_argument);
        let clients: Vec<_> = (0..depth)
            .flat_map(|_| {
                let unix = connect_abstract(abstract_name.as_bytes()).unwrap();
                [unix, connect_tcp(&address)]
            })
            .collect();
        sockets.push((unix, tcp, clients));
        expected.push((format!("unix:@{abstract_name}"), Queue::of(depth, backlog)));
        expected.push((format!("tcp:{address}"), Queue::of(depth, backlog)));
    }
    (expected, sockets)
}

#[test]
fn each_of_a_thousand_listeners_has_its_own_figures() {
    let _namespace = Namespace::enter();
    let (expected, _sockets) = thousand();
    let exporter = Exporter::start(&["--discover.limit", "1000"]);
    let page = exporter.when("all listeners", |page| page.listeners().len() == 1000);
    for (name, queue) in &expected {
        assert_eq!(page.queue(name), *queue, "{name}");
    }
    assert_eq!(
        page.get("listen_queue_discovery_ignored_listeners"),
        Some(0.0)
    );
    for source in ["unix_diag", "inet_diag"] {
        let errors = page.labelled("listen_queue_source_errors_total", &[("source", source)]);
        assert_eq!(errors, Some(0.0));
    }
}

#[test]
fn listeners_above_the_limit_are_counted_and_not_watched() {
    let _namespace = Namespace::enter();
    let (expected, _sockets) = thousand();
    let exporter = Exporter::start(&[]);
    let page = exporter.when("ignored listeners", |page| {
        page.get("listen_queue_discovery_ignored_listeners") == Some(744.0)
    });
    assert_eq!(page.listeners().len(), 256);
    let shown = expected
        .iter()
        .filter(|(name, _)| page.queue(name).is_some());
    assert_eq!(shown.count(), 256);
    // Which of them are watched does not change from one listing to the next.
    let later = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < later {
        assert_eq!(exporter.fresh().listeners(), page.listeners());
    }
}

#[test]
fn a_scrape_under_way_is_finished_after_the_signal_and_a_second_signal_ends_at_once() {
    let namespace = Namespace::enter();
    // Buffers that hold a small part of the page.
    namespace.set("ipv4/tcp_wmem", "4096 16384 65536");
    namespace.set("ipv4/tcp_rmem", "4096 16384 65536");
    let (_, _sockets) = thousand();
    for second_signal in [false, true] {
        let mut exporter = Exporter::start(&["--discover.limit", "1000"]);
        exporter.when("all listeners", |page| page.listeners().len() == 1000);
        let whole = exporter.scrape_text().len();
        let mut reader = connect(exporter.address());
        reader
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        // The answer has begun.
        let mut answer = vec![0; 15];
        reader.read_exact(&mut answer).unwrap();
        exporter.signal(Signal::TERM);
        exporter.logged(&["signal=SIGTERM"]);
        if second_signal {
            exporter.signal(Signal::TERM);
            assert_eq!(exporter.wait().code(), Some(1));
            continue;
        }
        reader.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        let slack = whole / 10;
        assert!(
            answer.len() + slack > whole && answer.ends_with(b"\n"),
            "{} of {whole} bytes",
            answer.len()
        );
        assert_eq!(exporter.wait().code(), Some(0));
    }
}
