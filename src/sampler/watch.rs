//! Which of the listed sockets belong to which listener: those that the user named, or all that discovery finds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::blocked::Blocked;
use super::node::Node;
use super::refused::{Refusals, Target};
use super::scans::Scans;
use super::sockets::{Sockets, Wanted};
use crate::kernel::SocketId;
use crate::kernel::inet::Bound;
use crate::kernel::mount::{Resolver, Unresolved};
use crate::kernel::procnet::unix as table;
use crate::listener::{Address, Filter, Listener, PathTarget, UnixName, match_tcp, match_unix};
use crate::sample::{
    Absence, LeftOut, LimitSource, NginxLog, Presence, Refused, Sample, Waiting, Watched,
};

/// Which listeners to watch.
#[derive(Debug)]
pub enum Watch {
    /// These listeners, present or not.
    Configured(Vec<Listener>),
    /// Of these listeners those that are there.
    Selected(Vec<Listener>),
    /// Every listener of the network namespace.
    Discover(Discovery),
}

impl Watch {
    /// These listeners, or where there are none, all. Of many namespaces hardly any has them.
    #[must_use]
    pub fn new(listeners: Vec<Listener>, discovery: Discovery, node: Option<&Node>) -> Self {
        if listeners.is_empty() {
            Self::Discover(discovery)
        } else if node.is_some() {
            Self::Selected(listeners)
        } else {
            Self::Configured(listeners)
        }
    }
}

/// Bounds of discovery.
#[derive(Debug)]
pub struct Discovery {
    /// Listeners that are watched, by their address.
    pub filter: Filter,
    /// Listeners at most: those of all namespaces of one share together.
    pub limit: usize,
    /// Inodes of this process' own listening sockets, which are left out.
    pub own: Vec<u32>,
}

/// Turns listings into watched listeners.
#[derive(Debug)]
pub(super) struct Watcher {
    watch: Arc<Watch>,
    /// Listeners that the watchers of all namespaces of one share watch together.
    watched: Arc<AtomicUsize>,
    resolver: Resolver,
    /// The sockets of each of the sample's listeners.
    members: Vec<Vec<SocketId>>,
    /// Where each of the sample's listeners listens, if it is a TCP listener.
    bounds: Vec<Vec<Bound>>,
    /// The limit of each socket of a listener with `backlog=`, by inode, from `net.core.somaxconn` when the socket was first seen. Absent if
    /// that could not be read.
    configured_limits: HashMap<u32, Option<u32>>,
}

/// Indexes into the listing of one kind.
#[derive(Debug, Default)]
struct Members {
    unix: Vec<usize>,
    tcp: Vec<usize>,
}

impl Watcher {
    pub(super) fn new(watch: Arc<Watch>, resolver: Resolver) -> Self {
        Self {
            watch,
            watched: Arc::default(),
            resolver,
            members: Vec::new(),
            bounds: Vec::new(),
            configured_limits: HashMap::new(),
        }
    }

    /// From now on, before it has resolved anything, both have one limit together.
    pub(super) fn join(&mut self, other: &Self) {
        self.watched = Arc::clone(&other.watched);
    }

    /// Listeners at most: what others of the share leave, and an equal part in any case.
    fn limit(&self, discovery: &Discovery, sample: &Sample) -> usize {
        let others = self.watched.load(Ordering::Relaxed);
        let others = others.saturating_sub(self.members.len());
        let left = discovery.limit.saturating_sub(others);
        left.max(sample.part_of(discovery.limit))
    }

    /// Counts so many listeners in place of those of the last listing.
    fn count(&self, listeners: usize) {
        self.watched.fetch_add(listeners, Ordering::Relaxed);
        self.watched
            .fetch_sub(self.members.len(), Ordering::Relaxed);
    }

    /// The families that listeners may be found in.
    pub(super) fn wanted(&self) -> Wanted {
        let (Watch::Configured(listeners) | Watch::Selected(listeners)) = &*self.watch else {
            return Wanted {
                unix: true,
                tcp: true,
            };
        };
        let is_unix = |listener: &Listener| matches!(listener.address, Address::Unix(_));
        Wanted {
            unix: listeners.iter().any(is_unix),
            tcp: !listeners.iter().all(is_unix),
        }
    }

