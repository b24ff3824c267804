//! How many files this process may still open.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Standard input, output and error.
const STANDARD: [u64; 3] = [0, 1, 2];

/// The open files, and their limit.
#[derive(Debug)]
pub struct OpenFiles {
    limit: u64,
    /// The numbers of the descriptors.
    open: Vec<u64>,
}

/// The limit of open files is too low.
#[derive(Debug, PartialEq, Eq)]
pub struct TooFewFiles {
    limit: u64,
    required: u64,
}

impl OpenFiles {
    /// Nothing if there is no limit.
    #[must_use]
    pub fn read(procfs: &Path) -> Option<Self> {
        Some(Self {
            limit: getrlimit(Resource::Nofile).current?,
            open: numbers(procfs).unwrap_or(STANDARD.into()),
        })
    }

    /// How many further files can be opened.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.room_within(self.limit)
    }

    /// Whether this many further files can be opened.
    ///
    /// # Errors
    /// The limit with which they could.
    pub fn require(&self, files: u64) -> Result<(), TooFewFiles> {
        let limit = self.limit;
        if self.room() >= files {
            return Ok(());
        }
        let mut required = limit + 1;
        while self.room_within(required) < files {
            required += 1;
        }
        Err(TooFewFiles { limit, required })
    }

    /// A new descriptor has a number below the limit. An open one with a higher number takes no room.
    fn room_within(&self, limit: u64) -> u64 {
        let taken = self.open.iter().filter(|number| **number < limit).count();
        limit - taken as u64
    }
}

impl fmt::Display for TooFewFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, required } = self;
        write!(
            f,
            "the limit of open files is {limit}, but the exporter requires at least {required}: raise it (ulimit -n, LimitNOFILE=)"
        )
    }
}

impl std::error::Error for TooFewFiles {}

fn numbers(procfs: &Path) -> io::Result<Vec<u64>> {
    let directory = procfs.join("self/fd");
    let mut links = Vec::new();
    for entry in directory.read_dir()? {
        links.push(entry?.path());
    }
    // The descriptor of the directory itself is closed by now.
    links.retain(|link| link.symlink_metadata().is_ok());
    let number = |link: &PathBuf| link.file_name()?.to_str()?.parse().ok();
    Ok(links.iter().filter_map(number).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn an_open_file_is_among_the_open_files_and_a_closed_one_is_not() {
        let file = File::open("/dev/null").unwrap();
        // A number that no other test uses meanwhile.
        let high = rustix::io::fcntl_dupfd_cloexec(&file, 900).unwrap();
        let number = u64::try_from(high.as_raw_fd()).unwrap();
        let is_open = || numbers(Path::new("/proc")).unwrap().contains(&number);
        assert!(is_open());
        drop(high);
        assert!(!is_open());
    }

    #[test]
    fn what_is_open_below_the_limit_takes_room() {
        let files = OpenFiles {
            limit: 8,
            open: vec![0, 1, 2, 5, 9, 251],
        };
        assert_eq!((files.room(), files.require(4)), (4, Ok(())));
        for (needed, required) in [(5, 9), (6, 11), (7, 12)] {
            let refused = TooFewFiles { limit: 8, required };
            assert_eq!(files.require(needed), Err(refused));
        }
    }
}
