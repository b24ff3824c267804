//! What is served where.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, TRANSFER_ENCODING, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::page;
use crate::ledger::{Ledger, View};
use crate::metrics;

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Without a round for this long, or for ten intervals if that is longer, the sampler counts as stuck.
const STUCK: Duration = Duration::from_secs(5);

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
}

/// Every route.
pub fn router(app: App) -> Router {
    let mut router = Router::new()
        .route(&app.telemetry_path, get(serve_metrics))
        .route("/-/healthy", get(serve_health))
        .route("/-/ready", get(serve_readiness));
    if app.telemetry_path != "/" {
        router = router.route("/", get(serve_page));
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
}

async fn serve_metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let page = metrics::render(&app.view());
    let plain = [
        (CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE)),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ];
    if accepts_gzip(&headers)
        && let Ok(compressed) = gzip(page.as_bytes())
    {
        let encoding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        return (plain, encoding, compressed).into_response();
    }
    (plain, page).into_response()
}

async fn serve_page(State(app): State<Arc<App>>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, page::POLICY),
    ];
    (headers, page::render(&app.view(), &app.telemetry_path)).into_response()
}

async fn serve_health(State(app): State<Arc<App>>) -> Response {
    match health(app.last_sample(), (app.now)(), app.interval) {
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
