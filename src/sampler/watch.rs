//! Which of the listed sockets belong to which listener: those that the user named, or all that discovery finds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use regex_lite::Regex;

use super::blocked::Blocked;
use super::looks::Looks;
use super::refused::{Refusals, Target};
use super::sockets::Sockets;
use crate::kernel::SocketId;
use crate::kernel::inet::Bound;
use crate::kernel::mount::{Resolver, Unresolved};
use crate::kernel::procnet::unix as table;
use crate::listener::{Address, Listener, PathTarget, UnixName, match_tcp, match_unix};
use crate::sample::{Absence, LimitSource, NginxLog, Presence, Refused, Sample, Waiting, Watched};

/// What to look at.
#[derive(Debug)]
pub enum Watch {
    /// These listeners, present or not.
    Configured(Vec<Listener>),
    /// Every listener of the network namespace.
    Discover(Discovery),
}

impl Watch {
    /// These listeners, or where there are none, all.
    #[must_use]
    pub fn new(listeners: Vec<Listener>, discovery: Discovery) -> Self {
        if listeners.is_empty() {
            Self::Discover(discovery)
        } else {
            Self::Configured(listeners)
        }
    }
}

/// Bounds of discovery.
#[derive(Debug)]
pub struct Discovery {
    /// Addresses that this matches anywhere are left out.
    pub exclude: Option<Regex>,
    /// Listeners at most.
    pub limit: usize,
    /// Inodes of this process' own listening sockets, which are left out.
    pub own: Vec<u32>,
}

/// Turns listings into watched listeners.
#[derive(Debug)]
pub(super) struct Watcher {
    watch: Watch,
    resolver: Resolver,
    /// The sockets of each of the sample's listeners.
    members: Vec<Vec<SocketId>>,
    /// Where each of the sample's listeners listens, if it is a TCP listener.
    bounds: Vec<Vec<Bound>>,
    /// The limit of each socket whose application was said to ask for one, by inode: with `net.core.somaxconn` as it was when the socket was
    /// first seen. Absent where that could not be read.
    told: HashMap<u32, Option<u32>>,
}

/// Indexes into the listing of one kind.
#[derive(Debug, Default)]
struct Members {
    unix: Vec<usize>,
    tcp: Vec<usize>,
}

impl Watcher {
    pub(super) fn new(watch: Watch, procfs: &Path) -> Self {
        Self {
            watch,
            resolver: Resolver::new(procfs),
            members: Vec::new(),
            bounds: Vec::new(),
            told: HashMap::new(),
        }
    }

    /// Works out, from a fresh listing, which listeners there are and which sockets each has.
    pub(super) fn resolve(
        &mut self,
        sockets: &mut Sockets,
        somaxconn: Option<u32>,
        sample: &mut Sample,
    ) {
        let found: Vec<Found> = match &self.watch {
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
            Watch::Discover(discovery) => {
                let known: BTreeMap<&str, &Arc<Listener>> = sample
                    .listeners
                    .iter()
                    .map(|watched| (watched.listener.name.as_str(), &watched.listener))
                    .collect();
                let (found, ignored) = discover(discovery, sockets, &mut self.resolver, &known);
                sample.ignored_listeners = ignored;
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
        self.note_told_limits(&sample.listeners, somaxconn);
    }

    fn note_told_limits(&mut self, listeners: &[Watched], somaxconn: Option<u32>) {
        let is_unknown = |watched: &Watched| watched.presence == Presence::Unknown;
        if !listeners.iter().any(is_unknown) {
            let present: HashSet<u32> = self.members.iter().flatten().map(|id| id.inode).collect();
            self.told.retain(|inode, _| present.contains(inode));
        }
        for (watched, members) in listeners.iter().zip(&self.members) {
            let Some(requested) = watched.listener.requested_backlog else {
                continue;
            };
            for id in members {
                let limit = || somaxconn.map(|somaxconn| requested.min(somaxconn));
                self.told.entry(id.inode).or_insert_with(limit);
            }
        }
    }

    /// Puts the limits that were told into the readings of a listener, if each socket has one. Sockets that share a name are not told apart in the
    /// table, and so it is not known which of them is full.
    fn apply_told_limits(&self, watched: &mut Watched) -> LimitSource {
        let is_unix = matches!(watched.listener.address, Address::Unix(_));
        if watched.listener.requested_backlog.is_none() || (is_unix && watched.readings.len() > 1) {
            return LimitSource::Unknown;
        }
        let limit = |inode: u32| self.told.get(&inode).copied().flatten();
        if watched.readings.iter().any(|r| limit(r.id.inode).is_none()) {
            return LimitSource::Unknown;
        }
        for reading in &mut watched.readings {
            reading.backlog = limit(reading.id.inode);
        }
        LimitSource::Told
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
                watched.limit = self.apply_told_limits(watched);
            } else if is_unix {
                waiting.blocked = sum(watched.readings.iter().map(|r| blocked.before(r)));
            }
        }
    }

