//! One look without serving: a table, what is wrong, what to do about it, and an exit code.

mod diagnosis;
pub mod servers;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Serialize;

pub use diagnosis::{Diagnosis, Failure, Findings, Kind, NEAR, Severity, diagnose, exit_code};

use crate::cli::{CheckFormat, CheckOptions};
use crate::kernel::netstat::{Netstat, TcpExt};
use crate::kernel::owner::{Owner, owners};
use crate::kernel::sock_diag::Channel;
use crate::kernel::unix::{self, Show, UnixListener};
use crate::ledger::{Event, Ledger, ListenerLedger, View};
use crate::listener::Address;
use crate::report::Report;
use crate::sample::{Absence, Presence, Source};
use crate::sampler::{self, Discovery, Watch};
use table::Style;

/// The first round is waited for this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// A look longer than this shows its progress.
const LONG: Duration = Duration::from_secs(2);
/// A look has this many rounds at least, whatever the interval.
const FEWEST_ROUNDS: u32 = 10;
/// A look shorter than this does not tell that a queue does not move.
const SHORTEST_STILL: Duration = Duration::from_secs(1);
/// Exit code when nothing could be looked at.
const BLIND: u8 = 4;

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Check<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// How long the look was.
    seconds: f64,
    /// Who holds each listener, by its name; those that may be seen.
    owners: BTreeMap<&'a str, OwnerReport<'a>>,
    /// Worst first; empty when nothing is wrong.
    diagnoses: &'a [Diagnosis],
    /// As the process' own.
    exit_code: u8,
}

#[derive(Debug, Serialize)]
struct OwnerReport<'a> {
    name: &'a str,
    pid: i32,
    processes: usize,
}

impl<'a> OwnerReport<'a> {
    fn of(owner: &'a Owner) -> Self {
        Self {
            name: &owner.name,
            pid: owner.pid,
            processes: owner.processes,
        }
    }
}

/// Looks, prints, and says by the exit code what was found.
#[must_use]
pub fn run(options: CheckOptions) -> ExitCode {
    match look(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(BLIND)
        }
    }
}

/// What the sampler told on the way.
#[derive(Debug, Default)]
struct Told {
    failures: BTreeMap<Source, String>,
    /// Listeners that were full once.
    full: BTreeSet<String>,
}

impl Told {
    fn take(&mut self, event: Event) {
        match event {
            Event::SourceFailed(source, reason) => {
                self.failures.insert(source, reason);
            }
            Event::SourceRecovered(source) => {
                self.failures.remove(&source);
            }
            Event::Full(listener, _) => {
                self.full.insert(listener.name.clone());
            }
            _ => {}
        }
    }
}

fn look(options: CheckOptions) -> io::Result<u8> {
    let (selection, look) = (options.selection, options.look);
    let interval = selection.interval.min(look / FEWEST_ROUNDS);
    let procfs = selection.procfs.clone();
    let mut netstat = Netstat::open(&procfs).ok();
    let before = tcp_ext(netstat.as_mut());
    let discovery = Discovery {
        exclude: selection.exclude,
        limit: selection.limit,
        own: Vec::new(),
    };
    let config = sampler::Config {
        interval,
        // The look is short, and the last figure has to be of its end.
        tcp_interval: interval.max(look / FEWEST_ROUNDS),
        watch: Watch::new(selection.listeners, discovery),
        nginx_log: None,
        ebpf: None,
        procfs: selection.procfs,
    };
    let ledger = Arc::new(Mutex::new(Ledger::new(
        interval,
        look.max(Duration::from_secs(1)) * 2,
    )));
    let told = Arc::new(Mutex::new(Told::default()));
    let telling = Arc::clone(&told);
    sampler::start(config, Arc::clone(&ledger), move |event| {
        let mut told = telling.lock().unwrap_or_else(PoisonError::into_inner);
        told.take(event);
    })?;
    let heads = wait(look, interval, &ledger)?;
    let view = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .view()
        .clone();
    let after = tcp_ext(netstat.as_mut());

    let report = Report::new(&view);
    let owners = owners_of(&view, &procfs);
    let told = told.lock().unwrap_or_else(PoisonError::into_inner);
    let works = |source: Source| view.sources.get(&source).is_some_and(|figures| figures.up);
    let failures: Vec<Failure> = told
        .failures
        .iter()
        .map(|(source, reason)| Failure {
            source: source.name(),
            reason: reason.clone(),
            has_fallback: match source {
                Source::UnixDiag => works(Source::ProcNetUnix),
                Source::InetDiag => works(Source::ProcNetTcp),
                _ => false,
            },
        })
        .collect();
    let gone = |name: &&String| view.listener(name).is_none();
    let gone_full: Vec<String> = told.full.iter().filter(gone).cloned().collect();
    let diagnoses = diagnose(&Findings {
        listeners: &report.listeners,
        owners: &owners,
        somaxconn: report.somaxconn,
        failures: &failures,
        stale: &stale(&view),
        elsewhere: &elsewhere(&view),
        still: &still(&view, &heads, look),
        gone_full: &gone_full,
        ignored: view.ignored_listeners,
        before,
        after,
        look,
    });
    let code = exit_code(&diagnoses);
    let printed = match options.format {
        CheckFormat::Json => print_json(&Check {
            report: &report,
            seconds: look.as_secs_f64(),
            owners: owners
                .iter()
                .map(|(name, owner)| (name.as_str(), OwnerReport::of(owner)))
                .collect(),
            diagnoses: &diagnoses,
            exit_code: code,
        }),
        CheckFormat::Table => {
            let mut out = io::stdout().lock();
            let text = table::render(&report, &owners, &diagnoses, look, Style::of(&out));
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
    };
    match printed {
        // Whoever reads has enough of it; what was found does not change.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        printed => printed.map(|()| code),
    }
}

fn print_json(check: &Check) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, check)?;
    writeln!(out)?;
    out.flush()
}

