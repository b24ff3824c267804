//! The listening sockets of the namespace: listed once a second, and those that are watched read every round.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use super::plan::{self, Plan};
use super::tables::{Tables, UnixFigures};
use rustix::io::Errno;

use crate::kernel::SocketId;
use crate::kernel::inet::{self, Bound, Family, Member, TcpListener};
use crate::kernel::sock_diag::{Channel, Error, Request};
use crate::kernel::unix::{self, Show, UnixListener};
use crate::listener::Address;
use crate::sample::{Reading, Source};

/// How each source that was asked did.
pub(super) type Outcomes = Vec<(Source, Result<(), String>)>;

/// While `sock_diag` is kept away it is tried again this often.
const RETRY: Duration = Duration::from_secs(30);

/// What the last listing found, the watched sockets' newest readings, and how to read them again.
#[derive(Debug)]
pub(super) struct Sockets {
    channel: Option<Channel>,
    opener: Opener,
    tables: Tables,
    unix_access: Access,
    tcp_access: Access,
    /// When the round started.
    now: Duration,
    /// Rows of tables that could not be read in this round.
    unreadable: Vec<(Source, u64)>,
    /// The last listing, by id.
    pub unix: Vec<UnixListener>,
    /// The last listing, by id.
    pub tcp: Vec<TcpListener>,
    unix_failed: bool,
    tcp_failed: bool,
    /// Watched sockets, by id.
    watched: Vec<Socket>,
    unix_plan: Plan,
    v4_plan: Plan,
    v6_plan: Plan,
    /// TCP sockets that an exact lookup does not find though they live: another of their address is preferred.
    hidden: Vec<SocketId>,
    round: u64,
    /// Whether every reading of this round is that of the round before, with nobody in the queue.
    quiet: bool,
    /// The clients of this round's listed queues.
    clients: Vec<u32>,
}

/// How a channel is opened.
type Opener = fn() -> Result<Channel, Error>;

/// What a family is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    SockDiag,
    /// `sock_diag` is kept away, until it is tried again.
    Tables {
        retry: Duration,
    },
}

#[derive(Debug, Clone, Copy)]
struct Socket {
    reading: Reading,
    /// What only the unix table has.
    figures: UnixFigures,
    kind: Kind,
    /// The round that read it last.
    seen: u64,
    listed: Listed,
    /// How its queue is asked for.
    lookup: Request,
}

/// Whether this round knows who is in a unix socket's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    NotYet,
    /// As many of the clients as the queue is deep, from this index on.
    From(usize),
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unix,
    Tcp(Bound),
}

impl Sockets {
    /// Nothing is known yet. The tables are those of `net` below the proc root.
    pub(super) fn new(procfs: &Path) -> Self {
        Self {
            channel: None,
            opener: Channel::open,
            tables: Tables::new(procfs.join("net")),
            unix_access: Access::SockDiag,
            tcp_access: Access::SockDiag,
            now: Duration::ZERO,
            unreadable: Vec::new(),
            unix: Vec::new(),
            tcp: Vec::new(),
            unix_failed: false,
            tcp_failed: false,
            watched: Vec::new(),
            unix_plan: Plan::Nothing,
            v4_plan: Plan::Nothing,
            v6_plan: Plan::Nothing,
            hidden: Vec::new(),
            round: 0,
            quiet: true,
            clients: Vec::new(),
        }
    }

    /// Begins a round.
    pub(super) fn begin(&mut self, now: Duration) {
        self.now = now;
        self.round += 1;
        self.quiet = true;
        self.clients.clear();
        self.unreadable.clear();
        for socket in &mut self.watched {
            socket.listed = Listed::NotYet;
        }
    }

