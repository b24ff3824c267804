//! What is served, to whom, and how it ends.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::http::{connect, get, request};
use crate::common::namespace::Namespace;
use crate::common::program::Process;
use crate::common::socket::Listener;
use crate::common::wait;

#[test]
fn the_page_is_compressed_for_clients_that_ask() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let exporter = Exporter::start(&[]);
    let plain = exporter.get("/metrics");
    assert_eq!(plain.header("content-encoding"), None);
    let answer = get(exporter.address(), "/metrics", &["Accept-Encoding: gzip"]);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert!(answer.body.len() * 3 < plain.body.len());
    let mut text = String::new();
    GzDecoder::new(answer.body.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    let page = Page::parse(&text).unwrap();
    assert_eq!(page.queue("unix:@name"), Queue::of(0, 5));
    assert_eq!(page.families, Page::parse(plain.text()).unwrap().families);
}

#[test]
fn the_landing_page_shows_the_version_the_listeners_and_the_way_to_the_metrics() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"<b>&\"", 5);
    let exporter = Exporter::start(&["--web.telemetry-path", "/queues"]);
    let answer = exporter.get("/");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    let page = answer.text();
    assert!(page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    assert!(page.contains("href=\"queues\""), "{page}");
    assert!(page.contains("unix:@&lt;b&gt;&amp;"), "{page}");
    assert!(!page.contains("<b>&"), "{page}");
    assert_eq!(exporter.get("/queues").status, 200);
    assert_eq!(exporter.get("/metrics").status, 404);
}

#[test]
fn health_and_readiness_are_answered_and_the_rest_is_refused() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    assert_eq!(exporter.get("/-/healthy").status, 200);
    assert_eq!(exporter.get("/-/ready").status, 200);
    assert_eq!(exporter.get("/nothing").status, 404);
    let server = exporter.address();
    let length = ["Content-Length: 5"];
    assert_eq!(
        request(server, "POST /metrics HTTP/1.1", &[], "").status,
        405
    );
    assert_eq!(
        request(server, "POST /metrics HTTP/1.1", &length, "hello").status,
        413
    );
    assert_eq!(
        request(server, "GET /metrics HTTP/1.1", &length, "hello").status,
        413
    );
    let chunked = ["Transfer-Encoding: chunked"];
    let body = "5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(
        request(server, "GET /metrics HTTP/1.1", &chunked, body).status,
        413
    );
}

#[test]
fn a_client_that_never_ends_its_header_is_dropped() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    let mut slow = connect(exporter.address());
    slow.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-")
        .unwrap();
    let start = Instant::now();
    let mut rest = Vec::new();
    // An end, whether tidy or by a reset; a server that waits for ever runs into the client's own limit.
    match slow.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    // Told: five seconds. A machine that does other things at once gets some more.
    let expected = Duration::from_secs(4)..Duration::from_secs(10);
    let elapsed = start.elapsed();
    assert!(expected.contains(&elapsed), "{elapsed:?}");
    assert_eq!(exporter.get("/metrics").status, 200);
}

#[test]
fn beside_a_thousand_connections_without_a_request_each_scrape_is_answered_at_once() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    let server = exporter.address();
    let mut silent = Vec::new();
    for number in 0..1000 {
        let mut connection = connect(server);
        // Some send half a request line, others a request and then half of the next.
        let sent: &[u8] = if number % 2 == 0 {
            b"GET /metr"
        } else {
            b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\nGET /metr"
        };
        // One that has given way already refuses it.
        let _ = connection.write_all(sent);
        silent.push(connection);
    }
    // They would hold their places for five seconds.
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(exporter.get("/metrics").status, 200);
    }
    println!("ten scrapes took {:?}", start.elapsed());
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    drop(silent);
}

#[test]
fn a_connection_whose_answer_is_under_way_does_not_give_way() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    let server = exporter.address();
    let mut reader = connect(server);
    // A live page, as the longest of all answers.
    reader
        .write_all(b"GET /-/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut begin = [0; 12];
    reader.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    let _silent: Vec<_> = (0..200).map(|_| connect(server)).collect();
    assert_eq!(exporter.get("/metrics").status, 200);
    let mut more = [0; 4096];
    let read = |reader: &mut std::net::TcpStream, more: &mut [u8]| reader.read(more).unwrap();
    for _ in 0..3 {
        assert!(read(&mut reader, &mut more) > 0);
    }
}

#[test]
fn a_request_of_http_1_1_names_its_host() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    for (request, status) in [
        ("GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        (
            "GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
            "400",
        ),
        ("GET /metrics HTTP/1.0\r\n\r\n", "200"),
        (
            "GET /metrics HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
            "200",
        ),
    ] {
        let mut stream = connect(exporter.address());
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request:?}");
    }
}

