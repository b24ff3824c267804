//! The routes and their responses.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION, REFERRER_POLICY, TRANSFER_ENCODING,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior};

use super::page;
use super::pages::Pages;
use super::pieces::Pieces;
use crate::duration;
use crate::ledger::{Ledger, View};
use crate::metrics;
use crate::report::{LiveReport, Report};

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// If there was no round for this time, or for ten intervals if that is longer, the sampler is considered stuck.
const STUCK: Duration = Duration::from_secs(5);

/// Maximum number of live pages. A further one polls.
const STREAMS: usize = 8;
/// Time between the events of a stream.
const TICK: Duration = Duration::from_millis(250);
/// Time span that `/-/saturated` can evaluate.
const LONGEST_SATURATION: Duration = Duration::from_mins(5);

/// The streams of live pages.
#[derive(Debug, Clone)]
pub struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS)))
    }
}

impl Streams {
    /// Ends all of them within one tick, and starts no other.
    pub fn close(&self) {
        self.0.close();
    }
}

/// The state that the routes use.
#[derive(Debug, Clone)]
pub struct App {
    /// The figures.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Time between rounds.
    pub interval: Duration,
    /// Path below which everything is, without a slash at its end: empty, or as in /queues.
    pub prefix: String,
    /// The same as a client of the proxy in front sees it.
    pub external_path: String,
    /// Path of the metrics below that.
    pub telemetry_path: String,
    /// Which metrics are shown.
    pub extent: metrics::Extent,
    /// The clock of the samples.
    pub now: fn() -> Duration,
    /// Live pages.
    pub streams: Streams,
    /// Other large responses.
    pub pages: Pages,
}

/// All routes.
pub fn router(app: App) -> Router {
    let at = |path: &str| format!("{}{path}", app.prefix);
    let mut router = Router::new()
        .route(&at(&app.telemetry_path), get(serve_metrics))
        .route(&at("/-/healthy"), get(serve_health))
        .route(&at("/-/ready"), get(serve_readiness))
        .route(&at("/-/saturated"), get(serve_saturation))
        .route(&at("/-/stream"), get(serve_stream))
        .route(&at("/api/v1/listeners"), get(serve_listeners));
    if app.telemetry_path != "/" {
        router = router
            .route(&at("/"), get(serve_page))
            .route(
                &at("/-/page.js"),
                get(async || asset("text/javascript", page::SCRIPT)),
            )
            .route(
                &at("/-/page.css"),
                get(async || asset("text/css", page::STYLE)),
            );
    }
    if !app.prefix.is_empty() {
        router = router
            .route("/", get(redirect_to_page))
            .route(&app.prefix, get(redirect_to_page));
    }
    router
        .layer(middleware::from_fn(refuse_malformed))
        .with_state(Arc::new(app))
}

impl App {
    /// A copy, so that the lock is held only while copying.
    fn view(&self) -> View {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.view().shown()
    }

    fn last_sample(&self) -> Option<Duration> {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.view().last_sample
    }

    /// The current time between rounds.
    fn pace(&self) -> Duration {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.view().pace.unwrap_or(self.interval)
    }

    /// The figures, the history of the queues from part `since` on, and the number of the next part.
    fn live(&self, since: u64) -> (LiveReport, u64) {
        let (view, recent) = {
            let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            (ledger.view().shown(), ledger.recent(since))
        };
        let end = recent.end;
        let live = LiveReport {
            report: Report::new(&view),
            recent: recent.into(),
        };
        (live, end)
    }

    /// Writes an event of a stream: what is new since part `since`, which becomes the next part.
    fn write_event(&self, since: &mut u64, event: &mut Pieces) -> io::Result<()> {
        let (live, next) = self.live(*since);
        *since = next;
        event.write_all(b"data: ")?;
        serde_json::to_writer(&mut *event, &live)?;
        event.write_all(b"\n\n")
    }
}

