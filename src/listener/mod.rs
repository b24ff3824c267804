//! Listeners that the user named or discovery found: parsed, printed and matched. This module never does I/O.
//!
//! Text and bytes map one to one: control characters, backslashes and bytes that are not UTF-8 print as `\xNN`, and `\xNN`
//! parses back (as does a comma that would begin an option), so two sockets never share a label and every label can be typed.

mod address;
mod filter;
mod matching;

use std::fmt;

pub use address::{Address, AddressError, UnixName, escape};
pub use filter::{DEFAULT_EXCLUDE, Filter, Pattern};
pub use matching::{FileId, PathTarget, match_tcp, match_unix};

/// One listener as the user sees it: a label, an address, and the backlog that the application passes to `listen(2)` if it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The `listener` label: NAME, or else the address.
    pub name: String,
    /// Where clients connect to.
    pub address: Address,
    /// The backlog that the application requests, as configured with `backlog=`. The kernel does not keep it.
    pub requested_backlog: Option<u32>,
}

/// Why a `--listener` value is invalid.
#[derive(Debug, PartialEq, Eq)]
pub struct ListenerError {
    text: String,
    reason: Reason,
}

#[derive(Debug, PartialEq, Eq)]
enum Reason {
    EmptyName,
    NameHasControlCharacter,
    Backlog(String),
    Address(AddressError),
}

impl Listener {
    /// A listener that discovery found; its label is its address.
    #[must_use]
    pub fn discovered(address: Address) -> Self {
        Self {
            name: address.to_string(),
            address,
            requested_backlog: None,
        }
    }

    /// Parses `[NAME=]ADDRESS[,backlog=N]`.
    ///
    /// # Errors
    /// Which part is invalid, why, and what a valid one looks like.
    pub fn parse(text: &str) -> Result<Self, ListenerError> {
        let refuse = |reason| ListenerError {
            text: text.to_owned(),
            reason,
        };
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !has_scheme(text) => (Some(name), rest),
            _ => (None, text),
        };
        match name {
            Some("") => return Err(refuse(Reason::EmptyName)),
            Some(name) if name.contains(char::is_control) => {
                return Err(refuse(Reason::NameHasControlCharacter));
            }
            _ => {}
        }
        let (address_text, requested_backlog) = match rest.rsplit_once(",backlog=") {
            Some((address, number)) => match number.parse() {
                Ok(backlog) => (address, Some(backlog)),
                Err(_) => return Err(refuse(Reason::Backlog(number.to_owned()))),
            },
            None => (rest, None),
        };
        let address = Address::parse(address_text).map_err(|e| refuse(Reason::Address(e)))?;
        let name = match name {
            Some(name) => name.to_owned(),
            None if address_text.contains(char::is_control) => address.to_string(),
            None => address_text.to_owned(),
        };
        Ok(Self {
            name,
            address,
            requested_backlog,
        })
    }
}

fn has_scheme(text: &str) -> bool {
    text.starts_with("unix:") || text.starts_with("tcp:")
}

impl fmt::Display for ListenerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener '{}': ", escape(self.text.as_bytes()))?;
        match &self.reason {
            Reason::EmptyName => f.write_str(
                "the name before '=' is empty; write it as in gunicorn=unix:/run/gunicorn.socket",
            ),
            Reason::NameHasControlCharacter => f.write_str(
                "the name contains a control character; write it as in gunicorn=unix:/run/gunicorn.socket",
            ),
            Reason::Backlog(number) => write!(
                f,
                "backlog '{}' is not a number from 0 to {}, as in unix:/run/gunicorn.socket,backlog=2048",
                escape(number.as_bytes()),
                u32::MAX
            ),
            Reason::Address(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListenerError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Listener::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_label_is_the_name_else_the_address_as_typed() {
        let named = Listener::parse("gunicorn=unix:/run/g.sock,backlog=2048").unwrap();
        assert_eq!(named.name, "gunicorn");
        assert_eq!(named.address.to_string(), "unix:/run/g.sock");
        assert_eq!(named.requested_backlog, Some(2048));
        assert_eq!(
            Listener::parse("tcp:[0:0::1]:80").unwrap().name,
            "tcp:[0:0::1]:80"
        );
        assert_eq!(
            Listener::parse("unix:/run/a=b,c.sock").unwrap().name,
            "unix:/run/a=b,c.sock"
        );
    }

    #[test]
    fn a_comma_of_the_path_itself_can_be_typed_before_an_option() {
        let listener = Listener::parse(r"unix:/a\x2cb=5,backlog=6").unwrap();
        let path = UnixName::Path(b"/a,b=5".to_vec());
        assert_eq!(listener.address, Address::Unix(path));
        assert_eq!(listener.requested_backlog, Some(6));
        assert_eq!(listener.name, r"unix:/a\x2cb=5");
    }

    #[test]
    fn an_error_has_the_invalid_value_and_an_example_of_a_valid_one() {
        let named = "as in gunicorn=unix:/run/gunicorn.socket";
        for bad in ["=unix:/a", "a\u{7}=unix:/a"] {
            assert!(refused(bad).ends_with(named), "{}", refused(bad));
        }
        assert!(refused("=unix:/a").contains("name before '=' is empty"));
        assert!(refused("unix:/a,backlog=many").contains("as in unix:"));
        assert!(refused("a\u{7}=unix:/a").contains(r"'a\x07=unix:/a'"));
        let twice = refused("unix:/a,backlog=5,backlog=6");
        assert!(twice.contains("the only option is backlog=N"), "{twice}");
        assert!(refused("unix:/a,backlogg=5").contains(r"as \x2c"));
        assert!(refused("unix:run/g.sock").contains("relative"));
        assert!(refused("gunicorn").contains("unix:/run/gunicorn.socket"));
    }
}
