//! `/proc/net/tcp` and `tcp6`: the depth of TCP listeners.
//!
//! Listening sockets come first (`tcp_seq_start`, tcp_ipv4.c). After the last of them the kernel walks the table of the whole host for
//! the next connection. Reading therefore ends with the last row that is needed, and no read only asks whether the table is over. The kernel looks for
//! the row after each that it prints (`seq_read_iter`, seq_file.c): if the last listening socket is needed, one walk cannot be avoided.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::Path;

use super::{decimal, hexadecimal, open, read_at};
use crate::kernel::inet::Family;

/// Bytes per read. A row has 150 bytes in `tcp` and about 170 in `tcp6`.
const STEP: usize = 1024;
/// No row is longer.
const LONGEST_ROW: usize = 512;
/// The kernel prints no more than a page at a time.
const PAGE: usize = 4096;
/// `TCP_LISTEN`, as the table prints it.
const LISTEN: u64 = 10;

/// A table, kept open.
#[derive(Debug)]
pub struct TcpTable {
    file: File,
    name: &'static str,
    /// The end of the rows that the last read needed.
    needed: usize,
    buffer: Vec<u8>,
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpRow {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections waiting for `accept()`: `rx_queue`, which is `sk_ack_backlog` here (`get_tcp4_sock`, tcp_ipv4.c).
    pub depth: u32,
    /// Inode number in sockfs.
    pub inode: u32,
}

/// The kind of a line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// A listening socket of the table.
    Listening(TcpRow),
    /// A socket in another state: no listening socket follows.
    Other,
}

impl TcpTable {
    /// Opens `tcp` or `tcp6` in a `net` directory.
    ///
    /// # Errors
    /// Names the file.
    pub fn open(net: &Path, family: Family) -> io::Result<Self> {
        let name = match family {
            Family::V4 => "tcp",
            Family::V6 => "tcp6",
        };
        Ok(Self {
            file: open(net, name)?,
            name,
            needed: 0,
            buffer: Vec::new(),
        })
    }

    /// Passes each listening socket to `each` until that breaks, or until there are no more. Returns the number of rows that could
    /// not be read.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn read(&mut self, mut each: impl FnMut(TcpRow) -> ControlFlow<()>) -> io::Result<u64> {
        let (mut offset, mut unreadable) = (0_usize, 0);
        self.buffer.clear();
        let mut is_header = true;
        // Bytes without a line end that are longer than a row are not a row of the kernel.
        let mut is_too_long = false;
        loop {
            let step = if offset < self.needed {
                self.needed - offset
            } else {
                STEP
            };
            let step = step.clamp(1, 64 * STEP);
            let held = self.buffer.len();
            self.buffer.resize(held + step, 0);
            let space = self.buffer.get_mut(held..).unwrap_or_default();
            let length = read_at(&self.file, self.name, space, offset as u64)?;
            self.buffer.truncate(held + length);
            offset += length;
            let mut rest = self.buffer.as_slice();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                let is_row = !std::mem::take(&mut is_too_long) && line.len() <= LONGEST_ROW;
                if std::mem::take(&mut is_header) {
                    continue;
                }
                let is_over = match parse(line).filter(|_| is_row) {
                    Some(Line::Listening(row)) => each(row).is_break(),
                    Some(Line::Other) => return Ok(unreadable),
                    None => {
                        unreadable += 1;
                        false
                    }
                };
                self.needed = offset - rest.len();
                if is_over {
                    return Ok(unreadable);
                }
            }
            // The kernel had space for another row.
            let is_end = length < step && step + LONGEST_ROW <= PAGE;
            if length == 0 || is_end {
                return Ok(unreadable);
            }
            let mut held = rest.len();
            if is_too_long || held > LONGEST_ROW {
                (is_too_long, held) = (true, 0);
            }
            let start = self.buffer.len() - held;
            self.buffer.drain(..start);
        }
    }
}

/// Reads a line: `sl: local remote st tx_queue:rx_queue tr:when retransmits uid timeout inode ...`. `None` if it is not a row.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Line> {
    let mut words = line.split(|byte| *byte == b' ').filter(|w| !w.is_empty());
    let mut word = || words.next();
    decimal(word()?.strip_suffix(b":")?)?;
    let (local, _remote, state, queues) = (word()?, word()?, word()?, word()?);
    let (_timer, _retransmits, _user, _timeout, inode) =
        (word()?, word()?, word()?, word()?, word()?);
    let inode = decimal(inode)?;
    let address = address(local)?;
    if hexadecimal(state)? != LISTEN {
        return Some(Line::Other);
    }
    let (_, depth) = halves(queues)?;
    Some(Line::Listening(TcpRow {
        address,
        depth: u32::try_from(hexadecimal(depth)?).ok()?,
        inode: u32::try_from(inode).ok()?,
    }))
}

fn halves(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = word.iter().position(|byte| *byte == b':')?;
    let (first, second) = word.split_at(colon);
    Some((first, second.get(1..)?))
}

