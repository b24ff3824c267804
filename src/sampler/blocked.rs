//! Connects that sleep before full unix queues: looked at only while a queue is full, and ten times a second at most, because the
//! table has a line for every unix socket of the namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sockets::{Outcomes, Sockets};
use crate::kernel::SocketId;
use crate::kernel::procnet::UnixTable;
use crate::sample::{Reading, Source};

const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Blocked {
    procfs: PathBuf,
    /// Absent when it cannot be read.
    table: Option<UnixTable>,
    next_look: Duration,
    /// The sockets that were full at the last look and in every round since, by id.
    full: Vec<(SocketId, Look)>,
}

/// What the table says of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Nothing,
    Blocked(u32),
    /// Two lines that bear its number: one is part of a name.
    Contradiction,
}

impl Blocked {
    pub(super) fn new(procfs: &Path) -> Self {
        Self {
            procfs: procfs.to_owned(),
            table: UnixTable::open(procfs).ok(),
            next_look: Duration::ZERO,
            full: Vec::new(),
        }
    }

    /// Looks at the full queues of the round that started at `now`, if it is time to.
    pub(super) fn look(&mut self, now: Duration, sockets: &Sockets, outcomes: &mut Outcomes) {
        self.full.retain(|(id, _)| sockets.is_full(*id));
        if now < self.next_look || sockets.full_unix().next().is_none() {
            return;
        }
        self.next_look = now + INTERVAL;
        self.full.clear();
        let full = sockets.full_unix().map(|id| (id, Look::Nothing));
        self.full.extend(full);
        let outcome = self.read();
        if outcome.is_err() {
            self.table = None;
            self.full.clear();
        }
        outcomes.push((Source::ProcNetUnix, outcome.map_err(|e| e.to_string())));
    }

    /// How many connects sleep before a socket. Nobody does while it is not full.
    pub(super) fn before(&self, reading: &Reading) -> Option<u32> {
        if !reading.full() {
            return self.table.as_ref().map(|_| 0);
        }
        let place = self.full.binary_search_by_key(&reading.id, |(id, _)| *id);
        match place.ok().and_then(|place| self.full.get(place)) {
            Some((_, Look::Blocked(count))) => Some(*count),
            _ => None,
        }
    }

    fn read(&mut self) -> std::io::Result<()> {
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(UnixTable::open(&self.procfs)?),
        };
        let full = &mut self.full;
        table.read(|row| {
            let place = full.binary_search_by_key(&row.inode, |(id, _)| id.inode);
            if let Some((_, look)) = place.ok().and_then(|place| full.get_mut(place)) {
                *look = match look {
                    Look::Nothing => Look::Blocked(row.blocked),
                    Look::Blocked(_) | Look::Contradiction => Look::Contradiction,
                };
            }
        })
    }
}