async fn serve_metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let mut answer = [
        (CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE)),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ]
    .into_response();
    let body = if accepts_gzip(&headers) {
        let gzip = HeaderValue::from_static("gzip");
        answer.headers_mut().insert(CONTENT_ENCODING, gzip);
        let write = |page: &mut Pieces| {
            let mut encoder = GzEncoder::new(page, Compression::fast());
            metrics::write(&app.view(), app.extent, &mut encoder)?;
            encoder.finish().map(drop)
        };
        app.pages.hold("metrics, small", write).await
    } else {
        let write = |page: &mut Pieces| metrics::write(&app.view(), app.extent, page);
        app.pages.hold("metrics", write).await
    };
    *answer.body_mut() = Body::new(body);
    answer
}

async fn redirect_to_page(State(app): State<Arc<App>>) -> Response {
    let path = if app.external_path.is_empty() {
        &app.prefix
    } else {
        &app.external_path
    };
    let page = format!("{path}/");
    (StatusCode::FOUND, [(LOCATION, page)]).into_response()
}

async fn serve_page(State(app): State<Arc<App>>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, page::POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    let write = |page: &mut Pieces| {
        let report = Report::new(&app.view());
        page.write_all(page::render(&report, &app.telemetry_path).as_bytes())
    };
    (headers, app.pages.hold("page", write).await).into_response()
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
    let write = |json: &mut Pieces| {
        match since {
            Some(since) => serde_json::to_writer(json, &app.live(since).0),
            None => serde_json::to_writer(json, &Report::new(&app.view())),
        }
        .map_err(io::Error::from)
    };
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    let name = match since {
        Some(_) => "listeners since",
        None => "listeners",
    };
    (headers, app.pages.hold(name, write).await).into_response()
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
        let name = match stream.since {
            0 => "stream, its start",
            _ => "stream",
        };
        let (app, since) = (&stream.app, &mut stream.since);
        let write = |event: &mut Pieces| app.write_event(since, event);
        let event = app.pages.hold_own(name, write).await;
        Some((stream::iter(event.map(Ok::<_, Infallible>)), stream))
    });
    let events = events.flatten();
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// The query of `/-/saturated`.
const SATURATION_FORM: &str = "the form is /-/saturated?listener=NAME&above=0.9&for=5s, with a NAME that /api/v1/listeners lists; above and for can be omitted";

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
            return Err("the parameter above is not a number from 0 to 1");
        }
        let length = duration::parse(&self.length).ok();
        length
            .filter(|length| (TICK..=LONGEST_SATURATION).contains(length))
            .ok_or("the parameter for is not a duration from 250ms to 5m, as in 5s")
    }
}

async fn serve_saturation(
    State(app): State<Arc<App>>,
    query: Result<Query<SaturationQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        let reason = format!("invalid query; {SATURATION_FORM}\n");
        return (StatusCode::BAD_REQUEST, reason).into_response();
    };
    let length = match query.parse() {
        Ok(length) => length,
        Err(reason) => {
            let reason = format!("{reason}; {SATURATION_FORM}\n");
            return (StatusCode::BAD_REQUEST, reason).into_response();
        }
    };
    let (stayed, bound) = {
        let ledger = app.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let stayed = ledger.stayed_above(&query.listener, length, query.above);
        let view = ledger.view();
        let listener = view.listener(&query.listener);
        let bound = listener.and_then(|l| l.capacity_at_most(view.somaxconn(l)));
        (stayed, bound)
    };
    match stayed {
        Some(true) => {
            let of = bound.map_or(String::new(), |bound| {
                format!(" of {bound} (the highest capacity that the unknown limit allows)")
            });
            let reason = format!(
                "saturated: utilization above {}{of} for {}\n",
                query.above, query.length
            );
            (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
        }
        Some(false) => (StatusCode::OK, "not saturated\n").into_response(),
        None => {
            let reason = "no listener has this name; /api/v1/listeners lists the names\n";
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

async fn refuse_malformed(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let hosts = headers.get_all(HOST).iter().count();
    // RFC 9112, 3.2.
    if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
        let close = [(CONNECTION, "close")];
        let reason = "an HTTP/1.1 request must have exactly one Host header\n";
        return (StatusCode::BAD_REQUEST, close, reason).into_response();
    }
    let length = headers.get(CONTENT_LENGTH);
    if headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        let close = [(CONNECTION, "close")];
        let reason = "a request body is not accepted\n";
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
