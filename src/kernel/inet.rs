//! TCP listeners through `inet_diag`: a dump of a family, a lookup of one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, INET_DIAG_INFO, INET_DIAG_SKMEMINFO, IPPROTO_TCP, TCP_CLOSE_WAIT,
    TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseBuffer, InetResponseHeader, SocketId as InetId,
    StateFlags,
};
use rustix::io::Errno;

use super::SocketId;
use super::sock_diag::{Answer, Ask, Channel, Error, Request};

/// A listening TCP socket. An MPTCP listener is one too, under its application's inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpListener {
    /// Which socket.
    pub id: SocketId,
    /// Where it listens.
    pub bound: Bound,
    /// Its accept queue.
    pub queue: Queue,
}

/// Where a TCP socket listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bound {
    /// Local address and port.
    pub address: SocketAddr,
    /// Interface that it is bound to, 0 for any.
    pub interface: u32,
}

/// The accept queue of a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Connections waiting for `accept()` (`sk_ack_backlog`).
    pub depth: u32,
    /// `sk_max_ack_backlog`.
    pub backlog: u32,
    /// `SK_MEMINFO_DROPS`: packets dropped at the listener since it was opened, wrapping at 2^32.
    pub drops: Option<u32>,
}

/// A connection that no application has accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its local end, and the interface that its listener is bound to.
    pub local: Bound,
    /// Its state.
    pub stage: Stage,
}

/// The state of a connection that no application has accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The handshake is in progress: it is in the SYN queue.
    HalfOpen,
    /// It is in the accept queue.
    Waiting {
        /// Time since it entered the queue, to the precision of a kernel tick (1 to 10 ms).
        age: Duration,
        /// Whether the client has closed its end, or its half of it.
        client_closed: bool,
    },
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, including dual-stack sockets.
    V6,
}

impl Bound {
    /// The family of the socket, which for a mapped IPv4 address is still IPv6.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.address {
            SocketAddr::V4(_) => Family::V4,
            SocketAddr::V6(_) => Family::V6,
        }
    }
}

/// Every listening TCP socket of one family in the namespace. A long dump under churn may miss one and repeat another.
///
/// # Errors
/// `ENOENT` where the kernel has no `inet_diag` or `tcp_diag`.
pub fn list(
    channel: &mut Channel,
    family: Family,
    mut each: impl FnMut(TcpListener),
) -> Result<(), Error> {
    let request = request(SocketAddr::new(any(family), 0), 0, [0; 8]);
    let request = Request::new(SockDiagMessage::InetRequest(request), Ask::All);
    channel.ask(&request, |reply| {
        parse(reply)?.into_iter().for_each(&mut each);
        Ok(())
    })
}

/// Every connection of a local port that no application has accepted yet. The kernel does not report those that the client has reset, although
/// they occupy the accept queue until `accept()`. The kernel walks the table of the whole host, and also returns each
/// accepted connection of the port.
///
/// # Errors
/// As [`Channel::ask`].
pub fn members(
    channel: &mut Channel,
    family: Family,
    port: u16,
    mut each: impl FnMut(Member),
) -> Result<(), Error> {
    let request = InetRequest {
        states: StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT | StateFlags::SYN_RECV,
        extensions: ExtensionFlags::INFO,
        ..request(SocketAddr::new(any(family), port), 0, [0; 8])
    };
    let request = Request::new(SockDiagMessage::InetRequest(request), Ask::All);
    channel.ask(&request, |reply| {
        parse_member(reply)?.into_iter().for_each(&mut each);
        Ok(())
    })
}

/// The request for the queue of one listener, for [`queue`].
#[must_use]
pub fn lookup(id: SocketId, bound: Bound) -> Request {
    let request = request(bound.address, bound.interface, id.cookie);
    Request::new(SockDiagMessage::InetRequest(request), Ask::One)
}

