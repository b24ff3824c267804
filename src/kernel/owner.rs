//! The processes that hold a socket, from their open descriptors. Slow: for one look, not for every round.

use std::collections::BTreeMap;
use std::path::Path;

use procfs::ProcError;
use procfs::process::{FDTarget, all_processes_with_root};

/// Who holds a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the first process, `/proc/PID/comm`; a prefork server's master.
    pub name: String,
    /// Its number.
    pub pid: i32,
    /// Processes that hold the socket.
    pub processes: usize,
}

/// The holders of each socket of `inodes` that procfs shows. Those of other users, and of other process namespaces, cannot be seen.
///
/// # Errors
/// When there is no procfs.
pub fn owners(procfs: &Path, inodes: &[u32]) -> Result<BTreeMap<u32, Owner>, ProcError> {
    let mut owners: BTreeMap<u32, Owner> = BTreeMap::new();
    let mut processes: Vec<_> = all_processes_with_root(procfs)?.flatten().collect();
    processes.sort_unstable_by_key(|process| process.pid);
    for process in processes {
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
                pid: process.pid,
                processes: 0,
            });
            owner.processes += 1;
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
        assert_eq!(
            owners[&inode].pid,
            i32::try_from(std::process::id()).unwrap()
        );
        assert_eq!(owners[&inode].processes, 1);
    }
}
