//! The listening sockets of the namespace: all are listed from time to time, and the watched ones are read in every round.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use super::plan::{self, Plan};
use super::tables::{Tables, UnixFigures};
use rustix::io::Errno;

use crate::kernel::SocketId;
use crate::kernel::inet::{self, Bound, Family, Member, TcpListener};
use crate::kernel::namespace::Way;
use crate::kernel::sock_diag::{BATCH, Channel, Error, Request};
use crate::kernel::unix::{self, Show, UnixListener};
use crate::listener::Address;
use crate::sample::{Reading, Source};

/// The outcome of each source that was read.
pub(super) type Outcomes = Vec<(Source, Result<(), String>)>;

/// Interval at which `sock_diag` is tried again while it is denied.
const RETRY: Duration = Duration::from_secs(30);

/// The last listing, the newest readings of the watched sockets, and how to read them again.
#[derive(Debug)]
pub(super) struct Sockets {
    channel: Option<Channel>,
    way: Way,
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
    /// TCP sockets that an exact lookup does not find although they exist, because it prefers another socket of their address.
    hidden: Vec<SocketId>,
    round: u64,
    /// Whether every reading of this round equals that of the previous round, with an empty queue.
    idle: bool,
    /// The clients of this round's listed queues.
    clients: Vec<u32>,
}

/// The families of which there may be a listener to watch. The table of another one need not be read each second, which costs milliseconds on a
/// busy machine: it is read together with the next attempt of its `sock_diag`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub unix: bool,
    pub tcp: bool,
}

/// Where a family is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    SockDiag,
    /// `sock_diag` is denied. It is tried again at `retry`.
    Tables {
        retry: Duration,
    },
}

#[derive(Debug, Clone, Copy)]
struct Socket {
    reading: Reading,
    /// Figures that only the unix table has.
    figures: UnixFigures,
    kind: Kind,
    /// The round that read it last.
    seen: u64,
    listed: Listed,
    /// The request for its queue.
    lookup: Request,
}

/// Whether this round listed the queue of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    NotYet,
    /// Its clients begin at this index; there are as many as the depth.
    From(usize),
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unix,
    Tcp(Bound),
}

impl Sockets {
    /// Sockets that were not listed yet. `sock_diag` is reached through `way`, and the tables are in `net` below `root`. `is_own` says whether that
    /// belongs to this process.
    pub(super) fn new(way: Way, root: &Path, is_own: bool) -> Self {
        let mut tables = Tables::new(root, is_own);
        let access = match way {
            Way::Outside => {
                tables.open();
                Access::Tables {
                    retry: Duration::MAX,
                }
            }
            Way::Own | Way::Inside(_) => Access::SockDiag,
        };
        Self {
            // If that fails, the first request reports it.
            channel: way.open_channel().ok(),
            way,
            tables,
            unix_access: access,
            tcp_access: access,
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
            idle: true,
            clients: Vec::new(),
        }
    }

    /// Begins a round.
    pub(super) fn begin(&mut self, now: Duration) {
        self.now = now;
        self.round += 1;
        self.idle = true;
        self.clients.clear();
        self.unreadable.clear();
        for socket in &mut self.watched {
            socket.listed = Listed::NotYet;
        }
    }

    /// Reads every watched socket. False if one is missing: then a listing determines why. Families that are read from tables are left to the
    /// listing if it is due.
    pub(super) fn read(&mut self, outcomes: &mut Outcomes, listing_is_due: bool) -> bool {
        let mut found = true;
        if self.is_read(Source::UnixDiag, self.unix_plan) {
            if self.unix_access != Access::SockDiag {
                if !listing_is_due {
                    let outcome = self.read_unix_table();
                    self.unix_failed = outcome.is_err();
                    found &= *outcome.as_ref().unwrap_or(&true);
                    report_table(Source::ProcNetUnix, outcome.map(|_| ()), outcomes);
                }
            } else if self.unix_plan == Plan::Dump {
                let outcome = self.dump_unix();
                found &= self.take(Source::UnixDiag, outcome, outcomes);
            }
        }
        for family in [Family::V4, Family::V6] {
            let plan = self.tcp_plan(family);
            if !self.is_read(Source::InetDiag, plan) {
                continue;
            }
            if self.tcp_access != Access::SockDiag {
                if !listing_is_due {
                    let outcome = self.read_tcp_table(family);
                    self.tcp_failed = outcome.is_err();
                    found &= *outcome.as_ref().unwrap_or(&true);
                    report_table(Source::ProcNetTcp, outcome.map(|_| ()), outcomes);
                }
            } else if plan == Plan::Dump {
                let outcome = self.dump_tcp(family);
                found &= self.take(Source::InetDiag, outcome, outcomes);
            }
        }
        found & self.look_up_each(outcomes)
    }