#[test]
fn either_signal_ends_it_though_clients_are_still_connected() {
    let _namespace = Namespace::enter();
    for signal in [Signal::TERM, Signal::INT] {
        let mut exporter = Exporter::start(&[]);
        let mut idle = connect(exporter.address());
        idle.write_all(b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        idle.read_exact(&mut [0; 12]).unwrap();
        let mut half = connect(exporter.address());
        half.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        let start = Instant::now();
        exporter.signal(signal);
        let status = exporter.wait();
        // Told: one second. A machine that does other things at once gets some more.
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(status.code(), Some(0), "{}", exporter.log());
    }
}

#[test]
fn clients_that_are_connected_when_it_ends_get_an_answer() {
    let _namespace = Namespace::enter();
    let mut exporter = Exporter::start(&[]);
    exporter.signal(Signal::STOP);
    let connected: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = connect(exporter.address());
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    exporter.signal(Signal::TERM);
    exporter.signal(Signal::CONT);
    for mut stream in connected {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let (_, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(Page::parse(page).unwrap().get("listen_queue_samples_total") > Some(0.0));
    }
    assert_eq!(exporter.wait().code(), Some(0), "{}", exporter.log());
}

#[test]
fn clients_that_read_slowly_are_dropped_and_delay_no_other_for_long() {
    let _namespace = Namespace::enter();
    // Every byte of these names is printed as five: the page is larger than what the kernel takes at once.
    let name = |number: u32| [&[1; 100], format!("{number:04}").as_bytes()].concat();
    let _listeners: Vec<_> = (0..256)
        .map(|number| Listener::abstract_unix(&name(number), 5))
        .collect();
    let exporter = Exporter::start(&[]);
    exporter.when("all listeners", |page| page.listeners().len() == 256);
    let is_over = Arc::new(AtomicBool::new(false));
    let drips: Vec<_> = (0..8)
        .map(|_| {
            let is_over = Arc::clone(&is_over);
            let mut stream = connect(exporter.address());
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 2304).unwrap();
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = stream.read(&mut [0; 3000]);
                    std::thread::sleep(Duration::from_millis(250));
                }
            })
        })
        .collect();
    // They take minutes; who comes after them waits for at most as long as the client of these tests does.
    assert!(exporter.scrape_text().len() > 5_000_000);
    is_over.store(true, Ordering::Relaxed);
    for drip in drips {
        drip.join().unwrap();
    }
}

#[test]
fn several_listeners_can_come_from_the_environment() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let _other = Listener::abstract_unix(b"other", 6);
    let mut command = std::process::Command::new(crate::common::exporter::BINARY);
    for (name, value) in [
        ("LISTENER", "app=unix:@name,backlog=9 unix:@other"),
        ("WEB_LISTEN_ADDRESS", "127.0.0.1:0"),
        ("SAMPLE_INTERVAL", "5ms"),
        ("LOG_FORMAT", "logfmt"),
        // Off, so it conflicts with no address.
        ("WEB_SYSTEMD_SOCKET", "off"),
    ] {
        command.env(format!("LISTEN_QUEUE_EXPORTER_{name}"), value);
    }
    let exporter = Exporter::spawn(command);
    let page = exporter.fresh();
    assert_eq!(page.queue("app"), Queue::of(0, 5));
    assert_eq!(page.of("listen_queue_requested_backlog", "app"), Some(9.0));
    assert_eq!(page.queue("unix:@other"), Queue::of(0, 6));
}

#[test]
fn a_log_that_is_not_read_delays_nothing() {
    let _namespace = Namespace::enter();
    let names: Vec<String> = (0..900).map(|number| format!("listener{number}")).collect();
    let _listeners: Vec<_> = names
        .iter()
        .map(|name| Listener::abstract_unix(name.as_bytes(), 5))
        .collect();
    // More lines than the pipe holds.
    let (_reader, writer) = std::io::pipe().unwrap();
    let address = "127.0.0.1:10128";
    let mut command = std::process::Command::new(crate::common::exporter::BINARY);
    command.args(["--web.listen-address", address, "--discover.limit", "1000"]);
    let mut exporter = Process::start(command.stderr(writer));
    let address = address.parse().unwrap();
    wait::until_true("the exporter", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    wait::until_true("its first round", || {
        get(address, "/-/ready", &[]).status == 200
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(get(address, "/-/healthy", &[]).status, 200);
    exporter.signal(Signal::TERM);
    let status = wait::until("the exporter to end", || exporter.ended());
    assert!(status.success());
}
