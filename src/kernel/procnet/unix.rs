//! `/proc/net/unix`: the listening unix sockets, the connections in their queues, and the blocked connects.
//!
//! A pending connection is a separate row: no inode, state `SS_CONNECTING`, and the name of its listener (`unix_seq_show`, af_unix.c). It has
//! three references while its client is connected and two after it disconnected. A listener has two, and one more for each `connect()` that
//! sleeps because the queue is full (`unix_find_other`).
//!
//! The kernel prints names without escaping, so a name with a newline splits its row, and the rest may even look like a row. A name has
//! at most 108 bytes: only a line that fits into the name of the previous row may be part of that name. In that case the reader checks whether a
//! socket has the longer name.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{decimal, hexadecimal, open, read_at};
use crate::listener::UnixName;

/// The kernel fills one page per read.
const BUFFER: usize = 8192;
/// `sizeof(sun_path)`.
const LONGEST_NAME: usize = 108;
/// No row and no name with newlines is longer.
const LONGEST_ROW: usize = 512;
/// Number of cached names with a line that looks like a row. Further ones are looked up at each pass.
const MOST_IMITATIONS: usize = 256;
/// Digits of an address (`%p`). With 64 bits no two rows fit into a name, so at most one line of a name looks like a row.
const ADDRESS: usize = size_of::<usize>() * 2;
/// Printed before the kernel has random numbers to hash addresses.
const HIDDEN: &[u8] = b"(____ptrval____)";
/// `__SO_ACCEPTCON`, the flags of a listening socket.
const LISTENING: u64 = 0x1_0000;
/// `SOCK_STREAM`, `SOCK_DGRAM` and `SOCK_SEQPACKET`.
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const SEQPACKET: u64 = 5;
/// `SS_UNCONNECTED`, the state of a listening socket, and `SS_CONNECTING`, that of a connection without a socket of its own.
const UNCONNECTED: u64 = 1;
const CONNECTING: u64 = 2;
/// References that a socket always has: its own and that of the hash table.
const OWN_REFERENCES: u64 = 2;

/// The table, kept open.
#[derive(Debug)]
pub struct UnixTable {
    file: File,
    /// Whether names can be looked up: they belong to the namespaces of this process.
    is_own: bool,
    buffer: Vec<u8>,
    imitations: Imitations,
}

/// Sockets that were counted in this read and the one before. If sockets are opened between two reads of a pass, the kernel continues with rows
/// that it already printed. The set is no larger than that: what the kernel prints as an address has 32 random bits (`ptr_to_hashval`, lib/vsprintf.c),
/// so that among thousands of sockets two can have the same.
#[derive(Debug, Default)]
struct Seen {
    now: HashSet<u64>,
    before: HashSet<u64>,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// What the kernel prints as the address of the socket: a unique number. Absent if the kernel hides it (`kptr_restrict`).
    pub address: Option<u64>,
    /// References to the socket.
    pub references: u64,
    /// `__SO_ACCEPTCON` if it listens, else 0.
    pub flags: u64,
    /// `SOCK_STREAM` and the like; 0 for a socket of a blocked connect.
    pub kind: u64,
    /// `SS_UNCONNECTED` and the like.
    pub state: u64,
    /// Inode number in sockfs; 0 for a connection without its own socket.
    pub inode: u64,
    /// The name as printed, including what follows a newline in it.
    pub name: Option<&'a [u8]>,
}

/// A listening socket in one pass over the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Inode number in sockfs.
    pub inode: u32,
    /// `connect()` calls that sleep because the queue is full.
    pub blocked: u32,
}

/// Connections in the queues of all listeners with the same name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// All of them.
    pub depth: u32,
    /// Those whose client has disconnected.
    pub abandoned: u32,
}

/// What one pass over the table found.
#[derive(Debug, Default)]
pub struct UnixPass {
    /// The listeners by name, as the table prints names.
    pub listeners: HashMap<Vec<u8>, Vec<Listening>>,
    /// The waiting connections by name.
    pub pending: HashMap<Vec<u8>, Pending>,
    /// Rows that could not be read.
    pub unreadable: u64,
    seen: Seen,
    /// Lines that look like rows and were treated as parts of names.
    swallowed: HashSet<Vec<u8>>,
}

