//! The only place that opens a socket, a file or a process to read state from Linux.
//!
//! Every reader has two halves: a function from bytes to values that cannot panic, and the code that reads the bytes.
//! Nothing here knows a metric, a listener's label or a clock.

pub mod cgroup;
pub mod inet;
pub mod mount;
pub mod namespace;
pub mod netstat;
pub mod open_files;
pub mod owner;
pub mod process;
pub mod procnet;
pub mod sock_diag;
pub mod sysctl;
pub mod udp;
pub mod unix;

/// Identifies a socket for its whole lifetime: an inode number is reused after a wrap, a cookie never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId {
    /// Inode number in sockfs.
    pub inode: u32,
    /// `sock_gen_cookie()`: unique since boot. [`Self::NO_COOKIE`] if it was read from a table, which has no cookies.
    pub cookie: [u8; 8],
}

impl SocketId {
    /// No socket has this cookie (`gen_cookie_next`, cookie.h, counts from 1).
    pub const NO_COOKIE: [u8; 8] = [0; 8];

    /// A socket from a table.
    #[must_use]
    pub fn without_cookie(inode: u32) -> Self {
        Self {
            inode,
            cookie: Self::NO_COOKIE,
        }
    }

    /// Whether both can be the same socket: one of the cookies may be unknown.
    #[must_use]
    pub fn may_be(self, other: Self) -> bool {
        let unknown = self.cookie == Self::NO_COOKIE || other.cookie == Self::NO_COOKIE;
        self.inode == other.inode && (unknown || self.cookie == other.cookie)
    }
}

#[cfg(test)]
mod tests {
    //! Replies of a real kernel (Linux 6.18), cut and mutated.

    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::time::Duration;

    use netlink_packet_sock_diag::unix::nlas::Nla;

    use super::sock_diag::{self, BATCH, Channel, Reply};
    use super::{inet, unix};
    use crate::listener::UnixName;
    use proptest::prelude::*;
    use rustix::io::Errno;

    const UNIX_LIST: &[u8] = include_bytes!("../../tests/replies/unix_list.bin");
    const UNIX_ONE: &[u8] = include_bytes!("../../tests/replies/unix_one.bin");
    const UNIX_GONE: &[u8] = include_bytes!("../../tests/replies/unix_gone.bin");
    const TCP4_LIST: &[u8] = include_bytes!("../../tests/replies/tcp4_list.bin");
    const TCP6_LIST: &[u8] = include_bytes!("../../tests/replies/tcp6_list.bin");
    /// A listener with a queue of three, of which the second client has disconnected.
    const UNIX_ICONS: &[u8] = include_bytes!("../../tests/replies/unix_icons.bin");
    /// Two listeners, the one with the smaller backlog full.
    const TCP4_DROPS: &[u8] = include_bytes!("../../tests/replies/tcp4_drops.bin");
    /// Three connections of one listener: one accepted, one waiting, one whose client has closed its end.
    const TCP_MEMBERS: &[u8] = include_bytes!("../../tests/replies/tcp_members.bin");
    const RECORDED: [&[u8]; 8] = [
        UNIX_LIST,
        UNIX_ONE,
        UNIX_GONE,
        UNIX_ICONS,
        TCP4_LIST,
        TCP6_LIST,
        TCP4_DROPS,
        TCP_MEMBERS,
    ];
    /// The sequence number of the recorded requests.
    const SEQUENCE: u32 = 1;

    /// The sockets of a reply, and whether it had an end.
    fn read(mut rest: &[u8]) -> (Vec<&[u8]>, bool, Option<Errno>) {
        let (mut sockets, mut done, mut refused) = (Vec::new(), false, None);
        while let Ok(Some((reply, after))) = sock_diag::parse(rest, SEQUENCE) {
            assert!(after.len() < rest.len());
            rest = after;
            match reply {
                Some(Reply::Socket(socket)) => sockets.push(socket),
                Some(Reply::Done) => done = true,
                Some(Reply::Error(errno)) => refused = Some(errno),
                None => {}
            }
        }
        (sockets, done, refused)
    }

    /// The result does not matter.
    fn decode(socket: &[u8]) {
        let _ = (
            unix::parse(socket),
            inet::parse(socket),
            inet::parse_member(socket),
        );
    }