    /// Reads every watched socket. False when one is gone: then a listing tells what became of it. Families that are read from tables are
    /// left to the listing if that is due.
    pub(super) fn read(&mut self, outcomes: &mut Outcomes, listing_is_due: bool) -> bool {
        let mut found = true;
        if self.unix_plan != Plan::Nothing && !self.unix_failed {
            if self.unix_access == Access::SockDiag {
                let outcome = match self.unix_plan {
                    Plan::Dump => self.dump_unix(),
                    _ => self.look_up(|socket| socket.kind == Kind::Unix),
                };
                found &= self.take(Source::UnixDiag, outcome, outcomes);
            } else if !listing_is_due {
                let outcome = self.read_unix_table();
                self.unix_failed = outcome.is_err();
                found &= *outcome.as_ref().unwrap_or(&true);
                report_table(Source::ProcNetUnix, outcome.map(|_| ()), outcomes);
            }
        }
        for family in [Family::V4, Family::V6] {
            if self.tcp_failed || self.tcp_plan(family) == Plan::Nothing {
                continue;
            }
            if self.tcp_access == Access::SockDiag {
                let outcome = match self.tcp_plan(family) {
                    Plan::Dump => self.dump_tcp(family),
                    _ => self.look_up(|socket| socket.kind.family() == Some(family)),
                };
                found &= self.take(Source::InetDiag, outcome, outcomes);
            } else if !listing_is_due {
                let outcome = self.read_tcp_table(family);
                self.tcp_failed = outcome.is_err();
                found &= *outcome.as_ref().unwrap_or(&true);
                report_table(Source::ProcNetTcp, outcome.map(|_| ()), outcomes);
            }
        }
        found
    }

    /// Notes how reading the watched sockets went, and whether all were found. What a refusal leads to is left to the listing that follows.
    fn take(
        &mut self,
        source: Source,
        outcome: Result<bool, Error>,
        outcomes: &mut Outcomes,
    ) -> bool {
        if outcome.as_ref().is_err_and(keeps_away) {
            self.channel = None;
            return false;
        }
        let failed = match source {
            Source::UnixDiag => &mut self.unix_failed,
            _ => &mut self.tcp_failed,
        };
        *failed |= outcome.is_err();
        let found = *outcome.as_ref().unwrap_or(&true);
        self.report(source, outcome.map(|_| ()), outcomes);
        found
    }

    /// Whether any family is read from tables.
    pub(super) fn read_tables(&self) -> bool {
        self.unix_access != Access::SockDiag || self.tcp_access != Access::SockDiag
    }

    /// Whether an address is read from a table, which has no limits.
    pub(super) fn is_read_from_a_table(&self, address: &Address) -> bool {
        let access = match address {
            Address::Unix(_) => self.unix_access,
            Address::Tcp(_) | Address::TcpPort(_) => self.tcp_access,
        };
        access != Access::SockDiag
    }

    /// Rows of tables that could not be read in this round.
    pub(super) fn unreadable(&self) -> &[(Source, u64)] {
        &self.unreadable
    }

    /// What the unix table shows of a watched socket.
    pub(super) fn figures(&self, id: SocketId) -> Option<UnixFigures> {
        let index = self
            .watched
            .binary_search_by_key(&id, |socket| socket.reading.id);
        let socket = index.ok().and_then(|index| self.watched.get(index))?;
        Some(socket.figures)
    }

    /// Makes the next question fail.
    #[cfg(test)]
    pub(super) fn fail_once(&mut self) {
        self.channel = Some(Channel::to_nobody());
    }

    /// Has the channel refused from now on, as SELinux does.
    #[cfg(test)]
    pub(super) fn keep_away(&mut self) {
        self.channel = None;
        self.opener = || Err(Error::Socket("open a socket", Errno::ACCESS.into()));
    }

    /// Ends that.
    #[cfg(test)]
    pub(super) fn let_in(&mut self) {
        self.opener = Channel::open;
    }

    /// Whether the round found every queue empty and as it was in the round before.
    pub(super) fn are_quiet(&self) -> bool {
        self.quiet
    }

    /// Lists the queues of unix sockets that are not empty and were not listed on the way.
    pub(super) fn list_queues(&mut self, outcomes: &mut Outcomes) {
        let round = self.round;
        let is_due = |socket: &Socket| {
            socket.kind == Kind::Unix
                && socket.seen == round
                && socket.listed == Listed::NotYet
                && may_be_listed(socket.reading.depth)
        };
        if self.unix_failed
            || self.unix_access != Access::SockDiag
            || !self.watched.iter().any(is_due)
        {
            return;
        }
        let outcome = self.look_up(is_due);
        self.unix_failed = outcome.is_err();
        self.report(Source::UnixDiag, outcome.map(|_| ()), outcomes);
    }