impl UnixTable {
    /// Opens `unix` in a `net` directory. Imitated rows are detected only if that directory belongs to the exporter's own namespace.
    ///
    /// # Errors
    /// Names the file.
    pub fn open(net: &Path, is_own: bool) -> io::Result<Self> {
        Ok(Self {
            file: open(net, "unix")?,
            is_own,
            buffer: Vec::new(),
            imitations: Imitations::default(),
        })
    }

    /// Passes over the table once, in time proportional to the number of unix sockets in the namespace.
    ///
    /// # Errors
    /// If `net/unix` cannot be read.
    pub fn read(&mut self, pass: &mut UnixPass) -> io::Result<()> {
        self.imitations.is_new = false;
        self.imitations
            .names
            .retain_mut(|(_, is_met)| std::mem::take(is_met));
        self.pass(pass)?;
        if self.imitations.is_new {
            // Rows before the one that revealed it may have the same name.
            self.pass(pass)?;
        }
        Ok(())
    }

    fn pass(&mut self, pass: &mut UnixPass) -> io::Result<()> {
        pass.clear();
        let is_own = self.is_own;
        let mut rows = Rows {
            pass,
            is_bound: |printed: &[u8], kind| is_own && is_bound(printed, kind),
            last: Vec::new(),
            doubtful: Vec::new(),
            imitations: &mut self.imitations,
            is_header: true,
        };
        let (mut offset, mut held) = (0, 0);
        // Bytes without a line end that are longer than a row are not a line of the kernel.
        let mut is_too_long = false;
        self.buffer.resize(BUFFER, 0);
        loop {
            let space = self.buffer.get_mut(held..).unwrap_or_default();
            let length = read_at(&self.file, "unix", space, offset)?;
            rows.pass.seen.next_read();
            offset += length as u64;
            let filled = self.buffer.get(..held + length).unwrap_or_default();
            let mut rest = filled;
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                if std::mem::take(&mut is_too_long) || line.len() > LONGEST_ROW {
                    rows.pass.unreadable += 1;
                } else {
                    rows.line(line);
                }
            }
            if length == 0 {
                rows.end();
                return Ok(());
            }
            let (whole, filled) = (filled.len() - rest.len(), filled.len());
            held = filled - whole;
            if is_too_long || held > LONGEST_ROW {
                (is_too_long, held) = (true, 0);
            }
            self.buffer.copy_within(whole..whole + held, 0);
        }
    }
}

impl UnixPass {
    /// Clears the figures, and removes names without a listener.
    fn clear(&mut self) {
        self.pending.clear();
        self.listeners.retain(|_, sockets| !sockets.is_empty());
        self.listeners.values_mut().for_each(Vec::clear);
        self.unreadable = 0;
        self.seen.now.clear();
        self.seen.before.clear();
        self.swallowed.clear();
    }

    /// Adds what another pass found and this one missed: a row that disappears during a pass can hide another.
    pub fn add(&mut self, other: &Self) {
        for (name, sockets) in &other.listeners {
            let known = self.listeners.entry(name.clone()).or_default();
            for socket in sockets {
                if known.iter().all(|known| known.inode != socket.inode) {
                    known.push(*socket);
                }
            }
        }
        for (name, pending) in &other.pending {
            let known = self.pending.entry(name.clone()).or_default();
            if pending.depth > known.depth {
                *known = *pending;
            }
        }
    }

    fn count(&mut self, row: &Row) {
        let references = row.references.saturating_sub(OWN_REFERENCES);
        let blocked = u32::try_from(references).unwrap_or(u32::MAX);
        let Some(name) = row.name else { return };
        if !row.listens() && !row.is_pending() {
            return;
        }
        if row
            .address
            .is_some_and(|address| !self.seen.is_new(address))
        {
            return;
        }
        if row.listens() {
            let Ok(inode) = u32::try_from(row.inode) else {
                return;
            };
            let listening = Listening { inode, blocked };
            match self.listeners.get_mut(name) {
                Some(sockets) => sockets.push(listening),
                None => {
                    self.listeners.insert(name.to_vec(), vec![listening]);
                }
            }
        } else {
            let pending = match self.pending.get_mut(name) {
                Some(pending) => pending,
                None => self.pending.entry(name.to_vec()).or_default(),
            };
            pending.depth = pending.depth.saturating_add(1);
            pending.abandoned += u32::from(references == 0);
        }
    }
}

