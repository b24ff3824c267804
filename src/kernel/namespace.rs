//! Network namespaces: which one a process is in, and the way into it.
//!
//! Every user who can see a process may read its `net` directory (`proc_tgid_net_lookup`, fs/proc/proc_net.c), regardless of its owner.
//! To enter its namespace requires CAP_SYS_PTRACE to open `ns/net` and CAP_SYS_ADMIN for `setns(2)` (`netns_install`, net/core/net_namespace.c).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::sock_diag::{Channel, Error};

/// Inode of the network namespace of a process: the kernel's number for it.
///
/// # Errors
/// If the process has ended or may not be traced.
pub fn network(process: &Path) -> io::Result<u64> {
    Ok(std::fs::metadata(process.join("ns/net"))?.ino())
}

/// The network namespace of a process, as a number that is readable by every user who can see the process: the inode of the namespace's own
/// `net/unix`. It does not change while anything holds the namespace.
///
/// # Errors
/// When the process has ended.
pub fn identity(process: &Path) -> io::Result<u64> {
    let table = |of: &Path| Ok(std::fs::metadata(of.join("net/unix"))?.ino());
    table(process).or_else(|_: io::Error| table(&alive(process)?))
}

/// A process or, if its first thread has ended, another of its threads.
///
/// # Errors
/// When all of them have ended.
pub fn alive(process: &Path) -> io::Result<PathBuf> {
    let Err(error) = std::fs::metadata(process.join("net/unix")) else {
        return Ok(process.to_owned());
    };
    let threads = std::fs::read_dir(process.join("task"))?.flatten();
    let mut threads = threads.map(|thread| thread.path());
    let is_alive = |thread: &PathBuf| thread.join("net/unix").exists();
    threads.find(is_alive).ok_or(error)
}

/// The numbers of all visible processes.
///
/// # Errors
/// When the proc root cannot be listed.
pub fn processes(procfs: &Path) -> io::Result<Vec<u32>> {
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let entries = std::fs::read_dir(procfs)?;
    Ok(entries.flatten().filter_map(number).collect())
}

/// The way to the `sock_diag` of a network namespace.
#[derive(Debug, Clone)]
pub enum Way {
    /// It is the namespace of this process.
    Own,
    /// It is entered briefly.
    Inside(Arc<File>),
    /// It may not be entered.
    Outside,
}

impl Way {
    /// The way into the namespace of a process.
    ///
    /// # Errors
    /// If it may not be opened or entered.
    pub fn into(process: &Path) -> io::Result<Self> {
        let way = Self::Inside(Arc::new(File::open(process.join("ns/net"))?));
        way.inside(|| ())?;
        Ok(way)
    }

    /// Opens a channel to the namespace.
    ///
    /// # Errors
    /// As [`Channel::open`], and if the namespace cannot be entered.
    pub fn open_channel(&self) -> Result<Channel, Error> {
        self.inside(Channel::open)
            .map_err(|error| Error::Socket("enter the network namespace", error))?
    }

    /// Runs a function in the namespace: on a separate thread that ends afterwards, unless it is the namespace of this process.
    ///
    /// # Errors
    /// Where it cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let namespace = match self {
            Self::Own => return Ok(work()),
            Self::Inside(namespace) => namespace,
            Self::Outside => return Err(Errno::ACCESS.into()),
        };
        thread::scope(|scope| {
            let work = move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work())
            };
            let thread = thread::Builder::new().name("enter".to_owned());
            match thread.spawn_scoped(scope, work)?.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_one_that_the_link_names() {
        let link = std::fs::read_link("/proc/self/ns/net").unwrap();
        let number = network(Path::new("/proc/self")).unwrap();
        assert_eq!(link, Path::new(&format!("net:[{number}]")));
    }

    #[test]
    fn a_process_that_has_ended_is_in_no_namespace() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = format!("/proc/{}", child.id());
        let own = identity(Path::new("/proc/self")).unwrap();
        // A zombie, until it is waited for.
        while let Ok(of_child) = identity(Path::new(&process)) {
            assert_eq!(of_child, own);
        }
        assert!(processes(Path::new("/proc")).unwrap().contains(&child.id()));
        child.wait().unwrap();
        assert!(!processes(Path::new("/proc")).unwrap().contains(&child.id()));
        assert!(identity(Path::new(&process)).is_err());
    }
}
