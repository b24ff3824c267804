//! Parses one line of the nginx error log in the form in which nginx sends it to a syslog server.
//!
//! ```text
//! <187>Nov 23 02:53:43 [host ]nginx: 2026/11/23 02:53:43 [error] 17#17: *385 connect() to unix:/run/g.sock failed (11: Resource
//! temporarily unavailable) while connecting to upstream, client: …, server: …, request: "…", upstream: "…", host: "…"
//! ```
//!
//! The client controls the request and the host. They come last. The fields before them are read in order from the start,
//! so nothing that a client sends is ever read as a field of nginx.

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// `connect()` to this unix socket failed with `EAGAIN`: its queue was full.
    Refused(&'a [u8]),
    /// An upstream did not answer, or could not be connected to, in time.
    Timeout,
    /// Any other line of nginx.
    Other,
    /// Not a line of nginx.
    Malformed,
}

/// `EAGAIN`, as nginx prints the number before the text.
const EAGAIN: &[u8] = b"11";
/// `sun_path` without the NUL that nginx appends.
const LONGEST_PATH: usize = 107;

/// Reads one datagram. A line that nginx truncated after 2 KB still contains the relevant fields.
#[must_use]
pub fn parse(datagram: &[u8]) -> Message<'_> {
    match after_syslog_header(datagram).and_then(after_nginx_header) {
        None => Message::Malformed,
        Some(text) => {
            if let Some(path) = refused_path(text) {
                Message::Refused(path)
            } else if text.starts_with(b"upstream timed out (") {
                Message::Timeout
            } else {
                Message::Other
            }
        }
    }
}

/// Skips `<PRI>Mmm dd hh:mm:ss [host ]tag: `.
fn after_syslog_header(line: &[u8]) -> Option<&[u8]> {
    let (priority, rest) = split_at(line.strip_prefix(b"<")?, b">")?;
    if priority.is_empty() || priority.len() > 3 || !priority.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let rest = after_shape(rest, b"Aaa 00 00:00:00 ")?;
    let (first, rest) = split_at(rest, b" ")?;
    if is_tag(first) {
        return Some(rest);
    }
    let (second, rest) = split_at(rest, b" ")?;
    is_tag(second).then_some(rest)
}

/// nginx accepts letters, digits and underscores as a tag.
fn is_tag(word: &[u8]) -> bool {
    word.strip_suffix(b":").is_some_and(|tag| {
        !tag.is_empty() && tag.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
    })
}

/// Skips `yyyy/mm/dd hh:mm:ss [level] pid#tid: ` and, if there is one, `*connection `.
fn after_nginx_header(line: &[u8]) -> Option<&[u8]> {
    let rest = after_shape(line, b"0000/00/00 00:00:00 [")?;
    let (level, rest) = split_at(rest, b"] ")?;
    if level.is_empty() || !level.iter().all(u8::is_ascii_lowercase) {
        return None;
    }
    let rest = after_digits(rest)?.strip_prefix(b"#")?;
    let rest = after_digits(rest)?.strip_prefix(b": ")?;
    match rest.strip_prefix(b"*") {
        Some(numbered) => after_digits(numbered)?.strip_prefix(b" "),
        None => Some(rest),
    }
}

/// The path of `connect() to unix:PATH failed (11: …)`.
fn refused_path(text: &[u8]) -> Option<&[u8]> {
    const FAILED: &[u8] = b" failed (";
    let rest = text.strip_prefix(b"connect() to unix:")?;
    // A path may contain these words itself, and may come from the request: those of nginx are the last that can follow a path. The
    // request, which comes after them, is further away than the length of the longest path.
    let can_end_at = (1..=LONGEST_PATH).rev();
    let (path, number) = can_end_at
        .filter_map(|length| rest.split_at_checked(length))
        .find_map(|(path, rest)| {
            let (number, _) = split_at(rest.strip_prefix(FAILED)?, b": ")?;
            let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
            is_number.then_some((path, number))
        })?;
    (number == EAGAIN).then_some(path)
}

/// What comes before and after the first `separator`.
fn split_at<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = text
        .windows(separator.len())
        .position(|window| window == separator)?;
    Some((text.get(..at)?, text.get(at + separator.len()..)?))
}

/// Skips bytes that match a pattern: `A` is an upper-case letter, `a` a lower-case letter, `0` a digit or a space, anything else itself.
fn after_shape<'a>(text: &'a [u8], shape: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(shape.len())?;
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'A' => byte.is_ascii_uppercase(),
        b'a' => byte.is_ascii_lowercase(),
        b'0' => byte.is_ascii_digit() || *byte == b' ',
        other => byte == other,
    };
    head.iter().zip(shape).all(fits).then_some(rest)
}