    fn is_read(&self, source: Source, plan: Plan) -> bool {
        let failed = match source {
            Source::UnixDiag => self.unix_failed,
            _ => self.tcp_failed,
        };
        plan != Plan::Nothing && !failed
    }

    /// Looks up the sockets that are not dumped, those of all families together. False if one is missing.
    fn look_up_each(&mut self, outcomes: &mut Outcomes) -> bool {
        let is_each = |source, access, plan| {
            access == Access::SockDiag && self.is_read(source, plan) && plan == Plan::Each
        };
        let mut unix = is_each(Source::UnixDiag, self.unix_access, self.unix_plan);
        let mut v4 = is_each(Source::InetDiag, self.tcp_access, self.v4_plan);
        let mut v6 = is_each(Source::InetDiag, self.tcp_access, self.v6_plan);
        let (mut found, round) = (true, self.round);
        while unix || v4 || v6 {
            let is_wanted = |socket: &Socket| {
                let of_family = match socket.kind.family() {
                    None => unix,
                    Some(Family::V4) => v4,
                    Some(Family::V6) => v6,
                };
                of_family && socket.seen != round
            };
            match self.look_up(is_wanted) {
                Ok(all_found) => {
                    for (source, was_asked) in
                        [(Source::UnixDiag, unix), (Source::InetDiag, v4 || v6)]
                    {
                        if was_asked {
                            self.report(source, Ok(()), outcomes);
                        }
                    }
                    return found & all_found;
                }
                // If one source fails, the other continues.
                Err((source, error)) => {
                    found &= self.take(source, Err(error), outcomes);
                    if source == Source::UnixDiag {
                        unix = false;
                    } else {
                        (v4, v6) = (false, false);
                    }
                }
            }
        }
        found
    }

