//! The sampler: a thread with its own clock that asks the kernel, round after round, and feeds the ledger.
//!
//! It never formats, serves, or waits for a scrape; the ledger's lock is held by either side for microseconds.

mod blocked;
mod looks;
mod plan;
mod refused;
mod sockets;
mod tables;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};

pub use watch::{Discovery, Watch};

use crate::kernel::netstat::{Netstat, TcpExt};
use crate::kernel::process::ProcessReader;
use crate::kernel::sysctl::Sysctls;
use crate::ledger::{Event, Ledger};
use crate::refusals::{Ebpf, Witness};
use crate::sample::{Absence, Presence, Sample, Slow, Source, Watched};
use blocked::Blocked;
use looks::Looks;
use refused::Refusals;
use sockets::{Outcomes, Sockets};
use watch::Watcher;

/// Listeners are listed, and slow figures read, this often.
const LISTING_INTERVAL: Duration = Duration::from_secs(1);
/// After a socket went away or could not be read, listeners are listed this often for a while: an application that restarts is seen
/// soon, and a passing failure costs no more.
const HUNTING_INTERVAL: Duration = Duration::from_millis(50);
/// For how long.
const HUNTING: Duration = Duration::from_secs(10);
/// Rounds that found nothing new are booked after this long at the latest, all at once: what they are booked on is out of the
/// processor's caches by the next round, and to fetch it costs more than to ask the kernel.
const QUIET_TIME: Duration = Duration::from_millis(100);
/// A round that reads tables is followed by the next after this many times what it took of a processor: under a hundredth of a core, with what
/// is not part of a round.
const TABLE_DISTANCE: u32 = 150;
/// And no further than this.
const SLOWEST: Duration = Duration::from_mins(1);
/// A round allocates little and calls nothing deep.
const STACK: usize = 256 * 1024;

/// What the sampler needs to know.
#[derive(Debug)]
pub struct Config {
    /// Time between rounds.
    pub interval: Duration,
    /// Time between looks at who waits in TCP queues.
    pub tcp_interval: Duration,
    /// What to look at.
    pub watch: Watch,
    /// Who counts the refused connects that nginx's log tells, if anybody.
    pub nginx_log: Option<Witness>,
    /// Who counts those that the kernel tells, if anybody.
    pub ebpf: Option<Ebpf>,
    /// Where procfs is mounted.
    pub procfs: PathBuf,
}

/// The monotonic clock that samples carry.
#[must_use]
pub fn now() -> Duration {
    to_duration(clock_gettime(ClockId::Monotonic))
}

