//! What feeds the live page and probes: `/api/v1/listeners`, the stream, `/-/saturated`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::exporter::Exporter;
use crate::common::http::connect;
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};
use crate::common::wait;

fn listeners(exporter: &Exporter, query: &str) -> Value {
    let answer = exporter.get(&format!("/api/v1/listeners{query}"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).unwrap()
}

/// The events of a stream, as they come.
fn stream(exporter: &Exporter) -> (u16, impl Iterator<Item = Value> + use<>) {
    let mut stream: TcpStream = connect(exporter.address());
    let request = "GET /-/stream HTTP/1.1\r\nHost: exporter\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let status = lines.next().unwrap();
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    let events = lines.filter_map(|line| {
        let json = line.strip_prefix("data: ")?;
        Some(serde_json::from_str(json).unwrap())
    });
    (status, events)
}

#[test]
fn the_listeners_are_json_with_what_is_known() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"<b>\"\xff", 5);
    let exporter = Exporter::start(&[]);
    exporter.shows(r#"unix:@<b>"\xff"#);
    let found = listeners(&exporter, "");
    let listener = &found["listeners"][0];
    assert_eq!(listener["name"], r#"unix:@<b>"\xff"#);
    assert_eq!(listener["capacity"], 6);
    assert_eq!(listener.get("requested_backlog"), None);
    assert_eq!(listener.get("drops"), None);
    assert_eq!(found["somaxconn"], 4096);
    assert_eq!(found.get("recent"), None);
    assert_eq!(exporter.get("/api/v1/listeners?since=x").status, 400);
    assert_eq!(exporter.get("/api/v1/listeners?x=1").status, 400);
}

#[test]
fn a_peak_of_a_moment_is_in_the_stream_and_for_who_asks_later() {
    let _namespace = Namespace::enter();
    let listener = Listener::abstract_unix(b"name", 128);
    let exporter = Exporter::start(&[]);
    let (status, mut events) = stream(&exporter);
    assert_eq!(status, 200);
    let first = events.next().unwrap();
    let mut next = next_part(&first);

    let clients: Vec<_> = (0..77)
        .map(|_| connect_abstract(b"name").unwrap())
        .collect();
    exporter.fresh();
    drop((listener.accept_all(), clients));

    // Every part comes once and in order, and the moment is in one of them.
    let mut peaks = Vec::new();
    while !peaks.contains(&json!(77)) || peaks.last() != Some(&json!(0)) {
        let event = events.next().unwrap();
        assert_eq!(event["recent"]["first"], next);
        next = next_part(&event);
        peaks.extend(
            event["recent"]["peaks"]["unix:@name"]
                .as_array()
                .unwrap()
                .clone(),
        );
        assert!(peaks.len() < 100, "{peaks:?}");
    }
    let later = listeners(&exporter, "?since=0");
    assert_eq!(later["recent"]["part_seconds"], 0.25);
    let all = later["recent"]["peaks"]["unix:@name"].as_array().unwrap();
    assert_eq!(all.iter().filter_map(Value::as_u64).max(), Some(77));
    assert_eq!(
        all.len(),
        1200.min(usize::try_from(next_part(&later)).unwrap())
    );
    let rest = listeners(&exporter, &format!("?since={}", next_part(&later) - 1));
    assert!(
        rest["recent"]["peaks"]["unix:@name"]
            .as_array()
            .unwrap()
            .len()
            < 100
    );
}

fn next_part(event: &Value) -> u64 {
    let recent = &event["recent"];
    let count = recent["peaks"]["unix:@name"].as_array().unwrap().len();
    recent["first"].as_u64().unwrap() + count as u64
}

#[test]
fn eight_pages_may_be_live_and_all_end_with_the_exporter() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 128);
    let mut exporter = Exporter::start(&[]);
    let mut streams: Vec<_> = (0..8).map(|_| stream(&exporter)).collect();
    for (status, events) in &mut streams {
        assert_eq!(*status, 200);
        assert!(events.next().is_some());
    }
    assert_eq!(exporter.get("/-/stream").status, 503);
    assert_eq!(listeners(&exporter, "?since=0")["listeners"][0]["depth"], 0);
    // A page that is closed makes room.
    streams.pop();
    wait::until_true("room for another", || stream(&exporter).0 == 200);

    let asked = Instant::now();
    exporter.signal(Signal::TERM);
    assert!(exporter.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(5));
    for (_, events) in streams {
        assert!(events.count() < 100);
    }
    assert!(!exporter.log().contains("still open"), "{}", exporter.log());
}

#[test]
fn a_pod_is_saturated_once_its_queue_stayed_above_for_the_time() {
    let _namespace = Namespace::enter();
    let listener = Listener::abstract_unix(b"name", 9);
    let exporter = Exporter::start(&["--listener", "g=unix:@name", "--listener", "tcp::1"]);
    let status = |query: &str| exporter.get(&format!("/-/saturated?{query}")).status;
    assert_eq!(status("listener=g"), 200);
    let _clients: Vec<_> = (0..10)
        .map(|_| connect_abstract(b"name").unwrap())
        .collect();
    exporter.when("a full queue", |page| {
        page.of("listen_queue_depth", "g") == Some(10.0)
    });
    // The last minutes were not all above.
    assert_eq!(status("listener=g&for=5m"), 200);
    let query = "listener=g&above=0.9&for=1s";
    wait::until_true("saturation", || status(query) == 503);
    let answer = exporter.get(&format!("/-/saturated?{query}"));
    assert_eq!(answer.text(), "saturated: utilization above 0.9 for 1s\n");
    // Utilization is 1, and not above it.
    assert_eq!(status("listener=g&above=1&for=1s"), 200);

    drop(listener.accept());
    // Nine of ten are 0.9, and not above it.
    wait::until_true("relief", || status(query) == 200);
    assert_eq!(status("listener=tcp::1"), 200);
    assert_eq!(status("listener=nobody"), 404);
    for wrong in [
        "",
        "listener=g&above=2",
        "listener=g&above=x",
        "listener=g&for=6m",
        "listener=g&for=1",
        "listener=g&x=1",
        "listener=g&listener=g",
    ] {
        let answer = exporter.get(&format!("/-/saturated?{wrong}"));
        assert_eq!(answer.status, 400, "{wrong}");
        let form = "the form is /-/saturated?listener=NAME&above=0.9&for=5s";
        assert!(answer.text().contains(form), "{wrong}: {}", answer.text());
    }
}
