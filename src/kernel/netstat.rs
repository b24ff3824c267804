//! The `TcpExt` counters of `/proc/net/netstat`, by header name, on a descriptor that stays open.
//!
//! They cover every listener of the network namespace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Counters of `TcpExt` that concern listeners; absent if the kernel does not print them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpExt {
    /// `ListenOverflows`: the accept queue was full.
    pub listen_overflows: Option<u64>,
    /// `ListenDrops`: overflows and every other reason to drop a SYN or the ACK that ends a handshake.
    pub listen_drops: Option<u64>,
    /// `TCPReqQFullDrop`: the SYN queue was full and cookies were off.
    pub request_queue_full_drops: Option<u64>,
    /// `TCPReqQFullDoCookies`: the SYN queue was full and a cookie was sent.
    pub request_queue_full_cookies: Option<u64>,
}

/// The file, which stays open: to read it again is one `pread`.
#[derive(Debug)]
pub struct Netstat {
    file: File,
    buffer: Vec<u8>,
}

impl Netstat {
    /// Opens `net/netstat` below the proc root.
    ///
    /// # Errors
    /// Names the file.
    pub fn open(procfs: &Path) -> io::Result<Self> {
        let path = procfs.join("net/netstat");
        let file = File::open(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Self {
            file,
            buffer: vec![0; 8192],
        })
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// Says that `/proc/net/netstat` could not be read.
    pub fn read(&mut self) -> io::Result<TcpExt> {
        let mut filled = 0;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let space = self.buffer.get_mut(filled..).unwrap_or_default();
            match self.file.read_at(space, filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("net/netstat: {e}"))),
            }
        }
        Ok(parse(self.buffer.get(..filled).unwrap_or_default()))
    }
}

/// Reads the `TcpExt:` pair of lines: names, then values in the same order.
#[must_use]
pub fn parse(text: &[u8]) -> TcpExt {
    let mut counters = TcpExt::default();
    let mut lines = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"TcpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return counters;
    };
    for (name, value) in split(names).zip(split(values)) {
        let counter = match name {
            b"ListenOverflows" => &mut counters.listen_overflows,
            b"ListenDrops" => &mut counters.listen_drops,
            b"TCPReqQFullDrop" => &mut counters.request_queue_full_drops,
            b"TCPReqQFullDoCookies" => &mut counters.request_queue_full_cookies,
            _ => continue,
        };
        *counter = std::str::from_utf8(value)
            .ok()
            .and_then(|value| value.parse().ok());
    }
    counters
}

fn split(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counters_are_found_by_name_whatever_their_place() {
        let text = b"TcpExt: SyncookiesSent ListenDrops New ListenOverflows TCPReqQFullDrop\n\
            TcpExt: 1 20 3 15 4\n\
            IpExt: ListenDrops\nIpExt: 9\n";
        assert_eq!(
            parse(text),
            TcpExt {
                listen_overflows: Some(15),
                listen_drops: Some(20),
                request_queue_full_drops: Some(4),
                request_queue_full_cookies: None,
            }
        );
    }

    #[test]
    fn a_value_that_is_missing_or_no_number_is_absent() {
        let cut = b"TcpExt: ListenDrops ListenOverflows\nTcpExt: x";
        assert_eq!(parse(cut), TcpExt::default());
        assert_eq!(parse(b"TcpExt: ListenDrops\n"), TcpExt::default());
        assert_eq!(parse(b""), TcpExt::default());
    }

    #[test]
    fn the_file_of_this_machine_has_all_four() {
        let counters = Netstat::open(Path::new("/proc")).unwrap().read().unwrap();
        assert!(counters.listen_overflows.is_some() && counters.listen_drops.is_some());
        assert!(counters.request_queue_full_drops.is_some());
        assert!(counters.request_queue_full_cookies.is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&text);
        }
    }
}
