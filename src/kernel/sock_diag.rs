//! The netlink transport: one request, its replies, and every way in which they can be wrong.
//!
//! Blocking on purpose: the kernel writes the answer while `send` runs, so a receive finds it waiting. `NLM_F_DUMP_INTR` is not
//! looked at: these dumps miss and repeat rows without ever setting it, so the caller checks rows one by one.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, DoneBuffer, ErrorBuffer, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{SOCK_DIAG_BY_FAMILY, SockDiagMessage};
use netlink_sys::constants::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel fills no larger datagram than 32 KiB (`netlink_dump`, af_netlink.c), and only once it saw a receive that large.
const BUFFER: usize = 32 * 1024;
/// The answer is there when `send` returns; one that is not there by now was lost.
const REPLY_LIMIT: Duration = Duration::from_millis(500);
/// `MSG_TRUNC`: the receive tells the datagram's whole length, so that a cut one shows.
const MSG_TRUNC: i32 = 0x20;
/// Header (16 bytes) and the largest request (`inet_diag_req_v2`, 56 bytes).
const REQUEST: usize = 128;

/// Where the header has its sequence number.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// What to ask the kernel, as bytes but for the sequence number.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    bytes: [u8; REQUEST],
    length: usize,
    ask: Ask,
}

/// A socket of the `NETLINK_SOCK_DIAG` protocol, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

/// Why a request brought no answer, or not the whole one.
#[derive(Debug)]
pub enum Error {
    /// The socket could not be made or used.
    Socket(&'static str, io::Error),
    /// The kernel answered with an error, inside `NLMSG_ERROR` or `NLMSG_DONE`.
    Refused(Errno),
    /// No answer within half a second.
    Lost,
    /// A datagram of this many bytes did not fit the buffer.
    Truncated(usize),
    /// A datagram that is no netlink message, or a message of another kind than was asked for.
    Malformed(String),
}

/// How a request is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// One socket: one reply, no `NLMSG_DONE`.
    One,
    /// Every socket that matches: replies until `NLMSG_DONE`.
    All,
}

/// One message of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A socket: its header and attributes, which whoever asked takes apart. To have all of them made into values costs more than
    /// the rest of a lookup.
    Socket(&'a [u8]),
    /// End of a dump.
    Done,
    /// The kernel's error, positive.
    Error(Errno),
}

impl Channel {
    /// Opens a channel to this thread's network namespace.
    ///
    /// # Errors
    /// `EPERM`, `ENOSYS` or `EPROTONOSUPPORT` where a sandbox keeps netlink away.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)
            .map_err(|e| Error::Socket("open a sock_diag netlink socket", e))?;
        // Connected to the kernel, it takes datagrams from nobody else.
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(|e| Error::Socket("connect the netlink socket", e))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(REPLY_LIMIT))
            .map_err(|e| Error::Socket("set a receive timeout on the netlink socket", e.into()))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER),
            sequence: 0,
        })
    }

    /// A channel that nobody answers on.
    #[cfg(test)]
    pub(crate) fn to_nobody() -> Self {
        let channel = Self::open().unwrap();
        let nobody = SocketAddr::new(u32::MAX, 0);
        channel.socket.connect(&nobody).unwrap();
        channel
    }

    /// Sends one request and hands the bytes of each socket of the answer to `each`.
    ///
    /// # Errors
    /// After an error the answer is incomplete; replies that still come are told apart by their sequence number.
    pub fn ask(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = request.bytes;
        bytes[SEQUENCE].copy_from_slice(&self.sequence.to_ne_bytes());
        let bytes = bytes.get(..request.length).unwrap_or_default();
        retry(|| self.socket.send(bytes, 0))
            .map_err(|e| Error::Socket("send to the netlink socket", e))?;
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Some((reply, after)) = parse(rest, self.sequence)? {
                rest = after;
                match reply {
                    Some(Reply::Socket(socket)) => {
                        each(socket)?;
                        if request.ask == Ask::One {
                            return Ok(());
                        }
                    }
                    Some(Reply::Done) => return Ok(()),
                    Some(Reply::Error(errno)) => return Err(Error::Refused(errno)),
                    None => {}
                }
            }
        }
    }

    fn receive(&mut self) -> Result<(), Error> {
        self.buffer.clear();
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        match retry(|| socket.recv(buffer, MSG_TRUNC)) {
            Ok(length) if length > self.buffer.len() => Err(Error::Truncated(length)),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Error::Lost),
            Err(e) => Err(Error::Socket("receive from the netlink socket", e)),
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

impl Request {
    /// Writes a request, to be sent as often as wanted.
    #[must_use]
    pub fn new(request: SockDiagMessage, ask: Ask) -> Self {
        let mut header = NetlinkHeader::default();
        header.flags = match ask {
            Ask::One => NLM_F_REQUEST,
            Ask::All => NLM_F_REQUEST | NLM_F_DUMP,
        };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = [0; REQUEST];
        let length = message.buffer_len().min(bytes.len());
        message.serialize(&mut bytes);
        Self { bytes, length, ask }
    }
}

/// What the first message of a datagram says, if it answers the request in question, and the bytes after it.
pub type First<'a> = (Option<Reply<'a>>, &'a [u8]);

/// Takes the first message off a datagram that came after the request numbered `sequence`. `None` at the datagram's end.
///
/// # Errors
/// [`Error::Malformed`] if the bytes are no netlink message.
pub fn parse(datagram: &[u8], sequence: u32) -> Result<Option<First<'_>>, Error> {
    if datagram.is_empty() {
        return Ok(None);
    }
    let message = NetlinkBuffer::new_checked(datagram)?;
    let padded = (message.length() as usize).next_multiple_of(4);
    let rest = datagram.get(padded..).unwrap_or_default();
    if message.sequence_number() != sequence {
        return Ok(Some((None, rest)));
    }
    let reply = match message.message_type() {
        SOCK_DIAG_BY_FAMILY => Some(Reply::Socket(message.payload())),
        NLMSG_DONE => match DoneBuffer::new_checked(message.payload())?.code() {
            0 => Some(Reply::Done),
            code => Some(Reply::Error(errno(code)?)),
        },
        NLMSG_ERROR => match ErrorBuffer::new_checked(message.payload())?.code() {
            Some(code) => Some(Reply::Error(errno(code.get())?)),
            None => None,
        },
        _ => None,
    };
    Ok(Some((reply, rest)))
}

/// Netlink sends errors negated; the kernel's are 1 to 4095 (`MAX_ERRNO`).
fn errno(code: i32) -> Result<Errno, Error> {
    match code.checked_neg() {
        Some(positive @ 1..=4095) => Ok(Errno::from_raw_os_error(positive)),
        _ => Err(Error::Malformed(format!("error code {code}"))),
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(what, error) => write!(f, "cannot {what}: {error}"),
            Self::Refused(errno) => write!(f, "the kernel refused the request: {errno}"),
            Self::Lost => write!(f, "no answer within {} ms", REPLY_LIMIT.as_millis()),
            Self::Truncated(length) => {
                write!(f, "an answer of {length} bytes, cut to {BUFFER}")
            }
            Self::Malformed(reason) => write!(f, "an answer that cannot be read: {reason}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Socket(_, error) => Some(error),
            _ => None,
        }
    }
}
