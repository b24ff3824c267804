//! Unix listeners through `unix_diag`: a dump of all, a lookup of one.

use netlink_packet_core::Emitable;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::TCP_LISTEN;
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName, Vfs};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use rustix::io::Errno;
use std::os::unix::ffi::OsStrExt;

use super::SocketId;
use super::sock_diag::{Ask, Channel, Error};
use crate::listener::{FileId, UnixName};

/// `RCV_SHUTDOWN` of include/net/sock.h: connect() is refused with `ECONNREFUSED`, though the state stays LISTEN.
const RCV_SHUTDOWN: u8 = 1;

/// A listening unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixListener {
    /// Which socket.
    pub id: SocketId,
    /// What `bind(2)` was given; absent when the dump did not ask for it.
    pub name: Option<UnixName>,
    /// The file that `bind(2)` made.
    pub file: Option<FileId>,
    /// Its accept queue.
    pub queue: Queue,
}

/// The accept queue of a unix listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Connections waiting for `accept()` (`sk_receive_queue.qlen`), of living and of closed clients.
    pub depth: u32,
    /// `sk_max_ack_backlog`.
    pub backlog: u32,
}

/// What a dump brings of each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Identity and queue.
    Queue,
    /// Identity, queue, name and file.
    Everything,
}

/// Every listening unix socket of the namespace that takes connections. A long dump under churn may miss one and repeat another.
///
/// # Errors
/// `ENOENT` where the kernel has no `unix_diag`.
pub fn list(
    channel: &mut Channel,
    show: Show,
    mut each: impl FnMut(UnixListener),
) -> Result<(), Error> {
    let mut show_flags = ShowFlags::RQLEN;
    if show == Show::Everything {
        show_flags |= ShowFlags::NAME | ShowFlags::VFS;
    }
    let request = UnixRequest {
        state_flags: StateFlags::LISTEN,
        inode: 0,
        show_flags,
        cookie: [0; 8],
    };
    channel.ask(SockDiagMessage::UnixRequest(request), Ask::All, |reply| {
        if let Some(listener) = parse(&reply) {
            each(listener);
        }
    })
}

/// The queue of one listener, `None` once the socket is gone or takes no connections.
///
/// # Errors
/// What [`Channel::ask`] says.
pub fn queue(channel: &mut Channel, id: SocketId) -> Result<Option<Queue>, Error> {
    let request = UnixRequest {
        state_flags: StateFlags::LISTEN,
        inode: id.inode,
        show_flags: ShowFlags::RQLEN,
        cookie: id.cookie,
    };
    let mut found = None;
    let asked = channel.ask(SockDiagMessage::UnixRequest(request), Ask::One, |reply| {
        found = parse(&reply).filter(|listener| listener.id == id);
    });
    match asked {
        Ok(()) => Ok(found.map(|listener| listener.queue)),
        Err(Error::Refused(Errno::NOENT | Errno::STALE)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads one reply. `None` for what is no listener, takes no connections, or says nothing about its queue.
#[must_use]
pub fn parse(message: &SockDiagMessage) -> Option<UnixListener> {
    let SockDiagMessage::UnixResponse(reply) = message else {
        return None;
    };
    if reply.header.state != TCP_LISTEN || shut(reply) {
        return None;
    }
    let queue = reply.nlas.iter().find_map(|nla| match nla {
        Nla::ReceiveQueueLength(depth, backlog) => Some(Queue {
            depth: *depth,
            backlog: *backlog,
        }),
        _ => None,
    })?;
    Some(UnixListener {
        id: SocketId {
            inode: reply.header.inode,
            cookie: reply.header.cookie,
        },
        name: reply.name().map(name),
        file: reply.nlas.iter().find_map(|nla| match nla {
            Nla::Vfs(vfs) => Some(file(vfs)),
            _ => None,
        }),
        queue,
    })
}

fn shut(reply: &UnixResponse) -> bool {
    reply
        .shutdown_state()
        .is_some_and(|state| state & RCV_SHUTDOWN != 0)
}

fn name(name: &UnixDiagName) -> UnixName {
    match name {
        UnixDiagName::Pathname(path) => UnixName::Path(path.as_bytes().to_vec()),
        UnixDiagName::Abstract(name) => UnixName::Abstract(name.clone()),
    }
}

/// `struct unix_diag_vfs`: u32 inode, u32 device as the kernel keeps it (`MAJOR` = dev >> 20). The crate gives it as bytes only.
fn file(vfs: &Vfs) -> FileId {
    let mut bytes = [0; 8];
    vfs.emit(&mut bytes);
    let (inode, device) = bytes.split_at(4);
    let number = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let device = number(device);
    FileId {
        major: device >> 20,
        minor: device & 0xf_ffff,
        inode: number(inode),
    }
}