/// `ADDRESS:PORT`: the address in words in memory order (network order), printed as numbers of this machine.
fn address(word: &[u8]) -> Option<SocketAddr> {
    let (address, port) = halves(word)?;
    let mut bytes = [0; 16];
    let words = address.chunks(8).zip(bytes.chunks_mut(4));
    for (digits, bytes) in words {
        let number = u32::try_from(hexadecimal(digits)?).ok()?;
        bytes.copy_from_slice(&number.to_ne_bytes());
    }
    let [a, b, c, d, ..] = bytes;
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        32 => IpAddr::V6(Ipv6Addr::from(bytes)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::try_from(hexadecimal(port)?).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    const LISTENING: &str = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 10901 1 0000000000000000 100 0 0 10 5";
    const CONNECTED: &str = "   1: 0100007F:1F90 0100007F:8F6A 01 00000000:00000007 00:00000000 00000000     0        0 0 1 0000000000000000 20 0 0 10 -1";

    /// What is handed out of a table, and how many rows could not be read.
    fn read(table: &[u8], wanted: usize) -> (Vec<TcpRow>, u64) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tcp"), table).unwrap();
        let mut table = TcpTable::open(directory.path(), Family::V4).unwrap();
        let mut read = || {
            let mut rows = Vec::new();
            let unreadable = table.read(|row| {
                rows.push(row);
                if rows.len() == wanted {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            (rows, unreadable.unwrap())
        };
        let first = read();
        assert_eq!(read(), first, "the second reading is the first");
        first
    }

    fn row(address: &str, depth: u32, inode: u32) -> TcpRow {
        TcpRow {
            address: address.parse().unwrap(),
            depth,
            inode,
        }
    }

    #[test]
    fn listening_rows_are_read_up_to_the_first_other_row() {
        let v6 = LISTENING.replace("0100007F:1F90", "00000000000000000000000001000000:0050");
        let table = [HEADER, LISTENING, &v6, CONNECTED, LISTENING, ""].join("\n");
        let expected = [row("127.0.0.1:8080", 3, 10901), row("[::1]:80", 3, 10901)];
        assert_eq!(read(table.as_bytes(), 9), (expected.to_vec(), 0));
        assert_eq!(read(table.as_bytes(), 1), (expected[..1].to_vec(), 0));
    }

    #[test]
    fn a_read_that_has_space_left_is_the_last_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tcp");
        let table = [HEADER, LISTENING, ""].join("\n");
        std::fs::write(&path, &table).unwrap();
        let mut reader = TcpTable::open(directory.path(), Family::V4).unwrap();
        let mut rows = 0;
        let unreadable = reader.read(|_| {
            rows += 1;
            // Another read would find it.
            std::fs::write(&path, [&table, LISTENING, "\n"].concat()).unwrap();
            ControlFlow::Continue(())
        });
        assert_eq!((rows, unreadable.unwrap()), (1, 0));
    }

    #[test]
    fn a_row_that_cannot_be_read_is_left_out_and_counted() {
        let table = [
            HEADER,
            "no row",
            LISTENING,
            &"x".repeat(3 * STEP),
            LISTENING,
            "",
        ]
        .join("\n");
        let (rows, unreadable) = read(table.as_bytes(), 9);
        assert_eq!(rows, [row("127.0.0.1:8080", 3, 10901); 2]);
        assert!(unreadable >= 2);
    }

    #[test]
    fn a_table_longer_than_the_buffer_is_read_whole() {
        let rows: Vec<String> = (0..500)
            .map(|inode| LISTENING.replace("10901", &inode.to_string()))
            .collect();
        let table = format!("{HEADER}\n{}\n", rows.join("\n"));
        let (found, unreadable) = read(table.as_bytes(), 1000);
        let expected: Vec<TcpRow> = (0..500)
            .map(|inode| row("127.0.0.1:8080", 3, inode))
            .collect();
        assert_eq!((found, unreadable), (expected, 0));
    }

    #[test]
    fn the_kernels_own_table_has_a_listener_with_its_depth() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _clients = [(); 3].map(|()| std::net::TcpStream::connect(address).unwrap());
        let mut table = TcpTable::open(Path::new("/proc/thread-self/net"), Family::V4).unwrap();
        let mut found = None;
        table
            .read(|row| {
                found = Some(row).filter(|row| row.address == address).or(found);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found.unwrap().depth, 3);
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn a_cut_line_is_no_other_row(cut in 0..LISTENING.len()) {
            let whole = parse(LISTENING.as_bytes());
            let read = parse(&LISTENING.as_bytes()[..cut]);
            // The inode may lose digits at its end; everything before it is complete.
            let same_but_inode = matches!((read, whole), (Some(Line::Listening(a)), Some(Line::Listening(b)))
                if (a.address, a.depth) == (b.address, b.depth));
            prop_assert!(read.is_none() || same_but_inode);
        }

        #[test]
        fn a_changed_byte_does_no_harm(at in 0..LISTENING.len(), byte in any::<u8>()) {
            let mut line = LISTENING.as_bytes().to_vec();
            line[at] = byte;
            let _ = parse(&line);
        }
    }
}