    /// Whether a listing of unix sockets would find the same as the last one: each unix listener is configured and has one socket, which every
    /// round looks up, and its path still leads to the file of that socket. No other socket can have that file while this one exists and holds it.
    pub(super) fn knows_unix(&mut self, sockets: &Sockets) -> bool {
        let Watch::Configured(listeners) = &*self.watch else {
            return false;
        };
        let resolver = &mut self.resolver;
        let mut leads_there = |(listener, members): (&Listener, &Vec<SocketId>)| {
            let Address::Unix(name) = &listener.address else {
                return None;
            };
            let row = match members.as_slice() {
                [id] => sockets.unix.iter().find(|row| row.id == *id),
                _ => None,
            };
            Some(row.is_some_and(|row| match name {
                UnixName::Path(path) => {
                    let target = resolver.resolve(path);
                    matches!(target, Ok(PathTarget::Socket(file)) if row.file == Some(file))
                }
                UnixName::Abstract(_) => row.name.as_ref() == Some(name),
            }))
        };
        let mut unix = listeners
            .iter()
            .zip(&self.members)
            .filter_map(&mut leads_there)
            .peekable();
        // If no unix listener is configured, only the listing shows whether unix_diag answers.
        unix.peek().is_some() && unix.all(|leads_there| leads_there)
    }

    /// Determines from a new listing which listeners exist and which sockets each of them has.
    pub(super) fn resolve(
        &mut self,
        sockets: &mut Sockets,
        somaxconn: Option<u32>,
        sample: &mut Sample,
    ) {
        sample.others_of_share = Arc::strong_count(&self.watched) - 1;
        let found: Vec<Found> = match &*self.watch {
            Watch::Configured(listeners) => {
                let resolver = &mut self.resolver;
                let mut find = |listener: &Listener| find(&listener.address, sockets, resolver);
                let known = &sample.listeners;
                listeners
                    .iter()
                    .enumerate()
                    .map(|(index, listener)| {
                        let (members, presence) = find(listener);
                        let listener = match known.get(index) {
                            Some(watched) => watched.listener.clone(),
                            None => Arc::new(listener.clone()),
                        };
                        (listener, members, presence)
                    })
                    .collect()
            }
            Watch::Selected(listeners) => {
                let resolver = &mut self.resolver;
                let known = |listener: &Listener| {
                    let mut known = sample.listeners.iter().map(|watched| &watched.listener);
                    known.find(|known| known.name == listener.name).cloned()
                };
                let found = listeners.iter().filter_map(|listener| {
                    let (members, presence) = find(&listener.address, sockets, resolver);
                    let known = known(listener);
                    let is_there = match presence {
                        Presence::Up => true,
                        Presence::Missing(_) => false,
                        Presence::Unknown => known.is_some(),
                    };
                    let listener = known.unwrap_or_else(|| Arc::new(listener.clone()));
                    is_there.then_some((listener, members, presence))
                });
                found.collect()
            }
            Watch::Discover(discovery) => {
                let known: BTreeMap<&str, &Arc<Listener>> = sample
                    .listeners
                    .iter()
                    .map(|watched| (watched.listener.name.as_str(), &watched.listener))
                    .collect();
                let limit = self.limit(discovery, sample);
                let (found, left_out) =
                    discover(discovery, limit, sockets, &mut self.resolver, &known);
                sample.left_out = left_out;
                let lost = sample.listeners.iter().map(|watched| &watched.listener);
                found
                    .into_iter()
                    .chain(lost.filter_map(|l| unlisted(l, sockets)))
                    .collect()
            }
        };
        let unix = found
            .iter()
            .flat_map(|(_, members, _)| members.unix.iter().copied());
        let tcp = found
            .iter()
            .flat_map(|(_, members, _)| members.tcp.iter().copied());
        let (unix, tcp): (Vec<_>, Vec<_>) = (unix.collect(), tcp.collect());
        self.count(found.len());
        self.members = found
            .iter()
            .map(|(_, members, _)| {
                let unix = members
                    .unix
                    .iter()
                    .filter_map(|i| sockets.unix.get(*i))
                    .map(|l| l.id);
                let tcp = members
                    .tcp
                    .iter()
                    .filter_map(|i| sockets.tcp.get(*i))
                    .map(|l| l.id);
                unix.chain(tcp).collect()
            })
            .collect();
        self.bounds = self
            .members
            .iter()
            .map(|members| {
                let bounds = members.iter().filter_map(|id| sockets.bound(*id));
                bounds.collect::<HashSet<_>>().into_iter().collect()
            })
            .collect();
        sample.listeners = found
            .into_iter()
            .map(|(listener, _, presence)| Watched {
                listener,
                presence,
                limit: LimitSource::Kernel,
                readings: Vec::new(),
                waiting: Waiting::default(),
            })
            .collect();
        sockets.watch(unix.into_iter(), tcp.into_iter());
        self.keep_configured_limits(&sample.listeners, somaxconn);
    }