    #[test]
    fn unix_listeners_are_read_with_name_file_and_queue() {
        let (sockets, done, refused) = read(UNIX_LIST);
        assert!(done && refused.is_none());
        let read = |socket: &&[u8]| unix::parse(socket).unwrap();
        let mut found: Vec<_> = sockets.iter().filter_map(read).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let path = |bytes: &[u8]| Some(UnixName::Path(bytes.to_vec()));
        let hostile = [b"/run/lqe/n\n\"\\\xff".as_slice(), &[b'x'; 93]].concat();
        let expected = [
            (path(b"/run/lqe/g.sock"), 6, 5),
            (path(&hostile), 0, 1),
            (path(b"rel.sock"), 2, 128),
            (Some(UnixName::Abstract(b"abs\0".to_vec())), 1, 0),
        ];
        assert_eq!(found.len(), expected.len());
        for (listener, (name, depth, backlog)) in found.iter().zip(expected) {
            assert_eq!(listener.name, name);
            assert_eq!(
                (listener.queue.depth, listener.queue.backlog),
                (depth, backlog)
            );
            let is_abstract = matches!(listener.name, Some(UnixName::Abstract(_)));
            assert_eq!(listener.file.is_none(), is_abstract);
        }
    }

    #[test]
    fn one_socket_answers_without_an_end_and_a_closed_socket_with_an_error() {
        let (sockets, done, refused) = read(UNIX_ONE);
        assert_eq!((sockets.len(), done, refused), (1, false, None));
        assert!(unix::parse(sockets[0]).unwrap().is_some());
        let (sockets, done, refused) = read(UNIX_GONE);
        assert_eq!(
            (sockets.len(), done, refused),
            (0, false, Some(Errno::NOENT))
        );
    }

    #[test]
    fn the_clients_in_a_unix_queue_are_read_head_first_and_a_disconnected_one_as_zero() {
        let (sockets, done, refused) = read(UNIX_ICONS);
        assert_eq!((sockets.len(), done, refused), (1, false, None));
        let mut clients = Vec::new();
        let found = unix::read(sockets[0], |attribute| {
            if let Nla::PendingConnections(list) = attribute {
                clients.extend_from_slice(&list);
            }
        });
        let (id, queue) = found.unwrap().unwrap();
        assert_eq!(id.inode, 353_716);
        assert_eq!((queue.depth, queue.backlog), (3, 5));
        assert_eq!(clients, [353_717, 0, 353_719]);
    }

    #[test]
    fn tcp_connections_are_read_with_their_wait_and_accepted_ones_are_omitted() {
        let (sockets, done, refused) = read(TCP_MEMBERS);
        assert!(done && refused.is_none());
        assert_eq!(sockets.len(), 3);
        let read = |socket: &&[u8]| inet::parse_member(socket).unwrap();
        let members: Vec<_> = sockets.iter().filter_map(read).collect();
        let local = inet::Bound {
            address: "127.0.0.1:8005".parse().unwrap(),
            interface: 0,
        };
        let waiting = |milliseconds, client_closed| inet::Member {
            local,
            stage: inet::Stage::Waiting {
                age: Duration::from_millis(milliseconds),
                client_closed,
            },
        };
        assert_eq!(members, [waiting(300, true), waiting(1504, false)]);
    }

    #[test]
    fn tcp_listeners_are_read_with_address_queue_and_drops() {
        let rows = |bytes| -> Vec<_> {
            let (sockets, done, refused) = read(bytes);
            assert!(done && refused.is_none());
            let mut rows: Vec<_> = sockets
                .iter()
                .filter_map(|socket| inet::parse(socket).unwrap())
                .map(|l| {
                    (
                        l.bound.address.to_string(),
                        l.queue.depth,
                        l.queue.backlog,
                        l.queue.drops,
                    )
                })
                .collect();
            rows.sort();
            rows
        };
        let row = |address: &str, depth, backlog| (address.to_owned(), depth, backlog, Some(0));
        let mut dropping = row("127.0.0.1:8006", 1, 0);
        dropping.3 = Some(5);
        assert_eq!(rows(TCP4_DROPS), [row("127.0.0.1:8005", 2, 5), dropping]);
        assert_eq!(
            rows(TCP4_LIST),
            [row("0.0.0.0:8002", 0, 511), row("127.0.0.1:8001", 3, 7)]
        );
        assert_eq!(
            rows(TCP6_LIST),
            [row("[::1]:8004", 0, 6), row("[::]:8003", 0, 5)]
        );
    }