    /// Lists every listening socket of the namespace.
    pub(super) fn list(&mut self, outcomes: &mut Outcomes) {
        let listed = self.is_tried(self.unix_access).then(|| self.list_unix());
        let access = self.access(self.unix_access, listed.as_ref());
        let by_table = (access != Access::SockDiag).then(|| self.list_unix_table());
        self.unix_access = access;
        self.unix_failed = self.report_listing(Source::UnixDiag, listed, by_table, outcomes);
        let listed = self.is_tried(self.tcp_access).then(|| self.list_tcp());
        let access = self.access(self.tcp_access, listed.as_ref());
        let by_table = (access != Access::SockDiag).then(|| self.list_tcp_table());
        self.tcp_access = access;
        self.tcp_failed = self.report_listing(Source::InetDiag, listed, by_table, outcomes);
    }

    /// Whether `sock_diag` is asked.
    fn is_tried(&self, access: Access) -> bool {
        match access {
            Access::SockDiag => true,
            Access::Tables { retry } => self.now >= retry,
        }
    }

    /// What a family is read from, after `sock_diag` was asked for a listing or was not.
    fn access(&self, access: Access, listed: Option<&Result<(), Error>>) -> Access {
        match listed {
            None => access,
            Some(Err(error)) if keeps_away(error) || access != Access::SockDiag => {
                let retry = self.now + RETRY;
                Access::Tables { retry }
            }
            Some(_) => Access::SockDiag,
        }
    }

    /// Notes how a listing went. True if neither `sock_diag` nor the table answered.
    fn report_listing(
        &mut self,
        source: Source,
        listed: Option<Result<(), Error>>,
        by_table: Option<io::Result<()>>,
        outcomes: &mut Outcomes,
    ) -> bool {
        let Some(by_table) = by_table else {
            let failed = listed.as_ref().is_some_and(Result::is_err);
            self.report(source, listed.unwrap_or(Ok(())), outcomes);
            return failed;
        };
        if let Some(Err(error)) = listed {
            self.channel = None;
            let consequence = match (by_table.is_ok(), source) {
                (false, _) => "",
                (true, Source::UnixDiag) => UNIX_TABLE,
                (true, _) => TCP_TABLE,
            };
            let reason = format!("{}{consequence}", advice(source, &error));
            outcomes.push((source, Err(reason)));
        }
        let failed = by_table.is_err();
        let table = match source {
            Source::UnixDiag => Source::ProcNetUnix,
            _ => Source::ProcNetTcp,
        };
        report_table(table, by_table, outcomes);
        failed
    }

    /// Says which of the listed sockets are read from now on. Repeated ids are fine.
    pub(super) fn watch(
        &mut self,
        unix: impl Iterator<Item = usize>,
        tcp: impl Iterator<Item = usize>,
    ) {
        let round = self.round;
        let unix = unix
            .filter_map(|index| self.unix.get(index))
            .map(|listener| Socket {
                reading: unix_reading(listener.id, listener.queue),
                figures: UnixFigures::default(),
                kind: Kind::Unix,
                seen: round,
                listed: Listed::NotYet,
                lookup: unix::lookup(listener.id),
            });
        let tcp = tcp
            .filter_map(|index| self.tcp.get(index))
            .map(|listener| Socket {
                reading: tcp_reading(listener.id, listener.queue),
                figures: UnixFigures::default(),
                kind: Kind::Tcp(listener.bound),
                seen: round,
                listed: Listed::NotYet,
                lookup: inet::lookup(listener.id, listener.bound),
            });
        let mut watched: Vec<Socket> = unix.chain(tcp).collect();
        watched.sort_unstable_by_key(|socket| socket.reading.id);
        watched.dedup_by_key(|socket| socket.reading.id);
        self.watched = watched;
        if self.unix_access != Access::SockDiag {
            self.take_unix_figures();
        }
        if self.tcp_access != Access::SockDiag {
            self.forget_limits(|kind| kind != Kind::Unix);
        }
        self.forget_the_gone();
        self.make_plans();
    }

    /// Whether the source of an address failed at the last listing or since then.
    pub(super) fn failed(&self, address: &Address) -> bool {
        match address {
            Address::Unix(_) => self.unix_failed,
            Address::Tcp(_) | Address::TcpPort(_) => self.tcp_failed,
        }
    }

