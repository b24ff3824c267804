//! `/proc/net/unix`: the listening unix sockets, the connections in their queues, and the connects that sleep before them.
//!
//! A pending connection is a row of its own: no inode, state `SS_CONNECTING`, and the name of its listener (`unix_seq_show`, af_unix.c). It has
//! three references while its client is there and two when that has gone. A listener has two, and one more for each `connect()` that
//! sleeps because the queue is full (`unix_find_other`).
//!
//! The kernel prints names as they are, so a name with a newline breaks its row in two, and what follows may even look like a row. A name has
//! 108 bytes at most: only a line that fits into the name of the row before it may be part of that name, and then it is asked whether a
//! socket bears the longer name.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{decimal, hexadecimal, open, read_at};
use crate::listener::UnixName;

/// The kernel fills a page a read.
const BUFFER: usize = 8192;
/// `sizeof(sun_path)`.
const LONGEST_NAME: usize = 108;
/// No row and no name that was broken into lines is longer.
const LONGEST_ROW: usize = 512;
/// Names with a line that looks like a row that are kept; further ones are looked up at each pass.
const MOST_IMITATIONS: usize = 256;
/// `__SO_ACCEPTCON`, the flags of a listening socket.
const LISTENING: u64 = 0x1_0000;
/// `SOCK_STREAM`, `SOCK_DGRAM` and `SOCK_SEQPACKET`.
const STREAM: u64 = 1;
const DATAGRAM: u64 = 2;
const SEQPACKET: u64 = 5;
/// `SS_UNCONNECTED`, the state of a listening socket, and `SS_CONNECTING`, that of a connection without a socket of its own.
const UNCONNECTED: u64 = 1;
const CONNECTING: u64 = 2;
/// References that a socket has by itself: its own, and the hash table's.
const OWN_REFERENCES: u64 = 2;

/// The table, kept open.
#[derive(Debug)]
pub struct UnixTable {
    file: File,
    buffer: Vec<u8>,
    imitations: Imitations,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// References to the socket.
    pub references: u64,
    /// `__SO_ACCEPTCON` if it listens, else 0.
    pub flags: u64,
    /// `SOCK_STREAM` and the like; 0 for a socket of a connect that sleeps.
    pub kind: u64,
    /// `SS_UNCONNECTED` and the like.
    pub state: u64,
    /// Inode number in sockfs; 0 without a socket of its own.
    pub inode: u64,
    /// The name as printed, and what a newline cut off it.
    pub name: Option<&'a [u8]>,
}

/// A listening socket as one pass over the table saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Inode number in sockfs.
    pub inode: u32,
    /// `connect()` calls that sleep because the queue is full.
    pub blocked: u32,
}

/// Connections in the queues of all listeners of a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pending {
    /// All of them.
    pub depth: u32,
    /// Those whose client has gone.
    pub abandoned: u32,
}

/// What one pass over the table found.
#[derive(Debug, Default)]
pub struct UnixPass {
    /// The listeners of each name, as the table prints names.
    pub listeners: HashMap<Vec<u8>, Vec<Listening>>,
    /// Who waits at each name.
    pub pending: HashMap<Vec<u8>, Pending>,
    /// Rows that could not be read.
    pub unreadable: u64,
}

impl UnixTable {
    /// Opens `unix` in a `net` directory.
    ///
    /// # Errors
    /// Names the file.
    pub fn open(net: &Path) -> io::Result<Self> {
        Ok(Self {
            file: open(net, "unix")?,
            buffer: Vec::new(),
            imitations: Imitations::default(),
        })
    }

    /// Passes over the table once, which takes as long as there are unix sockets in the namespace.
    ///
    /// # Errors
    /// Says that `net/unix` could not be read.
    pub fn read(&mut self, pass: &mut UnixPass) -> io::Result<()> {
        self.imitations.is_new = false;
        self.pass(pass)?;
        if self.imitations.is_new {
            // Rows before the one that told may bear the same name.
            self.pass(pass)?;
        }
        Ok(())
    }

    fn pass(&mut self, pass: &mut UnixPass) -> io::Result<()> {
        pass.clear();
        let mut rows = Rows {
            pass,
            is_bound,
            last: Vec::new(),
            doubtful: Vec::new(),
            imitations: &mut self.imitations,
            is_header: true,
        };
        let (mut offset, mut held) = (0, 0);
        self.buffer.resize(BUFFER, 0);
        loop {
            let space = self.buffer.get_mut(held..).unwrap_or_default();
            let length = read_at(&self.file, "unix", space, offset)?;
            offset += length as u64;
            let filled = self.buffer.get(..held + length).unwrap_or_default();
            let mut rest = filled;
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                rest = after.get(1..).unwrap_or_default();
                rows.line(line);
            }
            if length == 0 {
                rows.end();
                return Ok(());
            }
            // Bytes without an end that are longer than a row are no line of the kernel's.
            let (whole, filled) = (filled.len() - rest.len(), filled.len());
            held = if rest.len() > LONGEST_ROW {
                0
            } else {
                filled - whole
            };
            self.buffer.copy_within(whole..whole + held, 0);
        }
    }
}

