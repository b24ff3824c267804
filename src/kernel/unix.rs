//! Unix listeners through `unix_diag`: a dump of all, a lookup of one.

use netlink_packet_core::{Emitable, NlasIterator, Parseable};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_UNIX, TCP_LISTEN};
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName, Vfs};
use netlink_packet_sock_diag::unix::{
    ShowFlags, StateFlags, UnixRequest, UnixResponseBuffer, UnixResponseHeader,
};
use rustix::io::Errno;
use std::os::unix::ffi::OsStringExt;

use super::SocketId;
use super::sock_diag::{Answer, Ask, Channel, Error, Request};
use crate::listener::{FileId, UnixName};

/// `RCV_SHUTDOWN` of include/net/sock.h: connect() is refused with `ECONNREFUSED`, though the state stays LISTEN.
const RCV_SHUTDOWN: u8 = 1;

/// A listening unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixListener {
    /// Which socket.
    pub id: SocketId,
    /// The name passed to `bind(2)`; absent if the dump did not request it.
    pub name: Option<UnixName>,
    /// The file that `bind(2)` created.
    pub file: Option<FileId>,
    /// Its accept queue.
    pub queue: Queue,
}

/// The accept queue of a unix listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Connections waiting for `accept()` (`sk_receive_queue.qlen`), including those whose client has disconnected.
    pub depth: u32,
    /// `sk_max_ack_backlog`.
    pub backlog: u32,
}

/// Longest list of pending connections that is requested. The kernel refuses lists of 1938 and more (a page of headroom in
/// `unix_diag_get_exact`), and a long list costs more than the lookup itself.
pub const LONGEST_LIST: u32 = 900;

/// What a dump returns for each listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Identity and queue.
    Queue,
    /// Identity, queue, name and file.
    Everything,
}

/// Every listening unix socket of the namespace that accepts connections. A long dump under churn may miss one and repeat another.
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
    let request = Request::new(SockDiagMessage::UnixRequest(request), Ask::All);
    channel.ask(&request, |reply| {
        parse(reply)?.into_iter().for_each(&mut each);
        Ok(())
    })
}

/// The request for the queue of one listener, for [`queue`].
#[must_use]
pub fn lookup(id: SocketId) -> Request {
    request(id, ShowFlags::RQLEN)
}

/// The queue of one listener, from the reply to its [`lookup`]; `None` if the socket is closed or accepts no connections.
///
/// # Errors
/// [`Error::Malformed`] if the reply is not a socket with its attributes, [`Error::Refused`] if it is another error.
pub fn queue(id: SocketId, answer: Answer) -> Result<Option<Queue>, Error> {
    queue_and(id, answer, drop)
}

/// The queue of one listener and its connections: for each the inode of the client's socket, 0 if that is closed, the
/// head of the queue first, added to `clients`. False instead of a list if the queue is too long for one.
///
/// # Errors
/// As [`Channel::ask`].
pub fn pending(
    channel: &mut Channel,
    id: SocketId,
    clients: &mut Vec<u32>,
) -> Result<Option<(Queue, bool)>, Error> {
    let start = clients.len();
    let mut listed = false;
    // Never in a dump: a list that does not fit silently ends the dump, and every later listener is missing.
    let show = ShowFlags::RQLEN | ShowFlags::ICONS;
    let asked = channel.ask_one(&request(id, show), |answer| {
        queue_and(id, answer, |attribute| {
            if let Nla::PendingConnections(list) = attribute {
                clients.extend_from_slice(&list);
                listed = true;
            }
        })
    });
    let queue = match asked {
        Err(Error::Refused(Errno::MSGSIZE)) => {
            channel.ask_one(&lookup(id), |answer| queue(id, answer))?
        }
        other => other?,
    };
    let Some(mut queue) = queue else {
        clients.truncate(start);
        return Ok(None);
    };
    // The kernel reads the length slightly later than the list, so the length of the list itself is used.
    let length = u32::try_from(clients.len() - start).unwrap_or(u32::MAX);
    if listed && length <= LONGEST_LIST {
        queue.depth = length;
        return Ok(Some((queue, true)));
    }
    clients.truncate(start);
    Ok(Some((queue, false)))
}

fn request(id: SocketId, show_flags: ShowFlags) -> Request {
    let request = UnixRequest {
        state_flags: StateFlags::LISTEN,
        inode: id.inode,
        show_flags,
        cookie: id.cookie,
    };
    Request::new(SockDiagMessage::UnixRequest(request), Ask::One)
}

fn queue_and(id: SocketId, answer: Answer, other: impl FnMut(Nla)) -> Result<Option<Queue>, Error> {
    match answer {
        Ok(socket) => {
            let found = read(socket, other)?;
            Ok(found.filter(|(of, _)| *of == id).map(|(_, queue)| queue))
        }
        Err(Errno::NOENT | Errno::STALE) => Ok(None),
        Err(errno) => Err(Error::Refused(errno)),
    }
}

