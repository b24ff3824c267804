//! Every fuzz target, as a function from bytes that panics when something is wrong. `make fuzz` runs them with libFuzzer;
//! tests/fuzz.rs runs the same functions on every kept input.

#[expect(dead_code, reason = "the tests of the exporter use the rest")]
#[path = "../../tests/common/exposition.rs"]
mod exposition;
mod files;
mod ledger;
mod requests;

use std::str;

use listen_queue_exporter::duration;
use listen_queue_exporter::kernel::sock_diag::Reply;
use listen_queue_exporter::kernel::{inet, mount, netstat, sock_diag, unix};
use listen_queue_exporter::listener::{Address, Listener, UnixName};
use listen_queue_exporter::refusals::nginx_log::{self, Message};

/// What runs on an input.
pub type Target = fn(&[u8]);

/// Name and function of each.
pub const TARGETS: &[(&str, Target)] = &[
    ("sock_diag", sock_diag),
    ("unix_reply", unix_reply),
    ("inet_reply", inet_reply),
    ("member_reply", member_reply),
    ("proc_net_unix", files::proc_net_unix),
    ("proc_net_tcp", files::proc_net_tcp),
    ("netstat", netstat),
    ("mountinfo", mountinfo),
    ("nginx_log", nginx_log),
    ("listener", listener),
    ("duration", duration),
    ("web_config", files::web_config),
    ("requests", requests::requests),
    ("ledger", ledger::ledger),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or if it found something.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target").1(input);
}

/// The number of the recorded requests.
const SEQUENCE: u32 = 1;

fn sock_diag(datagram: &[u8]) {
    let mut rest = datagram;
    while let Ok(Some((reply, after))) = sock_diag::parse(rest, SEQUENCE) {
        assert!(after.len() < rest.len(), "it comes to an end");
        rest = after;
        if let Some(Reply::Socket(socket)) = reply {
            unix_reply(socket);
            inet_reply(socket);
            member_reply(socket);
        }
    }
}

fn unix_reply(socket: &[u8]) {
    if let Ok(Some(listener)) = unix::parse(socket)
        && let Some(UnixName::Path(name) | UnixName::Abstract(name)) = listener.name
    {
        assert!(name.len() < socket.len());
    }
}

fn inet_reply(socket: &[u8]) {
    let _ = inet::parse(socket);
}

fn member_reply(socket: &[u8]) {
    let _ = inet::parse_member(socket);
}

fn netstat(text: &[u8]) {
    let _ = netstat::parse(text);
}

/// The last byte is the id that is looked for.
fn mountinfo(input: &[u8]) {
    if let Some((id, text)) = input.split_last() {
        let _ = mount::superblock(text, u64::from(*id));
    }
}

fn nginx_log(datagram: &[u8]) {
    if let Message::Refused(path) = nginx_log::parse(datagram) {
        assert!((1..=107).contains(&path.len()), "a path of {}", path.len());
        let expected = [b"connect() to unix:", path, b" failed (11: "].concat();
        let mut windows = datagram.windows(expected.len());
        assert!(windows.any(|window| window == expected));
    }
}

fn listener(text: &[u8]) {
    let Some(listener) = str::from_utf8(text).ok().map(Listener::parse) else {
        return;
    };
    match listener {
        Ok(listener) => {
            assert!(!listener.name.is_empty());
            assert!(
                !listener.name.contains(char::is_control),
                "a label of one line"
            );
            let shown = listener.address.to_string();
            assert_eq!(Address::parse(&shown).as_ref(), Ok(&listener.address));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

fn duration(text: &[u8]) {
    if let Some(Ok(duration)) = str::from_utf8(text).ok().map(duration::parse) {
        let milliseconds = duration.as_millis();
        let again = duration::parse(&format!("{milliseconds}ms"));
        assert_eq!(again, Ok(duration));
    }
}