    /// The newest reading of a watched socket, and of a unix socket this round's list of its queue, unless that is too long.
    pub(super) fn reading(&self, id: SocketId) -> Option<(Reading, Option<&[u32]>)> {
        let index = self
            .watched
            .binary_search_by_key(&id, |socket| socket.reading.id);
        let socket = index.ok().and_then(|index| self.watched.get(index))?;
        let clients = match socket.listed {
            _ if socket.reading.depth == 0 => Some([].as_slice()),
            Listed::From(start) => self.clients.get(start..).and_then(|clients| {
                clients.get(..usize::try_from(socket.reading.depth).unwrap_or(usize::MAX))
            }),
            Listed::TooLong | Listed::NotYet => None,
        };
        Some((socket.reading, clients))
    }

    /// The watched unix sockets whose queue is full, by id.
    pub(super) fn full_unix(&self) -> impl Iterator<Item = SocketId> {
        let is_full = |socket: &&Socket| socket.kind == Kind::Unix && socket.reading.full();
        self.watched
            .iter()
            .filter(is_full)
            .map(|socket| socket.reading.id)
    }

    /// Where a watched TCP socket listens.
    pub(super) fn bound(&self, id: SocketId) -> Option<Bound> {
        let place = self.tcp.binary_search_by_key(&id, |listener| listener.id);
        let listener = place.ok().and_then(|place| self.tcp.get(place))?;
        Some(listener.bound)
    }

    /// Where TCP sockets listen on a port, watched or not; shared addresses more than once.
    pub(super) fn listening_at(&self, family: Family, port: u16) -> impl Iterator<Item = Bound> {
        let bounds = self.tcp.iter().map(|listener| listener.bound);
        bounds.filter(move |bound| bound.family() == family && bound.address.port() == port)
    }

    /// Hands out the connections of a port that no application has accepted yet. False when that failed.
    pub(super) fn members(
        &mut self,
        family: Family,
        port: u16,
        outcomes: &mut Outcomes,
        each: impl FnMut(Member),
    ) -> bool {
        let channel = open(&mut self.channel, self.opener);
        let outcome = channel.and_then(|channel| inet::members(channel, family, port, each));
        let done = outcome.is_ok();
        self.report(Source::InetDiag, outcome, outcomes);
        done
    }

    /// A TCP socket that a lookup did not find and the listing did is hidden from lookups; the others are gone.
    fn forget_the_gone(&mut self) {
        let watched = &self.watched;
        self.hidden
            .retain(|id| watched.binary_search_by_key(id, |s| s.reading.id).is_ok());
        self.hidden.sort_unstable();
        self.hidden.dedup();
    }

    fn make_plans(&mut self) {
        let (mut addresses, mut shared) = (HashSet::new(), HashSet::new());
        for listener in &self.tcp {
            if !addresses.insert(listener.bound.address) {
                shared.insert(listener.bound.address);
            }
        }
        // A lookup could find another socket of the same address (`SO_REUSEPORT`, `SO_BINDTODEVICE`).
        let is_shared = |kind| matches!(kind, Kind::Tcp(bound) if shared.contains(&bound.address));
        let of = |test: &dyn Fn(&Socket) -> bool| self.watched.iter().filter(|s| test(s)).count();
        let unix = of(&|socket| socket.kind == Kind::Unix);
        self.unix_plan = plan::UNIX.plan(unix, self.unix.len());
        let tcp_plan = |family| {
            let watched = of(&|socket| socket.kind.family() == Some(family));
            let listed = self
                .tcp
                .iter()
                .filter(|l| l.bound.family() == family)
                .count();
            let ambiguous = self.watched.iter().any(|socket| {
                socket.kind.family() == Some(family)
                    && (self.hidden.contains(&socket.reading.id) || is_shared(socket.kind))
            });
            if ambiguous {
                Plan::Dump
            } else {
                plan::TCP.plan(watched, listed)
            }
        };
        (self.v4_plan, self.v6_plan) = (tcp_plan(Family::V4), tcp_plan(Family::V6));
    }

    fn tcp_plan(&self, family: Family) -> Plan {
        match family {
            Family::V4 => self.v4_plan,
            Family::V6 => self.v6_plan,
        }
    }

