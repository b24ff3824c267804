//! TCP listeners through `inet_diag`: a dump of a family, a lookup of one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId as InetId, StateFlags};
use rustix::io::Errno;

use super::SocketId;
use super::sock_diag::{Ask, Channel, Error};

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
    /// `SK_MEMINFO_DROPS`: packets dropped at the listener since its birth, wrapping at 2^32.
    pub drops: Option<u32>,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, dual-stack sockets among them.
    V6,
}

impl Bound {
    /// The family of the socket, which for a mapped IPv4 address still is IPv6.
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
    let any = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let request = request(SocketAddr::new(any, 0), 0, [0; 8]);
    channel.ask(SockDiagMessage::InetRequest(request), Ask::All, |reply| {
        if let Some(listener) = parse(&reply) {
            each(listener);
        }
    })
}

/// The queue of one listener. `None` once it is gone, and also when the kernel's lookup prefers another socket of the same
/// address (`SO_REUSEPORT`, `SO_BINDTODEVICE`): only a dump tells those apart.
///
/// # Errors
/// What [`Channel::ask`] says.
pub fn queue(channel: &mut Channel, id: SocketId, bound: Bound) -> Result<Option<Queue>, Error> {
    let request = request(bound.address, bound.interface, id.cookie);
    let mut found = None;
    let asked = channel.ask(SockDiagMessage::InetRequest(request), Ask::One, |reply| {
        found = parse(&reply).filter(|listener| listener.id == id);
    });
    match asked {
        Ok(()) => Ok(found.map(|listener| listener.queue)),
        Err(Error::Refused(Errno::NOENT | Errno::STALE)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn request(local: SocketAddr, interface: u32, cookie: [u8; 8]) -> InetRequest {
    let (family, any) = match local.ip() {
        IpAddr::V4(_) => (AF_INET, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (AF_INET6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
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

/// Reads one reply. `None` for what is no listener.
#[must_use]
pub fn parse(message: &SockDiagMessage) -> Option<TcpListener> {
    let SockDiagMessage::InetResponse(reply) = message else {
        return None;
    };
    let header = &reply.header;
    if header.state != TCP_LISTEN {
        return None;
    }
    let drops = reply.nlas.iter().find_map(|nla| match nla {
        Nla::MemInfo(memory) => Some(memory.drops),
        _ => None,
    });
    let address = SocketAddr::new(
        header.socket_id.source_address,
        header.socket_id.source_port,
    );
    Some(TcpListener {
        id: SocketId {
            inode: header.inode,
            cookie: header.socket_id.cookie,
        },
        bound: Bound {
            address,
            interface: header.socket_id.interface_id,
        },
        queue: Queue {
            depth: header.recv_queue,
            backlog: header.send_queue,
            drops,
        },
    })
}
