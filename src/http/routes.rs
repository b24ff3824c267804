//! What is served where.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, TRANSFER_ENCODING, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};

use super::page;
use crate::duration;
use crate::ledger::{Ledger, View};
use crate::metrics;
use crate::report::{LiveReport, Report};

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Without a round for this long, or for ten intervals if that is longer, the sampler counts as stuck.
const STUCK: Duration = Duration::from_secs(5);

/// Answers of the size of all listeners that are held at once: 64 clients that do not read may not hold 64 pages in memory. A further
/// one is made when one of them is sent.
const PAGES: usize = 8;
/// Live pages at once; a further one polls.
const STREAMS: usize = 8;
/// Time between the events of a stream.
const TICK: Duration = Duration::from_millis(250);
/// What `/-/saturated` can look back on.
const LONGEST_SATURATION: Duration = Duration::from_mins(5);

/// An answer in memory.
struct Held {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Room for answers in memory.
#[derive(Debug, Clone)]
pub struct Pages(Arc<Semaphore>);

impl Default for Pages {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PAGES)))
    }
}

impl Pages {
    /// Makes an answer when there is room, which it takes until it is sent.
    async fn hold(&self, make: impl FnOnce() -> Vec<u8>) -> Body {
        // It is never closed.
        let Ok(permit) = Arc::clone(&self.0).acquire_owned().await else {
            return Body::empty();
        };
        let held = Held {
            bytes: make(),
            _permit: permit,
        };
        Body::from(Bytes::from_owner(held))
    }
}

/// The streams of live pages.
#[derive(Debug, Clone)]
pub struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS)))
    }
}

impl Streams {
    /// Ends them all within a tick, and begins no other.
    pub fn close(&self) {
        self.0.close();
    }
}

/// What the routes work on.
#[derive(Debug, Clone)]
pub struct App {
    /// The figures.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Time between rounds.
    pub interval: Duration,
    /// Where the metrics are.
    pub telemetry_path: String,
    /// The clock of the samples.
    pub now: fn() -> Duration,
    /// Live pages.
    pub streams: Streams,
    /// Other answers that are long.
    pub pages: Pages,
}

/// Every route.
pub fn router(app: App) -> Router {
    let mut router = Router::new()
        .route(&app.telemetry_path, get(serve_metrics))
        .route("/-/healthy", get(serve_health))
        .route("/-/ready", get(serve_readiness))
        .route("/-/saturated", get(serve_saturation))
        .route("/-/stream", get(serve_stream))
        .route("/api/v1/listeners", get(serve_listeners));
    if app.telemetry_path != "/" {
        router = router
            .route("/", get(serve_page))
            .route(
                "/-/page.js",
                get(async || asset("text/javascript", page::SCRIPT)),
            )
            .route("/-/page.css", get(async || asset("text/css", page::STYLE)));
    }
    router
        .layer(middleware::from_fn(refuse_body))
        .with_state(Arc::new(app))
}

impl App {
    /// A copy, so that the lock is held for no longer than copying takes.
    fn view(&self) -> View {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.view().clone()
    }

    fn last_sample(&self) -> Option<Duration> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.view().last_sample
    }

    /// The distance between rounds, as it is now.
    fn pace(&self) -> Duration {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.view().distance.unwrap_or(self.interval)
    }

    /// The figures, and what the queues did from part `since` on; and the part that is next.
    fn live(&self, since: u64) -> (LiveReport, u64) {
        let (view, recent) = {
            let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            (ledger.view().clone(), ledger.recent(since))
        };
        let end = recent.end;
        let live = LiveReport {
            report: Report::new(&view),
            recent: recent.into(),
        };
        (live, end)
    }
}

async fn serve_metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut answer = [
        (CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE)),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ]
    .into_response();
    let mut compressed = false;
    let render = || {
        let page = metrics::render(&app.view()).into_bytes();
        if accepts_gzip(&headers)
            && let Ok(small) = gzip(&page)
        {
            compressed = true;
            return small;
        }
        page
    };
    *answer.body_mut() = app.pages.hold(render).await;
    if compressed {
        let gzip = HeaderValue::from_static("gzip");
        answer.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    answer
}

async fn serve_page(State(app): State<Arc<App>>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, page::POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    let render = || page::render(&Report::new(&app.view()), &app.telemetry_path).into_bytes();
    (headers, app.pages.hold(render).await).into_response()
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenersQuery {
    since: Option<u64>,
}

async fn serve_listeners(
    State(app): State<Arc<App>>,
    query: Result<Query<ListenersQuery>, QueryRejection>,
) -> Response {
    let since = match query {
        Ok(Query(query)) => query.since,
        Err(rejection) => return rejection.into_response(),
    };
    let render = || {
        let json = match since {
            Some(since) => serde_json::to_vec(&app.live(since).0),
            None => serde_json::to_vec(&Report::new(&app.view())),
        };
        // Writing plain data to memory cannot fail.
        json.unwrap_or_default()
    };
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, app.pages.hold(render).await).into_response()
}

