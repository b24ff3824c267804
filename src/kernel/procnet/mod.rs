//! The tables below `/proc/net`, used if `sock_diag` is not available, and for blocked connects, which it does not report.
//!
//! The directory is an argument: `/proc/net` is the network namespace of this thread, `/proc/<pid>/net` that of a process, which everybody
//! who can see the process may read.

pub mod tcp;
pub mod unix;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

pub use tcp::{TcpRow, TcpTable};
pub use unix::{UnixPass, UnixTable};

/// Opens a table.
fn open(net: &Path, name: &str) -> io::Result<File> {
    let path = net.join(name);
    File::open(&path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Reads from an offset, even if signals interrupt it; 0 bytes at the end.
fn read_at(file: &File, name: &str, space: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(space, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("net/{name}: {e}"))),
            read => return read,
        }
    }
}

/// A hexadecimal number of at most 16 digits.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let is_short = (1..=16).contains(&digits.len());
    let value = |sum: u64, digit: &u8| Some(sum << 4 | u64::from(char::from(*digit).to_digit(16)?));
    digits.iter().try_fold(0, value).filter(|_| is_short)
}

/// A decimal number without a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok()
}