impl Seen {
    fn next_read(&mut self) {
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.clear();
    }

    fn is_new(&mut self, address: u64) -> bool {
        !self.before.contains(&address) && self.now.insert(address)
    }
}

impl Row<'_> {
    fn listens(&self) -> bool {
        self.flags == LISTENING
            && matches!(self.kind, STREAM | SEQPACKET)
            && self.state == UNCONNECTED
            && self.inode != 0
    }

    fn is_pending(&self) -> bool {
        self.flags == 0
            && matches!(self.kind, STREAM | SEQPACKET)
            && self.state == CONNECTING
            && self.inode == 0
    }
}

/// Assembles rows from lines and counts them.
#[derive(Debug)]
struct Rows<'p, F> {
    pass: &'p mut UnixPass,
    /// Whether a socket of this type is bound to a name, as far as this can be determined.
    is_bound: F,
    /// The row that was read last, with the lines that are part of its name.
    last: Vec<u8>,
    /// A line that looks like a row and may be part of that name, with the lines after it.
    doubtful: Vec<u8>,
    imitations: &'p mut Imitations,
    is_header: bool,
}

/// Names that contain a line that looks like a row.
#[derive(Debug, Default)]
struct Imitations {
    /// And whether the last pass found it.
    names: Vec<(Vec<u8>, bool)>,
    /// Whether one was found that earlier rows may already have had.
    is_new: bool,
}

impl<F: FnMut(&[u8], u64) -> bool> Rows<'_, F> {
    fn line(&mut self, line: &[u8]) {
        if std::mem::take(&mut self.is_header) {
            return;
        }
        if parse(line).is_some() {
            self.settle();
            if fits(&self.last, line.len()) {
                self.doubtful.extend_from_slice(line);
            } else {
                self.finish();
                self.last.extend_from_slice(line);
            }
        } else if !self.doubtful.is_empty() {
            let with_it = self.doubtful.len() + 1 + line.len();
            if fits(&self.last, with_it) || fits(&self.doubtful, line.len()) {
                self.doubtful.push(b'\n');
                self.doubtful.extend_from_slice(line);
            } else {
                self.pass.unreadable += 1;
            }
        } else if fits(&self.last, line.len()) {
            self.last.push(b'\n');
            self.last.extend_from_slice(line);
        } else {
            self.pass.unreadable += 1;
        }
    }

    /// Counts the remaining rows.
    fn end(mut self) {
        self.settle();
        self.finish();
    }

    /// Counts the last row.
    fn finish(&mut self) {
        if let Some(row) = parse(&self.last) {
            self.pass.count(&row);
        }
        self.last.clear();
    }

    /// Decides whether the doubtful line is part of the name of the last row or a separate row.
    fn settle(&mut self) {
        if self.doubtful.is_empty() {
            return;
        }
        if self.is_imitation() {
            let end = self.doubtful.iter().position(|byte| *byte == b'\n');
            let line = self.doubtful.get(..end.unwrap_or(self.doubtful.len()));
            let line = line.unwrap_or_default();
            let has_address = parse(line).is_some_and(|row| row.address.is_some());
            let is_of_listener = parse(&self.last).is_some_and(|row| row.listens());
            // The same row twice: one may be the real one, after a socket whose name is the beginning of the other's name.
            if has_address && is_of_listener && !self.pass.swallowed.insert(line.to_vec()) {
                self.pass.unreadable += 1;
            }
            self.last.push(b'\n');
        } else {
            self.finish();
        }
        self.last.append(&mut self.doubtful);
    }

    fn is_imitation(&mut self) -> bool {
        let Some(last) = parse(&self.last) else {
            return false;
        };
        let longer = [last.name.unwrap_or_default(), b"\n", &self.doubtful].concat();
        let mut known = self.imitations.names.iter_mut();
        if let Some((_, is_met)) = known.find(|(name, _)| *name == longer) {
            *is_met = true;
            return true;
        }
        // A pending connection has the name of its listener, whose own row decides. What follows a socket that is counted neither as a listener nor
        // as pending matters only if it would be counted.
        let would_count = |row: Row| row.listens() || row.is_pending();
        let is_full = self.imitations.names.len() >= MOST_IMITATIONS;
        let is_asked = last.listens()
            || ((is_full || !last.is_pending()) && parse(&self.doubtful).is_some_and(would_count));
        let is_imitation = is_asked && (self.is_bound)(&longer, last.kind);
        if is_imitation && !is_full {
            self.imitations.names.push((longer, true));
            self.imitations.is_new = true;
        }
        is_imitation
    }
}

