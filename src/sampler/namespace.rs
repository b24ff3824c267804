//! One network namespace: how it is read, and its rounds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::blocked::Blocked;
use super::cost::Cost;
use super::refused::Refusals;
use super::scans::Scans;
use super::sockets::{Outcomes, Sockets};
use super::watch::Watcher;
use super::{LISTING_INTERVAL, Scope, TABLE_DISTANCE, cpu_time};
use crate::kernel::mount::Resolver;
use crate::kernel::namespace::Way;
use crate::kernel::netstat::{Netstat, TcpExt};
use crate::kernel::sysctl::{Settings, Sysctls};
use crate::sample::{self, Absence, Presence, Sample, Slow, Source, Watched};

/// After a socket disappeared or could not be read, listeners are listed at this interval for a while, so that an application that restarts is
/// found soon, at a limited cost.
const REDISCOVERY_INTERVAL: Duration = Duration::from_millis(50);
/// How long that continues.
const REDISCOVERY: Duration = Duration::from_secs(10);

/// One in this many rounds has its cost measured, while the cost is small.
const UNMEASURED: u32 = 16;
/// The first listings of namespaces are spread over this many parts of the time between listings.
const LISTING_SLOTS: u32 = 64;

/// A network namespace and how it is read.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its identity and labels.
    pub namespace: Arc<sample::Namespace>,
    /// The directory that contains its `net` directory.
    pub root: PathBuf,
    /// The way to its `sock_diag`.
    pub way: Way,
    /// Its settings, if they can be read.
    pub settings: Option<Sysctls>,
    /// The kernel's number of the namespace, if there are others and it is known.
    pub number: Option<u32>,
    /// Time between listings.
    pub listing_interval: Duration,
    /// The time between rounds of its `sock_diag`, as a multiple of the CPU time of a round; 0 for no such limit.
    pub distance: u32,
}

impl Entry {
    /// The exporter's own namespace, if it is the only one.
    pub(super) fn own(procfs: &Path) -> Self {
        Self {
            namespace: Arc::default(),
            root: procfs.to_owned(),
            way: Way::Own,
            settings: Some(Sysctls::new(procfs)),
            number: None,
            listing_interval: LISTING_INTERVAL,
            distance: 0,
        }
    }

    /// Whether names can be looked up from here.
    fn is_own(&self) -> bool {
        matches!(self.way, Way::Own)
    }
}

/// Everything that a round works on in one namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    sample: Sample,
    /// Idle rounds since that sample.
    idle: Vec<Duration>,
    outcomes: Outcomes,
    pub(super) sockets: Sockets,
    pub(super) watcher: Watcher,
    pub(super) blocked: Blocked,
    scans: Scans,
    slow: SlowReader,
    pub(super) number: Option<u32>,
    listing_interval: Duration,
    next_listing: Duration,
    rediscovery_ends: Duration,
    next_rediscovery: Duration,
    distance: u32,
    /// Empty if it has no limit.
    pub(super) cost: Cost,
    /// Rounds until the cost is measured again.
    until_measured: u32,
    /// Whether the last round was measured.
    pub(super) was_measured: bool,
    /// Time between its rounds.
    pub(super) pace: Duration,
    pub(super) last_round: Duration,
    /// The last value read.
    somaxconn: Option<u32>,
}

impl Namespace {
    /// A namespace that was not read yet. Opens as many of its files and sockets as possible.
    pub(super) fn new(entry: Entry, scope: &Scope) -> Self {
        let (root, is_own) = (entry.root.as_path(), entry.is_own());
        let resolver = if is_own {
            Resolver::new(root)
        } else {
            Resolver::of_nothing()
        };
        Self {
            watcher: Watcher::new(Arc::clone(&scope.watch), resolver),
            blocked: Blocked::new(root, is_own),
            slow: SlowReader::new(root, entry.settings),
            sockets: Sockets::new(entry.way, root, is_own),
            scans: Scans::new(scope.tcp_interval, scope.interval),
            sample: Sample {
                namespace: entry.namespace,
                ..Sample::default()
            },
            idle: Vec::new(),
            outcomes: Vec::new(),
            number: entry.number,
            listing_interval: entry.listing_interval,
            next_listing: Duration::ZERO,
            rediscovery_ends: Duration::ZERO,
            next_rediscovery: Duration::ZERO,
            distance: entry.distance,
            cost: Cost::default(),
            until_measured: 0,
            was_measured: false,
            pace: scope.interval,
            last_round: Duration::ZERO,
            somaxconn: None,
        }
    }

