//! `/proc/net/unix`, for the one figure that `unix_diag` does not have: how many references a listening socket has.
//!
//! Two are the socket's own; every `connect()` that sleeps because the queue is full holds one more (`unix_find_other`,
//! af_unix.c). The kernel prints names as they are, so a name with a newline breaks its line in two and may even imitate a
//! line: rows are handed out as they are read, and two of one inode contradict each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The kernel fills a page a read; a line is shorter than 200 bytes.
const BUFFER: usize = 8192;
/// `__SO_ACCEPTCON`, the flags of a listening socket.
const LISTENING: &[u8] = b"00010000";
/// `SOCK_STREAM` and `SOCK_SEQPACKET`.
const TYPES: [&[u8]; 2] = [b"0001", b"0005"];
/// `SS_UNCONNECTED`, the state of a listening socket.
const UNCONNECTED: &[u8] = b"01";
/// References that a listening socket has while nobody waits: its own, and the hash table's.
const OWN_REFERENCES: u32 = 2;

/// The file, kept open.
#[derive(Debug)]
pub struct UnixTable {
    file: File,
    buffer: Vec<u8>,
}

/// A listening socket's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Inode number in sockfs.
    pub inode: u32,
    /// `connect()` calls that sleep because the queue is full.
    pub blocked: u32,
}

impl UnixTable {
    /// Opens `net/unix` below the proc root.
    ///
    /// # Errors
    /// Names the file.
    pub fn open(procfs: &Path) -> io::Result<Self> {
        let path = procfs.join("net/unix");
        let file = File::open(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Self {
            file,
            buffer: vec![0; BUFFER],
        })
    }

    /// Hands each listening socket of the table to `each`. The walk takes as long as there are unix sockets in the namespace.
    ///
    /// # Errors
    /// Says that `net/unix` could not be read.
    pub fn read(&mut self, mut each: impl FnMut(Row)) -> io::Result<()> {
        let (mut offset, mut held) = (0, 0);
        loop {
            let space = self.buffer.get_mut(held..).unwrap_or_default();
            let length = match self.file.read_at(space, offset) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io::Error::new(e.kind(), format!("net/unix: {e}"))),
            };
            offset += length as u64;
            let filled = self.buffer.get(..held + length).unwrap_or_default();
            let mut rest = filled;
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                parse(line).into_iter().for_each(&mut each);
            }
            if length == 0 {
                return Ok(());
            }
            // Bytes without an end that fill the buffer are no line of the kernel's.
            let (whole, filled) = (filled.len() - rest.len(), filled.len());
            held = if whole == 0 && filled == BUFFER {
                0
            } else {
                filled - whole
            };
            self.buffer.copy_within(whole..whole + held, 0);
        }
    }
}

/// Reads a line: `address: RefCount Protocol Flags Type St Inode [Path]`. `None` for what is no listening socket.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Row> {
    let mut words = line.split(|byte| *byte == b' ').filter(|w| !w.is_empty());
    let mut word = || words.next();
    let _address = word()?.strip_suffix(b":")?;
    let (references, _protocol, flags) = (word()?, word()?, word()?);
    let (kind, state, inode) = (word()?, word()?, word()?);
    if flags != LISTENING || !TYPES.contains(&kind) || state != UNCONNECTED {
        return None;
    }
    let references = u32::from_str_radix(std::str::from_utf8(references).ok()?, 16).ok()?;
    Some(Row {
        inode: std::str::from_utf8(inode).ok()?.parse().ok()?,
        blocked: references.saturating_sub(OWN_REFERENCES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    const HEADER: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n";

    fn rows(table: &[u8]) -> Vec<(u32, u32)> {
        let own = (std::process::id(), std::thread::current().id());
        let directory = std::env::temp_dir().join(format!("lq-{own:?}"));
        std::fs::create_dir_all(directory.join("net")).unwrap();
        let mut file = File::create(directory.join("net/unix")).unwrap();
        file.write_all(table).unwrap();
        let mut rows = Vec::new();
        let mut table = UnixTable::open(&directory).unwrap();
        table
            .read(|row| rows.push((row.inode, row.blocked)))
            .unwrap();
        std::fs::remove_dir_all(directory).unwrap();
        rows
    }

    #[test]
    fn blocked_connects_are_the_references_beyond_two() {
        let table = format!(
            "{HEADER}\
            0000000000000000: 00000002 00000000 00010000 0001 01  1679 /run/a.sock\n\
            00000000a5f65aa1: 00000034 00000000 00010000 0005 01 4294967295 @name\n\
            0000000000000000: 00000003 00000000 00000000 0001 03  1681 /run/a.sock\n\
            0000000000000000: 00000002 00000000 00000000 0000 04     0\n\
            0000000000000000: 00000002 00000000 00010000 0001 01    12\n"
        );
        assert_eq!(
            rows(table.as_bytes()),
            [(1679, 0), (4_294_967_295, 50), (12, 0)]
        );
    }

    #[test]
    fn names_with_newlines_break_no_other_line() {
        let line = b"0000000000000000: 00000007 00000000 00010000 0001 01    12";
        let table = [
            HEADER.as_bytes(),
            line,
            b" /run/a\n\n\xff: b\n 1 2\n",
            line,
            b" /run/b\n",
            line,
        ]
        .concat();
        // The last line has no end: it is cut.
        assert_eq!(rows(&table), [(12, 5), (12, 5)]);
    }

    #[test]
    fn a_table_longer_than_the_buffer_is_read_whole() {
        let line = |inode| {
            format!("0000000000000000: 00000002 00000000 00010000 0001 01 {inode:5} /run/{inode}\n")
        };
        let table: String = (0..1000).map(line).collect();
        let expected: Vec<_> = (0..1000).map(|inode| (inode, 0)).collect();
        assert_eq!(rows(table.as_bytes()), expected);
        let endless = [
            vec![b'x'; 3 * BUFFER + 5],
            b"\n".to_vec(),
            line(7).into_bytes(),
        ]
        .concat();
        assert_eq!(rows(&endless), [(7, 0)]);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }
    }
}