    #[test]
    fn requests_that_are_sent_together_are_answered_in_their_order_and_a_closed_socket_by_an_error()
    {
        let name = |number: usize| format!("together-{number}-{}", std::process::id());
        let address = |number| SocketAddr::from_abstract_name(name(number)).unwrap();
        let mut listeners: Vec<_> = (0..BATCH)
            .map(|number| UnixListener::bind_addr(&address(number)).unwrap())
            .collect();
        let connect = |number| UnixStream::connect_addr(&address(number)).unwrap();
        let _clients: Vec<_> = (0..BATCH)
            .flat_map(|number| vec![number; number])
            .map(connect)
            .collect();
        let mut channel = Channel::open().unwrap();
        let mut ids = vec![None; BATCH];
        unix::list(&mut channel, unix::Show::Everything, |listener| {
            let is_its = |number: &usize| {
                listener.name == Some(UnixName::Abstract(name(*number).into_bytes()))
            };
            if let Some(number) = (0..BATCH).find(is_its) {
                ids[number] = Some(listener.id);
            }
        })
        .unwrap();
        let ids: Vec<_> = ids.into_iter().flatten().collect();
        let lookups: Vec<_> = ids.iter().map(|id| unix::lookup(*id)).collect();
        listeners.remove(3);
        for _ in 0..2 {
            let sent = channel.send(lookups.iter()).unwrap();
            assert_eq!(sent, BATCH);
            let mut depths = Vec::new();
            let taken = channel.answers(sent, |answer| {
                let queue = unix::queue(ids[depths.len()], answer)?;
                depths.push(queue.map(|queue| queue.depth));
                Ok(())
            });
            assert!(taken.is_ok());
            let mut expected: Vec<_> = (0..).map(Some).take(BATCH).collect();
            expected[3] = None;
            assert_eq!(depths, expected);
        }
    }

    #[test]
    fn a_reply_to_another_request_is_passed_over() {
        let mut rest = UNIX_LIST;
        while let Some((reply, after)) = sock_diag::parse(rest, SEQUENCE + 1).unwrap() {
            assert!(reply.is_none());
            rest = after;
        }
    }

    #[test]
    fn an_error_inside_done_is_an_error_and_no_empty_list() {
        let end = |code: i32| -> Vec<u8> {
            let words = [20_u32, 3 | 2 << 16, SEQUENCE, 0];
            let header = words.iter().flat_map(|word| word.to_ne_bytes());
            header.chain(code.to_ne_bytes()).collect()
        };
        assert_eq!(read(&end(-2)), (Vec::new(), false, Some(Errno::NOENT)));
        assert_eq!(read(&end(0)), (Vec::new(), true, None));
    }

    #[test]
    fn a_reply_cut_anywhere_is_read_as_far_as_it_goes() {
        for recorded in RECORDED {
            let whole = read(recorded).0.len();
            for length in 0..recorded.len() {
                let (sockets, ..) = read(&recorded[..length]);
                assert!(sockets.len() <= whole);
                // The last of them may have lost some of its attributes, too.
                let last = sockets.last().copied().unwrap_or_default();
                (0..last.len()).for_each(|length| decode(&last[..length]));
                sockets.into_iter().for_each(decode);
            }
        }
    }

    /// In particular, lengths of attributes that are too short, too long or zero.
    #[test]
    fn a_reply_with_any_one_byte_changed_is_read_without_a_panic() {
        for recorded in RECORDED {
            let mut bytes = recorded.to_vec();
            for index in 0..bytes.len() {
                for value in [0, 4, 8, 12, 255] {
                    bytes[index] = value;
                    read(&bytes).0.into_iter().for_each(decode);
                }
                bytes[index] = recorded[index];
            }
        }
    }

    proptest! {
        #[test]
        fn mutated_replies_are_read_without_a_panic(
            which in 0..RECORDED.len(),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut bytes = RECORDED[which].to_vec();
            for (index, value) in changes {
                bytes[index.index(RECORDED[which].len())] = value;
            }
            read(&bytes).0.into_iter().for_each(decode);
        }
    }
}