/// A live page's stream of events, each the JSON of [`LiveReport`].
struct Stream {
    app: Arc<App>,
    ticks: Interval,
    since: u64,
    _permit: OwnedSemaphorePermit,
}

async fn serve_stream(State(app): State<Arc<App>>) -> Response {
    let Ok(permit) = Arc::clone(&app.streams.0).try_acquire_owned() else {
        let reason = "too many live pages; poll /api/v1/listeners\n";
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = Stream {
        app,
        ticks,
        since: 0,
        _permit: permit,
    };
    let events = stream::unfold(stream, |mut stream| async move {
        stream.ticks.tick().await;
        if stream.app.streams.0.is_closed() {
            return None;
        }
        let (live, next) = stream.app.live(stream.since);
        stream.since = next;
        let json = serde_json::to_string(&live).ok()?;
        Some((Ok::<_, Infallible>(format!("data: {json}\n\n")), stream))
    });
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SaturationQuery {
    listener: String,
    #[serde(default = "SaturationQuery::above")]
    above: f64,
    #[serde(default = "SaturationQuery::length", rename = "for")]
    length: String,
}

impl SaturationQuery {
    fn above() -> f64 {
        0.9
    }

    fn length() -> String {
        "5s".to_owned()
    }

    fn parse(&self) -> Result<Duration, &'static str> {
        if !(0.0..=1.0).contains(&self.above) {
            return Err("above is not a number from 0 to 1\n");
        }
        let length = duration::parse(&self.length).ok();
        length
            .filter(|length| (TICK..=LONGEST_SATURATION).contains(length))
            .ok_or("for is not a duration from 250ms to 5m, as in 5s\n")
    }
}

async fn serve_saturation(
    State(app): State<Arc<App>>,
    query: Result<Query<SaturationQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(rejection) => return rejection.into_response(),
    };
    let length = match query.parse() {
        Ok(length) => length,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason).into_response(),
    };
    let (stayed, bound) = {
        let ledger = app.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let stayed = ledger.stayed_above(&query.listener, length, query.above);
        let (view, somaxconn) = (ledger.view(), ledger.view().slow.settings.somaxconn);
        let listener = view.listener(&query.listener);
        (stayed, listener.and_then(|l| l.capacity_at_most(somaxconn)))
    };
    match stayed {
        Some(true) => {
            let of = bound.map_or(String::new(), |bound| {
                format!(" of {bound}, the most that the unknown limit allows,")
            });
            let reason = format!(
                "saturated: above {}{of} for {}\n",
                query.above, query.length
            );
            (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
        }
        Some(false) => (StatusCode::OK, "not saturated\n").into_response(),
        None => {
            let reason = "no such listener; /api/v1/listeners has their names\n";
            (StatusCode::NOT_FOUND, reason).into_response()
        }
    }
}

async fn serve_health(State(app): State<Arc<App>>) -> Response {
    match health(app.last_sample(), (app.now)(), app.pace()) {
        Ok(()) => (StatusCode::OK, "healthy\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason).into_response(),
    }
}

async fn serve_readiness(State(app): State<Arc<App>>) -> Response {
    match app.last_sample() {
        Some(_) => (StatusCode::OK, "ready\n").into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no sample yet\n").into_response(),
    }
}

/// Whether the sampler advances.
fn health(last: Option<Duration>, now: Duration, interval: Duration) -> Result<(), String> {
    let limit = STUCK.max(interval * 10);
    let Some(last) = last else {
        return Err("no sample yet\n".to_owned());
    };
    let age = now.saturating_sub(last);
    if age <= limit {
        return Ok(());
    }
    Err(format!(
        "the sampler has not advanced for {:.1} s (limit {:.1} s)\n",
        age.as_secs_f64(),
        limit.as_secs_f64()
    ))
}

async fn refuse_body(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH);
    if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        let close = [(CONNECTION, "close")];
        let reason = "requests have no body here\n";
        return (StatusCode::PAYLOAD_TOO_LARGE, close, reason).into_response();
    }
    next.run(request).await
}

/// Whether `Accept-Encoding` names gzip with a weight above 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| {
            let mut parts = item.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            let refused = parts
                .filter_map(|part| part.strip_prefix("q="))
                .any(|weight| weight.parse() == Ok(0.0));
            named && !refused
        })
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, value.parse().unwrap());
        accepts_gzip(&headers)
    }

    #[test]
    fn gzip_is_sent_to_who_asks_for_it() {
        assert!(accepts("gzip"));
        assert!(accepts("deflate, GZIP;q=0.5"));
        assert!(!accepts("gzip;q=0"));
        assert!(!accepts("identity"));
    }

    #[test]
    fn the_sampler_is_stuck_after_five_seconds_or_ten_intervals() {
        let second = Duration::from_secs;
        let fast = Duration::from_millis(10);
        assert!(health(None, second(100), fast).is_err());
        assert!(health(Some(second(95)), second(100), fast).is_ok());
        let reason = health(Some(second(94)), second(100), fast).unwrap_err();
        assert!(reason.contains("6.0 s (limit 5.0 s)"));
        assert!(health(Some(second(10)), second(100), second(10)).is_ok());
    }
}
