//! A client that takes nothing on trust: one request, one answer, its length as announced.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Only a server that hangs takes this long.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of UTF-8")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// A GET on a connection of its own. `headers` are whole lines.
pub(crate) fn get(server: SocketAddr, path: &str, headers: &[&str]) -> Answer {
    request(server, &format!("GET {path} HTTP/1.1"), headers, "")
}

/// The body of the answer to a GET, if it comes whole: of a server that may end the connection meanwhile.
pub(crate) fn try_get(server: SocketAddr, path: &str) -> Option<Vec<u8>> {
    let mut stream = connect(server);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).ok()?;
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = str::from_utf8(&answer[..end]).ok()?.to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let body = answer.split_off(end + 4);
    (length.parse() == Ok(body.len())).then_some(body)
}

pub(crate) fn request(server: SocketAddr, line: &str, headers: &[&str], body: &str) -> Answer {
    let mut stream = connect(server);
    let headers: String = headers.iter().flat_map(|line| [line, "\r\n"]).collect();
    let request = format!("{line}\r\nHost: {server}\r\nConnection: close\r\n{headers}\r\n{body}");
    stream
        .write_all(request.as_bytes())
        .expect("the request is taken");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .unwrap_or_else(|error| panic!("answer to {line}: {error}"));
    parse(&answer)
}

pub(crate) fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&server, LIMIT)
        .unwrap_or_else(|error| panic!("connect to {server}: {error}"));
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

fn parse(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no header in {:?}", answer.escape_ascii().to_string()));
    let head = std::str::from_utf8(&answer[..end]).expect("a header of UTF-8");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(": "));
    let answer = Answer {
        status: status
            .and_then(|s| s.parse().ok())
            .expect("a status in {head}"),
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: answer[end + 4..].to_vec(),
    };
    let announced = answer.header("content-length").map(str::parse);
    assert_eq!(
        announced,
        Some(Ok(answer.body.len())),
        "length of the body as announced in {head}"
    );
    answer
}
