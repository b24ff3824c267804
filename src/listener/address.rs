//! The address of a listener: text to bytes and back, without loss.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest abstract name: `sun_path` is 108 bytes and its first is the NUL.
const LONGEST_ABSTRACT_NAME: usize = 107;
/// Longest path that the kernel resolves (`PATH_MAX` with its NUL is 4096).
const LONGEST_PATH: usize = 4095;

/// Where clients connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A unix socket of type `SOCK_STREAM` or `SOCK_SEQPACKET`.
    Unix(UnixName),
    /// One TCP address and port.
    Tcp(SocketAddr),
    /// Every wildcard listener of a TCP port, of both families.
    TcpPort(u16),
}

/// The name that `bind(2)` gave to a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnixName {
    /// A path, as passed to `bind(2)`: it may be relative, and it may now lead to another file.
    Path(Vec<u8>),
    /// An abstract name without its leading NUL; other NULs count.
    Abstract(Vec<u8>),
}

/// Why an address is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressError {
    /// It begins neither with `unix:` nor with `tcp:`.
    Scheme,
    /// A comma followed by what looks like an option, other than the one that was removed.
    Option,
    /// Nothing, or only `@`, follows `unix:`.
    EmptyUnixName,
    /// A path that is not absolute.
    RelativePath,
    /// A NUL byte inside a path.
    NulInPath,
    /// Longer than the kernel allows.
    TooLong,
    /// No `:PORT` at the end.
    NoPort,
    /// Not a number from 1 to 65535.
    Port,
    /// Not an IP address. Host names are not resolved.
    Host,
}

impl UnixName {
    /// The name of a path: repeated slashes and `.` have no meaning (`link_path_walk`, fs/namei.c), so all spellings of a path are one
    /// name. `..` stays, because its meaning depends on links.
    #[must_use]
    pub fn path(spelled: &[u8]) -> Self {
        let begins_at_root = spelled.first() == Some(&b'/');
        let parts = spelled.split(|byte| *byte == b'/');
        let parts: Vec<&[u8]> = parts
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        let path = parts.join(&b'/');
        if begins_at_root {
            return Self::Path([b"/".as_slice(), &path].concat());
        }
        if path.is_empty() {
            return Self::Path(spelled.to_vec());
        }
        Self::Path(path)
    }
}

impl Address {
    /// Parses `unix:/path`, `unix:@abstract`, `tcp:HOST:PORT`, `tcp::PORT` or `tcp:[::1]:PORT`.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once(':').ok_or(AddressError::Scheme)?;
        if !matches!(scheme, "unix" | "tcp") {
            return Err(AddressError::Scheme);
        }
        if rest.split(',').skip(1).any(looks_like_an_option) {
            return Err(AddressError::Option);
        }
        if scheme == "unix" {
            return parse_unix(rest).map(Self::Unix);
        }
        let (host, port) = rest.rsplit_once(':').ok_or(AddressError::NoPort)?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(AddressError::Port),
            Ok(port) => port,
        };
        if host.is_empty() {
            return Ok(Self::TcpPort(port));
        }
        let ip = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map(IpAddr::V6),
            None => host.parse::<Ipv4Addr>().map(IpAddr::V4),
        };
        let ip = ip.map_err(|_| AddressError::Host)?;
        Ok(Self::Tcp(SocketAddr::new(ip, port)))
    }

    /// `unix` or `tcp`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self {
            Self::Unix(_) => "unix",
            Self::Tcp(_) | Self::TcpPort(_) => "tcp",
        }
    }
}

/// Whether the text after a comma begins with `WORD=`, which is more likely a mistyped option than a part of the name.
fn looks_like_an_option(after_comma: &str) -> bool {
    let word = after_comma.trim_start();
    let rest =
        word.trim_start_matches(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    rest.len() < word.len() && rest.trim_start().starts_with('=')
}

fn parse_unix(text: &str) -> Result<UnixName, AddressError> {
    if let Some(name) = text.strip_prefix('@') {
        let name = unescape(name);
        return match name.len() {
            0..=LONGEST_ABSTRACT_NAME => Ok(UnixName::Abstract(name)),
            _ => Err(AddressError::TooLong),
        };
    }
    let path = unescape(text);
    match path.first() {
        None => Err(AddressError::EmptyUnixName),
        Some(_) if path.contains(&0) => Err(AddressError::NulInPath),
        Some(_) if path.len() > LONGEST_PATH => Err(AddressError::TooLong),
        Some(b'/') => Ok(UnixName::path(&path)),
        Some(_) => Err(AddressError::RelativePath),
    }
}

/// Turns `\xNN` into the byte NN and leaves everything else as it is.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let [b'\\', b'x', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            bytes.push(high << 4 | low);
            rest = after;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Prints bytes as text, one to one: control characters, backslashes and bytes that are not UTF-8 become `\xNN`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' || is_invisible(character) {
                let mut buffer = [0; 4];
                escape_each(&mut text, character.encode_utf8(&mut buffer).as_bytes());
            } else {
                text.push(character);
            }
        }
        escape_each(&mut text, chunk.invalid());
    }
    text
}

