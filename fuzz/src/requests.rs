//! Paths, queries and the header that chooses the encoding, through every route but the endless one.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, Request, Uri};
use futures_util::FutureExt as _;
use listen_queue_exporter::http::{App, Pages, Streams, router};
use listen_queue_exporter::kernel::SocketId;
use listen_queue_exporter::ledger::Ledger;
use listen_queue_exporter::listener::Listener;
use listen_queue_exporter::metrics::Extent;
use listen_queue_exporter::sample::{
    LimitSource, Presence, Reading, Round, Sample, Waiting, Watched,
};
use tower_service::Service as _;

use super::exposition::Page;

static ROUTER: LazyLock<Mutex<Router>> = LazyLock::new(|| Mutex::new(router(app())));

/// A queue that is full, and has been for three parts of the history.
fn app() -> App {
    let interval = Duration::from_millis(10);
    let mut ledger = Ledger::new(interval, Duration::from_mins(1));
    let listener = Arc::new(Listener::parse("g=unix:/run/g.sock").expect("a listener"));
    for round in 1..=100 {
        ledger.record(&Sample {
            at: interval * round,
            listeners: vec![Watched {
                listener: Arc::clone(&listener),
                presence: Presence::Up,
                limit: LimitSource::Kernel,
                readings: vec![Reading {
                    id: SocketId {
                        inode: 1,
                        cookie: [1; 8],
                    },
                    depth: 5,
                    backlog: Some(4),
                    drops: None,
                }],
                waiting: Waiting::default(),
            }],
            ..Sample::default()
        });
    }
    ledger.record_round(&Round {
        at: Duration::from_secs(1),
        ..Round::default()
    });
    App {
        ledger: Arc::new(Mutex::new(ledger)),
        interval,
        telemetry_path: "/metrics".to_owned(),
        now: || Duration::from_secs(1),
        streams: Streams::default(),
        pages: Pages::default(),
        extent: Extent::default(),
        prefix: String::new(),
        external_path: String::new(),
    }
}

/// The first line is the path and query, the second the header.
pub(crate) fn requests(input: &[u8]) {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let (target, encoding) = (lines.next().unwrap_or_default(), lines.next());
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    if uri.path() == "/-/stream" {
        return;
    }
    let mut request = Request::builder().uri(uri.clone()).header(HOST, "x");
    if let Some(value) = encoding.and_then(|value| HeaderValue::from_bytes(value).ok()) {
        request = request.header(ACCEPT_ENCODING, value);
    }
    let Ok(request) = request.body(Body::empty()) else {
        return;
    };
    let answer = ROUTER.lock().expect("a router").call(request);
    let answer = answer.now_or_never().expect("nothing to wait for");
    let answer = answer.expect("it cannot fail");
    let status = answer.status().as_u16();
    let kind = answer.headers().get(CONTENT_TYPE).cloned();
    let is_plain = !answer.headers().contains_key(CONTENT_ENCODING);
    let body = to_bytes(answer.into_body(), usize::MAX).now_or_never();
    let body = body.expect("it is there").expect("it cannot fail");
    match uri.path() {
        "/-/saturated" => assert!(matches!(status, 200 | 400 | 404 | 503), "{status}"),
        "/api/v1/listeners" => assert!(matches!(status, 200 | 400), "{status}"),
        _ => assert!(matches!(status, 200 | 404), "{status}"),
    }
    if status == 200 && uri.path() == "/api/v1/listeners" {
        assert_eq!(kind, Some(HeaderValue::from_static("application/json")));
        serde_json::from_slice::<serde_json::Value>(&body).expect("JSON");
    }
    if uri.path() == "/metrics" && is_plain {
        let text = std::str::from_utf8(&body).expect("text");
        Page::parse(text).expect("a page");
    }
}