    fn keep_configured_limits(&mut self, listeners: &[Watched], somaxconn: Option<u32>) {
        let is_unknown = |watched: &Watched| watched.presence == Presence::Unknown;
        if !listeners.iter().any(is_unknown) {
            let present: HashSet<u32> = self.members.iter().flatten().map(|id| id.inode).collect();
            self.configured_limits
                .retain(|inode, _| present.contains(inode));
        }
        for (watched, members) in listeners.iter().zip(&self.members) {
            let Some(requested) = watched.listener.requested_backlog else {
                continue;
            };
            for id in members {
                let limit = || somaxconn.map(|somaxconn| requested.min(somaxconn));
                self.configured_limits.entry(id.inode).or_insert_with(limit);
            }
        }
    }

    /// Puts the configured limits into the readings of a listener, if each socket has one. Sockets with the same name cannot be distinguished in
    /// the table, so it is unknown which of them is full.
    fn apply_configured_limits(&self, watched: &mut Watched) -> LimitSource {
        let is_unix = matches!(watched.listener.address, Address::Unix(_));
        if watched.listener.requested_backlog.is_none() || (is_unix && watched.readings.len() > 1) {
            return LimitSource::Unknown;
        }
        let limit = |inode: u32| self.configured_limits.get(&inode).copied().flatten();
        if watched.readings.iter().any(|r| limit(r.id.inode).is_none()) {
            return LimitSource::Unknown;
        }
        for reading in &mut watched.readings {
            reading.backlog = limit(reading.id.inode);
        }
        LimitSource::Configured
    }

    /// Copies the newest readings into the sample.
    pub(super) fn fill(&self, sockets: &Sockets, blocked: &Blocked, listeners: &mut [Watched]) {
        for (watched, members) in listeners.iter_mut().zip(&self.members) {
            let waiting = &mut watched.waiting;
            watched.readings.clear();
            waiting.listed.clear();
            waiting.clients.clear();
            (waiting.abandoned, waiting.blocked, waiting.tcp) = (None, None, None);
            watched.limit = LimitSource::Kernel;
            if sockets.failed(&watched.listener.address) {
                watched.presence = Presence::Unknown;
                continue;
            }
            for (reading, clients) in members.iter().filter_map(|id| sockets.reading(*id)) {
                watched.readings.push(reading);
                waiting.listed.push(clients.is_some());
                waiting.clients.extend(clients.unwrap_or_default());
            }
            let is_unix = matches!(watched.listener.address, Address::Unix(_));
            if sockets.is_read_from_a_table(&watched.listener.address) {
                if is_unix {
                    let figures = || watched.readings.iter().map(|r| sockets.figures(r.id));
                    waiting.abandoned = sum(figures().map(|f| Some(f?.abandoned)));
                    waiting.blocked = sum(figures().map(|f| Some(f?.blocked)));
                }
                watched.limit = self.apply_configured_limits(watched);
            } else if is_unix {
                waiting.blocked = sum(watched.readings.iter().map(|r| blocked.before(r)));
            }
        }
    }