    /// Looks some of the watched sockets up. False when one is gone.
    fn look_up(&mut self, wanted: impl Fn(&Socket) -> bool) -> Result<bool, Error> {
        let channel = open(&mut self.channel, self.opener)?;
        let mut all_found = true;
        for socket in &mut self.watched {
            if !wanted(socket) {
                continue;
            }
            let id = socket.reading.id;
            let reading =
                match socket.kind {
                    // Asked with the lookup itself, the list costs next to nothing. An empty queue needs none.
                    Kind::Unix if may_be_listed(socket.reading.depth) => {
                        let start = self.clients.len();
                        let pending = unix::pending(channel, id, &mut self.clients)?;
                        pending.map(|(queue, listed)| {
                            socket.listed = if listed {
                                Listed::From(start)
                            } else {
                                Listed::TooLong
                            };
                            unix_reading(id, queue)
                        })
                    }
                    Kind::Unix => unix::queue(channel, id, &socket.lookup)?
                        .map(|queue| unix_reading(id, queue)),
                    Kind::Tcp(_) => inet::queue(channel, id, &socket.lookup)?
                        .map(|queue| tcp_reading(id, queue)),
                };
            if let Some(reading) = reading {
                self.quiet &= socket.book(reading, self.round);
                continue;
            }
            all_found = false;
            if socket.kind != Kind::Unix {
                self.hidden.push(id);
            }
        }
        Ok(all_found)
    }

    fn dump_unix(&mut self) -> Result<bool, Error> {
        let channel = open(&mut self.channel, self.opener)?;
        let (watched, round, quiet) = (&mut self.watched, self.round, &mut self.quiet);
        unix::list(channel, Show::Queue, |listener| {
            *quiet &= book(watched, round, unix_reading(listener.id, listener.queue));
        })?;
        // A long dump under churn misses sockets that live.
        self.look_up(|socket| socket.kind == Kind::Unix && socket.seen != round)
    }

    fn dump_tcp(&mut self, family: Family) -> Result<bool, Error> {
        let channel = open(&mut self.channel, self.opener)?;
        let (watched, round, quiet) = (&mut self.watched, self.round, &mut self.quiet);
        inet::list(channel, family, |listener| {
            *quiet &= book(watched, round, tcp_reading(listener.id, listener.queue));
        })?;
        let missed = |socket: &Socket| socket.kind.family() == Some(family) && socket.seen != round;
        let all_found = !self.watched.iter().any(missed);
        Ok(all_found)
    }

    fn list_unix(&mut self) -> Result<(), Error> {
        let before = std::mem::take(&mut self.unix);
        let channel = open(&mut self.channel, self.opener)?;
        let mut rows = Vec::with_capacity(before.len());
        unix::list(channel, Show::Everything, |listener| rows.push(listener))?;
        rows.sort_unstable_by_key(|listener| listener.id);
        rows.dedup_by_key(|listener| listener.id);
        // A long dump under churn misses sockets that live: whoever was watched is looked for once more.
        let mut missed = Vec::new();
        for socket in self
            .watched
            .iter()
            .filter(|socket| socket.kind == Kind::Unix)
        {
            let id = socket.reading.id;
            if rows.binary_search_by_key(&id, |row| row.id).is_err()
                && let Some(queue) = unix::queue(channel, id, &socket.lookup)?
                && let Some(row) = before.iter().find(|row| row.id == id)
            {
                missed.push(UnixListener {
                    queue,
                    ..row.clone()
                });
            }
        }
        rows.extend(missed);
        rows.sort_unstable_by_key(|listener| listener.id);
        self.unix = rows;
        Ok(())
    }

    fn list_tcp(&mut self) -> Result<(), Error> {
        self.tcp.clear();
        let channel = open(&mut self.channel, self.opener)?;
        let mut rows = Vec::new();
        let mut list = |rows: &mut Vec<TcpListener>| -> Result<(), Error> {
            for family in [Family::V4, Family::V6] {
                inet::list(channel, family, |listener| rows.push(listener))?;
            }
            rows.sort_by_key(|listener| listener.id);
            rows.dedup_by_key(|listener| listener.id);
            Ok(())
        };
        list(&mut rows)?;
        let is_missed = |socket: &Socket| {
            matches!(socket.kind, Kind::Tcp(_))
                && rows
                    .binary_search_by_key(&socket.reading.id, |row| row.id)
                    .is_err()
        };
        if self.watched.iter().any(is_missed) {
            // As above; a lookup would not tell members of a group apart, a second dump does.
            list(&mut rows)?;
        }
        self.tcp = rows;
        Ok(())
    }

