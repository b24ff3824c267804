//! `--web.config.file`: TLS, users with passwords and headers, in the file format of the Prometheus exporters. It and the files
//! that it names are read again at each connection and request, so that a new certificate or password needs no restart.

mod allowed;
mod guard;
mod passwords;
mod tls;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderName, HeaderValue};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

pub use guard::protect;
pub(super) use tls::Tls;

use passwords::Passwords;
use tls::{Clients, Pem, TlsSection};

/// Headers that may be set, and their allowed values if they are restricted.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// Largest file that is read; certificates and users need less.
const LARGEST: u64 = 1 << 20;

/// The file and its content.
pub struct WebConfig {
    path: PathBuf,
    state: Mutex<State>,
    passwords: Passwords,
}

#[derive(Default)]
struct State {
    /// The text that was read last, and the settings in it.
    settings: Option<(String, Result<Settings, String>)>,
    /// What was built from it, and from which PEM.
    made: Option<(Option<Pem>, Arc<Loaded>)>,
    /// The minimum protection until a restart, once the file was valid.
    protection: Option<Protection>,
    /// Why all requests are denied, once this was logged.
    error: Option<String>,
}

/// The settings in the file.
struct Settings {
    tls: Option<TlsSection>,
    headers: Vec<(HeaderName, HeaderValue)>,
    users: BTreeMap<String, String>,
    is_whole: bool,
}

/// The settings in the file and in the files that it names.
struct Loaded {
    tls: Option<Tls>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Hashed passwords by user.
    users: BTreeMap<String, String>,
}

/// What protects against clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a door of its own")]
struct Protection {
    tls: bool,
    clients: Clients,
    names: bool,
    users: bool,
    /// Whether the file ends with a complete line.
    whole: bool,
}

/// A connection cannot use TLS while the file cannot be used. The log has the reason.
#[derive(Debug)]
pub(super) struct Unusable;

/// The file as written.
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
    /// Clients that support HTTP/2 also support HTTP/1.1, which is what is served.
    http2: Option<bool>,
    headers: Option<Mapping>,
}

impl WebConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// What cannot be used in it or in the files that it names.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let mut state = State::default();
        state.load(&path)?;
        Ok(Self {
            path,
            state: Mutex::new(state),
            passwords: Passwords::default(),
        })
    }

    /// Whether and how connections use TLS.
    ///
    /// # Errors
    /// If a connection must use TLS but cannot.
    pub(super) fn tls(&self) -> Result<Option<Tls>, Unusable> {
        match self.current() {
            Some(loaded) => Ok(loaded.tls.clone()),
            None if self.state().protection.is_some_and(|p| p.tls) => Err(Unusable),
            None => Ok(None),
        }
    }

    /// Whether clients have to speak TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        !matches!(self.tls(), Ok(None))
    }

    /// The current settings of the file, unless it cannot be used.
    fn current(&self) -> Option<Arc<Loaded>> {
        let mut state = self.state();
        match state.load(&self.path) {
            Ok(loaded) => {
                if state.error.take().is_some() {
                    tracing::info!(path = %self.path.display(), "the web configuration can be used again");
                }
                Some(loaded)
            }
            Err(error) => {
                if state.error.as_ref() != Some(&error) {
                    tracing::error!(path = %self.path.display(), %error, "cannot use the web configuration: all requests are denied");
                    state.error = Some(error);
                }
                None
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reads everything, and rebuilds the settings if something changed.
    fn load(&mut self, path: &Path) -> Result<Arc<Loaded>, String> {
        let text =
            String::from_utf8(read(path)?).map_err(|_| "it is not valid UTF-8".to_owned())?;
        let settings = match &self.settings {
            Some((known, settings)) if *known == text => settings,
            _ => {
                self.made = None;
                let settings = parse(&text);
                &self.settings.insert((text, settings)).1
            }
        };
        let settings = settings.as_ref().map_err(Clone::clone)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let pem = settings.tls.as_ref().map(|tls| tls.read(directory));
        let pem = pem.transpose()?;
        if let Some((known, loaded)) = &self.made
            && *known == pem
        {
            return Ok(Arc::clone(loaded));
        }
        let protection = settings.protection()?;
        if let Some(removed) = self
            .protection
            .and_then(|before| before.removed_in(protection))
        {
            return Err(format!(
                "{removed}: restart the exporter if this is intended"
            ));
        }
        let tls = settings.tls.as_ref().zip(pem.as_ref());
        let loaded = Arc::new(Loaded {
            tls: tls.map(|(tls, pem)| tls.build(pem)).transpose()?,
            headers: settings.headers.clone(),
            users: settings.users.clone(),
        });
        self.protection = Some(protection);
        self.made = Some((pem, Arc::clone(&loaded)));
        Ok(loaded)
    }
}

impl Protection {
    /// Protection that was removed, for example by a half-written file. TLS cannot be added either: open connections would remain without it.
    fn removed_in(self, now: Self) -> Option<&'static str> {
        if self.tls != now.tls {
            Some("tls_server_config was added or removed")
        } else if now.clients < self.clients {
            Some("client_auth_type admits more clients than before")
        } else if self.names && !now.names {
            Some("client_allowed_sans was removed")
        } else if self.users && !now.users {
            Some("basic_auth_users was removed")
        } else if self.whole && !now.whole {
            Some(
                "its last line does not end with a newline as before, so it may be only half written",
            )
        } else {
            None
        }
    }
}

/// Reads a regular file, and nothing that could be endless.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = || -> io::Result<Vec<u8>> {
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let found = file.metadata()?;
        let mut bytes = Vec::new();
        if found.is_file() {
            file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        }
        if !found.is_file() || bytes.len() as u64 > LARGEST {
            return Err(io::Error::other(
                "it is not a regular file of at most 1 MiB",
            ));
        }
        Ok(bytes)
    };
    read().map_err(|error| error.to_string())
}

