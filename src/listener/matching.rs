//! Which of the kernel's listening sockets an address means.

use std::net::{IpAddr, SocketAddr};

use super::{Address, UnixName};

/// Identity of a file as `UNIX_DIAG_VFS` tells it: the superblock's device and the inode cut to 32 bits.
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
    /// A file that is no socket.
    Other(FileId),
}

impl PathTarget {
    /// Whether a socket of the path's name is known not to be what the path leads to, but what it led to once: its file is another
    /// one of the same file system. On another file system it is another container's, and as alive.
    #[must_use]
    pub fn replaced(self, file: Option<FileId>) -> bool {
        let (Self::Socket(target) | Self::Other(target)) = self;
        file.is_some_and(|file| {
            (file.major, file.minor) == (target.major, target.minor) && file.inode != target.inode
        })
    }
}

/// Indexes of the sockets in `bound` (their names and files) that `wanted` means.
///
/// The file that the path leads to decides. Without a socket of that file, the bound name does, except for sockets whose
/// file is known to be another one: on the same file system under another inode, as when an old listener still drains
/// after its path was made anew.
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
            // On btrfs two subvolumes can hold the same inode number under one device: the last component tells them apart.
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

/// Whether a TCP socket bound to `local` is one that `wanted` means.
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
        // `::ffff:0.0.0.0` is bound as IPv6 and is no listener of 0.0.0.0's own.
        mapped if mapped.is_unspecified() => ip,
        other => other,
    }
}

#[cfg(test)]
mod tests {
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
    fn one_inode_in_two_btrfs_subvolumes_is_told_apart_by_the_last_component() {
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
}