/// Characters that are invisible or change the text direction: with them a name could look like another.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

fn escape_each(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(name) => write!(f, "unix:{name}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::TcpPort(port) => write!(f, "tcp::{port}"),
        }
    }
}

/// As `escape`, but a comma that would be read as the beginning of an option becomes `\x2c`.
fn escape_name(bytes: &[u8]) -> String {
    let escaped = escape(bytes);
    let mut text = String::with_capacity(escaped.len());
    for (index, part) in escaped.split(',').enumerate() {
        text.push_str(match index {
            0 => "",
            _ if looks_like_an_option(part) => "\\x2c",
            _ => ",",
        });
        text.push_str(part);
    }
    text
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "@{}", escape_name(name)),
            // A relative path may begin with '@', which marks an abstract name.
            Self::Path(path) => match path.split_first() {
                Some((b'@', rest)) => write!(f, "\\x40{}", escape_name(rest)),
                _ => f.write_str(&escape_name(path)),
            },
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => {
                "an address must begin with unix: or tcp:, as in unix:/run/gunicorn.socket, unix:@name, tcp::80 or tcp:127.0.0.1:80"
            }
            Self::Option => {
                "a comma followed by WORD= is read as an option, and the only option is backlog=N at the end, as in unix:/run/gunicorn.socket,backlog=2048; if the comma is part of the name, write it as \\x2c"
            }
            Self::EmptyUnixName => {
                "the socket has no name; write it as in unix:/run/gunicorn.socket or unix:@name"
            }
            Self::RelativePath => {
                "the path is relative, and its directory is unknown; write an absolute path, as in unix:/run/gunicorn.socket"
            }
            Self::NulInPath => {
                "a path cannot contain a NUL byte; write an abstract name as in unix:@name"
            }
            Self::TooLong => {
                "the name is longer than the kernel allows (107 bytes for an abstract name, 4095 for a path)"
            }
            Self::NoPort => "the port is missing; write it as in tcp::80 or tcp:127.0.0.1:80",
            Self::Port => "the port is not a number from 1 to 65535, as in tcp::80",
            Self::Host => {
                "the host is not an IP address (host names are not resolved); write it as in tcp:127.0.0.1:80, tcp:[::1]:80 or, for all addresses, tcp::80"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Listener;
    use proptest::prelude::*;

    fn refused(text: &str) -> AddressError {
        Address::parse(text).unwrap_err()
    }

    #[test]
    fn all_spellings_of_a_path_are_one_name_and_dots_that_lead_up_stay() {
        for spelled in [
            "/run/app.sock",
            "//run//app.sock",
            "///run/./app.sock",
            "/./run/././app.sock",
            "/run/app.sock/.",
        ] {
            let parsed = Address::parse(&format!("unix:{spelled}")).unwrap();
            assert_eq!(parsed.to_string(), "unix:/run/app.sock", "{spelled}");
        }
        let path = |spelled: &str| match UnixName::path(spelled.as_bytes()) {
            UnixName::Path(path) => String::from_utf8(path).unwrap(),
            UnixName::Abstract(_) => unreachable!(),
        };
        assert_eq!(path("/a/../b//c"), "/a/../b/c");
        assert_eq!(path("./rel//x"), "rel/x");
        assert_eq!(
            (path("/"), path(""), path("."), path("...")),
            ("/".into(), String::new(), ".".into(), "...".into())
        );
    }

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        let name = "a\u{202e}b\u{200b}\u{feff}";
        let printed = escape(name.as_bytes());
        assert_eq!(printed, r"a\xe2\x80\xaeb\xe2\x80\x8b\xef\xbb\xbf");
        let address = Address::parse(&format!("unix:@{printed}")).unwrap();
        assert_eq!(
            address,
            Address::Unix(UnixName::Abstract(name.as_bytes().to_vec()))
        );
    }

    #[test]
    fn each_form_parses_and_prints_back() {
        for text in [
            "unix:/run/gunicorn.socket",
            "unix:@name",
            r"unix:@a\x00b",
            r"unix:/run/a\x0ab",
            "unix:/run/ä b",
            r"unix:/run/a\x2cbacklog=5",
            r"unix:@a,b\x2c c =5",
            "unix:/run/a=b,c.sock,=",
            "tcp:127.0.0.1:80",
            "tcp:[::1]:8080",
            "tcp::65535",
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn invalid_addresses_are_distinguished() {
        assert_eq!(refused("http:80"), AddressError::Scheme);
        assert_eq!(refused(""), AddressError::Scheme);
        for typed in [
            "unix:/a,backlogg=5",
            "unix:/a, backlog=5",
            "unix:/a,backlog =5",
            "unix:/a,\tb-c=",
            "unix:@a,b=5",
            "tcp::80,backlogg=5",
        ] {
            assert_eq!(refused(typed), AddressError::Option, "{typed}");
        }
        assert_eq!(refused("unix:"), AddressError::EmptyUnixName);
        // A name of one NUL is legal.
        let nameless = Address::Unix(UnixName::Abstract(Vec::new()));
        assert_eq!(Address::parse("unix:@"), Ok(nameless));
        assert_eq!(refused("unix:g.sock"), AddressError::RelativePath);
        assert_eq!(refused(r"unix:/a\x00"), AddressError::NulInPath);
        assert_eq!(
            refused(&format!("unix:@{}", "a".repeat(108))),
            AddressError::TooLong
        );
        assert_eq!(refused("tcp:80"), AddressError::NoPort);
        assert_eq!(refused("tcp::0"), AddressError::Port);
        assert_eq!(refused("tcp::65536"), AddressError::Port);
        assert_eq!(refused("tcp:localhost:80"), AddressError::Host);
        assert_eq!(refused("tcp:::1:80"), AddressError::Host);
    }

    #[test]
    fn a_relative_path_that_begins_with_an_at_sign_is_not_taken_for_an_abstract_name() {
        let path = Address::Unix(UnixName::Path(b"@x".to_vec()));
        let name = Address::Unix(UnixName::Abstract(b"x".to_vec()));
        assert_eq!(path.to_string(), r"unix:\x40x");
        assert_eq!(name.to_string(), "unix:@x");
    }

    #[test]
    fn a_comma_that_begins_no_option_can_be_typed_and_is_printed_so_that_it_parses() {
        let path = |bytes: &[u8]| Address::Unix(UnixName::Path(bytes.to_vec()));
        for (bytes, printed) in [
            (b"/a,backlogg=5".as_slice(), r"unix:/a\x2cbacklogg=5"),
            (b"/a, b=,c=", r"unix:/a\x2c b=\x2cc="),
            (b"/a,\tb=", r"unix:/a,\x09b="),
            (b"/a,b,c=d", r"unix:/a,b\x2cc=d"),
            (b"/a\\x2cb=", r"unix:/a\x5cx2cb="),
        ] {
            assert_eq!(path(bytes).to_string(), printed);
            assert_eq!(Address::parse(printed), Ok(path(bytes)));
        }
    }

    #[test]
    fn no_control_character_is_left_in_what_is_printed() {
        assert_eq!(
            escape(b"a\n\"\\\xff\x7f\xc2\x85"),
            r#"a\x0a"\x5c\xff\x7f\xc2\x85"#
        );
    }

    proptest! {
        #[test]
        fn printing_is_one_to_one(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let text = escape(&bytes);
            prop_assert!(!text.contains(char::is_control));
            prop_assert_eq!(unescape(&text), bytes);
        }

        #[test]
        fn any_name_prints_as_text_that_parses_to_it_alone(bytes in "/[,=a\\\\x2c \t\u{a0}]{0,30}") {
            for name in [UnixName::Path, UnixName::Abstract] {
                let address = Address::Unix(name(bytes.clone().into_bytes()));
                let listener = Listener::parse(&address.to_string()).unwrap();
                prop_assert_eq!(listener, Listener::discovered(address));
            }
        }

        #[test]
        fn parsing_any_text_ends_in_an_address_that_prints_back_or_in_a_reason(text in "(unix:|tcp:)?(\\PC{0,60}|/[a, =\\\\x2c]{0,30})") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
            }
        }
    }
}