    /// Takes the newest figures of the watched unix sockets from the table. False when one is gone.
    fn read_unix_table(&mut self) -> io::Result<bool> {
        let unreadable = self.tables.read_unix()?;
        self.note_unreadable(Source::ProcNetUnix, unreadable);
        self.take_unix_figures();
        let round = self.round;
        let is_gone = |socket: &Socket| socket.kind == Kind::Unix && socket.seen != round;
        Ok(!self.watched.iter().any(is_gone))
    }

    /// Of the last pass over the unix table.
    fn take_unix_figures(&mut self) {
        self.forget_limits(|kind| kind == Kind::Unix);
        for (id, _, figures) in self.tables.unix() {
            let reading = table_reading(id, figures.depth);
            let place = self
                .watched
                .binary_search_by_key(&id, |socket| socket.reading.id);
            if let Some(socket) = place.ok().and_then(|place| self.watched.get_mut(place)) {
                self.quiet &= socket.book(reading, self.round);
                self.quiet &= std::mem::replace(&mut socket.figures, figures) == figures;
            }
        }
    }

    fn read_tcp_table(&mut self, family: Family) -> io::Result<bool> {
        let (watched, round, quiet) = (&mut self.watched, self.round, &mut self.quiet);
        let is_wanted = |socket: &&Socket| socket.kind.family() == Some(family);
        let mut left = watched.iter().filter(is_wanted).count();
        let unreadable = self.tables.read_tcp(family, |listener| {
            let place = watched.binary_search_by_key(&listener.id, |socket| socket.reading.id);
            if let Some(socket) = place.ok().and_then(|place| watched.get_mut(place)) {
                left -= usize::from(socket.seen != round);
                *quiet &= socket.book(table_reading(listener.id, listener.queue.depth), round);
            }
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
        self.note_unreadable(Source::ProcNetTcp, unreadable);
        Ok(left == 0)
    }

    fn list_unix_table(&mut self) -> io::Result<()> {
        self.unix.clear();
        let unreadable = self.tables.read_unix()?;
        self.note_unreadable(Source::ProcNetUnix, unreadable);
        self.unix = self.tables.list_unix();
        Ok(())
    }

    fn list_tcp_table(&mut self) -> io::Result<()> {
        self.tcp.clear();
        let mut rows = Vec::new();
        for family in [Family::V4, Family::V6] {
            let unreadable = self.tables.read_tcp(family, |listener| {
                rows.push(listener);
                ControlFlow::Continue(())
            })?;
            self.note_unreadable(Source::ProcNetTcp, unreadable);
        }
        rows.sort_by_key(|listener| listener.id);
        rows.dedup_by_key(|listener| listener.id);
        self.tcp = rows;
        Ok(())
    }

    fn note_unreadable(&mut self, source: Source, rows: u64) {
        if rows > 0 {
            self.unreadable.push((source, rows));
        }
    }

    /// The listing of a table has no limits.
    fn forget_limits(&mut self, is_meant: impl Fn(Kind) -> bool) {
        let meant = self
            .watched
            .iter_mut()
            .filter(|socket| is_meant(socket.kind));
        meant.for_each(|socket| socket.reading.backlog = None);
    }

    /// Notes how a source did. After a failure the channel may hold leftovers of an answer, so a new one is opened.
    fn report(&mut self, source: Source, outcome: Result<(), Error>, outcomes: &mut Outcomes) {
        if outcome.is_err() {
            self.channel = None;
        }
        outcomes.push((source, outcome.map_err(|error| advice(source, &error))));
    }
}

impl Kind {
    fn family(self) -> Option<Family> {
        match self {
            Self::Tcp(bound) => Some(bound.family()),
            Self::Unix => None,
        }
    }
}

fn open(channel: &mut Option<Channel>, opener: Opener) -> Result<&mut Channel, Error> {
    match channel {
        Some(channel) => Ok(channel),
        None => Ok(channel.insert(opener()?)),
    }
}

/// Books a reading, if its socket is watched. False if that is news.
fn book(watched: &mut [Socket], round: u64, reading: Reading) -> bool {
    let index = watched.binary_search_by_key(&reading.id, |socket| socket.reading.id);
    let socket = index.ok().and_then(|index| watched.get_mut(index));
    socket.is_none_or(|socket| socket.book(reading, round))
}

impl Socket {
    /// Takes the newest reading. True if the queue is empty and all is as before.
    fn book(&mut self, reading: Reading, round: u64) -> bool {
        let before = std::mem::replace(&mut self.reading, reading);
        self.seen = round;
        reading == before && reading.depth == 0
    }
}

/// Whether a queue that was this deep is worth a list, and not too long for one.
fn may_be_listed(depth: u32) -> bool {
    (1..=unix::LONGEST_LIST).contains(&depth)
}

fn unix_reading(id: SocketId, queue: unix::Queue) -> Reading {
    Reading {
        id,
        depth: queue.depth,
        backlog: Some(queue.backlog),
        drops: None,
    }
}

fn tcp_reading(id: SocketId, queue: inet::Queue) -> Reading {
    Reading {
        id,
        depth: queue.depth,
        backlog: Some(queue.backlog),
        drops: queue.drops,
    }
}

fn table_reading(id: SocketId, depth: u32) -> Reading {
    Reading {
        id,
        depth,
        backlog: None,
        drops: None,
    }
}

fn report_table(source: Source, outcome: io::Result<()>, outcomes: &mut Outcomes) {
    outcomes.push((source, outcome.map_err(|error| error.to_string())));
}

/// What a refused source means where its table can be read.
const UNIX_TABLE: &str = ". Unix listeners are now read from /proc/net/unix: depth, abandoned and blocked connections are exact, limits are known only with backlog=, waits are not known";
const TCP_TABLE: &str = ". TCP listeners are now read from /proc/net/tcp and tcp6: depth is exact, limits are known only with backlog=, drops and waits are not known";

/// Whether an error says that `sock_diag` is kept away, for good or until somebody changes that, while the tables can be read.
///
/// A sandbox refuses the socket (seccomp: any errno that its author chose; SELinux: `EACCES`) or the first request (SELinux), and a kernel without
/// the module answers a dump with `ENOENT` (`sock_diag_rcv_msg`, sock_diag.c). gVisor has no such protocol (`EPROTONOSUPPORT`), and its tables no
/// depths.
fn keeps_away(error: &Error) -> bool {
    match error {
        Error::Socket(_, error) => matches!(
            io_errno(error),
            Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::AFNOSUPPORT)
        ),
        Error::Refused(errno) => matches!(
            *errno,
            Errno::NOENT | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP
        ),
        Error::Lost | Error::Truncated(_) | Error::Malformed(_) => false,
    }
}

/// The error, and what its errno means here.
fn advice(source: Source, error: &Error) -> String {
    let errno = match error {
        Error::Refused(errno) => Some(*errno),
        Error::Socket(_, error) => io_errno(error),
        _ => None,
    };
    let meaning = match errno {
        Some(Errno::NOENT) if source == Source::UnixDiag => {
            "; the kernel module unix_diag is missing: run modprobe unix_diag on the node"
        }
        Some(Errno::NOENT) => {
            "; the kernel modules inet_diag and tcp_diag are missing: run modprobe tcp_diag on the node"
        }
        Some(Errno::ACCESS) => {
            "; SELinux or a seccomp profile denies netlink: on an SELinux node update container-selinux to 2.242.0 or run setsebool -P virt_sandbox_use_netlink 1, elsewhere allow AF_NETLINK in the seccomp profile"
        }
        Some(Errno::PERM | Errno::NOSYS | Errno::AFNOSUPPORT) => {
            "; a sandbox (seccomp, AppArmor or RestrictAddressFamilies=) denies netlink: allow AF_NETLINK"
        }
        Some(Errno::PROTONOSUPPORT) => {
            "; this kernel has no sock_diag, as in gVisor: there is no remedy"
        }
        _ => "",
    };
    format!("{error}{meaning}")
}

fn io_errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}
