//! Connects that sleep before full unix queues: looked at only while a queue is full or somebody sleeps, and ten times a second at
//! most, because the table has a line for every unix socket of the namespace.

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
    /// Absent when it cannot be read.
    table: Option<UnixTable>,
    pass: UnixPass,
    next_look: Duration,
    /// What the last look saw, by id; nothing once it is too old.
    seen: Vec<(SocketId, Look)>,
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
        let net = procfs.join("net");
        Self {
            table: UnixTable::open(&net).ok(),
            pass: UnixPass::default(),
            net,
            next_look: Duration::ZERO,
            seen: Vec::new(),
        }
    }

    /// Looks at the full queues of the round that started at `now`, if it is time to.
    pub(super) fn look(&mut self, now: Duration, sockets: &Sockets, outcomes: &mut Outcomes) {
        if now < self.next_look {
            return;
        }
        // Each accept wakes one connect, and that takes a moment to fill the queue again, while the others sleep on.
        self.seen.retain(|(id, look)| {
            matches!(look, Look::Blocked(1..))
                && sockets.reading(*id).is_some_and(|(r, _)| !r.full())
        });
        self.seen
            .iter_mut()
            .for_each(|(_, look)| *look = Look::Nothing);
        let full = sockets.full_unix().map(|id| (id, Look::Nothing));
        self.seen.extend(full);
        if self.seen.is_empty() {
            return;
        }
        self.seen.sort_unstable_by_key(|(id, _)| *id);
        self.next_look = now + INTERVAL;
        let outcome = self.read();
        if outcome.is_err() {
            self.table = None;
            self.seen.clear();
        }
        outcomes.push((Source::ProcNetUnix, outcome.map_err(|e| e.to_string())));
    }

    /// Whether the last look is still shown, so that the next one must not wait for news of a queue.
    pub(super) fn is_pending(&self) -> bool {
        !self.seen.is_empty()
    }

    /// How many connects sleep before a socket, as of the last look; unless there was one, nobody does while it is not full.
    pub(super) fn before(&self, reading: &Reading) -> Option<u32> {
        let place = self.seen.binary_search_by_key(&reading.id, |(id, _)| *id);
        match place.ok().and_then(|place| self.seen.get(place)) {
            Some((_, Look::Blocked(count))) => Some(*count),
            Some(_) => None,
            None if reading.full() => None,
            None => self.table.as_ref().map(|_| 0),
        }
    }

    fn read(&mut self) -> std::io::Result<()> {
        let table = match &mut self.table {
            Some(table) => table,
            None => self.table.insert(UnixTable::open(&self.net)?),
        };
        table.read(&mut self.pass)?;
        let seen = &mut self.seen;
        for row in self.pass.listeners.values().flatten() {
            let place = seen.binary_search_by_key(&row.inode, |(id, _)| id.inode);
            if let Some((_, look)) = place.ok().and_then(|place| seen.get_mut(place)) {
                *look = match look {
                    Look::Nothing => Look::Blocked(row.blocked),
                    Look::Blocked(_) | Look::Contradiction => Look::Contradiction,
                };
            }
        }
        Ok(())
    }
}