/// The queue of one listener, from the reply to its [`lookup`]. `None` if the socket is closed, and also if the kernel's lookup prefers another
/// socket of the same address (`SO_REUSEPORT`, `SO_BINDTODEVICE`): only a dump distinguishes those.
///
/// # Errors
/// [`Error::Malformed`] if the reply is not a socket with its attributes, [`Error::Refused`] if it is another error.
pub fn queue(id: SocketId, answer: Answer) -> Result<Option<Queue>, Error> {
    match answer {
        Ok(socket) => {
            let found = parse(socket)?.filter(|listener| listener.id == id);
            Ok(found.map(|listener| listener.queue))
        }
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(Error::Refused(errno)),
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn request(local: SocketAddr, interface: u32, cookie: [u8; 8]) -> InetRequest {
    let (family, any) = match local.ip() {
        IpAddr::V4(_) => (AF_INET, any(Family::V4)),
        IpAddr::V6(_) => (AF_INET6, any(Family::V6)),
    };
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::SKMEMINFO,
        states: StateFlags::LISTEN,
        socket_id: InetId {
            source_port: local.port(),
            destination_port: 0,
            source_address: local.ip(),
            destination_address: any,
            interface_id: interface,
            cookie,
        },
    }
}

/// Reads one reply. `None` if it is not a listener.
///
/// # Errors
/// [`Error::Malformed`] if the bytes are not a socket with its attributes.
pub fn parse(reply: &[u8]) -> Result<Option<TcpListener>, Error> {
    let header = InetResponseHeader::parse(reply)?;
    if header.state != TCP_LISTEN {
        return Ok(None);
    }
    let drops = match attribute(reply, INET_DIAG_SKMEMINFO)? {
        Some(Nla::MemInfo(memory)) => Some(memory.drops),
        _ => None,
    };
    Ok(Some(TcpListener {
        id: SocketId {
            inode: header.inode,
            cookie: header.socket_id.cookie,
        },
        bound: local(&header.socket_id),
        queue: Queue {
            depth: header.recv_queue,
            backlog: header.send_queue,
            drops,
        },
    }))
}

/// Reads one reply. `None` for an accepted connection, which has an inode, and for anything that is not a connection.
///
/// # Errors
/// [`Error::Malformed`] if the bytes are not a socket with its attributes.
pub fn parse_member(reply: &[u8]) -> Result<Option<Member>, Error> {
    let header = InetResponseHeader::parse(reply)?;
    let stage = match header.state {
        TCP_SYN_RECV => Stage::HalfOpen,
        TCP_ESTABLISHED | TCP_CLOSE_WAIT if header.inode == 0 => {
            let age = match attribute(reply, INET_DIAG_INFO)? {
                Some(Nla::TcpInfo(info)) => last_data_sent(&info),
                _ => None,
            };
            let Some(age) = age else { return Ok(None) };
            Stage::Waiting {
                age,
                client_closed: header.state == TCP_CLOSE_WAIT,
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(Member {
        local: local(&header.socket_id),
        stage,
    }))
}

/// One attribute of a reply. The kernel adds some that were not requested; those are not read.
fn attribute(reply: &[u8], kind: u16) -> Result<Option<Nla>, Error> {
    let attributes = reply.get(size_of::<InetResponseBuffer>()..);
    for attribute in NlasIterator::new(attributes.unwrap_or_default()) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(Nla::parse(&attribute)?));
        }
    }
    Ok(None)
}

/// `tcpi_last_data_sent`: milliseconds since data was sent. The server cannot send before `accept()`, and its clock starts when the
/// connection enters the accept queue (`tcp_create_openreq_child`, tcp_minisocks.c).
fn last_data_sent(info: &[u8]) -> Option<Duration> {
    /// Eight bytes of flags and nine words precede it in `struct tcp_info`.
    const OFFSET: usize = 8 + 9 * 4;
    let (milliseconds, _) = info.get(OFFSET..)?.split_first_chunk::<4>()?;
    let milliseconds = u32::from_ne_bytes(*milliseconds);
    Some(Duration::from_millis(milliseconds.into()))
}

fn local(id: &InetId) -> Bound {
    Bound {
        address: SocketAddr::new(id.source_address, id.source_port),
        interface: id.interface_id,
    }
}