/// Whether a newline and this many more bytes fit into the name of a row.
fn fits(row: &[u8], more: usize) -> bool {
    let name = parse(row).and_then(|row| row.name);
    name.is_some_and(|name| name.len() + 1 + more <= LONGEST_NAME)
}

/// Reads a row: `address: RefCount Protocol Flags Type St Inode [Path]`. `None` if it is not a row.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Row<'_>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (address, rest) = line.split_at(colon);
    let is_address = address.len() == ADDRESS && address.iter().all(u8::is_ascii_hexdigit);
    if !is_address && address != HIDDEN {
        return None;
    }
    let address = hexadecimal(address).filter(|address| *address != 0);
    let mut rest = rest.strip_prefix(b":")?;
    let mut number = |digits: usize| -> Option<u64> {
        let field = rest.strip_prefix(b" ")?;
        let (field, after) = field.split_at_checked(digits)?;
        rest = after;
        hexadecimal(field)
    };
    let (references, _protocol, flags) = (number(8)?, number(8)?, number(8)?);
    let (kind, state) = (number(4)?, number(2)?);
    let rest = rest.strip_prefix(b" ")?;
    let is_digit = |byte: &&u8| **byte != b' ';
    let padding = rest.iter().take_while(|byte| **byte == b' ').count();
    let digits = rest.get(padding..)?.iter().take_while(is_digit).count();
    // `%5lu`
    if padding + digits < 5 || (padding > 0 && padding + digits > 5) {
        return None;
    }
    let (inode, rest) = rest.split_at_checked(padding + digits)?;
    Some(Row {
        address,
        references,
        flags,
        kind,
        state,
        inode: decimal(inode.get(padding..)?)?,
        name: match rest {
            [] => None,
            rest => Some(rest.strip_prefix(b" ")?),
        },
    })
}

/// A name as the table prints it: `@` for each NUL.
#[must_use]
pub fn printed(name: &UnixName) -> Vec<u8> {
    let nul = |byte: &u8| if *byte == 0 { b'@' } else { *byte };
    match name {
        UnixName::Path(path) => path.clone(),
        UnixName::Abstract(name) => std::iter::once(b'@').chain(name.iter().map(nul)).collect(),
    }
}

/// The name that is printed in this form. A path that begins with `@` is treated as an abstract name, and a NUL in one stays `@`.
#[must_use]
pub fn name(printed: &[u8]) -> UnixName {
    match printed.strip_prefix(b"@") {
        Some(name) => UnixName::Abstract(name.to_vec()),
        None => UnixName::path(printed),
    }
}