fn parse(text: &str) -> Result<Settings, String> {
    // An empty file has no settings.
    let document: Option<Document> =
        serde_yaml_ng::from_str(text).map_err(|error| without_values(&error.to_string()))?;
    let document = document.unwrap_or_default();
    if document.rate_limit.as_ref().is_some_and(|l| !l.is_null()) {
        return Err(
            "rate_limit is not supported; the exporter has fixed limits for connections and responses: remove it"
                .to_owned(),
        );
    }
    Ok(Settings {
        headers: document.headers()?,
        users: document.users()?,
        tls: document.tls_server_config.filter(|tls| !tls.is_empty()),
        is_whole: text.is_empty() || text.ends_with('\n'),
    })
}

/// The message without quoted values, unless they are plain words: a value may be a key or a hash.
fn without_values(message: &str) -> String {
    let message = match (message.find('"'), message.rfind('"')) {
        (Some(start), Some(end)) if start < end => {
            format!("{}\"...\"{}", &message[..start], &message[end + 1..])
        }
        _ => message.to_owned(),
    };
    let parts = message.split('`').enumerate();
    let parts = parts.map(|(place, part)| {
        if place % 2 == 1 {
            printable(part)
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

/// The text, if it is a name or a path and not a key, hash or number.
fn printable(text: &str) -> &str {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./@".contains(c);
    let is_named = text.contains(|c: char| c.is_ascii_alphabetic());
    if text.len() <= 60 && is_named && text.chars().all(is_plain) && !text.contains("---") {
        text
    } else {
        "..."
    }
}

impl Settings {
    fn protection(&self) -> Result<Protection, String> {
        let tls = self.tls.as_ref();
        Ok(Protection {
            tls: tls.is_some(),
            clients: tls.map_or(Ok(Clients::Anybody), TlsSection::clients)?,
            names: tls.is_some_and(TlsSection::compares_names),
            users: !self.users.is_empty(),
            whole: self.is_whole,
        })
    }
}

impl Document {
    fn users(&self) -> Result<BTreeMap<String, String>, String> {
        let mut users = BTreeMap::new();
        for (user, hash) in self.basic_auth_users.iter().flatten() {
            let user = user.as_str().filter(|user| !user.contains(':'));
            let user = user.ok_or(
                "basic_auth_users: a user name is not text or contains a colon; quote a name that looks like a number",
            )?;
            let hash = hash.as_str().filter(|hash| passwords::is_hash(hash));
            let hash = hash.ok_or_else(|| {
                let user = printable(user);
                format!("basic_auth_users: the password of '{user}' is not a bcrypt hash; create one with `htpasswd -nBC 10 {user}`")
            })?;
            users.insert(user.to_owned(), hash.to_owned());
        }
        Ok(users)
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
        let section = self.http_server_config.as_ref();
        let headers = section.and_then(|http| http.headers.as_ref());
        let mut read = Vec::new();
        for (name, value) in headers.into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let known = HEADERS.iter().find(|(known, _)| *known == name);
            let Some((_, allowed)) = known else {
                let all = HEADERS.map(|(known, _)| known).join(", ");
                return Err(format!(
                    "headers: '{}' is not one of {all}",
                    printable(name)
                ));
            };
            let refuse = || format!("headers: {name} is not valid text for a header");
            let value = scalar(value).ok_or_else(refuse)?;
            if value.is_empty() {
                continue;
            }
            if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
                return Err(format!("headers: {name} is not {}", allowed.join(" or ")));
            }
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refuse())?;
            read.push((name, HeaderValue::from_str(&value).map_err(|_| refuse())?));
        }
        Ok(read)
    }
}

/// Text, even if YAML reads it as a number. A missing value is empty.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}