    /// Its unique number.
    pub(super) fn id(&self) -> u64 {
        self.sample.namespace.id
    }

    /// Whose it is.
    pub(super) fn share(&self) -> &str {
        &self.sample.namespace.share
    }

    /// It is that one from now on.
    #[cfg(test)]
    pub(super) fn set_identity(&mut self, namespace: sample::Namespace) {
        self.sample.namespace = Arc::new(namespace);
    }

    /// Reads it below another root from now on.
    pub(super) fn move_to(&mut self, root: &Path) {
        self.sockets.move_to(root);
        self.blocked.move_to(root);
        root.clone_into(&mut self.slow.root);
    }

    /// The minimum time between two of its rounds, from the cost of the last ones.
    pub(super) fn least_pace(&self) -> Duration {
        let distance = if self.sockets.read_tables() {
            TABLE_DISTANCE
        } else {
            self.distance
        };
        self.cost.mean().saturating_mul(distance)
    }

    /// Whether its next round is due, if rounds are `pace` apart. No round is omitted because the thread woke up late.
    pub(super) fn is_due(&self, started: Duration, pace: Duration) -> bool {
        self.pace <= pace || started >= self.last_round + self.pace
    }

    /// The time that a round stands for, if rounds are further apart than configured. A stall counts as two rounds at most.
    pub(super) fn distance(&self, started: Duration, interval: Duration) -> Option<Duration> {
        let distance = started.saturating_sub(self.last_round);
        (self.pace > interval).then_some(distance.min(self.pace * 2))
    }

    /// Runs a round, and passes it to `record` after the idle rounds before it. True if the round was idle, too: then it is kept until
    /// `record_idle`.
    pub(super) fn round(
        &mut self,
        started: Duration,
        late: bool,
        distance: Option<Duration>,
        refusals: &mut Refusals,
        record: impl FnMut(&Sample),
    ) -> bool {
        let before = self.is_measured().then(cpu_time);
        self.was_measured = before.is_some();
        let is_idle = self.round_at_its_pace(started, late, distance, refusals, record);
        self.last_round = started;
        if !self.is_bounded() {
            self.cost.clear();
        } else if let Some(before) = before {
            self.cost.add(cpu_time().saturating_sub(before));
        }
        is_idle
    }

    /// Reading the CPU clock takes as long as a lookup: while the cost is far below its limit, only some rounds are measured.
    fn is_measured(&mut self) -> bool {
        self.until_measured = self.until_measured.saturating_sub(1);
        let is_far = !self.sockets.read_tables() && self.least_pace() * 2 < self.pace;
        let is_due = self.until_measured == 0 || !is_far;
        if is_due {
            self.until_measured = UNMEASURED;
        }
        self.is_bounded() && is_due
    }

    fn is_bounded(&self) -> bool {
        self.distance > 0 || self.sockets.read_tables()
    }

