//! `--web.config.file`: TLS, users with passwords and headers, in the file that every Prometheus exporter takes. It and the files
//! that it names are read again at each connection and request, so that a new certificate or password needs no restart.

mod allowed;
mod guard;
mod passwords;
mod tls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

pub use guard::protect;
pub(super) use tls::Tls;

use passwords::Passwords;
use tls::{Pem, TlsSection};

/// Headers that may be set, and what they may be set to, if that is not free.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The file, and what was in it.
pub struct WebConfig {
    path: PathBuf,
    state: Mutex<State>,
    passwords: Passwords,
}

struct State {
    /// What was good last, and made of what.
    known: (Inputs, Arc<Loaded>),
    /// Why it is no longer, once that was logged.
    error: Option<String>,
}

/// Everything that was read.
#[derive(PartialEq)]
struct Inputs {
    text: String,
    pem: Option<Pem>,
}

/// What the file asks for.
struct Loaded {
    tls: Option<Tls>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Hashed passwords by user.
    users: BTreeMap<String, String>,
}

/// There is no answer as long as the file cannot be used. The log has the reason.
#[derive(Debug)]
pub(super) struct Unusable;

/// The file as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    tls_server_config: Option<TlsSection>,
    http_server_config: Option<HttpSection>,
    basic_auth_users: Option<Mapping>,
    rate_limit: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpSection {
    /// Clients that can do HTTP/2 can do HTTP/1.1, which is what is served.
    http2: Option<bool>,
    headers: Option<Mapping>,
}

impl WebConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// What in it, or in the files that it names, cannot be used.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let known = load(&path, None)?;
        Ok(Self {
            path,
            state: Mutex::new(State { known, error: None }),
            passwords: Passwords::default(),
        })
    }

    /// Whether connections are TLS, and how.
    ///
    /// # Errors
    /// When a connection that has to be TLS cannot be.
    pub(super) fn tls(&self) -> Result<Option<Tls>, Unusable> {
        match self.current() {
            Some(loaded) => Ok(loaded.tls.clone()),
            None if self.state().known.1.tls.is_some() => Err(Unusable),
            None => Ok(None),
        }
    }

    /// What the file asks for now, unless it cannot be used.
    fn current(&self) -> Option<Arc<Loaded>> {
        let mut state = self.state();
        let loaded = load(&self.path, Some(&state.known)).and_then(|(inputs, loaded)| {
            let before = &state.known.1;
            if before.tls.is_some() && loaded.tls.is_none() {
                return Err("TLS is no longer in it: restart to serve without".to_owned());
            }
            if !before.users.is_empty() && loaded.users.is_empty() {
                return Err("users are no longer in it: restart to serve everybody".to_owned());
            }
            Ok((inputs, loaded))
        });
        match loaded {
            Ok(known) => {
                if state.error.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the web config can be used again");
                }
                state.known = known;
                Some(Arc::clone(&state.known.1))
            }
            Err(error) => {
                if state.error.as_ref() != Some(&error) {
                    tracing::error!(path = %self.path.display(), %error, "cannot use the web config: nothing is served");
                    state.error = Some(error);
                }
                None
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads everything, and makes something new of it unless it is what is known.
fn load(
    path: &Path,
    known: Option<&(Inputs, Arc<Loaded>)>,
) -> Result<(Inputs, Arc<Loaded>), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let document = parse(&text)?;
    let section = document.tls_server_config.as_ref();
    let section = section.filter(|section| !section.is_empty());
    let directory = path.parent().unwrap_or(Path::new(""));
    let pem = section.map(|tls| tls.read(directory)).transpose()?;
    let inputs = Inputs { text, pem };
    if let Some((before, loaded)) = known
        && *before == inputs
    {
        return Ok((inputs, Arc::clone(loaded)));
    }
    let tls = section.zip(inputs.pem.as_ref());
    let loaded = Loaded {
        tls: tls.map(|(section, pem)| section.build(pem)).transpose()?,
        headers: document.headers()?,
        users: document.users()?,
    };
    Ok((inputs, Arc::new(loaded)))
}

fn parse(text: &str) -> Result<Document, String> {
    // An empty file asks for nothing.
    let document: Option<Document> =
        serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let document = document.unwrap_or_default();
    if document.rate_limit.as_ref().is_some_and(|l| !l.is_null()) {
        return Err(
            "rate_limit is not supported; connections and answers have bounds of their own: leave it out"
                .to_owned(),
        );
    }
    Ok(document)
}

impl Document {
    fn users(&self) -> Result<BTreeMap<String, String>, String> {
        let mut users = BTreeMap::new();
        for (user, hash) in self.basic_auth_users.iter().flatten() {
            let user = scalar(user).ok_or("basic_auth_users: a user is no plain name")?;
            let hash = scalar(hash).filter(|hash| passwords::is_hash(hash));
            let hash = hash.ok_or_else(|| {
                format!("basic_auth_users: the password of '{user}' is not hashed with bcrypt; `htpasswd -nBC 10 {user}` does that")
            })?;
            users.insert(user, hash);
        }
        Ok(users)
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let mut headers = Vec::new();
        let section = self.http_server_config.as_ref();
        for (name, value) in section
            .and_then(|http| http.headers.as_ref())
            .into_iter()
            .flatten()
        {
            let name = scalar(name).unwrap_or_default();
            let known = HEADERS.iter().find(|(known, _)| *known == name);
            let Some((_, allowed)) = known else {
                let all = HEADERS.map(|(known, _)| known).join(", ");
                return Err(format!("headers: '{name}' is none of {all}"));
            };
            let value = scalar(value).unwrap_or_default();
            if value.is_empty() {
                continue;
            }
            if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
                return Err(format!("headers: {name} is not {}", allowed.join(" or ")));
            }
            let refuse = |_| format!("headers: {name} has characters that no header may have");
            let value = HeaderValue::from_str(&value).map_err(refuse)?;
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|error| format!("headers: {error}"))?;
            headers.push((name, value));
        }
        Ok(headers)
    }
}

/// Text, also where YAML takes it for a number.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}
