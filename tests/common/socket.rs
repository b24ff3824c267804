//! Listening sockets with an exact backlog, and clients that never wait.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, Protocol, SocketAddrUnix, SocketFlags, SocketType, ipproto, socket_with,
};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A socket in state LISTEN.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// What else is asked of a TCP listener.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tcp {
    pub(crate) reuse_port: bool,
    /// IPv6 only: the IPv4 half as well.
    pub(crate) dual_stack: bool,
    pub(crate) multipath: bool,
}

impl Listener {
    /// Binds a unix socket to the path as it is, relative or not.
    pub(crate) fn unix(path: impl AsRef<Path>, backlog: i32) -> Self {
        Self::unix_of_type(SocketType::STREAM, path, backlog)
    }

    pub(crate) fn unix_of_type(kind: SocketType, path: impl AsRef<Path>, backlog: i32) -> Self {
        let path = path.as_ref();
        let address = SocketAddrUnix::new(path).expect("a path that fits");
        Self::at(kind, &address, backlog)
            .unwrap_or_else(|error| panic!("listen on {}: {error}", path.display()))
    }

    /// A unix socket of an abstract name, given without its leading NUL.
    pub(crate) fn abstract_unix(name: &[u8], backlog: i32) -> Self {
        Self::at(SocketType::STREAM, &abstract_name(name), backlog)
            .unwrap_or_else(|error| panic!("listen on @{}: {error}", name.escape_ascii()))
    }

    fn at(kind: SocketType, address: &SocketAddrUnix, backlog: i32) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::UNIX, kind, FLAGS, None)?;
        rustix::net::bind(&socket, address)?;
        rustix::net::listen(&socket, backlog)?;
        Ok(Self(socket))
    }

    pub(crate) fn tcp(address: &str, backlog: i32) -> Self {
        Self::tcp_with(address, backlog, Tcp::default())
    }

    pub(crate) fn tcp_with(address: &str, backlog: i32, options: Tcp) -> Self {
        let listen = |address: SocketAddr| -> Result<Self, Errno> {
            let protocol: Option<Protocol> = options.multipath.then_some(ipproto::MPTCP);
            let socket = socket_with(family(address), SocketType::STREAM, FLAGS, protocol)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            sockopt::set_socket_reuseport(&socket, options.reuse_port)?;
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, !options.dual_stack)?;
            }
            rustix::net::bind(&socket, &address)?;
            rustix::net::listen(&socket, backlog)?;
            Ok(Self(socket))
        };
        listen(address.parse().expect("an address"))
            .unwrap_or_else(|error| panic!("listen on {address} ({options:?}): {error}"))
    }

    /// Calls listen(2) again.
    pub(crate) fn listen(&self, backlog: i32) {
        rustix::net::listen(&self.0, backlog).expect("listen again");
    }

    /// The connection at the head of the queue.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        match rustix::net::accept(&self.0) {
            Ok(connection) => Some(connection),
            Err(Errno::AGAIN) => None,
            Err(error) => panic!("accept: {error}"),
        }
    }

    pub(crate) fn accept_all(&self) -> Vec<OwnedFd> {
        std::iter::from_fn(|| self.accept()).collect()
    }
}

/// What nginx does: a connect() that does not wait. A full queue is `EAGAIN`.
pub(crate) fn connect(path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path.as_ref()).expect("a path that fits");
    connect_unix(SocketType::STREAM, &address)
}

pub(crate) fn connect_abstract(name: &[u8]) -> Result<OwnedFd, Errno> {
    connect_unix(SocketType::STREAM, &abstract_name(name))
}

pub(crate) fn connect_seqpacket(path: &Path) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new(path).expect("a path that fits");
    connect_unix(SocketType::SEQPACKET, &address)
}

fn connect_unix(kind: SocketType, address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, kind, FLAGS, None)?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

/// `count` clients, each of which finds room.
pub(crate) fn connect_all(path: impl AsRef<Path>, count: usize) -> Vec<OwnedFd> {
    let path = path.as_ref();
    let client = |i| connect(path).unwrap_or_else(|error| panic!("client {i} of {count}: {error}"));
    (1..=count).map(client).collect()
}

/// One SYN. On loopback the handshake is over when this returns, or the SYN was dropped.
pub(crate) fn connect_tcp(address: &str) -> OwnedFd {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = socket_with(family(address), SocketType::STREAM, FLAGS, None).expect("a socket");
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => socket,
        Err(error) => panic!("connect to {address}: {error}"),
    }
}

/// A client that gives up at once, so that a dropped SYN is never sent again.
pub(crate) fn knock_tcp(address: &str) {
    drop(connect_tcp(address));
}

fn abstract_name(name: &[u8]) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(name).expect("a name that fits")
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

/// The `listener` label of a unix path without anything to escape.
pub(crate) fn label(path: impl AsRef<Path>) -> String {
    let bytes = path.as_ref().as_os_str().as_bytes();
    format!("unix:{}", std::str::from_utf8(bytes).expect("UTF-8"))
}