/// Reads one reply. `None` if it is not a listener, accepts no connections, or has no queue.
///
/// # Errors
/// [`Error::Malformed`] if the bytes are not a socket with its attributes.
pub fn parse(reply: &[u8]) -> Result<Option<UnixListener>, Error> {
    let (mut bound_name, mut bound_file) = (None, None);
    let found = read(reply, |attribute| match attribute {
        Nla::Name(found) => bound_name = Some(name(found)),
        Nla::Vfs(found) => bound_file = Some(file(&found)),
        _ => {}
    })?;
    Ok(found.map(|(id, queue)| UnixListener {
        id,
        name: bound_name,
        file: bound_file,
        queue,
    }))
}

/// The queue of a listener that accepts connections. Attributes that are not about the queue go to `other`.
pub(super) fn read(
    reply: &[u8],
    mut other: impl FnMut(Nla),
) -> Result<Option<(SocketId, Queue)>, Error> {
    let header = UnixResponseHeader::parse(reply)?;
    if reply.first() != Some(&AF_UNIX) || header.state != TCP_LISTEN {
        return Ok(None);
    }
    let attributes = reply.get(size_of::<UnixResponseBuffer>()..);
    let (mut queue, mut shut) = (None, false);
    for attribute in NlasIterator::new(attributes.unwrap_or_default()) {
        match Nla::parse(&attribute?)? {
            Nla::ReceiveQueueLength(depth, backlog) => queue = Some(Queue { depth, backlog }),
            Nla::Shutdown(state) => shut = state & RCV_SHUTDOWN != 0,
            attribute => other(attribute),
        }
    }
    let id = SocketId {
        inode: header.inode,
        cookie: header.cookie,
    };
    Ok(queue.filter(|_| !shut).map(|queue| (id, queue)))
}

fn name(name: UnixDiagName) -> UnixName {
    match name {
        UnixDiagName::Pathname(path) => UnixName::path(&path.into_vec()),
        UnixDiagName::Abstract(name) => UnixName::Abstract(name),
    }
}

/// `struct unix_diag_vfs`: u32 inode, u32 device as the kernel stores it (`MAJOR` = dev >> 20). The crate returns it only as bytes.
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Resource, getrlimit, setrlimit};
    use std::os::unix::net::{UnixListener as Listener, UnixStream};

    fn inode(socket: &impl std::os::fd::AsFd) -> u32 {
        u32::try_from(rustix::fs::fstat(socket).unwrap().st_ino).unwrap()
    }

    /// A listener with a backlog of `backlog` and no file.
    fn listen(backlog: i32) -> (Listener, std::os::unix::net::SocketAddr) {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddrUnix::new_unnamed()).unwrap();
        listen(&socket, backlog).unwrap();
        let listener = Listener::from(socket);
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn id(channel: &mut Channel, listener: &Listener) -> SocketId {
        let (inode, mut id) = (inode(listener), None);
        list(channel, Show::Queue, |found| {
            if found.id.inode == inode {
                id = Some(found.id);
            }
        })
        .unwrap();
        id.unwrap()
    }

    #[test]
    fn clients_are_listed_head_first_and_those_that_went_away_as_zero() {
        let (listener, address) = listen(5);
        let mut channel = Channel::open().unwrap();
        let id = id(&mut channel, &listener);
        let mut clients = vec![7];
        let mut pending = |clients: &mut Vec<u32>| {
            let (queue, listed) = pending(&mut channel, id, clients).unwrap().unwrap();
            (queue.depth, queue.backlog, listed)
        };
        assert_eq!(pending(&mut clients), (0, 5, true));
        let streams = [(); 3].map(|()| UnixStream::connect_addr(&address).unwrap());
        let [first, second, third] = streams.each_ref().map(inode);
        assert_eq!(pending(&mut clients), (3, 5, true));
        assert_eq!(clients, [7, first, second, third]);
        let [_, second, _] = streams;
        drop(second);
        clients.clear();
        assert_eq!(pending(&mut clients), (3, 5, true));
        assert_eq!(clients, [first, 0, third]);
    }

    #[test]
    fn a_queue_that_is_too_long_to_list_still_has_a_depth() {
        // A login's soft limit is below the clients of this test.
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        setrlimit(Resource::Nofile, files).unwrap();
        let (listener, address) = listen(2000);
        let mut channel = Channel::open().unwrap();
        let id = id(&mut channel, &listener);
        let mut clients = Vec::new();
        let connect = |number| -> Vec<UnixStream> {
            (0..number)
                .map(|_| UnixStream::connect_addr(&address).unwrap())
                .collect()
        };
        let mut streams = connect(LONGEST_LIST);
        let mut listed = || pending(&mut channel, id, &mut clients).unwrap().unwrap();
        assert_eq!((listed().0.depth, listed().1), (900, true));
        streams.extend(connect(1));
        assert_eq!((listed().0.depth, listed().1), (901, false));
        streams.extend(connect(1099));
        assert_eq!((listed().0.depth, listed().1), (2000, false));
        assert_eq!(clients.len(), 1800);
    }
}
