//! Admits authorised requests and adds the headers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use headers::authorization::Basic;
use headers::{Authorization, HeaderMapExt as _};

use super::{Loaded, WebConfig};
use crate::http::places::Place;

/// The routes, restricted to authorised requests.
pub fn protect(router: Router, config: Arc<WebConfig>) -> Router {
    router.layer(middleware::from_fn_with_state(config, guard))
}

async fn guard(State(config): State<Arc<WebConfig>>, request: Request, next: Next) -> Response {
    let Some(loaded) = config.current() else {
        let reason =
            "the web configuration cannot be used; the log of the exporter has the reason\n";
        return (StatusCode::INTERNAL_SERVER_ERROR, reason).into_response();
    };
    let place = request.extensions().get::<Arc<Place>>().cloned();
    let place = place.unwrap_or_default();
    let mut answer = if config.admits(&loaded, request.headers(), &place).await {
        next.run(request).await
    } else {
        // A client that guesses makes room for others.
        let challenge = [(WWW_AUTHENTICATE, "Basic"), (CONNECTION, "close")];
        (StatusCode::UNAUTHORIZED, challenge, "Unauthorized\n").into_response()
    };
    for (name, value) in &loaded.headers {
        let headers = answer.headers_mut();
        headers.entry(name).or_insert_with(|| value.clone());
    }
    answer
}

impl WebConfig {
    async fn admits(&self, loaded: &Loaded, headers: &HeaderMap, place: &Place) -> bool {
        if loaded.users.is_empty() {
            return true;
        }
        let Some(Authorization(basic)) = headers.typed_get::<Authorization<Basic>>() else {
            return false;
        };
        let (user, password) = (basic.username(), basic.password());
        let users = &loaded.users;
        // The file may have changed while the password was checked.
        self.passwords.are_right(users, user, password, place).await
            && self
                .current()
                .is_some_and(|now| now.users.get(user) == users.get(user))
    }
}