    /// Records the outcome of reading the watched sockets, and whether all were found. The listing that follows handles a denied `sock_diag`.
    fn take(
        &mut self,
        source: Source,
        outcome: Result<bool, Error>,
        outcomes: &mut Outcomes,
    ) -> bool {
        if outcome.as_ref().is_err_and(is_denied) {
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

    /// Changes the location of the tables.
    pub(super) fn move_to(&mut self, root: &Path) {
        self.tables.move_to(root);
    }

    /// Makes the next request fail.
    #[cfg(test)]
    pub(super) fn fail_once(&mut self) {
        self.channel = Some(Channel::without_answer());
    }

    /// Denies the channel from now on, as SELinux does.
    #[cfg(test)]
    pub(super) fn deny(&mut self) {
        self.channel = None;
        self.way = Way::Outside;
    }

    /// Allows it again.
    #[cfg(test)]
    pub(super) fn allow(&mut self) {
        self.way = Way::Own;
    }

    /// Whether the round found every queue empty and unchanged.
    pub(super) fn are_idle(&self) -> bool {
        self.idle
    }

    /// Lists the queues of unix sockets that are not empty and were not listed in this round.
    pub(super) fn list_queues(&mut self, outcomes: &mut Outcomes) {
        let round = self.round;
        let is_due = |socket: &Socket| {
            socket.has_list() && socket.seen == round && socket.listed == Listed::NotYet
        };
        if self.unix_failed
            || self.unix_access != Access::SockDiag
            || !self.watched.iter().any(is_due)
        {
            return;
        }
        let outcome = self.look_up_queues(is_due);
        self.unix_failed = outcome.is_err();
        self.report(Source::UnixDiag, outcome.map(|_| ()), outcomes);
    }

    /// Lists every listening socket of the namespace that is `wanted`, of the others what `sock_diag` lists; unix sockets only if the listing could
    /// differ from the last one.
    pub(super) fn list(&mut self, outcomes: &mut Outcomes, unix_is_known: bool, wanted: Wanted) {
        if unix_is_known && self.unix_access == Access::SockDiag && !self.unix_failed {
            self.keep_unix();
        } else if wanted.unix || self.unix_failed || self.is_tried(self.unix_access) {
            let listed = self.is_tried(self.unix_access).then(|| self.list_unix());
            let access = self.access(self.unix_access, listed.as_ref());
            let by_table = (access != Access::SockDiag).then(|| self.list_unix_table());
            let before = std::mem::replace(&mut self.unix_access, access);
            forget_table(Source::ProcNetUnix, before, access, outcomes);
            self.unix_failed = self.report_listing(Source::UnixDiag, listed, by_table, outcomes);
        }
        if !(wanted.tcp || self.tcp_failed || self.is_tried(self.tcp_access)) {
            return;
        }
        let listed = self.is_tried(self.tcp_access).then(|| self.list_tcp());
        let access = self.access(self.tcp_access, listed.as_ref());
        let by_table = (access != Access::SockDiag).then(|| self.list_tcp_table());
        let before = std::mem::replace(&mut self.tcp_access, access);
        forget_table(Source::ProcNetTcp, before, access, outcomes);
        self.tcp_failed = self.report_listing(Source::InetDiag, listed, by_table, outcomes);
    }

    /// Whether `sock_diag` is tried.
    fn is_tried(&self, access: Access) -> bool {
        match access {
            Access::SockDiag => true,
            Access::Tables { retry } => self.now >= retry,
        }
    }

    /// Where a family is read from. `listed` is the outcome of a listing through `sock_diag`, if it was tried.
    fn access(&self, access: Access, listed: Option<&Result<(), Error>>) -> Access {
        match listed {
            None => access,
            Some(Err(error)) if is_denied(error) || access != Access::SockDiag => {
                let retry = self.now + RETRY;
                Access::Tables { retry }
            }
            Some(_) => Access::SockDiag,
        }
    }

    /// Records the outcome of a listing. True if neither `sock_diag` nor the table could be read.
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

    /// Selects the listed sockets that are read from now on. Ids may be repeated.
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
        self.forget_removed();
        self.make_plans();
    }

    /// Whether the source of an address failed at the last listing or later.
    pub(super) fn failed(&self, address: &Address) -> bool {
        match address {
            Address::Unix(_) => self.unix_failed,
            Address::Tcp(_) | Address::TcpPort(_) => self.tcp_failed,
        }
    }

    /// The newest reading of a watched socket and, for a unix socket, this round's list of its queue unless that is too long.
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

    /// The address of a watched TCP socket.
    pub(super) fn bound(&self, id: SocketId) -> Option<Bound> {
        let place = self.tcp.binary_search_by_key(&id, |listener| listener.id);
        let listener = place.ok().and_then(|place| self.tcp.get(place))?;
        Some(listener.bound)
    }

    /// The addresses of all TCP sockets on a port, watched or not. Shared addresses are repeated.
    pub(super) fn listening_at(&self, family: Family, port: u16) -> impl Iterator<Item = Bound> {
        let bounds = self.tcp.iter().map(|listener| listener.bound);
        bounds.filter(move |bound| bound.family() == family && bound.address.port() == port)
    }

    /// Calls `each` with the connections of a port that no application has accepted yet. False if that failed.
    pub(super) fn members(
        &mut self,
        family: Family,
        port: u16,
        outcomes: &mut Outcomes,
        each: impl FnMut(Member),
    ) -> bool {
        let channel = open(&mut self.channel, &self.way);
        let outcome = channel.and_then(|channel| inet::members(channel, family, port, each));
        let done = outcome.is_ok();
        self.report(Source::InetDiag, outcome, outcomes);
        done
    }

    /// A TCP socket that the listing found, but not a lookup, is hidden from lookups. The others were closed.
    fn forget_removed(&mut self) {
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

    /// Looks up some of the watched sockets. False if one is missing. An error has the source that failed.
    fn look_up(&mut self, wanted: impl Fn(&Socket) -> bool) -> Result<bool, (Source, Error)> {
        // Requested together with the lookup, the list of a queue costs almost nothing. An empty queue needs none.
        let listed = self
            .look_up_queues(|socket| wanted(socket) && socket.has_list())
            .map_err(|error| (Source::UnixDiag, error))?;
        let wanted = |socket: &Socket| wanted(socket) && !socket.has_list();
        let round = self.round;
        let mut all_found = listed;
        for sockets in self.watched.chunks_mut(BATCH) {
            let mut asked = sockets.iter().filter(|socket| wanted(socket)).peekable();
            let Some(first) = asked.peek() else { continue };
            let mut source = first.kind.source();
            let channel = open(&mut self.channel, &self.way).map_err(|error| (source, error))?;
            let sent = channel
                .send(asked.map(|socket| &socket.lookup))
                .map_err(|error| (source, error))?;
            let mut asked = sockets
                .iter_mut()
                .filter(|socket| wanted(socket))
                .peekable();
            channel
                .answers(sent, |answer| {
                    let Some(socket) = asked.next() else {
                        return Ok(());
                    };
                    source = socket.kind.source();
                    let id = socket.reading.id;
                    let reading = match socket.kind {
                        Kind::Unix => unix::queue(id, answer)?.map(|queue| unix_reading(id, queue)),
                        Kind::Tcp(_) => {
                            inet::queue(id, answer)?.map(|queue| tcp_reading(id, queue))
                        }
                    };
                    if let Some(reading) = reading {
                        self.idle &= socket.record(reading, round);
                    } else {
                        all_found = false;
                        if socket.kind != Kind::Unix {
                            self.hidden.push(id);
                        }
                    }
                    source = asked.peek().map_or(source, |next| next.kind.source());
                    Ok(())
                })
                .map_err(|error| (source, error))?;
        }
        Ok(all_found)
    }

    /// Looks up some of the watched unix sockets, with the lists of their queues. False if one is missing.
    fn look_up_queues(&mut self, wanted: impl Fn(&Socket) -> bool) -> Result<bool, Error> {
        let mut all_found = true;
        for socket in self.watched.iter_mut().filter(|socket| wanted(socket)) {
            let channel = open(&mut self.channel, &self.way)?;
            let (id, start) = (socket.reading.id, self.clients.len());
            let Some((queue, listed)) = unix::pending(channel, id, &mut self.clients)? else {
                all_found = false;
                continue;
            };
            socket.listed = if listed {
                Listed::From(start)
            } else {
                Listed::TooLong
            };
            self.idle &= socket.record(unix_reading(id, queue), self.round);
        }
        Ok(all_found)
    }

    fn dump_unix(&mut self) -> Result<bool, Error> {
        let channel = open(&mut self.channel, &self.way)?;
        let (watched, round, idle) = (&mut self.watched, self.round, &mut self.idle);
        unix::list(channel, Show::Queue, |listener| {
            *idle &= record(watched, round, unix_reading(listener.id, listener.queue));
        })?;
        // A long dump under churn can miss sockets that exist.
        self.look_up(|socket| socket.kind == Kind::Unix && socket.seen != round)
            .map_err(|(_, error)| error)
    }

    fn dump_tcp(&mut self, family: Family) -> Result<bool, Error> {
        let channel = open(&mut self.channel, &self.way)?;
        let (watched, round, idle) = (&mut self.watched, self.round, &mut self.idle);
        inet::list(channel, family, |listener| {
            *idle &= record(watched, round, tcp_reading(listener.id, listener.queue));
        })?;
        let missed = |socket: &Socket| socket.kind.family() == Some(family) && socket.seen != round;
        let all_found = !self.watched.iter().any(missed);
        Ok(all_found)
    }

    /// Keeps the last listing of unix sockets, with the queues that this round read.
    fn keep_unix(&mut self) {
        let readings = self.watched.iter().map(|socket| socket.reading);
        for reading in readings {
            let place = self.unix.binary_search_by_key(&reading.id, |row| row.id);
            let row = place.ok().and_then(|place| self.unix.get_mut(place));
            if let (Some(row), Some(backlog)) = (row, reading.backlog) {
                let depth = reading.depth;
                row.queue = unix::Queue { depth, backlog };
            }
        }
    }

    fn list_unix(&mut self) -> Result<(), Error> {
        let before = std::mem::take(&mut self.unix);
        let channel = open(&mut self.channel, &self.way)?;
        let mut rows = Vec::with_capacity(before.len());
        unix::list(channel, Show::Everything, |listener| rows.push(listener))?;
        rows.sort_unstable_by_key(|listener| listener.id);
        rows.dedup_by_key(|listener| listener.id);
        // A long dump under churn can miss sockets that exist: each watched socket that is missing is looked up once more.
        let mut missed = Vec::new();
        for socket in self
            .watched
            .iter()
            .filter(|socket| socket.kind == Kind::Unix)
        {
            let id = socket.reading.id;
            if rows.binary_search_by_key(&id, |row| row.id).is_err()
                && let Some(queue) =
                    channel.ask_one(&socket.lookup, |answer| unix::queue(id, answer))?
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
        let channel = open(&mut self.channel, &self.way)?;
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
            // As above; a lookup does not distinguish the members of a group, a second dump does.
            list(&mut rows)?;
        }
        self.tcp = rows;
        Ok(())
    }

    /// Takes the newest figures of the watched unix sockets from the table. False if one is missing.
    fn read_unix_table(&mut self) -> io::Result<bool> {
        self.pass_unix_table()?;
        self.take_unix_figures();
        let round = self.round;
        let is_missing = |socket: &Socket| socket.kind == Kind::Unix && socket.seen != round;
        Ok(!self.watched.iter().any(is_missing))
    }

    /// Takes the figures of the last pass over the unix table.
    fn take_unix_figures(&mut self) {
        self.forget_limits(|kind| kind == Kind::Unix);
        for (id, _, figures) in self.tables.unix() {
            let reading = table_reading(id, figures.depth);
            let place = self
                .watched
                .binary_search_by_key(&id, |socket| socket.reading.id);
            if let Some(socket) = place.ok().and_then(|place| self.watched.get_mut(place)) {
                self.idle &= socket.record(reading, self.round);
                self.idle &= std::mem::replace(&mut socket.figures, figures) == figures;
            }
        }
    }

    fn read_tcp_table(&mut self, family: Family) -> io::Result<bool> {
        let (watched, round, idle) = (&mut self.watched, self.round, &mut self.idle);
        let is_wanted = |socket: &&Socket| socket.kind.family() == Some(family);
        let mut left = watched.iter().filter(is_wanted).count();
        let mut unreadable = 0;
        for _ in 0..2 {
            unreadable += self.tables.read_tcp(family, |listener| {
                let place = watched.binary_search_by_key(&listener.id, |socket| socket.reading.id);
                if let Some(socket) = place.ok().and_then(|place| watched.get_mut(place)) {
                    left -= usize::from(socket.seen != round);
                    *idle &= socket.record(table_reading(listener.id, listener.queue.depth), round);
                }
                match left {
                    0 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            })?;
            if left == 0 {
                break;
            }
        }
        self.record_unreadable(Source::ProcNetTcp, unreadable);
        Ok(left == 0)
    }

    fn list_unix_table(&mut self) -> io::Result<()> {
        self.unix.clear();
        self.pass_unix_table()?;
        self.unix = self.tables.list_unix();
        Ok(())
    }

    /// Reads the unix table, and reads it once more if a watched socket is missing or its queue became shorter: a row that begins or ends while
    /// the kernel prints can hide another.
    fn pass_unix_table(&mut self) -> io::Result<()> {
        let unreadable = self.tables.read_unix()?;
        self.record_unreadable(Source::ProcNetUnix, unreadable);
        let found: HashMap<SocketId, u32> = self
            .tables
            .unix()
            .map(|(id, _, figures)| (id, figures.depth))
            .collect();
        let may_be_hidden = |socket: &Socket| {
            let depth = found.get(&SocketId::without_cookie(socket.reading.id.inode));
            socket.kind == Kind::Unix && depth.is_none_or(|depth| *depth < socket.reading.depth)
        };
        if self.watched.iter().any(may_be_hidden) {
            self.tables.read_unix_again()?;
        }
        Ok(())
    }

    fn list_tcp_table(&mut self) -> io::Result<()> {
        self.tcp.clear();
        let mut rows: Vec<TcpListener> = Vec::new();
        // A row that ends while the kernel prints can hide another: if a watched one is missing, the table is read once more.
        for _ in 0..2 {
            for family in [Family::V4, Family::V6] {
                let unreadable = self.tables.read_tcp(family, |listener| {
                    rows.push(listener);
                    ControlFlow::Continue(())
                })?;
                self.record_unreadable(Source::ProcNetTcp, unreadable);
            }
            rows.sort_by_key(|listener| listener.id);
            rows.dedup_by_key(|listener| listener.id);
            let is_missed = |socket: &Socket| {
                let inode = socket.reading.id.inode;
                socket.kind != Kind::Unix && rows.iter().all(|row| row.id.inode != inode)
            };
            if !self.watched.iter().any(is_missed) {
                break;
            }
        }
        self.tcp = rows;
        Ok(())
    }

    fn record_unreadable(&mut self, source: Source, rows: u64) {
        if rows > 0 {
            self.unreadable.push((source, rows));
        }
    }

    /// Removes the limits, which a table does not have.
    fn forget_limits(&mut self, is_meant: impl Fn(Kind) -> bool) {
        let meant = self
            .watched
            .iter_mut()
            .filter(|socket| is_meant(socket.kind));
        meant.for_each(|socket| socket.reading.backlog = None);
    }

    /// Records the outcome of a source. After a failure the channel may contain the rest of an answer, so a new one is opened.
    fn report(&mut self, source: Source, outcome: Result<(), Error>, outcomes: &mut Outcomes) {
        if outcome.is_err() {
            self.channel = None;
        }
        outcomes.push((source, outcome.map_err(|error| advice(source, &error))));
    }
}

impl Kind {
    fn source(self) -> Source {
        match self {
            Self::Unix => Source::UnixDiag,
            Self::Tcp(_) => Source::InetDiag,
        }
    }

    fn family(self) -> Option<Family> {
        match self {
            Self::Tcp(bound) => Some(bound.family()),
            Self::Unix => None,
        }
    }
}

fn open<'a>(channel: &'a mut Option<Channel>, way: &Way) -> Result<&'a mut Channel, Error> {
    match channel {
        Some(channel) => Ok(channel),
        None => Ok(channel.insert(way.open_channel()?)),
    }
}

/// Records a reading, if its socket is watched. False if its queue is not empty or has changed.
fn record(watched: &mut [Socket], round: u64, reading: Reading) -> bool {
    let index = watched.binary_search_by_key(&reading.id, |socket| socket.reading.id);
    let socket = index.ok().and_then(|index| watched.get_mut(index));
    socket.is_none_or(|socket| socket.record(reading, round))
}

impl Socket {
    /// Whether its queue had connections at the last reading, and was not too long to list.
    fn has_list(&self) -> bool {
        self.kind == Kind::Unix && (1..=unix::LONGEST_LIST).contains(&self.reading.depth)
    }

