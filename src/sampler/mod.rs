//! The sampler: a thread with its own clock that asks the kernel, round after round, and feeds the ledger.
//!
//! It never formats, serves, or waits for a scrape; the ledger's lock is held by either side for microseconds.

mod blocked;
mod cost;
mod namespace;
mod node;
mod plan;
mod refused;
mod scans;
mod sockets;
mod tables;
mod watch;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

pub use node::Node;
pub use watch::{Discovery, Watch};

use crate::kernel::process::ProcessReader;
use crate::ledger::{Event, Ledger};
use crate::refusals::{Ebpf, LogSource};
use crate::sample::{Round, Sample};
use namespace::{Entry, Namespace};
use node::Change;
use refused::Refusals;

/// Listeners are listed, and slow figures read, this often.
const LISTING_INTERVAL: Duration = Duration::from_secs(1);
/// Idle rounds are recorded together, after this time at the latest: by the next round the state that they change is no longer in the
/// processor's caches, and fetching it costs more than asking the kernel.
const IDLE_TIME: Duration = Duration::from_millis(100);
/// The time between rounds that read tables, as a multiple of the mean CPU time of a round: less than a hundredth of a core, including the work
/// between rounds.
const TABLE_DISTANCE: u32 = 150;
/// The maximum share of a core that the tables of all namespaces take together.
const TABLE_LOAD: f64 = 0.1;
/// The maximum time between rounds.
const SLOWEST: Duration = Duration::from_mins(1);
/// A round allocates little and has no deep calls.
const STACK: usize = 256 * 1024;

/// The configuration of the sampler.
#[derive(Debug)]
pub struct Config {
    /// Time between rounds.
    pub interval: Duration,
    /// Time between scans of the connections that wait in TCP queues.
    pub tcp_interval: Duration,
    /// Which listeners to watch.
    pub watch: Watch,
    /// The counts of refused connects from the nginx log, if enabled.
    pub nginx_log: Option<LogSource>,
    /// The counts of refused connects from the kernel, if enabled.
    pub ebpf: Option<Ebpf>,
    /// Mount point of procfs.
    pub procfs: PathBuf,
    /// Whether and how to watch all network namespaces of the machine instead of the exporter's own.
    pub node: Option<Node>,
}

/// How every namespace is watched.
#[derive(Debug, Clone)]
struct Scope {
    watch: Arc<Watch>,
    /// Time between scans of the connections that wait in TCP queues.
    tcp_interval: Duration,
    /// Time between rounds.
    interval: Duration,
}

/// The monotonic clock that samples carry.
#[must_use]
pub fn now() -> Duration {
    to_duration(clock_gettime(ClockId::Monotonic))
}

/// Starts the thread. It runs until the process ends; `report` gets each event when it occurs and must not block.
///
/// # Errors
/// If no thread can be started.
pub fn start(
    config: Config,
    ledger: Arc<Mutex<Ledger>>,
    report: impl Fn(Event) + Send + 'static,
) -> io::Result<()> {
    let mut sampler = Sampler::new(config)?;
    let run = move || {
        let mut deadline = now();
        loop {
            sleep_until(deadline);
            let started = now();
            let behind = started.saturating_sub(deadline);
            let late = is_late(behind, sampler.pace());
            sampler.round(started, late, |news| {
                let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
                news.record(&mut ledger);
                ledger.take_events().for_each(&report);
            });
            deadline = next_deadline(deadline, behind, sampler.pace());
        }
    };
    thread::Builder::new()
        .name("sampler".to_owned())
        .stack_size(STACK)
        .spawn(run)?;
    Ok(())
}

/// Whether a round that started `behind` its deadline was more than one interval late.
fn is_late(behind: Duration, interval: Duration) -> bool {
    behind > interval
}

/// The first deadline of the grid after the round that started `behind` its own.
fn next_deadline(deadline: Duration, behind: Duration, interval: Duration) -> Duration {
    let missed = behind.as_nanos() / interval.as_nanos().max(1);
    let steps = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
    deadline + interval.saturating_mul(steps)
}

