//! The processes that hold a socket, from their open descriptors. Slow: for a single check, not for every round.

use std::collections::BTreeMap;
use std::path::Path;

use procfs::ProcError;
use procfs::process::{FDTarget, Process, all_processes_with_root};

/// The processes that hold a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the first process, `/proc/PID/comm`; a prefork server's master.
    pub name: String,
    /// The processes that hold the socket, by number.
    pub pids: Vec<i32>,
}

impl Owner {
    /// Number of the first process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pids.first().copied().unwrap_or_default()
    }

    /// The processes that hold either of two sockets.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        if other.pid() < self.pid() {
            self.name.clone_from(&other.name);
        }
        self.pids.extend_from_slice(&other.pids);
        self.pids.sort_unstable();
        self.pids.dedup();
        self
    }
}

/// The holders of each socket of `inodes` that procfs shows. Processes of other users and of other process namespaces are not visible.
///
/// # Errors
/// If there is no procfs.
pub fn owners(procfs: &Path, inodes: &[u32]) -> Result<BTreeMap<u32, Owner>, ProcError> {
    let mut owners: BTreeMap<u32, Owner> = BTreeMap::new();
    let processes = all_processes_with_root(procfs)?.flatten();
    let mut pids: Vec<i32> = processes.map(|process| process.pid).collect();
    pids.sort_unstable();
    for pid in pids {
        // It holds a descriptor, so that no more than one may be open at a time.
        let Ok(process) = Process::new_with_root(procfs.join(pid.to_string())) else {
            continue;
        };
        let Ok(descriptors) = process.fd() else {
            continue;
        };
        let mut held: Vec<u32> = descriptors
            .flatten()
            .filter_map(|descriptor| match descriptor.target {
                FDTarget::Socket(inode) => u32::try_from(inode).ok(),
                _ => None,
            })
            .filter(|inode| inodes.contains(inode))
            .collect();
        held.sort_unstable();
        held.dedup();
        if held.is_empty() {
            continue;
        }
        let Ok(stat) = process.stat() else { continue };
        for inode in held {
            let owner = owners.entry(inode).or_insert_with(|| Owner {
                name: crate::listener::escape(stat.comm.as_bytes()),
                pids: Vec::new(),
            });
            owner.pids.push(process.pid);
        }
    }
    Ok(owners)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn this_process_holds_its_sockets() {
        let (socket, _other) = UnixStream::pair().unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let path = format!("/proc/self/fd/{descriptor}");
        let inode = u32::try_from(std::fs::metadata(path).unwrap().ino()).unwrap();
        let owners = owners(Path::new("/proc"), &[inode, u32::MAX]).unwrap();
        assert_eq!(owners.len(), 1);
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(owners[&inode].pids, [own]);
        let other = Owner {
            name: "first".to_owned(),
            pids: vec![1, own],
        };
        let both = owners[&inode].clone().and(&other);
        assert_eq!(
            (both.name.as_str(), both.pid(), both.pids.len()),
            ("first", 1, 2)
        );
    }
}
