//! What a path leads to now, in the form in which the kernel reports it for a socket: the device of the superblock and the low 32 bits of the inode.
//!
//! `stat` returns another device on btrfs and on some overlays. mountinfo, looked up by mount id, has that of the superblock.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use procfs::FromBufRead as _;
use procfs::process::MountInfos;
use rustix::fs::{Access, AtFlags, CWD, FileType, StatxFlags, accessat, statx};
use rustix::io::Errno;

use crate::listener::{FileId, PathTarget};

/// Why a path cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// The path, or a directory in it, does not exist.
    Missing,
    /// This user may not search the directory.
    Unreadable(PathBuf),
    /// Another error.
    Failed(Errno),
}

/// Resolves paths and caches the mounts that it found.
#[derive(Debug)]
pub struct Resolver {
    /// Absent if paths belong to another mount namespace.
    procfs: Option<PathBuf>,
    mounts: Vec<Mount>,
}

/// A mount id may be reused for another mount. Together with the device of `stat` it is unambiguous.
#[derive(Debug, Clone, Copy)]
struct Mount {
    id: u64,
    stat_device: (u32, u32),
    superblock: (u32, u32),
}

/// Maximum number of cached mounts. Beyond it, the oldest is removed.
const REMEMBERED: usize = 64;

impl Resolver {
    /// A resolver that finds mountinfo below this proc root.
    #[must_use]
    pub fn new(procfs: &Path) -> Self {
        Self {
            procfs: Some(procfs.to_owned()),
            mounts: Vec::new(),
        }
    }

    /// A resolver that resolves no path: what a path means in another mount namespace cannot be determined from here.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self {
            procfs: None,
            mounts: Vec::new(),
        }
    }

    /// Resolves a path, through symlinks and mounts.
    ///
    /// # Errors
    /// Distinguishes a path that does not exist from a directory that may not be searched.
    pub fn resolve(&mut self, path: &[u8]) -> Result<PathTarget, Unresolved> {
        if self.procfs.is_none() {
            return Err(Unresolved::Missing);
        }
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

    /// The path without symlinks, if it can be resolved.
    #[must_use]
    pub fn real_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.procfs.as_ref()?;
        let real = std::fs::canonicalize(OsStr::from_bytes(path)).ok()?;
        Some(real.into_os_string().into_encoded_bytes())
    }

    fn superblock(&mut self, id: u64, stat_device: (u32, u32)) -> (u32, u32) {
        let known = |mount: &&Mount| mount.id == id && mount.stat_device == stat_device;
        if let Some(mount) = self.mounts.iter().find(known) {
            return mount.superblock;
        }
        // Without mountinfo, the device of stat is the best guess. It is correct except on btrfs and some overlays.
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
        let mountinfo = File::open(self.procfs.as_ref()?.join("self/mountinfo")).ok()?;
        superblock(BufReader::new(mountinfo), id)
    }
}

/// The device of the superblock that is mounted with this id, from a mountinfo.
pub fn superblock(mountinfo: impl BufRead, id: u64) -> Option<(u32, u32)> {
    let mounts = MountInfos::from_buf_read(mountinfo).ok()?;
    let mount = mounts
        .into_iter()
        .find(|mount| u64::try_from(mount.mnt_id) == Ok(id))?;
    let (major, minor) = mount.majmin.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `udiag_vfs_ino` is a u32 (`sk_diag_dump_vfs`, unix/diag.c).
fn low_32_bits(inode: u64) -> u32 {
    let [a, b, c, d, ..] = inode.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The first directory of `path` that may not be searched.
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
