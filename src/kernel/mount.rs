//! What a path leads to now, told as the kernel tells it of a socket: the superblock's device and the inode's low 32 bits.
//!
//! `stat` gives another device on btrfs and on some overlays; mountinfo, found by mount id, gives the superblock's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use procfs::process::Process;
use rustix::fs::{Access, AtFlags, CWD, FileType, StatxFlags, accessat, statx};
use rustix::io::Errno;

use crate::listener::{FileId, PathTarget};

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// It, or a directory on the way to it, does not exist.
    Missing,
    /// This directory may not be searched.
    Unreadable(PathBuf),
    /// Another error.
    Failed(Errno),
}

/// Resolves paths, remembering the mounts that it met.
#[derive(Debug)]
pub struct Resolver {
    procfs: PathBuf,
    mounts: Vec<Mount>,
}

/// A mount id may come back for another mount; together with `stat`'s device it does not mislead.
#[derive(Debug, Clone, Copy)]
struct Mount {
    id: u64,
    stat_device: (u32, u32),
    superblock: (u32, u32),
}

/// Mounts remembered at most; beyond, the oldest is forgotten.
const REMEMBERED: usize = 64;

impl Resolver {
    /// A resolver that finds mountinfo below this proc root.
    #[must_use]
    pub fn new(procfs: &Path) -> Self {
        Self {
            procfs: procfs.to_owned(),
            mounts: Vec::new(),
        }
    }

    /// What the path leads to, through symlinks and mounts.
    ///
    /// # Errors
    /// Tells a path that does not exist from a directory that may not be searched.
    pub fn resolve(&mut self, path: &[u8]) -> Result<PathTarget, Unresolved> {
        let path = Path::new(OsStr::from_bytes(path));
        let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
        let found = match statx(CWD, path, AtFlags::NO_AUTOMOUNT, wanted) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(Unresolved::Missing),
            Err(Errno::ACCESS) => return Err(Unresolved::Unreadable(closed_directory(path))),
            Err(errno) => return Err(Unresolved::Failed(errno)),
        };
        let stat_device = (found.stx_dev_major, found.stx_dev_minor);
        let has_mount_id = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let (major, minor) = if has_mount_id {
            self.superblock(found.stx_mnt_id, stat_device)
        } else {
            stat_device
        };
        let file = FileId {
            major,
            minor,
            inode: low_32_bits(found.stx_ino),
        };
        Ok(match FileType::from_raw_mode(u32::from(found.stx_mode)) {
            FileType::Socket => PathTarget::Socket(file),
            _ => PathTarget::Other(file),
        })
    }

    fn superblock(&mut self, id: u64, stat_device: (u32, u32)) -> (u32, u32) {
        let known = |mount: &&Mount| mount.id == id && mount.stat_device == stat_device;
        if let Some(mount) = self.mounts.iter().find(known) {
            return mount.superblock;
        }
        // Without mountinfo stat's device is the best guess, right everywhere but on btrfs and some overlays.
        let Some(superblock) = self.look_up(id) else {
            return stat_device;
        };
        if self.mounts.len() == REMEMBERED {
            self.mounts.remove(0);
        }
        self.mounts.push(Mount {
            id,
            stat_device,
            superblock,
        });
        superblock
    }

    fn look_up(&self, id: u64) -> Option<(u32, u32)> {
        let process = Process::new_with_root(self.procfs.join("self")).ok()?;
        let mounts = process.mountinfo().ok()?;
        let mount = mounts
            .into_iter()
            .find(|mount| u64::try_from(mount.mnt_id) == Ok(id))?;
        let (major, minor) = mount.majmin.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

/// `udiag_vfs_ino` is a u32 (`sk_diag_dump_vfs`, unix/diag.c).
fn low_32_bits(inode: u64) -> u32 {
    let [a, b, c, d, ..] = inode.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The first directory on the way to `path` that may not be searched.
fn closed_directory(path: &Path) -> PathBuf {
    let mut directories: Vec<&Path> = path.ancestors().skip(1).collect();
    directories.reverse();
    directories
        .into_iter()
        .find(|directory| {
            accessat(CWD, *directory, Access::EXEC_OK, AtFlags::EACCESS) == Err(Errno::ACCESS)
        })
        .unwrap_or(path)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_symlink_leads_to_the_socket_and_a_file_is_no_socket() {
        let directory = std::env::temp_dir().join(format!("lqe-mount-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, directory.join("link")).unwrap();
        std::fs::write(directory.join("file"), "").unwrap();
        let mut resolver = Resolver::new(Path::new("/proc"));
        let mut resolve =
            |name: &str| resolver.resolve(directory.join(name).as_os_str().as_bytes());
        let direct = resolve("s").unwrap();
        assert!(matches!(direct, PathTarget::Socket(_)));
        assert_eq!(resolve("link").unwrap(), direct);
        assert!(matches!(resolve("file").unwrap(), PathTarget::Other(_)));
        assert_eq!(resolve("none"), Err(Unresolved::Missing));
        assert_eq!(resolve("file/none"), Err(Unresolved::Missing));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