    fn round_at_its_pace(
        &mut self,
        started: Duration,
        late: bool,
        distance: Option<Duration>,
        refusals: &mut Refusals,
        mut record: impl FnMut(&Sample),
    ) -> bool {
        self.outcomes.clear();
        self.sockets.begin(started);
        let listing_is_due = started >= self.next_listing;
        let rediscovery_is_due =
            started < self.rediscovery_ends && started >= self.next_rediscovery;
        let all_found = self.sockets.read(&mut self.outcomes, listing_is_due);
        let is_missing = !all_found || self.outcomes.iter().any(|(_, outcome)| outcome.is_err());
        let is_idle = !(listing_is_due || rediscovery_is_due || is_missing || late)
            && self.sockets.are_idle()
            && !self.blocked.is_pending()
            && self.sockets.unreadable().is_empty();
        if is_idle {
            self.idle.push(started);
            return true;
        }
        self.record_idle(&mut record);
        let sample = &mut self.sample;
        (sample.at, sample.distance) = (started, distance);
        sample.slow = None;
        std::mem::swap(&mut sample.outcomes, &mut self.outcomes);
        if listing_is_due {
            let slow = self.slow.read(&mut sample.outcomes);
            self.somaxconn = slow.settings.somaxconn;
            sample.slow = Some(slow);
        }
        if is_missing {
            self.rediscovery_ends = started + REDISCOVERY;
        }
        if listing_is_due || is_missing || rediscovery_is_due {
            self.next_rediscovery = started + REDISCOVERY_INTERVAL;
            let is_known =
                !is_missing && !rediscovery_is_due && self.watcher.knows_unix(&self.sockets);
            self.list(is_known);
            // A socket that was renamed to its path after the listing is in the next one.
            if !listing_is_due && self.sample.listeners.iter().any(is_unlisted) {
                self.list(false);
            }
        }
        if listing_is_due {
            self.next_listing = started + self.until_listing();
        }
        let sample = &mut self.sample;
        if listing_is_due {
            let (refused, nginx_log) =
                self.watcher
                    .refused(refusals, self.number, &self.sockets, sample);
            if let Some(slow) = &mut sample.slow {
                (slow.refused, slow.nginx_log) = (refused, nginx_log);
            }
        }
        self.sockets.list_queues(&mut sample.outcomes);
        self.blocked
            .scan(started, &self.sockets, &mut sample.outcomes);
        self.watcher
            .fill(&self.sockets, &self.blocked, &mut sample.listeners);
        self.watcher
            .scan(&mut self.scans, &mut self.sockets, sample);
        sample.unreadable.clear();
        sample
            .unreadable
            .extend_from_slice(self.sockets.unreadable());
        record(sample);
        false
    }

    /// The second listings of namespaces that were found together are at different times, so that no round has all of them.
    fn until_listing(&self) -> Duration {
        match self.next_listing {
            Duration::ZERO => self.listing_interval * (LISTING_SLOTS - self.slot()) / LISTING_SLOTS,
            _ => self.listing_interval,
        }
    }

    fn slot(&self) -> u32 {
        u32::try_from(self.id() % u64::from(LISTING_SLOTS)).unwrap_or_default()
    }

    fn list(&mut self, unix_is_known: bool) {
        let sample = &mut self.sample;
        let wanted = self.watcher.wanted();
        self.sockets
            .list(&mut sample.outcomes, unix_is_known, wanted);
        self.watcher
            .resolve(&mut self.sockets, self.somaxconn, sample);
    }

    /// Records the idle rounds: the sample before them, at their instants.
    pub(super) fn record_idle(&mut self, mut record: impl FnMut(&Sample)) {
        let sample = &mut self.sample;
        sample.outcomes.clear();
        sample.unreadable.clear();
        (sample.slow, sample.distance) = (None, None);
        for at in self.idle.drain(..) {
            sample.at = at;
            record(sample);
        }
    }
}

fn is_unlisted(watched: &Watched) -> bool {
    watched.presence == Presence::Missing(Absence::NoListenerOfFile)
}

/// The files that are read once a second.
#[derive(Debug)]
struct SlowReader {
    root: PathBuf,
    netstat: Option<Netstat>,
    /// Absent if they are not available.
    sysctls: Option<Sysctls>,
}

impl SlowReader {
    fn new(root: &Path, sysctls: Option<Sysctls>) -> Self {
        Self {
            root: root.to_owned(),
            // If that fails, the first read reports it.
            netstat: Netstat::open(root).ok(),
            sysctls,
        }
    }

    fn read(&mut self, outcomes: &mut Vec<(Source, Result<(), String>)>) -> Slow {
        let mut settings = Settings::default();
        if let Some(sysctls) = &mut self.sysctls {
            let outcome;
            (settings, outcome) = sysctls.read();
            outcomes.push((Source::Sysctl, outcome.map_err(|e| e.to_string())));
        }
        let tcp_ext = self.read_netstat();
        let netstat = tcp_ext.as_ref().map(|_| ()).map_err(ToString::to_string);
        outcomes.push((Source::Netstat, netstat));
        Slow {
            settings,
            tcp_ext: tcp_ext.unwrap_or_default(),
            ..Slow::default()
        }
    }

    fn read_netstat(&mut self) -> io::Result<TcpExt> {
        let netstat = match &mut self.netstat {
            Some(netstat) => netstat,
            None => self.netstat.insert(Netstat::open(&self.root)?),
        };
        netstat.read()
    }
}
