//! Connects that sleep because a unix queue is full. They are counted only while a queue is full or a connect sleeps, and at most ten times a
//! second, because the table has a line for every unix socket of the namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sockets::{Outcomes, Sockets};
use crate::kernel::SocketId;
use crate::kernel::procnet::{UnixPass, UnixTable};
use crate::sample::{Reading, Source};

const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Blocked {
    net: PathBuf,
    is_own: bool,
    /// Absent if it cannot be read.
    table: Option<UnixTable>,
    pass: UnixPass,
    next_scan: Duration,
    /// The result of the last scan, by id; empty once it is too old.
    seen: Vec<(SocketId, Scan)>,
}

/// What the table shows of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scan {
    Nothing,
    Blocked(u32),
    /// Two lines have its number: one of them is part of a name.
    Contradiction,
}

impl Blocked {
    pub(super) fn new(root: &Path, is_own: bool) -> Self {
        let net = root.join("net");
        Self {
            table: UnixTable::open(&net, is_own).ok(),
            pass: UnixPass::default(),
            net,
            is_own,
            next_scan: Duration::ZERO,
            seen: Vec::new(),
        }
    }

    /// Changes the location of its table.
    pub(super) fn move_to(&mut self, root: &Path) {
        self.net = root.join("net");
    }

    /// Scans the full queues of the round that started at `now`, if a scan is due.
    pub(super) fn scan(&mut self, now: Duration, sockets: &Sockets, outcomes: &mut Outcomes) {
        if now < self.next_scan {
            return;
        }
        // Each accept wakes one connect, which takes a moment to fill the queue again, while the others still sleep.
        self.seen.retain(|(id, scan)| {
            matches!(scan, Scan::Blocked(1..))
                && sockets.reading(*id).is_some_and(|(r, _)| !r.full())
        });
        self.seen
            .iter_mut()
            .for_each(|(_, scan)| *scan = Scan::Nothing);
        let full = sockets.full_unix().map(|id| (id, Scan::Nothing));
        self.seen.extend(full);
        if self.seen.is_empty() {
            return;
        }
        self.seen.sort_unstable_by_key(|(id, _)| *id);
        self.next_scan = now + INTERVAL;
        let outcome = self.read();
        if outcome.is_err() {
            self.table = None;
            self.seen.clear();
        }
        outcomes.push((Source::ProcNetUnix, outcome.map_err(|e| e.to_string())));
    }

    /// Whether the last scan is still shown, so that the next one must not wait until a queue changes.
    pub(super) fn is_pending(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Number of connects that sleep because a socket is full, as of the last scan. Without a scan it is 0 while the socket is not full.
    pub(super) fn before(&self, reading: &Reading) -> Option<u32> {
        let place = self.seen.binary_search_by_key(&reading.id, |(id, _)| *id);
        match place.ok().and_then(|place| self.seen.get(place)) {
            Some((_, Scan::Blocked(count))) => Some(*count),
            Some(_) => None,
            None if reading.full() => None,
            None => self.table.as_ref().map(|_| 0),
        }
    }

    fn read(&mut self) -> std::io::Result<()> {
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(UnixTable::open(&self.net, self.is_own)?),
        };
        table.read(&mut self.pass)?;
        let seen = &mut self.seen;
        for row in self.pass.listeners.values().flatten() {
            let place = seen.binary_search_by_key(&row.inode, |(id, _)| id.inode);
            if let Some((_, scan)) = place.ok().and_then(|place| seen.get_mut(place)) {
                *scan = match scan {
                    Scan::Nothing => Scan::Blocked(row.blocked),
                    Scan::Blocked(_) | Scan::Contradiction => Scan::Contradiction,
                };
            }
        }
        Ok(())
    }
}
