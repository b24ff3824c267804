//! The netlink transport: requests, replies, and every way in which they can fail.
//!
//! Blocking on purpose: the kernel writes the reply during `send`, so it is already there for the receive. `NLM_F_DUMP_INTR` is not
//! evaluated: these dumps miss and repeat rows without ever setting it, so the caller verifies rows one by one.

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

/// The kernel fills no larger datagram than 32 KiB (`netlink_dump`, af_netlink.c), and only after it saw a receive that large.
const BUFFER: usize = 32 * 1024;
/// The reply is available when `send` returns. One that has not arrived after this time will not arrive.
const REPLY_LIMIT: Duration = Duration::from_millis(500);
/// `MSG_TRUNC`: the receive returns the full length of the datagram, which reveals a truncated one.
const MSG_TRUNC: i32 = 0x20;
/// Header (16 bytes) and the largest request (`inet_diag_req_v2`, 56 bytes).
const REQUEST: usize = 128;

/// Maximum number of requests sent together: their replies are small compared to the socket's receive buffer, and the kernel does not hold its
/// lock for long in the meantime (`sock_diag_rcv`, sock_diag.c).
pub const BATCH: usize = 8;

/// Position of the sequence number in the header.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// A request to the kernel, as bytes without the sequence number.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    bytes: [u8; REQUEST],
    length: usize,
}

/// A socket of the `NETLINK_SOCK_DIAG` protocol, bound to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    buffer: Vec<u8>,
    /// Requests that are sent together.
    batch: Vec<u8>,
    sequence: u32,
}

/// What the kernel answers to a request for one socket: its header and attributes, or an error.
pub type Answer<'a> = Result<&'a [u8], Errno>;

/// Why a request has no reply or an incomplete one.
#[derive(Debug)]
pub enum Error {
    /// The socket could not be created or used.
    Socket(&'static str, io::Error),
    /// The kernel replied with an error, inside `NLMSG_ERROR` or `NLMSG_DONE`.
    Refused(Errno),
    /// No reply within half a second.
    NoReply,
    /// A datagram of this many bytes did not fit the buffer.
    Truncated(usize),
    /// A datagram that is not a netlink message, or a message of another kind than requested.
    Malformed(String),
}

/// The kind of request.
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
    /// A socket: its header and attributes, which the caller decodes. To decode all of them costs more than
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
    /// `EPERM`, `ENOSYS` or `EPROTONOSUPPORT` if a sandbox denies netlink.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)
            .map_err(|e| Error::Socket("open a sock_diag netlink socket", e))?;
        // Connected to the kernel, it accepts datagrams only from there.
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(|e| Error::Socket("connect the netlink socket", e))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(REPLY_LIMIT))
            .map_err(|e| Error::Socket("set a receive timeout on the netlink socket", e.into()))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER),
            batch: Vec::with_capacity(BATCH * REQUEST),
            sequence: 0,
        })
    }

    /// A channel whose requests are never answered.
    #[cfg(test)]
    pub(crate) fn without_answer() -> Self {
        let channel = Self::open().unwrap();
        channel
            .socket
            .connect(&SocketAddr::new(u32::MAX, 0))
            .unwrap();
        channel
    }

    /// Sends one request for all sockets that match, and calls `each` with the bytes of each.
    ///
    /// # Errors
    /// After an error the answer is incomplete. Replies that arrive later are distinguished by their sequence number.
    pub fn ask(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.send(std::iter::once(request))?;
        loop {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Some((reply, after)) = parse(rest, self.sequence)? {
                rest = after;
                match reply {
                    Some(Reply::Socket(socket)) => each(socket)?,
                    Some(Reply::Done) => return Ok(()),
                    Some(Reply::Error(errno)) => return Err(Error::Refused(errno)),
                    None => {}
                }
            }
        }
    }

    /// Sends a request for one socket, and hands its answer to `read`.
    ///
    /// # Errors
    /// As [`Self::answers`].
    pub fn ask_one<T: Default>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(Answer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let sent = self.send(std::iter::once(request))?;
        let mut found = T::default();
        self.answers(sent, |answer| {
            found = read(answer)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// Sends requests, at most [`BATCH`], in one datagram, and returns their number.
    ///
    /// # Errors
    /// [`Error::Socket`] if the kernel does not take them.
    pub fn send<'a>(
        &mut self,
        requests: impl Iterator<Item = &'a Request>,
    ) -> Result<usize, Error> {
        self.batch.clear();
        let mut count = 0;
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let mut bytes = request.bytes;
            bytes[SEQUENCE].copy_from_slice(&self.sequence.to_ne_bytes());
            let bytes = bytes.get(..request.length).unwrap_or_default();
            self.batch.extend_from_slice(bytes);
            count += 1;
        }
        if count > 0 {
            retry(|| self.socket.send(&self.batch, 0))
                .map_err(|e| Error::Socket("send to the netlink socket", e))?;
        }
        Ok(count)
    }

    /// Hands the answers to the last `count` requests, each for one socket, to `each`, in the order of the requests.
    ///
    /// # Errors
    /// After an error the answers that are left are not handed out.
    pub fn answers(
        &mut self,
        count: usize,
        mut each: impl FnMut(Answer) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let count = u32::try_from(count).unwrap_or_default();
        let mut next = self.sequence.wrapping_sub(count).wrapping_add(1);
        let after = self.sequence.wrapping_add(1);
        while next != after {
            self.receive()?;
            let mut rest = self.buffer.as_slice();
            while let Some((reply, left)) = parse(rest, next)? {
                rest = left;
                match reply {
                    Some(Reply::Socket(socket)) => each(Ok(socket))?,
                    Some(Reply::Error(errno)) => each(Err(errno))?,
                    Some(Reply::Done) | None => continue,
                }
                next = next.wrapping_add(1);
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Error> {
        self.buffer.clear();
        let (socket, buffer) = (&self.socket, &mut self.buffer);
        match retry(|| socket.recv(buffer, MSG_TRUNC)) {
            Ok(length) if length > self.buffer.len() => Err(Error::Truncated(length)),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(Error::NoReply),
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
        Self { bytes, length }
    }
}

/// The first message of a datagram, if it answers the request in question, and the bytes after it.
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
            Self::NoReply => write!(f, "no reply within {} ms", REPLY_LIMIT.as_millis()),
            Self::Truncated(length) => {
                write!(f, "an answer of {length} bytes, cut to {BUFFER}")
            }
            Self::Malformed(reason) => write!(f, "the reply cannot be decoded: {reason}"),
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
