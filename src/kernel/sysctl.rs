//! The four settings of this network namespace that limit a queue, on descriptors that stay open.
//!
//! `/proc/sys/net` is resolved by the network namespace of the reading task, regardless of the procfs mount.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Settings; absent if the kernel hides them (`somaxconn` in a user namespace before Linux 6.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// `net.core.somaxconn`: the highest backlog that `listen(2)` grants.
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`: 0 or 1.
    pub tcp_abort_on_overflow: Option<u32>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when the SYN queue is full, 2 always.
    pub tcp_syncookies: Option<u32>,
}

/// The four files.
#[derive(Debug)]
pub struct Sysctls {
    somaxconn: Sysctl,
    max_syn_backlog: Sysctl,
    abort_on_overflow: Sysctl,
    syncookies: Sysctl,
}

#[derive(Debug)]
struct Sysctl {
    path: PathBuf,
    file: Option<File>,
}

impl Sysctls {
    /// The files below the proc root. They are opened at the first read.
    #[must_use]
    pub fn new(procfs: &Path) -> Self {
        let sysctl = |name| Sysctl {
            path: procfs.join(name),
            file: None,
        };
        Self {
            somaxconn: sysctl("sys/net/core/somaxconn"),
            max_syn_backlog: sysctl("sys/net/ipv4/tcp_max_syn_backlog"),
            abort_on_overflow: sysctl("sys/net/ipv4/tcp_abort_on_overflow"),
            syncookies: sysctl("sys/net/ipv4/tcp_syncookies"),
        }
    }

    /// Opens the files of the network namespace that this thread is in; the first read reports those that cannot be opened.
    pub fn open(&mut self) {
        let sysctls = [
            &mut self.somaxconn,
            &mut self.max_syn_backlog,
            &mut self.abort_on_overflow,
            &mut self.syncookies,
        ];
        for sysctl in sysctls {
            sysctl.file = File::open(&sysctl.path).ok();
        }
    }

    /// Reads the settings. `somaxconn` is absent if the kernel hides it.
    ///
    /// # Errors
    /// Names the first file that cannot be read. The others are still read.
    pub fn read(&mut self) -> (Settings, io::Result<()>) {
        let mut outcome = Ok(());
        let mut read = |sysctl: &mut Sysctl, may_be_hidden| match sysctl.read() {
            Ok(value) => Some(value),
            Err(e) if may_be_hidden && e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                if outcome.is_ok() {
                    outcome = Err(io::Error::new(
                        e.kind(),
                        format!("{}: {e}", sysctl.path.display()),
                    ));
                }
                None
            }
        };
        let settings = Settings {
            somaxconn: read(&mut self.somaxconn, true),
            tcp_max_syn_backlog: read(&mut self.max_syn_backlog, false),
            tcp_abort_on_overflow: read(&mut self.abort_on_overflow, false),
            tcp_syncookies: read(&mut self.syncookies, false),
        };
        (settings, outcome)
    }
}

impl Sysctl {
    fn read(&mut self) -> io::Result<u32> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(File::open(&self.path)?),
        };
        let mut bytes = [0; 32];
        let length = file.read_at(&mut bytes, 0)?;
        parse(bytes.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
    }
}

/// Reads a number that ends in white space.
#[must_use]
pub fn parse(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_setting_is_a_number_that_ends_in_a_newline() {
        assert_eq!(parse(b"4096\n"), Some(4096));
        assert_eq!(parse(b"-1\n"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_hidden_somaxconn_is_absent_and_any_other_missing_setting_an_error() {
        let root = tempfile::tempdir().unwrap();
        let ipv4 = root.path().join("sys/net/ipv4");
        std::fs::create_dir_all(&ipv4).unwrap();
        for name in [
            "tcp_max_syn_backlog",
            "tcp_abort_on_overflow",
            "tcp_syncookies",
        ] {
            std::fs::write(ipv4.join(name), "1\n").unwrap();
        }
        let (settings, outcome) = Sysctls::new(root.path()).read();
        assert_eq!(
            (settings.somaxconn, settings.tcp_syncookies),
            (None, Some(1))
        );
        assert!(outcome.is_ok());
        std::fs::remove_file(ipv4.join("tcp_syncookies")).unwrap();
        let (settings, outcome) = Sysctls::new(root.path()).read();
        assert_eq!(
            (settings.tcp_abort_on_overflow, settings.tcp_syncookies),
            (Some(1), None)
        );
        assert!(outcome.unwrap_err().to_string().contains("tcp_syncookies"));
    }

    proptest! {
        #[test]
        fn every_setting_reads_back(value: u32) {
            prop_assert_eq!(parse(format!("{value}\n").as_bytes()), Some(value));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[-+0-9]{0,12}[ \n]{0,2}".prop_map(String::into_bytes),
            ],
        ) {
            let number = std::str::from_utf8(&bytes).ok().map(str::trim_end);
            let number = number.and_then(|text| text.parse::<i128>().ok());
            let expected = number.and_then(|number| u32::try_from(number).ok());
            // A minus is refused even before a zero.
            prop_assert_eq!(parse(&bytes), expected.filter(|_| !bytes.starts_with(b"-")));
        }
    }
}