    /// Takes the newest reading. True if the queue is empty and nothing has changed.
    fn record(&mut self, reading: Reading, round: u64) -> bool {
        let before = std::mem::replace(&mut self.reading, reading);
        self.seen = round;
        reading == before && reading.depth == 0
    }
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

/// A family that is read through `sock_diag` again needs no table. A failure of the table is over.
fn forget_table(table: Source, before: Access, access: Access, outcomes: &mut Outcomes) {
    if before != Access::SockDiag && access == Access::SockDiag {
        outcomes.push((table, Ok(())));
    }
}

/// The consequence of a denied source whose table can be read.
const UNIX_TABLE: &str = ". Unix listeners are now read from /proc/net/unix: depth, abandoned and blocked connections are exact, limits are known only with backlog=, and waits are unknown";
const TCP_TABLE: &str = ". TCP listeners are now read from /proc/net/tcp and tcp6: depth is exact, limits are known only with backlog=, and drops and waits are unknown";

/// Whether an error means that `sock_diag` is denied or missing, permanently or until the system changes, while the tables can be read.
///
/// A sandbox denies the socket (seccomp: any errno that its author chose; SELinux: `EACCES`) or the first request (SELinux), and a kernel without
/// the module answers a dump with `ENOENT` (`sock_diag_rcv_msg`, sock_diag.c). gVisor does not have the protocol (`EPROTONOSUPPORT`), and its
/// tables have no depths.
fn is_denied(error: &Error) -> bool {
    match error {
        Error::Socket(_, error) => matches!(
            io_errno(error),
            Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::AFNOSUPPORT)
        ),
        Error::Refused(errno) => matches!(
            *errno,
            Errno::NOENT | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP
        ),
        Error::NoReply | Error::Truncated(_) | Error::Malformed(_) => false,
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
            "; the kernel has no unix_diag: run modprobe unix_diag on the node. If the kernel was built without it, as in Kata Containers, use one with CONFIG_UNIX_DIAG"
        }
        Some(Errno::NOENT) => {
            "; the kernel has no inet_diag or tcp_diag: run modprobe tcp_diag on the node. If the kernel was built without it, use one with CONFIG_INET_DIAG"
        }
        Some(Errno::ACCESS) => {
            "; SELinux or a seccomp profile denies netlink: on an SELinux node, update container-selinux to 2.242.0 or run setsebool -P virt_sandbox_use_netlink 1; elsewhere, allow AF_NETLINK in the seccomp profile"
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
