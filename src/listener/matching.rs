//! Which of the kernel's listening sockets an address matches.

use std::net::{IpAddr, SocketAddr};

use super::{Address, UnixName};

/// Identity of a file as `UNIX_DIAG_VFS` reports it: the device of the superblock and the inode truncated to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major device number of the superblock, as in mountinfo.
    pub major: u32,
    /// Minor device number of the superblock, as in mountinfo.
    pub minor: u32,
    /// Inode number, its low 32 bits.
    pub inode: u32,
}

/// What a configured path leads to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathTarget {
    /// A socket file.
    Socket(FileId),
    /// A file that is not a socket.
    Other(FileId),
}

impl PathTarget {
    /// Whether a socket with the path's name is known to be one that the path led to earlier but no longer does: its file is another
    /// file of the same file system. On another file system it belongs to another container and is in use.
    #[must_use]
    pub fn replaced(self, file: Option<FileId>) -> bool {
        let (Self::Socket(target) | Self::Other(target)) = self;
        file.is_some_and(|file| {
            (file.major, file.minor) == (target.major, target.minor) && file.inode != target.inode
        })
    }
}

/// Indexes of the sockets in `bound` (their names and files) that `wanted` matches.
///
/// The file that the path leads to decides. If no socket has that file, the bound name decides, except for sockets whose
/// file is known to be another one: on the same file system under another inode, as when an old listener still drains
/// after its path was created again.
pub fn match_unix<'a>(
    wanted: &UnixName,
    leads_to: Option<PathTarget>,
    bound: &(impl Iterator<Item = (&'a UnixName, Option<FileId>)> + Clone),
) -> Vec<usize> {
    let where_bound = |test: &dyn Fn(&UnixName, Option<FileId>) -> bool| -> Vec<usize> {
        let bound = bound.clone().enumerate();
        bound
            .filter(|(_, (name, file))| test(name, *file))
            .map(|(index, _)| index)
            .collect()
    };
    if let Some(PathTarget::Socket(target)) = leads_to {
        let by_file = where_bound(&|_, file| file == Some(target));
        match by_file.len() {
            0 => {}
            1 => return by_file,
            // On btrfs, two subvolumes can have the same inode number on one device: the last component distinguishes them.
            _ => {
                let by_both = where_bound(&|name, file| {
                    file == Some(target) && last_component(name) == last_component(wanted)
                });
                return if by_both.is_empty() { by_file } else { by_both };
            }
        }
    }
    let replaced = |file| leads_to.is_some_and(|target| target.replaced(file));
    where_bound(&|name, file| name == wanted && !replaced(file))
}

fn last_component(name: &UnixName) -> Option<&[u8]> {
    match name {
        UnixName::Path(path) => path.rsplit(|byte| *byte == b'/').next(),
        UnixName::Abstract(_) => None,
    }
}

/// Whether a TCP socket bound to `local` matches `wanted`.
///
/// An IPv4 address and its IPv4-mapped IPv6 form (`::ffff:127.0.0.1`) are the same address.
#[must_use]
pub fn match_tcp(wanted: &Address, local: SocketAddr) -> bool {
    match wanted {
        Address::Tcp(address) => {
            address.port() == local.port() && canonical(address.ip()) == canonical(local.ip())
        }
        Address::TcpPort(port) => {
            *port == local.port() && local.ip().to_canonical().is_unspecified()
        }
        Address::Unix(_) => false,
    }
}

fn canonical(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        // `::ffff:0.0.0.0` is bound as IPv6 and is not a listener at 0.0.0.0 itself.
        mapped if mapped.is_unspecified() => ip,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> UnixName {
        UnixName::Path(text.as_bytes().to_vec())
    }

    fn file(minor: u32, inode: u32) -> FileId {
        FileId {
            major: 0,
            minor,
            inode,
        }
    }

    fn indexes(
        wanted: &str,
        leads_to: Option<PathTarget>,
        bound: &[(UnixName, FileId)],
    ) -> Vec<usize> {
        let rows = bound.iter().map(|(name, file)| (name, Some(*file)));
        match_unix(&path(wanted), leads_to, &rows)
    }

    #[test]
    fn the_file_decides_whatever_name_was_bound() {
        let bound = [
            (path("/run/g.sock"), file(41, 7)),
            (path("g.tmp"), file(41, 8)),
        ];
        let leads_to = Some(PathTarget::Socket(file(41, 8)));
        assert_eq!(indexes("/run/g.sock", leads_to, &bound), [1]);
    }

    #[test]
    fn without_the_volume_every_listener_of_the_name_counts() {
        let bound = [
            (path("/run/g.sock"), file(41, 7)),
            (path("/run/g.sock"), file(42, 7)),
        ];
        assert_eq!(indexes("/run/g.sock", None, &bound), [0, 1]);
    }

    #[test]
    fn a_listener_whose_file_was_replaced_is_not_matched_by_name() {
        let bound = [(path("/run/g.sock"), file(41, 7))];
        let new = Some(PathTarget::Socket(file(41, 9)));
        assert_eq!(indexes("/run/g.sock", new, &bound), [0_usize; 0]);
        let elsewhere = Some(PathTarget::Socket(file(50, 9)));
        assert_eq!(indexes("/run/g.sock", elsewhere, &bound), [0]);
        let no_socket = Some(PathTarget::Other(file(41, 9)));
        assert_eq!(indexes("/run/g.sock", no_socket, &bound), [0_usize; 0]);
    }

    #[test]
    fn one_inode_in_two_btrfs_subvolumes_is_distinguished_by_the_last_component() {
        let bound = [
            (path("/a/one.sock"), file(49, 257)),
            (path("/b/two.sock"), file(49, 257)),
        ];
        let leads_to = Some(PathTarget::Socket(file(49, 257)));
        assert_eq!(indexes("/mnt/two.sock", leads_to, &bound), [1]);
        assert_eq!(indexes("/mnt/three.sock", leads_to, &bound), [0, 1]);
    }

    #[test]
    fn a_port_means_wildcard_listeners_and_an_address_means_itself() {
        let port = Address::parse("tcp::80").unwrap();
        let v4 = Address::parse("tcp:127.0.0.1:80").unwrap();
        let any = Address::parse("tcp:0.0.0.0:80").unwrap();
        let matches = |address: &Address| -> Vec<bool> {
            [
                "0.0.0.0:80",
                "[::]:80",
                "127.0.0.1:80",
                "[::ffff:127.0.0.1]:80",
                "0.0.0.0:81",
            ]
            .iter()
            .map(|local| match_tcp(address, local.parse().unwrap()))
            .collect()
        };
        assert_eq!(matches(&port), [true, true, false, false, false]);
        assert_eq!(matches(&v4), [false, false, true, true, false]);
        assert_eq!(matches(&any), [true, false, false, false, false]);
    }

    type Socket = (UnixName, Option<FileId>);

    fn any_file() -> impl Strategy<Value = FileId> {
        (0..2_u32, 0..2_u32, 0..2_u32).prop_map(|(major, minor, inode)| FileId {
            major,
            minor,
            inode,
        })
    }

    fn any_path() -> impl Strategy<Value = UnixName> {
        prop::sample::select(vec!["/a/one", "/a/two", "/b/one", "one"]).prop_map(path)
    }

    fn any_name() -> impl Strategy<Value = UnixName> {
        prop_oneof![
            3 => any_path(),
            1 => Just(UnixName::Abstract(b"/a/one".to_vec())),
        ]
    }

    /// What a configured path may lead to; an abstract name leads nowhere.
    fn any_wanted() -> impl Strategy<Value = (UnixName, Option<PathTarget>)> {
        let target = prop_oneof![
            3 => any_file().prop_map(PathTarget::Socket),
            1 => any_file().prop_map(PathTarget::Other),
        ];
        prop_oneof![
            4 => (any_path(), prop::option::of(target)),
            1 => any_name().prop_map(|name| (name, None)),
        ]
    }

    fn file_name(name: &UnixName) -> Option<&OsStr> {
        match name {
            UnixName::Path(path) => Path::new(OsStr::from_bytes(path)).file_name(),
            UnixName::Abstract(_) => None,
        }
    }

    fn any_socket_address() -> impl Strategy<Value = SocketAddr> {
        let addresses = [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::1",
        ];
        let known = addresses.map(|ip| ip.parse::<IpAddr>().unwrap());
        let ip = prop_oneof![4 => prop::sample::select(known.to_vec()), 1 => any::<IpAddr>()];
        (ip, 80..82_u16).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn a_unix_name_means_the_sockets_of_its_file_else_those_of_its_name(
            (wanted, leads_to) in any_wanted(),
            bound in prop::collection::vec((any_name(), prop::option::of(any_file())), 0..7),
        ) {
            let of_file = |(_, file): &Socket| {
                file.is_some_and(|file| leads_to == Some(PathTarget::Socket(file)))
            };
            let in_place_of = |(_, file): &Socket| match (leads_to, file) {
                (Some(PathTarget::Socket(new) | PathTarget::Other(new)), Some(old)) => {
                    new.major == old.major && new.minor == old.minor && new.inode != old.inode
                }
                _ => false,
            };
            let all = |test: &dyn Fn(&Socket) -> bool| -> Vec<usize> {
                (0..bound.len()).filter(|index| test(&bound[*index])).collect()
            };
            let by_preference = [
                all(&|socket| of_file(socket) && file_name(&socket.0) == file_name(&wanted)),
                all(&of_file),
                all(&|socket| socket.0 == wanted && !in_place_of(socket)),
            ];
            let expected = by_preference.into_iter().find(|indexes| !indexes.is_empty());
            let rows = bound.iter().map(|(name, file)| (name, *file));
            prop_assert_eq!(match_unix(&wanted, leads_to, &rows), expected.unwrap_or_default());
        }

        #[test]
        fn a_tcp_address_means_itself_in_either_notation_and_a_port_every_wildcard(
            wanted in any_socket_address(),
            local in any_socket_address(),
        ) {
            let same_port = wanted.port() == local.port();
            let mapped = |v4: SocketAddr, v6: SocketAddr| match (v4.ip(), v6.ip()) {
                (IpAddr::V4(v4), IpAddr::V6(v6)) => !v4.is_unspecified() && v4.to_ipv6_mapped() == v6,
                _ => false,
            };
            let same_ip = wanted.ip() == local.ip() || mapped(wanted, local) || mapped(local, wanted);
            prop_assert_eq!(match_tcp(&Address::Tcp(wanted), local), same_port && same_ip);
            let is_wildcard = ["0.0.0.0", "::", "::ffff:0.0.0.0"].contains(&local.ip().to_string().as_str());
            let port = Address::TcpPort(wanted.port());
            prop_assert_eq!(match_tcp(&port, local), same_port && is_wildcard);
            prop_assert!(!match_tcp(&Address::Unix(path("/a/one")), local));
        }
    }
}