fn sleep_until(deadline: Duration) {
    let request = Timespec {
        tv_sec: i64::try_from(deadline.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(deadline.subsec_nanos()),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &request) == Err(Errno::INTR) {}
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    to_duration(clock_gettime(ClockId::ThreadCPUTime))
}

fn to_duration(time: Timespec) -> Duration {
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// What the ledger records.
#[derive(Debug, Clone, Copy)]
enum News<'a> {
    /// What a round read of a namespace.
    Sample(&'a Sample),
    /// A completed round, after the samples of its namespaces.
    Round(&'a Round),
    /// This namespace was removed.
    Removed(u64),
    /// A namespace could not be entered, for this reason.
    Closed(&'a str),
}

impl News<'_> {
    fn record(self, ledger: &mut Ledger) {
        match self {
            Self::Sample(sample) => ledger.record(sample),
            Self::Round(round) => ledger.record_round(round),
            Self::Removed(id) => ledger.forget(id),
            Self::Closed(reason) => ledger.record_closed(reason),
        }
    }
}

/// Everything that a round works on.
#[derive(Debug)]
struct Sampler {
    interval: Duration,
    namespaces: Vec<Namespace>,
    /// Rounds that are not recorded yet.
    rounds: Vec<Round>,
    process: Option<ProcessReader>,
    next_process: Duration,
    refusals: Refusals,
    changes: Receiver<Change>,
    ignored_namespaces: Option<usize>,
}

impl Sampler {
    fn new(config: Config) -> io::Result<Self> {
        let scope = Scope {
            watch: Arc::new(config.watch),
            tcp_interval: config.tcp_interval,
            interval: config.interval,
        };
        let changes = if let Some(node) = config.node {
            node::start(node, config.procfs.clone(), scope)?
        } else {
            let (changes, receiver) = mpsc::channel();
            let own = Namespace::new(Entry::own(&config.procfs), &scope);
            // The receiver is there.
            let _ = changes.send(Change::Added(Box::new(own)));
            receiver
        };
        Ok(Self {
            interval: config.interval,
            namespaces: Vec::new(),
            rounds: Vec::new(),
            process: ProcessReader::open(&config.procfs).ok(),
            next_process: Duration::ZERO,
            refusals: Refusals::new(config.nginx_log, config.ebpf, &config.procfs),
            changes,
            ignored_namespaces: None,
        })
    }

    /// The time between rounds: that of the namespace with the shortest.
    fn pace(&self) -> Duration {
        let paces = self.namespaces.iter().map(|namespace| namespace.pace);
        paces.min().unwrap_or(self.interval)
    }

    /// Sets the time between the rounds of each namespace: as configured, or longer if that costs too much. The namespaces of one share have a
    /// common limit, and so have all namespaces whose tables are read.
    fn set_paces(&mut self) {
        let interval = self.interval;
        let mut shares: HashMap<&str, Duration> = HashMap::new();
        for namespace in &self.namespaces {
            *shares.entry(namespace.share()).or_default() += namespace.least_pace();
        }
        let pace = |namespace: &Namespace| {
            let least = shares.get(namespace.share()).copied();
            interval.max(least.unwrap_or_default())
        };
        let mut paces: Vec<Duration> = self.namespaces.iter().map(pace).collect();
        let each = self.namespaces.iter().zip(&paces);
        let tables = each.filter(|(namespace, _)| namespace.sockets.read_tables());
        let load: f64 = tables
            .map(|(namespace, pace)| namespace.cost.mean().as_secs_f64() / pace.as_secs_f64())
            .sum();
        let stretch = (load / TABLE_LOAD).max(1.0);
        for (namespace, pace) in self.namespaces.iter_mut().zip(&mut paces) {
            if namespace.sockets.read_tables() {
                *pace = pace.mul_f64(stretch);
            }
            namespace.pace = (*pace).min(SLOWEST.max(interval));
        }
    }

    /// Adds, moves and removes namespaces.
    fn take_changes(&mut self, mut record: impl FnMut(News)) {
        while let Ok(change) = self.changes.try_recv() {
            match change {
                Change::Added(mut namespace) => {
                    let mut known = self.namespaces.iter();
                    if let Some(known) = known.find(|known| known.share() == namespace.share()) {
                        namespace.watcher.join(&known.watcher);
                    }
                    self.namespaces.push(*namespace);
                }
                Change::Moved(id, root) => {
                    let moved = self.namespaces.iter_mut().find(|known| known.id() == id);
                    if let Some(namespace) = moved {
                        namespace.move_to(&root);
                    }
                }
                Change::Removed(id) => {
                    let removed = self.namespaces.iter().find(|known| known.id() == id);
                    if let Some(number) = removed.and_then(|removed| removed.number) {
                        self.refusals.forget(number);
                    }
                    self.namespaces.retain(|known| known.id() != id);
                    record(News::Removed(id));
                }
                Change::Ignored(count) => self.ignored_namespaces = Some(count),
                Change::Closed(reason) => record(News::Closed(&reason)),
            }
        }
    }

    /// Runs a round, and passes what is due to `record`. The samples of idle rounds may be kept for later.
    fn round(&mut self, started: Duration, late: bool, mut record: impl FnMut(News)) {
        self.take_changes(&mut record);
        let pace = self.pace();
        let mut is_idle = true;
        for namespace in &mut self.namespaces {
            if !namespace.is_due(started, pace) {
                continue;
            }
            let distance = namespace.distance(started, self.interval);
            let refusals = &mut self.refusals;
            is_idle &= namespace.round(started, late, distance, refusals, |sample| {
                record(News::Sample(sample));
            });
        }
        if self
            .namespaces
            .iter()
            .any(|namespace| namespace.was_measured)
        {
            self.set_paces();
        }
        let process_is_due = started >= self.next_process;
        let process = process_is_due.then(|| {
            self.next_process = started + LISTING_INTERVAL;
            let process = self.process.as_ref();
            process.and_then(|process| process.read().ok())
        });
        self.rounds.push(Round {
            at: started,
            took: now().saturating_sub(started),
            late,
            pace: Some(self.pace()).filter(|pace| *pace > self.interval),
            process,
            ignored_namespaces: self.ignored_namespaces,
        });
        let first = self.rounds.first().map_or(started, |first| first.at);
        if is_idle && process.is_none() && started + self.pace() < first + IDLE_TIME {
            return;
        }
        for namespace in &mut self.namespaces {
            namespace.record_idle(|sample| record(News::Sample(sample)));
        }
        for round in self.rounds.drain(..) {
            record(News::Round(&round));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use std::path::Path;

    use super::*;
    use crate::kernel::mount::Resolver;
    use crate::kernel::namespace::Way;
    use crate::listener::Listener;
    use crate::sample::{LimitSource, Presence, Source};
    use blocked::Blocked;
    use sockets::Sockets;
    use watch::Watcher;

    /// How a row of `/proc/net/unix` begins.
    const ROW: &str = "0000000000000000:";

    /// A sampler of one listener, that listener, and where it listens.
    fn sampler_of(name: &str) -> (Sampler, UnixListener, SocketAddr) {
        let (name, option) = name.split_once(',').unwrap_or((name, ""));
        let name = format!("{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let option = if option.is_empty() {
            String::new()
        } else {
            format!(",{option}")
        };
        let sampler = Sampler::new(Config {
            interval: Duration::from_millis(10),
            tcp_interval: Duration::from_secs(1),
            watch: Watch::Configured(vec![
                Listener::parse(&format!("unix:@{name}{option}")).unwrap(),
            ]),
            nginx_log: None,
            ebpf: None,
            procfs: "/proc".into(),
            node: None,
        });
        let mut sampler = sampler.unwrap();
        sampler.take_changes(|_| {});
        (sampler, listener, address)
    }

    /// Takes a round, and hands the samples that are recorded to `each`.
    fn round(sampler: &mut Sampler, at_ms: u64, mut each: impl FnMut(&Sample)) {
        sampler.round(Duration::from_millis(at_ms), false, |news| match news {
            News::Sample(sample) => each(sample),
            News::Round(_) | News::Removed(_) | News::Closed(_) => {}
        });
    }

    #[test]
    fn idle_rounds_are_recorded_late_but_all_and_before_what_is_new() {
        let (mut sampler, listener, address) = sampler_of("idle");
        let (mut recorded, mut rounds) = (Vec::new(), Vec::new());
        let mut round = |at_ms: u64| {
            let before = recorded.len();
            let started = Duration::from_millis(at_ms);
            sampler.round(started, at_ms == 170, |news| match news {
                News::Sample(sample) => {
                    let readings = &sample.listeners[0].readings;
                    assert_eq!(readings.len(), 1);
                    recorded.push((sample.at.as_millis(), readings[0].depth));
                }
                News::Round(round) => rounds.push((round.at.as_millis(), round.late)),
                News::Removed(_) | News::Closed(_) => {}
            });
            let is_late = |(at, _): &(u128, u32)| (*at, *at == 170);
            let expected: Vec<_> = recorded.iter().map(is_late).collect();
            assert_eq!(rounds, expected, "each sample is of a round that is over");
            recorded[before..].to_vec()
        };
        let idle = |range: std::ops::Range<u128>| -> Vec<(u128, u32)> {
            range.map(|tens| (tens * 10, 0)).collect()
        };
        assert_eq!(round(0), idle(0..1), "a listing is news");
        for at_ms in (10..100).step_by(10) {
            assert!(round(at_ms).is_empty());
        }
        assert_eq!(round(100), idle(1..11));
        assert!(round(110).is_empty());
        let client = UnixStream::connect_addr(&address).unwrap();
        let news = |at: u128, depth| vec![(at, depth)];
        assert_eq!(round(120), [idle(11..12), news(120, 1)].concat());
        assert_eq!(round(130), news(130, 1), "a connection waits");
        drop((client, listener.accept().unwrap()));
        assert_eq!(round(140), news(140, 0));
        assert!(round(150).is_empty());
        assert_eq!(round(170), [idle(15..16), news(170, 0)].concat());
        assert!(round(180).is_empty());
        assert_eq!(round(1000), [idle(18..19), idle(100..101)].concat());
    }

    #[test]
    fn unix_sockets_are_listed_again_if_the_configured_one_is_missing_or_its_path_leads_elsewhere()
    {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("g.sock");
        let first = UnixListener::bind(&path).unwrap();
        let (mut sampler, _, _) = sampler_of("listed");
        let listener = Listener::parse(&format!("unix:{}", path.display())).unwrap();
        let watch = Watch::Configured(vec![listener]);
        sampler.namespaces[0].watcher =
            Watcher::new(watch.into(), Resolver::new(Path::new("/proc")));
        let later = |name: &str| {
            let name = format!("later-{name}-{}", std::process::id());
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
        };
        // Whether the last listing has this socket, and how deep the watched one's queue is.
        let mut round = |at_ms, socket: &UnixListener| {
            let mut depth = None;
            self::round(&mut sampler, at_ms, |sample| {
                depth = sample.listeners[0].readings.first().map(|r| r.depth);
            });
            let inode = rustix::fs::fstat(socket).unwrap().st_ino;
            let unix = &sampler.namespaces[0].sockets.unix;
            let is_listed = unix.iter().any(|row| u64::from(row.id.inode) == inode);
            (is_listed, depth)
        };
        assert_eq!(round(0, &first), (true, Some(0)));
        let second = later("second");
        let _client = UnixStream::connect(&path).unwrap();
        assert_eq!(
            round(1000, &second),
            (false, Some(1)),
            "nothing has changed"
        );
        std::fs::remove_file(&path).unwrap();
        let replacement = UnixListener::bind(&path).unwrap();
        assert_eq!(round(2000, &second), (true, Some(0)), "the path leads on");
        let third = later("third");
        assert_eq!(round(3000, &third), (false, Some(0)));
        drop(replacement);
        assert_eq!(round(3010, &third), (true, None), "the socket is lost");
    }

    #[test]
    fn a_question_that_fails_is_an_error_of_its_source_and_asked_again_at_once() {
        let (mut sampler, _listener, _) = sampler_of("failing");
        let round = |sampler: &mut Sampler, at_ms| {
            let mut recorded = Vec::new();
            self::round(sampler, at_ms, |sample| {
                let unix = |(source, _): &&(Source, _)| *source == Source::UnixDiag;
                let outcomes = sample.outcomes.iter().filter(unix);
                let good: Vec<_> = outcomes.map(|(_, outcome)| outcome.is_ok()).collect();
                recorded.push((good, sample.listeners[0].readings.len()));
            });
            recorded
        };
        round(&mut sampler, 0);
        sampler.namespaces[0].sockets.fail_once();
        assert_eq!(round(&mut sampler, 10), [(vec![false, true], 1)]);
        assert!(round(&mut sampler, 20).is_empty());
    }

    /// The source of the listener's limit, its depth and its capacity after a round.
    fn round_of(
        sampler: &mut Sampler,
        ledger: &mut Ledger,
        at_ms: u64,
    ) -> (LimitSource, u64, Option<u64>) {
        sampler.round(Duration::from_millis(at_ms), false, |news| {
            news.record(ledger);
        });
        let listener = &ledger.view().listeners[0];
        (listener.limit, listener.depth(), listener.capacity())
    }

    #[test]
    fn while_sock_diag_is_denied_the_table_is_read_and_no_count_is_lost() {
        let (mut sampler, listener, address) = sampler_of("fallback,backlog=1");
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        rustix::net::listen(&listener, 1).unwrap();
        let connect = || UnixStream::connect_addr(&address).unwrap();
        let clients = [connect(), connect()];
        let kernel = (LimitSource::Kernel, 2, Some(2));
        assert_eq!(round_of(&mut sampler, &mut ledger, 0), kernel);
        assert_eq!(round_of(&mut sampler, &mut ledger, 10), kernel);

        sampler.namespaces[0].sockets.deny();
        let configured = (LimitSource::Configured, 2, Some(2));
        assert_eq!(round_of(&mut sampler, &mut ledger, 20), configured);
        drop(clients);
        assert_eq!(round_of(&mut sampler, &mut ledger, 30), configured);
        let seen = &ledger.view().listeners[0];
        assert_eq!(
            (seen.waits.abandoned, seen.waits.blocked),
            (Some(2), Some(0))
        );
        assert_eq!(seen.waits.oldest, None);
        assert!(sampler.namespaces[0].cost.mean() > Duration::ZERO);
        let up = |ledger: &Ledger, source| ledger.view().sources[&source].up;
        assert!(!up(&ledger, Source::UnixDiag) && up(&ledger, Source::ProcNetUnix));

        // sock_diag is tried again after half a minute, and not earlier.
        sampler.namespaces[0].sockets.allow();
        assert_eq!(round_of(&mut sampler, &mut ledger, 30_000), configured);
        assert_eq!(round_of(&mut sampler, &mut ledger, 30_030), configured);
        assert_eq!(round_of(&mut sampler, &mut ledger, 31_000), kernel);
        assert_eq!(sampler.pace(), sampler.interval);
        assert!(up(&ledger, Source::UnixDiag));
        let totals = ledger.view().listeners[0].totals.as_ref().unwrap();
        assert_eq!((totals.full_episodes, totals.replacements), (1, 0));
        let events: Vec<_> = ledger.take_events().collect();
        let changes = events
            .iter()
            .filter(|event| matches!(event, Event::SourceFailed(..) | Event::SourceRecovered(_)));
        assert_eq!(changes.count(), 4, "unix and TCP: {events:?}");
    }

    #[test]
    fn where_the_table_cannot_be_read_either_nothing_is_known_and_the_rest_goes_on() {
        let (mut sampler, _listener, _) = sampler_of("nothing");
        let procfs = tempfile::tempdir().unwrap();
        sampler.namespaces[0].sockets = Sockets::new(Way::Own, procfs.path(), true);
        sampler.namespaces[0].sockets.deny();
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        for second in 0..20 {
            sampler.round(Duration::from_secs(second), false, |news| {
                news.record(&mut ledger);
            });
        }
        let view = ledger.view();
        for source in [
            Source::UnixDiag,
            Source::ProcNetUnix,
            Source::InetDiag,
            Source::ProcNetTcp,
        ] {
            assert!(!view.sources[&source].up, "{source:?}");
        }
        assert!(view.sources[&Source::Netstat].up && view.samples == 20);
        assert_eq!(view.listeners[0].presence, Presence::Unknown);
        let events: Vec<_> = ledger.take_events().collect();
        assert_eq!(events.len(), 4, "one line a source: {events:?}");

        // With sock_diag, nobody needs the tables.
        sampler.namespaces[0].sockets.allow();
        sampler.round(Duration::from_mins(1), false, |news| {
            news.record(&mut ledger);
        });
        assert!(ledger.view().sources.values().all(|source| source.up));
    }

    #[test]
    fn rounds_are_so_far_apart_that_tables_take_less_than_a_hundredth_of_a_core() {
        let (mut sampler, ..) = sampler_of("pace");
        assert_eq!(sampler.pace(), sampler.interval);
        sampler.namespaces[0].sockets = Sockets::new(Way::Outside, Path::new("/proc"), false);
        let mut pace = |cost| {
            sampler.namespaces[0].cost.add(cost);
            sampler.set_paces();
            sampler.pace()
        };
        assert_eq!(pace(Duration::from_micros(50)), Duration::from_millis(10));
        (1..8).for_each(|_| _ = pace(Duration::from_millis(1)));
        // Interrupts during one round.
        assert_eq!(pace(Duration::from_millis(17)), Duration::from_millis(450));
        for _ in 0..7 {
            pace(Duration::from_millis(7));
        }
        assert_eq!(pace(Duration::from_millis(7)), Duration::from_millis(1050));
        let namespace = &mut sampler.namespaces[0];
        namespace.last_round = Duration::from_secs(1);
        let distance = |at_ms| namespace.distance(Duration::from_millis(at_ms), sampler.interval);
        assert_eq!(distance(2055), Some(Duration::from_millis(1055)));
        assert_eq!(
            distance(61_000),
            Some(Duration::from_millis(2100)),
            "a stall"
        );
    }

    #[test]
    fn the_table_of_a_family_without_a_listener_is_read_when_its_sock_diag_is_tried() {
        let (mut sampler, ..) = sampler_of("family");
        sampler.namespaces[0].sockets.deny();
        let mut reads = Vec::new();
        for second in 0..65 {
            round(&mut sampler, second * 1000, |sample| {
                let tcp = |(source, _): &&(Source, _)| *source == Source::ProcNetTcp;
                reads.extend(sample.outcomes.iter().filter(tcp).map(|_| second));
            });
        }
        assert_eq!(reads, [0, 30, 60]);
    }

    #[test]
    fn who_waits_for_the_next_round_knows_at_once_that_it_is_far_away() {
        let (mut sampler, ..) = sampler_of("far");
        let procfs = tempfile::tempdir().unwrap();
        std::fs::create_dir(procfs.path().join("net")).unwrap();
        let row = format!("{ROW} 00000003 00000000 00000000 0001 03 12345\n");
        let table = "header\n".to_owned() + &row.repeat(50_000);
        std::fs::write(procfs.path().join("net/unix"), table).unwrap();
        sampler.namespaces[0].sockets = Sockets::new(Way::Outside, procfs.path(), false);
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        sampler.round(Duration::ZERO, false, |news| news.record(&mut ledger));
        assert!(sampler.pace() > sampler.interval);
        assert_eq!(ledger.view().pace, Some(sampler.pace()));
    }

    fn of_share(share: String) -> crate::sample::Namespace {
        crate::sample::Namespace {
            share,
            ..crate::sample::Namespace::default()
        }
    }

    #[test]
    fn what_one_share_costs_makes_the_rounds_of_no_other_rarer() {
        let (mut sampler, ..) = sampler_of("shares");
        let scope = Scope {
            watch: Arc::new(Watch::Selected(Vec::new())),
            tcp_interval: Duration::from_secs(1),
            interval: sampler.interval,
        };
        sampler.namespaces.clear();
        let mut add = |share: &str, distance, cost_us| {
            let entry = Entry {
                namespace: Arc::new(of_share(share.to_owned())),
                distance,
                ..Entry::own(Path::new("/proc"))
            };
            let mut namespace = Namespace::new(entry, &scope);
            namespace.cost.add(Duration::from_micros(cost_us));
            sampler.namespaces.push(namespace);
        };
        (0..50).for_each(|_| add("greedy", 100, 400));
        add("modest", 100, 15);
        add("bounded by nothing", 0, 9000);
        sampler.set_paces();
        let paces: Vec<u128> = sampler
            .namespaces
            .iter()
            .map(|n| n.pace.as_millis())
            .collect();
        assert!(paces[..50].iter().all(|pace| *pace == 2000), "{paces:?}");
        assert_eq!(paces[50..], [10, 10]);
        assert!(!sampler.namespaces[0].is_due(Duration::from_secs(1), sampler.pace()));
        assert!(sampler.namespaces[50].is_due(Duration::from_millis(1), sampler.pace()));
        // All tables together take a tenth of a core.
        for namespace in &mut sampler.namespaces {
            namespace.sockets = Sockets::new(Way::Outside, Path::new("/proc"), false);
            namespace.cost.clear();
            namespace.cost.add(Duration::from_millis(10));
            let own = of_share(std::ptr::from_ref(namespace).addr().to_string());
            namespace.set_identity(own);
        }
        sampler.set_paces();
        let load: f64 = sampler
            .namespaces
            .iter()
            .map(|n| 10.0 / n.pace.as_secs_f64() / 1000.0)
            .sum();
        assert!((load - TABLE_LOAD).abs() < 1e-6, "{load}");
    }

    #[test]
    fn a_limit_that_is_not_configured_is_unknown_and_a_full_episode_goes_on_meanwhile() {
        let (mut sampler, listener, address) = sampler_of("not-configured");
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        rustix::net::listen(&listener, 0).unwrap();
        let _client = UnixStream::connect_addr(&address).unwrap();
        let kernel = (LimitSource::Kernel, 1, Some(1));
        assert_eq!(round_of(&mut sampler, &mut ledger, 0), kernel);
        sampler.namespaces[0].sockets.deny();
        let unknown = (LimitSource::Unknown, 1, None);
        assert_eq!(round_of(&mut sampler, &mut ledger, 10), unknown);
        sampler.namespaces[0].sockets.allow();
        assert_eq!(round_of(&mut sampler, &mut ledger, 31_000), kernel);
        let totals = ledger.view().listeners[0].totals.as_ref().unwrap();
        assert_eq!((totals.full_episodes, totals.replacements), (1, 0));
        assert_eq!(totals.full, Duration::from_millis(20));
    }

    #[test]
    fn blocked_connects_sleep_on_while_an_accept_leaves_room_for_a_moment() {
        let (mut sampler, listener, address) = sampler_of("blocked");
        let procfs = tempfile::tempdir().unwrap();
        let table = procfs.path().join("net/unix");
        std::fs::create_dir(procfs.path().join("net")).unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let sleep = |count: u32| {
            let references = 2 + count;
            let row = format!("{ROW} {references:08X} 00000000 00010000 0001 01 {inode:5} @name\n");
            std::fs::write(&table, format!("header\n{row}")).unwrap();
        };
        sleep(5);
        sampler.namespaces[0].blocked = Blocked::new(procfs.path(), true);
        let mut round = |at_ms: u64| {
            let mut recorded = Vec::new();
            self::round(&mut sampler, at_ms, |sample| {
                let watched = &sample.listeners[0];
                recorded.push((watched.readings[0].depth, watched.waiting.blocked));
            });
            recorded
        };
        rustix::net::listen(&listener, 1).unwrap();
        let connect = || UnixStream::connect_addr(&address).unwrap();
        assert_eq!(round(0), [(0, Some(0))]);
        let _clients = [connect(), connect()];
        assert_eq!(round(10), [(2, Some(5))]);
        listener.accept().unwrap();
        sleep(4);
        assert_eq!(round(100), [(1, Some(5))], "as of the last scan");
        assert_eq!(round(110), [(1, Some(4))]);
        let _client = connect();
        assert_eq!(round(200), [(2, Some(4))]);
        (0..2).for_each(|_| drop(listener.accept().unwrap()));
        sleep(0);
        assert_eq!(round(210), [(0, Some(0))]);
        assert_eq!(round(300), [(0, Some(0))]);
        // No connect sleeps and no queue is full: there is nothing to scan.
        sleep(9);
        assert_eq!(round(310), [(0, Some(0))]);
        assert!(round(320).is_empty());
        assert_eq!(round(1000), [(0, Some(0)), (0, Some(0))]);
        let _clients = [connect(), connect()];
        assert_eq!(round(1010), [(2, Some(9))]);
        (0..2).for_each(|_| drop(listener.accept().unwrap()));
        std::fs::write(&table, "").unwrap();
        assert_eq!(round(1020), [(0, Some(9))]);
        assert_eq!(round(1110), [(0, None)], "the table does not have it");
        assert_eq!(round(1210), [(0, Some(0))]);
    }

    #[test]
    fn a_queue_that_becomes_full_between_scans_waits_for_the_next() {
        let (mut sampler, first, first_address) = sampler_of("one");
        let (_, second, second_address) = sampler_of("two");
        let named = |name: &str| {
            let name = format!("unix:@{name}-{}", std::process::id());
            Listener::parse(&name).unwrap()
        };
        let both = Watch::Configured(vec![named("one"), named("two")]);
        sampler.namespaces[0].watcher =
            Watcher::new(both.into(), Resolver::new(Path::new("/proc")));
        let procfs = tempfile::tempdir().unwrap();
        std::fs::create_dir(procfs.path().join("net")).unwrap();
        let row = |listener: &UnixListener, references: u32| {
            rustix::net::listen(listener, 0).unwrap();
            let inode = rustix::fs::fstat(listener).unwrap().st_ino;
            format!("{ROW} {references:08X} 00000000 00010000 0001 01 {inode:5} @name\n")
        };
        let table = "header\n".to_owned() + &row(&first, 2 + 3) + &row(&second, 2 + 4);
        std::fs::write(procfs.path().join("net/unix"), table).unwrap();
        sampler.namespaces[0].blocked = Blocked::new(procfs.path(), true);
        let mut round = |at_ms: u64| {
            let mut last = Vec::new();
            self::round(&mut sampler, at_ms, |sample| {
                let blocked = sample.listeners.iter().map(|l| l.waiting.blocked);
                last = blocked.collect();
            });
            last
        };
        assert_eq!(round(0), [Some(0), Some(0)]);
        let _first = UnixStream::connect_addr(&first_address).unwrap();
        assert_eq!(round(10), [Some(3), Some(0)]);
        let _second = UnixStream::connect_addr(&second_address).unwrap();
        assert_eq!(round(20), [Some(3), None]);
        assert_eq!(round(110), [Some(3), Some(4)]);
        // Of a socket that is full and one that was, whichever has the lower number.
        second.accept().unwrap();
        assert_eq!(round(210), [Some(3), Some(4)]);
        let _second = UnixStream::connect_addr(&second_address).unwrap();
        first.accept().unwrap();
        assert_eq!(round(310), [Some(3), Some(4)]);
    }

    #[test]
    fn a_round_is_late_when_it_started_more_than_one_interval_behind() {
        let interval = Duration::from_millis(10);
        assert!(!is_late(Duration::ZERO, interval));
        assert!(!is_late(interval, interval));
        assert!(is_late(interval + Duration::from_nanos(1), interval));
    }

    #[test]
    fn a_round_that_started_late_is_followed_by_the_next_deadline_of_the_grid() {
        let ms = Duration::from_millis;
        assert_eq!(next_deadline(ms(100), ms(0), ms(10)), ms(110));
        assert_eq!(next_deadline(ms(100), ms(9), ms(10)), ms(110));
        assert_eq!(next_deadline(ms(100), ms(5003), ms(10)), ms(5110));
    }
}