    /// The refusals that witnesses counted, told by listener.
    pub(super) fn refused(
        &mut self,
        refusals: &mut Refusals,
        sockets: &Sockets,
        sample: &mut Sample,
    ) -> (Vec<Refused>, Option<NginxLog>) {
        if !refusals.are_witnessed() {
            return (Vec::new(), None);
        }
        let listeners = sample.listeners.iter().zip(&self.members);
        let targets: Vec<Target> = listeners
            .filter_map(|(watched, members)| target(&watched.listener, members, sockets))
            .collect();
        refusals.read(&targets, &mut self.resolver, &mut sample.outcomes)
    }

    /// Looks at who waits in the TCP queues that the sample found not to be empty.
    pub(super) fn look(&self, looks: &mut Looks, sockets: &mut Sockets, sample: &mut Sample) {
        for (watched, bounds) in sample.listeners.iter().zip(&self.bounds) {
            for bound in bounds {
                if watched.occupied() && watched.limit == LimitSource::Kernel {
                    looks.want(*bound);
                } else {
                    looks.empty(*bound);
                }
            }
        }
        looks.take(sample.at, sockets, &mut sample.outcomes);
        for (watched, bounds) in sample.listeners.iter_mut().zip(&self.bounds) {
            if !bounds.is_empty() && watched.occupied() && watched.limit == LimitSource::Kernel {
                watched.waiting.tcp = looks.found(bounds);
            }
        }
    }
}

/// The sum, if every part is known.
fn sum(mut parts: impl Iterator<Item = Option<u32>>) -> Option<u64> {
    parts.try_fold(0, |sum, part| Some(sum + u64::from(part?)))
}

/// A unix listener as far as a name can mean it.
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
            members.unix = if sockets.is_read_from_a_table(address) {
                // It has names as they are printed, and no files.
                let printed = table::name(&table::printed(name));
                match_unix(&printed, None, &bound(sockets))
            } else {
                match_unix(name, leads_to.as_ref().ok().copied(), &bound(sockets))
            };
            absence = why_missing(leads_to);
        }
        Address::Tcp(_) | Address::TcpPort(_) => {
            let local = sockets.tcp.iter().map(|listener| listener.bound.address);
            let matching = local
                .enumerate()
                .filter(|(_, local)| match_tcp(address, *local));
            members.tcp = matching.map(|(index, _)| index).collect();
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

/// A discovered listener whose source fails now: it is not gone, nothing is known of it.
fn unlisted(listener: &Arc<Listener>, sockets: &Sockets) -> Option<Found> {
    sockets
        .failed(&listener.address)
        .then(|| (Arc::clone(listener), Members::default(), Presence::Unknown))
}

fn bound(
    sockets: &Sockets,
) -> impl Iterator<Item = (&UnixName, Option<crate::listener::FileId>)> + Clone {
    // A listener always has a name; the index has to stay that of the listing.
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

/// Every listener of the listing under its address, and the number of those beyond the limit. Listeners that are known stay.
fn discover(
    discovery: &Discovery,
    sockets: &Sockets,
    resolver: &mut Resolver,
    known: &BTreeMap<&str, &Arc<Listener>>,
) -> (Vec<Found>, usize) {
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
    let mut found: Vec<Found> = groups
        .into_iter()
        .map(|(address, members)| (address.to_string(), address, members))
        .filter(|(name, ..)| {
            let excluded = discovery
                .exclude
                .as_ref()
                .is_some_and(|regex| regex.is_match(name));
            !excluded
        })
        .map(|(name, address, members)| {
            let listener = match known.get(name.as_str()) {
                Some(listener) => Arc::clone(listener),
                None => Arc::new(Listener::discovered(address)),
            };
            (listener, members, Presence::Up)
        })
        .collect();
    // A stable sort: what is watched already comes first, the rest by address.
    found.sort_by_key(|(listener, ..)| !known.contains_key(listener.name.as_str()));
    let ignored = found.len().saturating_sub(discovery.limit);
    found.truncate(discovery.limit);
    for (listener, members, _) in &mut found {
        let Address::Unix(UnixName::Path(path)) = &listener.address else {
            continue;
        };
        // Several sockets of one name: the path may tell which of them it led to once.
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
    (found, ignored)
}