/// Starts the thread. It runs until the process ends; `tell` gets each event as it happens and must not block.
///
/// # Errors
/// When no thread can be had.
pub fn start(
    config: Config,
    ledger: Arc<Mutex<Ledger>>,
    tell: impl Fn(Event) + Send + 'static,
) -> io::Result<()> {
    let mut sampler = Sampler::new(config);
    let run = move || {
        let mut deadline = now();
        loop {
            sleep_until(deadline);
            let started = now();
            let behind = started.saturating_sub(deadline);
            let late = is_late(behind, sampler.pace());
            sampler.round(started, late, |sample| {
                let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
                ledger.book(sample);
                ledger.take_events().for_each(&tell);
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

/// Whether a round that started `behind` its deadline did so over one interval late.
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

/// What this thread has used of a processor.
fn cpu_time() -> Duration {
    to_duration(clock_gettime(ClockId::ThreadCPUTime))
}

fn to_duration(time: Timespec) -> Duration {
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Everything that a round works on.
#[derive(Debug)]
struct Sampler {
    interval: Duration,
    sample: Sample,
    /// Rounds since that sample that found everything as it was.
    quiet: Vec<Quiet>,
    outcomes: Outcomes,
    sockets: Sockets,
    watcher: Watcher,
    blocked: Blocked,
    looks: Looks,
    slow: SlowReader,
    refusals: Refusals,
    next_listing: Duration,
    hunting_ends: Duration,
    next_hunt: Duration,
    /// What the last round took of a processor if it read tables; else zero.
    table_cost: Duration,
    last_round: Duration,
    /// As it was read last.
    somaxconn: Option<u32>,
}

/// A round that found nothing new.
#[derive(Debug)]
struct Quiet {
    at: Duration,
    took: Duration,
}

impl Sampler {
    fn new(config: Config) -> Self {
        Self {
            interval: config.interval,
            sample: Sample::default(),
            quiet: Vec::new(),
            outcomes: Vec::new(),
            sockets: Sockets::new(&config.procfs),
            watcher: Watcher::new(config.watch, &config.procfs),
            blocked: Blocked::new(&config.procfs),
            looks: Looks::new(config.tcp_interval, config.interval),
            slow: SlowReader::new(&config.procfs),
            refusals: Refusals::new(config.nginx_log, config.ebpf, &config.procfs),
            next_listing: Duration::ZERO,
            hunting_ends: Duration::ZERO,
            next_hunt: Duration::ZERO,
            table_cost: Duration::ZERO,
            last_round: Duration::ZERO,
            somaxconn: None,
        }
    }

    /// The time between rounds: as configured, or longer where tables have to be read.
    fn pace(&self) -> Duration {
        let least = self.table_cost.saturating_mul(TABLE_DISTANCE);
        self.interval.max(least.min(SLOWEST))
    }

    /// The time that a round stands for, where rounds are further apart than configured. A stall counts for no more than two of them.
    fn distance(&self, started: Duration) -> Option<Duration> {
        let pace = self.pace();
        let distance = started.saturating_sub(self.last_round).min(pace * 2);
        (pace > self.interval).then_some(distance)
    }

    /// Takes a round, and hands each sample that is due to `book`: those of quiet rounds may be kept for later ones.
    fn round(&mut self, started: Duration, late: bool, book: impl FnMut(&Sample)) {
        let before = self.sockets.read_tables().then(cpu_time);
        self.round_at_its_pace(started, late, book);
        self.last_round = started;
        self.table_cost = match before {
            Some(before) if self.sockets.read_tables() => cpu_time().saturating_sub(before),
            _ => Duration::ZERO,
        };
    }

    fn round_at_its_pace(&mut self, started: Duration, late: bool, mut book: impl FnMut(&Sample)) {
        let distance = self.distance(started);
        self.outcomes.clear();
        self.sockets.begin(started);
        let listing_is_due = started >= self.next_listing;
        let hunt_is_due = started < self.hunting_ends && started >= self.next_hunt;
        let all_found = self.sockets.read(&mut self.outcomes, listing_is_due);
        let is_lost = !all_found || self.outcomes.iter().any(|(_, outcome)| outcome.is_err());
        let is_quiet = !(listing_is_due || hunt_is_due || is_lost || late)
            && self.sockets.are_quiet()
            && !self.blocked.is_pending()
            && self.sockets.unreadable().is_empty();
        if is_quiet {
            self.quiet.push(Quiet {
                at: started,
                took: now().saturating_sub(started),
            });
            let first = self.quiet.first().map(|first| first.at);
            if first.is_some_and(|first| started + self.pace() >= first + QUIET_TIME) {
                self.book_quiet(book);
            }
            return;
        }
        self.book_quiet(&mut book);
        let sample = &mut self.sample;
        (sample.at, sample.late, sample.distance) = (started, late, distance);
        sample.slow = None;
        std::mem::swap(&mut sample.outcomes, &mut self.outcomes);
        if listing_is_due {
            let slow = self.slow.read(&mut sample.outcomes);
            self.somaxconn = slow.settings.somaxconn;
            sample.slow = Some(slow);
        }
        if is_lost {
            self.hunting_ends = started + HUNTING;
        }
        if listing_is_due || is_lost || hunt_is_due {
            self.next_hunt = started + HUNTING_INTERVAL;
            self.sockets.list(&mut sample.outcomes);
            self.watcher
                .resolve(&mut self.sockets, self.somaxconn, sample);
            let is_unlisted = |watched: &Watched| {
                watched.presence == Presence::Missing(Absence::NoListenerOfFile)
            };
            // A socket that was renamed into place after the listing is in the next one.
            if !listing_is_due && sample.listeners.iter().any(is_unlisted) {
                self.sockets.list(&mut sample.outcomes);
                self.watcher
                    .resolve(&mut self.sockets, self.somaxconn, sample);
            }
        }
        if listing_is_due {
            self.next_listing = started + LISTING_INTERVAL;
            let (refused, nginx_log) =
                self.watcher
                    .refused(&mut self.refusals, &self.sockets, sample);
            if let Some(slow) = &mut sample.slow {
                (slow.refused, slow.nginx_log) = (refused, nginx_log);
            }
        }
        self.sockets.list_queues(&mut sample.outcomes);
        self.blocked
            .look(started, &self.sockets, &mut sample.outcomes);
        self.watcher
            .fill(&self.sockets, &self.blocked, &mut sample.listeners);
        self.watcher
            .look(&mut self.looks, &mut self.sockets, sample);
        sample.unreadable.clear();
        sample
            .unreadable
            .extend_from_slice(self.sockets.unreadable());
        sample.took = now().saturating_sub(started);
        book(sample);
    }

    /// Books the rounds that found nothing new: the sample before them, at their instants.
    fn book_quiet(&mut self, mut book: impl FnMut(&Sample)) {
        let sample = &mut self.sample;
        sample.outcomes.clear();
        sample.unreadable.clear();
        (sample.late, sample.slow, sample.distance) = (false, None, None);
        for quiet in self.quiet.drain(..) {
            (sample.at, sample.took) = (quiet.at, quiet.took);
            book(sample);
        }
    }
}

/// The files that are read once a second.
#[derive(Debug)]
struct SlowReader {
    procfs: PathBuf,
    netstat: Option<Netstat>,
    sysctls: Sysctls,
    process: Option<ProcessReader>,
}

impl SlowReader {
    fn new(procfs: &Path) -> Self {
        Self {
            procfs: procfs.to_owned(),
            netstat: None,
            sysctls: Sysctls::new(procfs),
            process: ProcessReader::open(procfs).ok(),
        }
    }

    fn read(&mut self, outcomes: &mut Vec<(Source, Result<(), String>)>) -> Slow {
        let (settings, sysctls) = self.sysctls.read();
        outcomes.push((Source::Sysctl, sysctls.map_err(|e| e.to_string())));
        let tcp_ext = self.read_netstat();
        let netstat = tcp_ext.as_ref().map(|_| ()).map_err(ToString::to_string);
        outcomes.push((Source::Netstat, netstat));
        Slow {
            settings,
            tcp_ext: tcp_ext.unwrap_or_default(),
            process: self.process.as_ref().and_then(|p| p.read().ok()),
            ..Slow::default()
        }
    }

    fn read_netstat(&mut self) -> io::Result<TcpExt> {
        let netstat = match &mut self.netstat {
            Some(netstat) => netstat,
            None => self.netstat.insert(Netstat::open(&self.procfs)?),
        };
        netstat.read()
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;
    use crate::listener::Listener;
    use crate::sample::LimitSource;

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
        });
        (sampler, listener, address)
    }

    #[test]
    fn quiet_rounds_are_booked_late_but_all_and_before_what_is_new() {
        let (mut sampler, listener, address) = sampler_of("quiet");
        let mut booked = Vec::new();
        let mut round = |at_ms: u64| {
            let before = booked.len();
            sampler.round(Duration::from_millis(at_ms), at_ms == 170, |sample| {
                let readings = &sample.listeners[0].readings;
                assert_eq!(readings.len(), 1);
                booked.push((sample.at.as_millis(), readings[0].depth, sample.late));
            });
            booked[before..].to_vec()
        };
        let quiet = |range: std::ops::Range<u128>| -> Vec<(u128, u32, bool)> {
            range.map(|tens| (tens * 10, 0, false)).collect()
        };
        assert_eq!(round(0), quiet(0..1), "a listing is news");
        for at_ms in (10..100).step_by(10) {
            assert!(round(at_ms).is_empty());
        }
        assert_eq!(round(100), quiet(1..11));
        assert!(round(110).is_empty());
        let client = UnixStream::connect_addr(&address).unwrap();
        let news = |at: u128, depth| vec![(at, depth, false)];
        assert_eq!(round(120), [quiet(11..12), news(120, 1)].concat());
        assert_eq!(round(130), news(130, 1), "somebody waits");
        drop((client, listener.accept().unwrap()));
        assert_eq!(round(140), news(140, 0));
        assert!(round(150).is_empty());
        assert_eq!(round(170), [quiet(15..16), vec![(170, 0, true)]].concat());
        assert!(round(180).is_empty());
        assert_eq!(round(1000), [quiet(18..19), quiet(100..101)].concat());
    }

    #[test]
    fn a_question_that_fails_is_an_error_of_its_source_and_asked_again_at_once() {
        let (mut sampler, _listener, _) = sampler_of("failing");
        let round = |sampler: &mut Sampler, at_ms| {
            let mut booked = Vec::new();
            sampler.round(Duration::from_millis(at_ms), false, |sample| {
                let unix = |(source, _): &&(Source, _)| *source == Source::UnixDiag;
                let outcomes = sample.outcomes.iter().filter(unix);
                let good: Vec<_> = outcomes.map(|(_, outcome)| outcome.is_ok()).collect();
                booked.push((good, sample.listeners[0].readings.len()));
            });
            booked
        };
        round(&mut sampler, 0);
        sampler.sockets.fail_once();
        assert_eq!(round(&mut sampler, 10), [(vec![false, true], 1)]);
        assert!(round(&mut sampler, 20).is_empty());
    }

    /// What a round says of the one listener, and what happened to `unix_diag`.
    fn round_of(
        sampler: &mut Sampler,
        ledger: &mut Ledger,
        at_ms: u64,
    ) -> (LimitSource, u64, Option<u64>) {
        sampler.round(Duration::from_millis(at_ms), false, |sample| {
            ledger.book(sample);
        });
        let listener = &ledger.view().listeners[0];
        (listener.limit, listener.depth(), listener.capacity())
    }

    #[test]
    fn while_sock_diag_is_kept_away_the_table_is_read_and_nothing_that_was_counted_is_lost() {
        let (mut sampler, listener, address) = sampler_of("fallback,backlog=1");
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        rustix::net::listen(&listener, 1).unwrap();
        let connect = || UnixStream::connect_addr(&address).unwrap();
        let clients = [connect(), connect()];
        let kernel = (LimitSource::Kernel, 2, Some(2));
        assert_eq!(round_of(&mut sampler, &mut ledger, 0), kernel);
        assert_eq!(round_of(&mut sampler, &mut ledger, 10), kernel);

        sampler.sockets.keep_away();
        let told = (LimitSource::Told, 2, Some(2));
        assert_eq!(round_of(&mut sampler, &mut ledger, 20), told);
        drop(clients);
        assert_eq!(round_of(&mut sampler, &mut ledger, 30), told);
        let seen = &ledger.view().listeners[0];
        assert_eq!(
            (seen.waits.abandoned, seen.waits.blocked),
            (Some(2), Some(0))
        );
        assert_eq!(seen.waits.oldest, None);
        assert!(sampler.table_cost > Duration::ZERO);
        let up = |ledger: &Ledger, source| ledger.view().sources[&source].up;
        assert!(!up(&ledger, Source::UnixDiag) && up(&ledger, Source::ProcNetUnix));

        // It is tried again after half a minute, and not before.
        sampler.sockets.let_in();
        assert_eq!(round_of(&mut sampler, &mut ledger, 30_000), told);
        assert_eq!(round_of(&mut sampler, &mut ledger, 30_030), told);
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
        sampler.sockets = Sockets::new(procfs.path());
        sampler.sockets.keep_away();
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        for second in 0..20 {
            sampler.round(Duration::from_secs(second), false, |sample| {
                ledger.book(sample);
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
    }

    #[test]
    fn rounds_are_so_far_apart_that_tables_take_less_than_a_hundredth_of_a_core() {
        let (mut sampler, ..) = sampler_of("pace");
        assert_eq!(sampler.pace(), sampler.interval);
        sampler.table_cost = Duration::from_micros(50);
        assert_eq!(sampler.pace(), sampler.interval);
        sampler.table_cost = Duration::from_millis(7);
        assert_eq!(sampler.pace(), Duration::from_millis(1050));
        sampler.last_round = Duration::from_secs(1);
        let distance = |at_ms| sampler.distance(Duration::from_millis(at_ms));
        assert_eq!(distance(2055), Some(Duration::from_millis(1055)));
        assert_eq!(
            distance(61_000),
            Some(Duration::from_millis(2100)),
            "a stall"
        );
    }

    #[test]
    fn a_limit_that_nobody_told_is_unknown_and_a_full_episode_goes_on_meanwhile() {
        let (mut sampler, listener, address) = sampler_of("untold");
        let mut ledger = Ledger::new(Duration::from_millis(10), Duration::from_mins(1));
        rustix::net::listen(&listener, 0).unwrap();
        let _client = UnixStream::connect_addr(&address).unwrap();
        let kernel = (LimitSource::Kernel, 1, Some(1));
        assert_eq!(round_of(&mut sampler, &mut ledger, 0), kernel);
        sampler.sockets.keep_away();
        let unknown = (LimitSource::Unknown, 1, None);
        assert_eq!(round_of(&mut sampler, &mut ledger, 10), unknown);
        sampler.sockets.let_in();
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
        sampler.blocked = Blocked::new(procfs.path());
        let mut round = |at_ms: u64| {
            let mut booked = Vec::new();
            sampler.round(Duration::from_millis(at_ms), false, |sample| {
                let watched = &sample.listeners[0];
                booked.push((watched.readings[0].depth, watched.waiting.blocked));
            });
            booked
        };
        rustix::net::listen(&listener, 1).unwrap();
        let connect = || UnixStream::connect_addr(&address).unwrap();
        assert_eq!(round(0), [(0, Some(0))]);
        let _clients = [connect(), connect()];
        assert_eq!(round(10), [(2, Some(5))]);
        listener.accept().unwrap();
        sleep(4);
        assert_eq!(round(100), [(1, Some(5))], "as of the last look");
        assert_eq!(round(110), [(1, Some(4))]);
        let _client = connect();
        assert_eq!(round(200), [(2, Some(4))]);
        (0..2).for_each(|_| drop(listener.accept().unwrap()));
        sleep(0);
        assert_eq!(round(210), [(0, Some(0))]);
        assert_eq!(round(300), [(0, Some(0))]);
        // Nobody sleeps and nothing is full: there is nothing to look at.
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
    fn a_queue_that_becomes_full_between_looks_waits_for_the_next() {
        let (mut sampler, first, first_address) = sampler_of("one");
        let (_, second, second_address) = sampler_of("two");
        let named = |name: &str| {
            let name = format!("unix:@{name}-{}", std::process::id());
            Listener::parse(&name).unwrap()
        };
        let both = Watch::Configured(vec![named("one"), named("two")]);
        sampler.watcher = Watcher::new(both, Path::new("/proc"));
        let procfs = tempfile::tempdir().unwrap();
        std::fs::create_dir(procfs.path().join("net")).unwrap();
        let row = |listener: &UnixListener, references: u32| {
            rustix::net::listen(listener, 0).unwrap();
            let inode = rustix::fs::fstat(listener).unwrap().st_ino;
            format!("{ROW} {references:08X} 00000000 00010000 0001 01 {inode:5} @name\n")
        };
        let table = "header\n".to_owned() + &row(&first, 2 + 3) + &row(&second, 2 + 4);
        std::fs::write(procfs.path().join("net/unix"), table).unwrap();
        sampler.blocked = Blocked::new(procfs.path());
        let mut round = |at_ms: u64| {
            let mut last = Vec::new();
            sampler.round(Duration::from_millis(at_ms), false, |sample| {
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