fn tcp_ext(netstat: Option<&mut Netstat>) -> TcpExt {
    let read = netstat.map(|netstat| netstat.read().unwrap_or_default());
    read.unwrap_or_default()
}

/// When the head of each queue came that was not empty at the first look.
type Heads = BTreeMap<String, Duration>;

fn heads(view: &View) -> Heads {
    let at = view.last_sample.unwrap_or_default();
    let head = |ledger: &ListenerLedger| {
        let wait = ledger.waits.oldest.filter(|_| ledger.depth() > 0)?;
        Some((ledger.listener.name.clone(), at.saturating_sub(wait)))
    };
    view.listeners.iter().filter_map(head).collect()
}

/// Waits until the rounds have gone on for as long as the look is, and tells on a terminal how far it is.
fn wait(look: Duration, interval: Duration, ledger: &Mutex<Ledger>) -> io::Result<Heads> {
    let started = sampler::now();
    let mut first = None;
    let mut last = || {
        let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let view = ledger.view();
        if view.last_sample.is_some() && first.is_none() {
            first = Some(heads(view));
        }
        view.last_sample
    };
    let mut errors = io::stderr();
    let progress = look > LONG && errors.is_terminal();
    let mut shown = None;
    loop {
        let now = sampler::now();
        let sampled = last();
        if sampled.is_some_and(|at| at >= started + look) {
            break;
        }
        if now > started + look + PATIENCE + interval * 2 {
            return Err(io::Error::other(
                "the kernel did not answer: no round was finished",
            ));
        }
        let passed = now.saturating_sub(started).as_secs();
        if progress && shown != Some(passed) {
            write!(errors, "\rlooking: {passed} s of {} s ", look.as_secs())?;
            errors.flush()?;
            shown = Some(passed);
        }
        thread::sleep(interval.clamp(Duration::from_millis(10), Duration::from_millis(200)));
    }
    if progress {
        write!(errors, "\r\x1b[K")?;
    }
    Ok(first.unwrap_or_default())
}

/// Queues that nobody left during a look of a second or more.
fn still(view: &View, heads: &Heads, look: Duration) -> Vec<String> {
    if look < SHORTEST_STILL {
        return Vec::new();
    }
    let now = self::heads(view);
    let is_still = |ledger: &&ListenerLedger| {
        let name = &ledger.listener.name;
        let (Some(before), Some(after)) = (heads.get(name), now.get(name)) else {
            return false;
        };
        let Some(totals) = &ledger.totals else {
            return false;
        };
        match &totals.waits {
            Some(waits) => waits.left == 0,
            // The age of a TCP head is that of the last look at it. If nobody leaves, the queue never becomes shorter.
            None => {
                after.abs_diff(*before) <= look / FEWEST_ROUNDS * 2
                    && ledger.depth() == u64::from(totals.peak.highest())
            }
        }
    };
    let still = view.listeners.iter().filter(is_still);
    still.map(|ledger| ledger.listener.name.clone()).collect()
}

fn owners_of(view: &View, procfs: &Path) -> BTreeMap<String, Owner> {
    let inodes: Vec<u32> = view
        .listeners
        .iter()
        .flat_map(|ledger| ledger.readings.iter().map(|reading| reading.id.inode))
        .collect();
    let Ok(by_inode) = owners(procfs, &inodes) else {
        return BTreeMap::new();
    };
    view.listeners
        .iter()
        .filter_map(|ledger| {
            let readings = ledger.readings.iter();
            let holders = readings.filter_map(|reading| by_inode.get(&reading.id.inode));
            let owner = holders.max_by_key(|owner| owner.processes)?;
            Some((ledger.listener.name.clone(), owner.clone()))
        })
        .collect()
}

/// Sockets that bear the name of a listener, are of its file system and are not it, with the connections that they hold. Of another file
/// system, a socket of the same name is likely another container's.
fn stale(view: &View) -> Vec<(String, u64)> {
    let mut all: Vec<UnixListener> = Vec::new();
    let listed = Channel::open()
        .and_then(|mut channel| unix::list(&mut channel, Show::Everything, |one| all.push(one)));
    if listed.is_err() {
        return Vec::new();
    }
    let device = |one: &UnixListener| one.file.map(|file| (file.major, file.minor));
    view.listeners
        .iter()
        .filter_map(|ledger| {
            let is_it = |one: &&UnixListener| ledger.readings.iter().any(|r| r.id == one.id);
            let own = all.iter().find(is_it)?;
            let is_named_so = |one: &&UnixListener| {
                let named = match &ledger.listener.address {
                    Address::Unix(address) => one.name.as_ref() == Some(address),
                    Address::Tcp(_) | Address::TcpPort(_) => false,
                };
                (named || one.name == own.name) && device(one) == device(own) && !is_it(one)
            };
            let others = all.iter().filter(is_named_so);
            let held: u64 = others.map(|one| u64::from(one.queue.depth)).sum();
            (held > 0).then(|| (ledger.listener.name.clone(), held))
        })
        .collect()
}

fn elsewhere(view: &View) -> Vec<String> {
    let elsewhere = view
        .listeners
        .iter()
        .filter(|ledger| ledger.presence == Presence::Missing(Absence::NoListenerOfFile));
    elsewhere
        .map(|ledger| ledger.listener.name.clone())
        .collect()
}