impl UnixPass {
    /// Forgets the figures, and names that nobody listens at.
    fn clear(&mut self) {
        self.pending.clear();
        self.listeners.retain(|_, sockets| !sockets.is_empty());
        self.listeners.values_mut().for_each(Vec::clear);
        self.unreadable = 0;
    }

    fn count(&mut self, row: &Row) {
        let references = row.references.saturating_sub(OWN_REFERENCES);
        let blocked = u32::try_from(references).unwrap_or(u32::MAX);
        let Some(name) = row.name else { return };
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
        } else if row.is_pending() {
            let pending = match self.pending.get_mut(name) {
                Some(pending) => pending,
                None => self.pending.entry(name.to_vec()).or_default(),
            };
            pending.depth = pending.depth.saturating_add(1);
            pending.abandoned += u32::from(references == 0);
        }
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

/// Puts lines together to rows and counts them.
#[derive(Debug)]
struct Rows<'p, F> {
    pass: &'p mut UnixPass,
    /// Whether a socket of this type is bound to a name, as far as that can be found out.
    is_bound: F,
    /// The row that was read last, with the lines that are part of its name.
    last: Vec<u8>,
    /// A line that looks like a row and may be part of that name, with the lines after it.
    doubtful: Vec<u8>,
    imitations: &'p mut Imitations,
    is_header: bool,
}

/// Names that hold a line that looks like a row.
#[derive(Debug, Default)]
struct Imitations {
    names: Vec<Vec<u8>>,
    /// Whether one was found that the rows before it may have borne already.
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
            self.doubtful.push(b'\n');
            self.doubtful.extend_from_slice(line);
        } else if fits(&self.last, line.len()) {
            self.last.push(b'\n');
            self.last.extend_from_slice(line);
        } else {
            self.pass.unreadable += 1;
        }
    }

    /// Counts the rows that are left.
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

    /// Decides whether the doubtful line is part of the name of the last row or a row.
    fn settle(&mut self) {
        if self.doubtful.is_empty() {
            return;
        }
        if self.is_imitation() {
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
        if self.imitations.names.contains(&longer) {
            return true;
        }
        // A pending connection bears the name of its listener, whose own row tells. What follows a socket that is counted neither as a listener nor
        // as pending matters only if it would be.
        let would_count = |row: Row| row.listens() || row.is_pending();
        let is_asked = last.listens()
            || (!last.is_pending() && parse(&self.doubtful).is_some_and(would_count));
        let is_imitation = is_asked && (self.is_bound)(&longer, last.kind);
        if is_imitation && self.imitations.names.len() < MOST_IMITATIONS {
            self.imitations.names.push(longer);
            self.imitations.is_new = true;
        }
        is_imitation
    }
}

/// Whether a newline and this many bytes more fit into the name of a row.
fn fits(row: &[u8], more: usize) -> bool {
    let name = parse(row).and_then(|row| row.name);
    name.is_some_and(|name| name.len() + 1 + more <= LONGEST_NAME)
}

/// Reads a row: `address: RefCount Protocol Flags Type St Inode [Path]`. `None` for what is none.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Row<'_>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (address, rest) = line.split_at(colon);
    let is_address = matches!(address.len(), 8 | 16) && address.iter().all(u8::is_ascii_hexdigit);
    if !is_address && address != b"(____ptrval____)" {
        return None;
    }
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

/// The name that is printed so. A path that begins with `@` is taken for an abstract name, and a NUL in one stays `@`.
#[must_use]
pub fn name(printed: &[u8]) -> UnixName {
    match printed.strip_prefix(b"@") {
        Some(name) => UnixName::Abstract(name.to_vec()),
        None => UnixName::Path(printed.to_vec()),
    }
}

/// Whether a socket is bound to a name: a path that is a socket file here, or an abstract name that cannot be had. Nothing can be found out of a
/// relative path and of a file that is not mounted here: then no.
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
            // It listens to nobody and is closed at once.
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
    const PENDING: &str = "00000000a5f65aa1: 00000003 00000000 00000000 0001 02     0";
    const ABANDONED: &str = "00000000a5f65aa2: 00000002 00000000 00000000 0001 02     0";

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
        let mut table = UnixTable::open(directory.path()).unwrap();
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
    fn depth_abandoned_and_blocked_are_told_by_name() {
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
    fn the_kernels_own_table_tells_of_a_queue_even_beside_a_name_with_a_row_in_it() {
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
        let mut table = UnixTable::open(Path::new("/proc/thread-self/net")).unwrap();
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
