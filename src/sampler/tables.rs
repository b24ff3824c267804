//! The listeners of the network namespace from the tables of `/proc/net`, for a family whose `sock_diag` is not available.
//!
//! A table has no limits. For unix sockets it has neither their files nor the order of their queues.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::kernel::SocketId;
use crate::kernel::inet::{self, Bound, Family, TcpListener};
use crate::kernel::procnet::unix::{self, Pending};
use crate::kernel::procnet::{TcpTable, UnixPass, UnixTable};
use crate::kernel::unix::{Queue, UnixListener};

/// The tables, which stay open after the first use.
#[derive(Debug)]
pub(super) struct Tables {
    net: PathBuf,
    is_own: bool,
    unix: Option<UnixTable>,
    v4: Option<TcpTable>,
    v6: Option<TcpTable>,
    /// The result of the last pass over the unix table.
    pass: UnixPass,
}

/// A unix listener as the table shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct UnixFigures {
    /// Connections in the queues of all listeners of its name, if it is the first of them; otherwise 0.
    pub depth: u32,
    /// Those of them whose client has disconnected.
    pub abandoned: u32,
    /// `connect()` calls that sleep because its queue is full.
    pub blocked: u32,
}

impl Tables {
    /// The tables in the `net` directory below a root.
    pub(super) fn new(root: &Path, is_own: bool) -> Self {
        Self {
            net: root.join("net"),
            is_own,
            unix: None,
            v4: None,
            v6: None,
            pass: UnixPass::default(),
        }
    }

    /// Opens as many of them as possible.
    pub(super) fn open(&mut self) {
        self.unix = UnixTable::open(&self.net, self.is_own).ok();
        self.v4 = TcpTable::open(&self.net, Family::V4).ok();
        self.v6 = TcpTable::open(&self.net, Family::V6).ok();
    }

    /// Changes their location.
    pub(super) fn move_to(&mut self, root: &Path) {
        self.net = root.join("net");
    }

    /// Passes over the unix table, and returns the number of rows that could not be read.
    pub(super) fn read_unix(&mut self) -> io::Result<u64> {
        let table = match &mut self.unix {
            Some(table) => table,
            None => self.unix.insert(UnixTable::open(&self.net, self.is_own)?),
        };
        let read = table.read(&mut self.pass);
        if read.is_err() {
            self.unix = None;
        }
        read.map(|()| self.pass.unreadable)
    }

    /// Passes over the unix table once more, and adds what the last pass missed.
    pub(super) fn read_unix_again(&mut self) -> io::Result<()> {
        let first = std::mem::take(&mut self.pass);
        let read = self.read_unix();
        self.pass.add(&first);
        read.map(|_| ())
    }

    /// The unix listeners of the last pass.
    pub(super) fn unix(&self) -> impl Iterator<Item = (SocketId, &[u8], UnixFigures)> {
        self.pass.listeners.iter().flat_map(|(name, sockets)| {
            let pending = self.pass.pending.get(name).copied().unwrap_or_default();
            sockets.iter().enumerate().map(move |(index, socket)| {
                // If several sockets share a name, no table shows at which of them a connection waits.
                let pending = if index == 0 {
                    pending
                } else {
                    Pending::default()
                };
                let figures = UnixFigures {
                    depth: pending.depth,
                    abandoned: pending.abandoned,
                    blocked: socket.blocked,
                };
                (
                    SocketId::without_cookie(socket.inode),
                    name.as_slice(),
                    figures,
                )
            })
        })
    }

    /// The unix listeners of the last pass as a listing.
    pub(super) fn list_unix(&self) -> Vec<UnixListener> {
        // If two rows have the same inode, the first counts: one of them is part of a name that cannot be verified from here.
        let mut rows: HashMap<SocketId, UnixListener> = HashMap::new();
        for (id, name, figures) in self.unix() {
            rows.entry(id).or_insert_with(|| UnixListener {
                id,
                name: Some(unix::name(name)),
                file: None,
                queue: Queue {
                    depth: figures.depth,
                    backlog: 0,
                },
            });
        }
        let mut rows: Vec<UnixListener> = rows.into_values().collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// Reads the TCP listeners of a family until `each` breaks, and returns the number of rows that could not be read.
    pub(super) fn read_tcp(
        &mut self,
        family: Family,
        mut each: impl FnMut(TcpListener) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        let slot = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        let table = match slot {
            Some(table) => table,
            None => match TcpTable::open(&self.net, family) {
                // A kernel without IPv6 has no table for it.
                Err(e) if family == Family::V6 && e.kind() == io::ErrorKind::NotFound => {
                    return Ok(0);
                }
                opened => slot.insert(opened?),
            },
        };
        let read = table.read(|row| {
            each(TcpListener {
                id: SocketId::without_cookie(row.inode),
                bound: Bound {
                    address: row.address,
                    interface: 0,
                },
                queue: inet::Queue {
                    depth: row.depth,
                    backlog: 0,
                    drops: None,
                },
            })
        });
        if read.is_err() {
            *slot = None;
        }
        read
    }
}