/// Skips a number of at least one digit.
fn after_digits(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        None
    } else {
        text.get(length..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REFUSED: &str = "<187>Nov 23 02:53:43 nginx: 2026/11/23 02:53:43 [error] 25488#25488: *385 connect() to unix:/run/g.sock failed \
        (11: Resource temporarily unavailable) while connecting to upstream, client: 127.0.0.1, server: , request: \"GET / HTTP/1.1\", \
        upstream: \"http://unix:/run/g.sock:/\", host: \"x\"";

    fn line(text: &str) -> String {
        format!("<187>Nov  3 02:53:43 nginx: 2026/11/03 02:53:43 [error] 1#2: *3 {text}")
    }

    fn of(text: &str) -> Message<'_> {
        parse(text.as_bytes())
    }

    #[test]
    fn a_refused_connect_has_its_path() {
        assert_eq!(of(REFUSED), Message::Refused(b"/run/g.sock"));
    }

    #[test]
    fn facility_severity_tag_and_host_do_not_matter() {
        for (from, to) in [
            ("<187>", "<0>"),
            (" nginx: ", " web_1: "),
            (" nginx: ", " host.example nginx: "),
            ("[error]", "[crit]"),
            ("*385 ", ""),
        ] {
            let changed = REFUSED.replace(from, to);
            assert_eq!(of(&changed), Message::Refused(b"/run/g.sock"), "{changed}");
        }
    }

    #[test]
    fn a_line_that_nginx_cut_off_still_counts() {
        let end = REFUSED.find("temporarily").unwrap();
        assert_eq!(of(&REFUSED[..end]), Message::Refused(b"/run/g.sock"));
    }

    #[test]
    fn what_a_client_sends_does_not_count() {
        let fake = "connect() to unix:/run/g.sock failed (11: Resource temporarily unavailable) while connecting to upstream";
        for text in [
            format!(
                "open() \"/srv/{fake}\" failed (2: No such file or directory), client: 1.2.3.4, request: \"GET /{fake}\""
            ),
            "connect() to unix:/run/g.sock failed (2: No such file or directory) while connecting to upstream, client: 127.0.0.1, server: , request: \"GET / failed (11: x\"".to_owned(),
            format!(
                "access forbidden by rule, client: 1.2.3.4, request: \"GET /{fake} HTTP/1.1\", host: \"{fake}\""
            ),
            fake.replace("unix:/run/g.sock", "127.0.0.1:80"),
        ] {
            assert_eq!(of(&line(&text)), Message::Other, "{text}");
        }
        assert_eq!(of(fake), Message::Malformed);
        let injected = format!("<187>Nov 23 02:53:43 nginx: x {REFUSED}");
        assert_eq!(of(&injected), Message::Malformed);
    }

    #[test]
    fn a_path_may_hold_any_text() {
        let odd = line(
            "connect() to unix:/run/a failed (x) b failed (11: Resource temporarily unavailable) while connecting to upstream",
        );
        assert_eq!(of(&odd), Message::Refused(b"/run/a failed (x) b"));
        let mut bytes = REFUSED.as_bytes().to_vec();
        let at = REFUSED.find("g.sock").unwrap();
        bytes[at] = 0xff;
        assert_eq!(parse(&bytes), Message::Refused(b"/run/\xff.sock"));
    }

    #[test]
    fn a_path_that_a_client_chose_cannot_pretend() {
        // fastcgi_pass unix:/run/$1.sock; and a request for /g.sock%20failed%20(11:%20x
        let forged = "connect() to unix:/run/g.sock failed (11: x.sock failed (2: No such file or directory) while connecting to upstream, \
            client: 127.0.0.1, server: , request: \"GET / HTTP/1.1\"";
        assert_eq!(of(&line(forged)), Message::Other);
        let long = format!(
            "connect() to unix:/{} failed (11: Resource temporarily unavailable)",
            "a".repeat(107)
        );
        assert_eq!(of(&line(&long)), Message::Other);
    }

    #[test]
    fn timeouts_are_distinguished_from_the_rest() {
        let slow = "upstream timed out (110: Connection timed out) while reading response header from upstream, client: 127.0.0.1";
        assert_eq!(of(&line(slow)), Message::Timeout);
        assert_eq!(of(&line("signal process started")), Message::Other);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_line_cut_anywhere_is_refused_with_its_path_or_not_refused(length in 0..REFUSED.len(), junk in any::<u8>()) {
            let mut bytes = REFUSED.as_bytes()[..length].to_vec();
            bytes.push(junk);
            match parse(&bytes) {
                Message::Refused(path) => prop_assert_eq!(path, b"/run/g.sock"),
                Message::Other | Message::Malformed => {}
                Message::Timeout => prop_assert!(false),
            }
        }

        #[test]
        fn no_request_makes_a_count(request in "\\PC{0,200}") {
            let text = line(&format!("access forbidden by rule, client: 1.2.3.4, server: , request: \"{request}\""));
            prop_assert_eq!(of(&text), Message::Other);
        }
    }
}