/// Whether a socket is bound to a name: a path that is a socket file here, or an abstract name that is in use. It cannot be determined for a
/// relative path and for a file that is not mounted here: then no.
fn is_bound(printed: &[u8], kind: u64) -> bool {
    match name(printed) {
        UnixName::Path(path) if path.starts_with(b"/") => {
            let path = Path::new(std::ffi::OsStr::from_bytes(&path));
            let status = rustix::fs::lstat(path);
            status
                .is_ok_and(|status| rustix::fs::FileType::from_raw_mode(status.st_mode).is_socket())
        }
        UnixName::Path(_) => false,
        UnixName::Abstract(name) => {
            let kind = match kind {
                STREAM => SocketType::STREAM,
                DATAGRAM => SocketType::DGRAM,
                SEQPACKET => SocketType::SEQPACKET,
                _ => return false,
            };
            // It does not listen and is closed at once.
            let bound = SocketAddrUnix::new_abstract_name(&name).and_then(|address| {
                let socket = rustix::net::socket_with(
                    AddressFamily::UNIX,
                    kind,
                    SocketFlags::CLOEXEC,
                    None,
                )?;
                rustix::net::bind(&socket, &address)
            });
            bound == Err(rustix::io::Errno::ADDRINUSE)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use proptest::prelude::*;

    use super::*;

    const HEADER: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n";
    const LISTENER: &str = "0000000000000000: 00000002 00000000 00010000 0001 01";
    const PENDING: &str = "0000000000000000: 00000003 00000000 00000000 0001 02     0";
    const ABANDONED: &str = "0000000000000000: 00000002 00000000 00000000 0001 02     0";

    /// What a table holds, if these are the names that sockets are bound to.
    fn pass_of(table: &[u8], bound: &[&[u8]]) -> UnixPass {
        let mut pass = UnixPass::default();
        let mut imitations = Imitations::default();
        // As `read`: once more, with what the first pass learnt.
        for _ in 0..2 {
            pass.clear();
            let mut rows = Rows {
                pass: &mut pass,
                is_bound: |name: &[u8], _| bound.contains(&name),
                last: Vec::new(),
                doubtful: Vec::new(),
                imitations: &mut imitations,
                is_header: true,
            };
            for line in table
                .strip_suffix(b"\n")
                .unwrap()
                .split(|byte| *byte == b'\n')
            {
                rows.line(line);
            }
            rows.end();
        }
        pass
    }

    fn read(table: &[u8]) -> UnixPass {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("unix"), table).unwrap();
        let mut pass = UnixPass::default();
        let mut table = UnixTable::open(directory.path(), true).unwrap();
        table.read(&mut pass).unwrap();
        pass
    }

    fn waiting(pass: &UnixPass, name: &str) -> (u32, u32) {
        let pending = pass
            .pending
            .get(name.as_bytes())
            .copied()
            .unwrap_or_default();
        (pending.depth, pending.abandoned)
    }

    fn listening(pass: &UnixPass, name: &str) -> Vec<(u32, u32)> {
        let sockets = pass.listeners.get(name.as_bytes());
        sockets
            .into_iter()
            .flatten()
            .map(|l| (l.inode, l.blocked))
            .collect()
    }

    #[test]
    fn depth_abandoned_and_blocked_are_found_by_name() {
        let table = format!(
            "{HEADER}\
            {LISTENER}  1679 /run/a.sock\n\
            00000000a5f65aa1: 00000034 00000000 00010000 0005 01 4294967295 @name\n\
            {PENDING} /run/a.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03  1681 /run/a.sock\n\
            {ABANDONED} /run/a.sock\n\
            {PENDING} @name\n\
            0000000000000000: 00000002 00000000 00000000 0000 04     0\n\
            {LISTENER}    12\n"
        );
        let pass = read(table.as_bytes());
        assert_eq!(listening(&pass, "/run/a.sock"), [(1679, 0)]);
        assert_eq!(listening(&pass, "@name"), [(4_294_967_295, 50)]);
        assert_eq!(waiting(&pass, "/run/a.sock"), (2, 1));
        assert_eq!(waiting(&pass, "@name"), (1, 0));
        assert_eq!((pass.listeners.len(), pass.unreadable), (2, 0));
    }

    #[test]
    fn a_name_with_newlines_is_one_name_and_breaks_no_other_row() {
        let name = "/run/a\n\n\u{fffd}: b\n 1 2";
        let table =
            format!("{HEADER}{LISTENER}    12 {name}\n{PENDING} {name}\n{PENDING} /run/b\n");
        let pass = read(table.as_bytes());
        assert_eq!(listening(&pass, name), [(12, 0)]);
        assert_eq!(
            (waiting(&pass, name), waiting(&pass, "/run/b")),
            ((1, 0), (1, 0))
        );
        assert_eq!(pass.unreadable, 0);
    }

    #[test]
    fn a_row_inside_a_name_is_no_row_wherever_the_name_stands() {
        let imitated = format!("{PENDING} /run/g.sock");
        for name in [format!("/x\n{imitated}"), format!("/x\n\n{imitated}\ny")] {
            let table = format!(
                "{HEADER}{PENDING} {name}\n{PENDING} /run/g.sock\n{LISTENER}    12 {name}\n{imitated}\n{PENDING} {name}\n"
            );
            let pass = pass_of(table.as_bytes(), &[name.as_bytes()]);
            assert_eq!(waiting(&pass, "/run/g.sock"), (2, 0), "{name}");
            assert_eq!(
                (waiting(&pass, &name), listening(&pass, &name)),
                ((2, 0), vec![(12, 0)])
            );
            assert_eq!(pass.unreadable, 0);
        }
    }

    #[test]
    fn a_row_after_a_short_name_is_a_row() {
        let table = format!(
            "{HEADER}{LISTENER}    12 /g\n{PENDING} /g\n{ABANDONED} /g\n{LISTENER}    13 /h\n"
        );
        let pass = pass_of(table.as_bytes(), &[]);
        assert_eq!(waiting(&pass, "/g"), (2, 1));
        assert_eq!(
            (listening(&pass, "/g"), listening(&pass, "/h")),
            (vec![(12, 0)], vec![(13, 0)])
        );
    }

    #[test]
    fn a_row_that_cannot_be_read_is_left_out_and_counted() {
        let table = format!(
            "{HEADER}{PENDING}\nno row\n{PENDING} /run/a\n{}\n{PENDING} /run/a\n",
            "x".repeat(300)
        );
        let pass = read(table.as_bytes());
        assert_eq!((waiting(&pass, "/run/a"), pass.unreadable), ((2, 0), 2));
    }

    /// A pending row of a socket with this address.
    fn pending_at(address: u64, name: &str) -> String {
        format!("{address:016x}: 00000003 00000000 00000000 0001 02     0 {name}\n")
    }

    #[test]
    fn a_row_that_the_kernel_printed_twice_counts_once() {
        let row = |address| pending_at(address, "/run/a");
        let table = [HEADER, &row(1), &row(2), &row(1), &row(3)].concat();
        assert_eq!(waiting(&read(table.as_bytes()), "/run/a"), (3, 0));
    }

    #[test]
    fn sockets_far_apart_whose_addresses_are_printed_alike_count_as_two() {
        let rows: String = (0..1000)
            .map(|row| pending_at(row % 500, "/run/a"))
            .collect();
        let pass = read(format!("{HEADER}{rows}").as_bytes());
        assert_eq!(waiting(&pass, "/run/a"), (1000, 0));
    }

    #[test]
    fn what_one_pass_missed_another_adds() {
        let pass = |depth: u64, inodes: &[u32]| {
            let rows: String = (1..=depth)
                .map(|address| pending_at(address, "/run/a"))
                .collect();
            let listeners: Vec<String> = inodes
                .iter()
                .map(|inode| {
                    format!(
                        "{LISTENER} {inode:5} /run/a
"
                    )
                })
                .collect();
            let listeners = listeners.concat();
            read(format!("{HEADER}{rows}{listeners}").as_bytes())
        };
        let mut first = pass(50, &[12]);
        first.add(&pass(51, &[12, 13]));
        assert_eq!(waiting(&first, "/run/a"), (51, 0));
        assert_eq!(listening(&first, "/run/a"), [(12, 0), (13, 0)]);
        first.add(&pass(49, &[]));
        assert_eq!(waiting(&first, "/run/a"), (51, 0));
    }

    #[test]
    fn an_address_has_the_digits_of_the_machines_words() {
        let short = "00000001: 00000003 00000000 00000000 0001 02     0 @v";
        assert_eq!(parse(short.as_bytes()).is_some(), ADDRESS == 8);
        // Two rows in a name, of which only the whole is bound.
        let name = format!("n\n00000001: 00000003 00000000 00000000 0001 02     0\n{short}");
        let table = format!("{HEADER}{LISTENER}    12 {name}\n");
        let pass = pass_of(table.as_bytes(), &[name.as_bytes()]);
        assert_eq!(waiting(&pass, "@v"), (0, 0));
        assert_eq!(listening(&pass, &name), [(12, 0)]);
    }

    #[test]
    fn names_that_imitate_rows_are_detected_however_many_there_are() {
        let mut table = HEADER.to_owned();
        let names: Vec<String> = (0..MOST_IMITATIONS * 2)
            .map(|n| format!("@{n}\n{PENDING} @v"))
            .collect();
        for name in &names {
            table.extend([
                "", LISTENER, "    12 ", name, "\n", PENDING, " ", name, "\n",
            ]);
        }
        let bound: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let pass = pass_of(table.as_bytes(), &bound);
        assert_eq!(waiting(&pass, "@v"), (0, 0));
        assert!(names.iter().all(|name| waiting(&pass, name) == (1, 0)));
    }

    #[test]
    fn a_row_that_may_be_hidden_by_a_name_counts_as_unreadable() {
        let row = format!("{:016x}: 00000002 00000000 00010000 0001 01    77 @v", 7);
        let hostile = format!("@n\n{row}");
        // The real row stands behind one that bears the beginning of the other's name.
        let table = format!("{HEADER}{LISTENER}    11 @n\n{row}\n{LISTENER}    12 {hostile}\n");
        let pass = pass_of(table.as_bytes(), &[b"@n", b"@v", hostile.as_bytes()]);
        assert_eq!((listening(&pass, "@v"), pass.unreadable), (vec![], 1));
    }

    #[test]
    fn what_fits_into_no_name_is_left_out_and_hides_no_row() {
        let table = format!(
            "{HEADER}{PENDING} /run/a\n{PENDING} /run/b\n{}\n{PENDING} /run/b\n",
            "x".repeat(300)
        );
        let pass = read(table.as_bytes());
        assert_eq!((waiting(&pass, "/run/b"), pass.unreadable), ((2, 0), 1));
    }

    #[test]
    fn a_table_longer_than_the_buffer_is_read_whole() {
        let rows: Vec<String> = (0..1000)
            .map(|inode| {
                format!(
                    "{LISTENER} {inode:5} /run/{inode}
"
                )
            })
            .collect();
        let rows = rows.concat();
        let pass = read(format!("{HEADER}{rows}").as_bytes());
        assert_eq!(pass.listeners.len(), 999, "0 is no inode");
        let endless = format!(
            "{HEADER}{}\n{LISTENER}     7 /run/7\n",
            "x".repeat(3 * BUFFER + 5)
        );
        assert_eq!(listening(&read(endless.as_bytes()), "/run/7"), [(7, 0)]);
    }

    #[test]
    fn the_kernels_own_table_shows_a_queue_even_beside_a_name_with_a_row_in_it() {
        let own = std::process::id();
        let bind = |name: &[u8]| {
            let address = SocketAddr::from_abstract_name(name).unwrap();
            (UnixListener::bind_addr(&address).unwrap(), address)
        };
        let (_listener, address) = bind(format!("q{own}").as_bytes());
        let imitation = format!("i{own}\n{PENDING} @q{own}");
        let (_hostile, hostile) = bind(imitation.as_bytes());
        let connect = |address| UnixStream::connect_addr(address).unwrap();
        let _clients = [connect(&address), connect(&address), connect(&hostile)];
        drop(connect(&address));
        let mut pass = UnixPass::default();
        let mut table = UnixTable::open(Path::new("/proc/thread-self/net"), true).unwrap();
        for _ in 0..2 {
            table.read(&mut pass).unwrap();
            assert_eq!(waiting(&pass, &format!("@q{own}")), (3, 1));
            assert_eq!(waiting(&pass, &format!("@{imitation}")), (1, 0));
            assert_eq!(listening(&pass, &format!("@q{own}")).len(), 1);
        }
    }

    proptest! {
        #[test]
        fn any_table_is_read_without_a_panic(table in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&table);
            let _ = read(&table);
        }

        #[test]
        fn a_cut_row_is_no_other_row(cut in 0..LISTENER.len() + 18) {
            let row = format!("{LISTENER}  1679 /run/a.sock");
            let read = parse(&row.as_bytes()[..cut]);
            prop_assert!(read.is_none_or(|read| (read.references, read.flags, read.kind) == (2, LISTENING, STREAM)));
        }
    }
}