    /// The refusals that the sources counted, by listener.
    pub(super) fn refused(
        &mut self,
        refusals: &mut Refusals,
        namespace: Option<u32>,
        sockets: &Sockets,
        sample: &mut Sample,
    ) -> (Vec<Refused>, Option<NginxLog>) {
        if !refusals.are_counted() {
            return (Vec::new(), None);
        }
        let listeners = sample.listeners.iter().zip(&self.members);
        let targets: Vec<Target> = listeners
            .filter_map(|(watched, members)| target(&watched.listener, members, sockets))
            .collect();
        let (now, resolver) = (sample.at, &mut self.resolver);
        refusals.read(now, namespace, &targets, resolver, &mut sample.outcomes)
    }

    /// Scans the TCP queues that are not empty in the sample.
    pub(super) fn scan(&self, scans: &mut Scans, sockets: &mut Sockets, sample: &mut Sample) {
        for (watched, bounds) in sample.listeners.iter().zip(&self.bounds) {
            for bound in bounds {
                if watched.occupied() && watched.limit == LimitSource::Kernel {
                    scans.want(*bound);
                } else {
                    scans.empty(*bound);
                }
            }
        }
        scans.take(sample.at, sockets, &mut sample.outcomes);
        for (watched, bounds) in sample.listeners.iter_mut().zip(&self.bounds) {
            if !bounds.is_empty() && watched.occupied() && watched.limit == LimitSource::Kernel {
                watched.waiting.tcp = scans.found(bounds);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// The sum, if every part is known.
fn sum(mut parts: impl Iterator<Item = Option<u32>>) -> Option<u64> {
    parts.try_fold(0, |sum, part| Some(sum + u64::from(part?)))
}

/// A unix listener, with everything that a name of a refusal is compared with.
fn target<'a>(
    listener: &'a Listener,
    members: &[SocketId],
    sockets: &'a Sockets,
) -> Option<Target<'a>> {
    let Address::Unix(name) = &listener.address else {
        return None;
    };
    let bound = |id: &SocketId| {
        let found = sockets.unix.binary_search_by_key(id, |row| row.id).ok()?;
        let row = sockets.unix.get(found)?;
        Some((row.name.as_ref(), row.file))
    };
    Some(Target {
        label: &listener.name,
        name,
        bound: members.iter().filter_map(bound).collect(),
    })
}

type Found = (Arc<Listener>, Members, Presence);

/// The sockets of one address, or why there are none.
fn find(address: &Address, sockets: &Sockets, resolver: &mut Resolver) -> (Members, Presence) {
    let mut members = Members::default();
    let mut absence = Absence::NotListening;
    match address {
        Address::Unix(name) => {
            let leads_to = match name {
                UnixName::Path(path) => resolver.resolve(path),
                UnixName::Abstract(_) => Err(Unresolved::Missing),
            };
            if sockets.is_read_from_a_table(address) {
                // The table has names as they are printed, and no files.
                let by_name = |name: &UnixName| {
                    let printed = table::name(&table::printed(name));
                    match_unix(&printed, None, &bound(sockets))
                };
                members.unix = by_name(name);
                if let (true, UnixName::Path(path)) = (members.unix.is_empty(), name)
                    && let Some(real) = resolver.real_path(path)
                {
                    members.unix = by_name(&UnixName::path(&real));
                }
                absence = match why_missing(leads_to) {
                    Absence::NoListenerOfFile => Absence::NotInTable,
                    absence => absence,
                };
            } else {
                members.unix = match_unix(name, leads_to.as_ref().ok().copied(), &bound(sockets));
                absence = why_missing(leads_to);
            }
        }
        Address::Tcp(_) | Address::TcpPort(_) => {
            let local = sockets.tcp.iter().map(|listener| listener.bound.address);
            let matching = local
                .enumerate()
                .filter(|(_, local)| match_tcp(address, *local));
            members.tcp = matching.map(|(index, _)| index).collect();
            if members.tcp.is_empty()
                && let Some(other) = other_address(address, sockets)
            {
                absence = Absence::OtherAddress(other);
            }
        }
    }
    let presence = if sockets.failed(address) {
        Presence::Unknown
    } else if members.unix.is_empty() && members.tcp.is_empty() {
        Presence::Missing(absence)
    } else {
        Presence::Up
    };
    (members, presence)
}

/// Where else a socket is listening on the port of a TCP address.
fn other_address(address: &Address, sockets: &Sockets) -> Option<SocketAddr> {
    let port = match address {
        Address::Tcp(address) => address.port(),
        Address::TcpPort(port) => *port,
        Address::Unix(_) => return None,
    };
    let local = sockets.tcp.iter().map(|listener| listener.bound.address);
    local.filter(|local| local.port() == port).min()
}

/// A discovered listener whose source fails now: it is not removed, but its state is unknown.
fn unlisted(listener: &Arc<Listener>, sockets: &Sockets) -> Option<Found> {
    sockets
        .failed(&listener.address)
        .then(|| (Arc::clone(listener), Members::default(), Presence::Unknown))
}

fn bound(
    sockets: &Sockets,
) -> impl Iterator<Item = (&UnixName, Option<crate::listener::FileId>)> + Clone {
    // A listener always has a name. The indexes must stay those of the listing.
    static NAMELESS: UnixName = UnixName::Path(Vec::new());
    sockets
        .unix
        .iter()
        .map(|listener| (listener.name.as_ref().unwrap_or(&NAMELESS), listener.file))
}

fn why_missing(leads_to: Result<PathTarget, Unresolved>) -> Absence {
    match leads_to {
        Ok(PathTarget::Socket(_)) => Absence::NoListenerOfFile,
        Ok(PathTarget::Other(_)) => Absence::NotASocket,
        Err(Unresolved::Missing) => Absence::NotListening,
        Err(Unresolved::Unreadable(directory)) => Absence::Unreadable(directory),
        Err(Unresolved::Failed(errno)) => Absence::Failed(errno.to_string()),
    }
}

/// Every listener of the listing by its address, and how many are not watched. Known listeners stay watched.
fn discover(
    discovery: &Discovery,
    limit: usize,
    sockets: &Sockets,
    resolver: &mut Resolver,
    known: &BTreeMap<&str, &Arc<Listener>>,
) -> (Vec<Found>, LeftOut) {
    let mut groups: BTreeMap<Address, Members> = BTreeMap::new();
    for (index, listener) in sockets.unix.iter().enumerate() {
        if let Some(name) = &listener.name {
            let group = groups.entry(Address::Unix(name.clone())).or_default();
            group.unix.push(index);
        }
    }
    for (index, listener) in sockets.tcp.iter().enumerate() {
        if !discovery.own.contains(&listener.id.inode) {
            let group = groups
                .entry(Address::Tcp(listener.bound.address))
                .or_default();
            group.tcp.push(index);
        }
    }
    let groups_found = groups.len();
    let mut found: Vec<Found> = groups
        .into_iter()
        .map(|(address, members)| (address.to_string(), address, members))
        .filter(|(name, ..)| discovery.filter.takes(name))
        .map(|(name, address, members)| {
            let listener = match known.get(name.as_str()) {
                Some(listener) => Arc::clone(listener),
                None => Arc::new(Listener::discovered(address)),
            };
            (listener, members, Presence::Up)
        })
        .collect();
    // A stable sort: listeners that are already watched come first, and the others follow by address.
    found.sort_by_key(|(listener, ..)| !known.contains_key(listener.name.as_str()));
    let left_out = LeftOut {
        excluded: groups_found - found.len(),
        ignored: found.len().saturating_sub(limit),
    };
    found.truncate(limit);
    for (listener, members, _) in &mut found {
        let Address::Unix(UnixName::Path(path)) = &listener.address else {
            continue;
        };
        // Several sockets have this name: the path may have led to one of them before.
        if members.unix.len() > 1
            && let Ok(target) = resolver.resolve(path)
        {
            let file = |index: &usize| sockets.unix.get(*index).and_then(|row| row.file);
            let (old, current): (Vec<_>, Vec<_>) = members
                .unix
                .iter()
                .partition(|index| target.replaced(file(index)));
            members.unix = if current.is_empty() { old } else { current };
        }
    }
    (found, left_out)
}
