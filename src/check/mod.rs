//! A check without serving: a table, the problems, their remedies, and an exit code.

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
use crate::kernel::open_files::OpenFiles;
use crate::kernel::owner::{Owner, owners};
use crate::kernel::sock_diag::Channel;
use crate::kernel::unix::{self, Show, UnixListener};
use crate::ledger::{Event, Ledger, ListenerLedger, View};
use crate::listener::Address;
use crate::report::Report;
use crate::sample::{Absence, Presence, Source};
use crate::sampler::{self, Discovery, Watch};
use table::Style;

/// Time to wait for the first round.
const PATIENCE: Duration = Duration::from_secs(5);
/// A check longer than this shows its progress.
const LONG: Duration = Duration::from_secs(2);
/// Minimum number of rounds of a check, whatever the interval.
const FEWEST_ROUNDS: u32 = 10;
/// A check shorter than this cannot determine whether a queue moves.
const SHORTEST_STILL: Duration = Duration::from_secs(1);
/// Files that a check opens at most, and some.
const FILES: u64 = 21;
/// Exit code if nothing could be checked.
const BLIND: u8 = 4;

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Check<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Duration of the check.
    seconds: f64,
    /// The visible processes that hold each listener, by its name.
    owners: BTreeMap<&'a str, OwnerReport<'a>>,
    /// Worst first; empty if there is no problem.
    diagnoses: &'a [Diagnosis],
    /// The exit code of the process.
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
            pid: owner.pid(),
            processes: owner.pids.len(),
        }
    }
}

/// Checks, prints the result, and returns the exit code.
#[must_use]
pub fn run(options: CheckOptions) -> ExitCode {
    match check(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(BLIND)
        }
    }
}

/// What the sampler reported during the check.
#[derive(Debug, Default)]
struct Reported {
    failures: BTreeMap<Source, String>,
    /// Listeners that were full once.
    full: BTreeSet<String>,
}

impl Reported {
    fn take(&mut self, event: Event) {
        match event {
            Event::SourceFailed(source, reason) => {
                self.failures.insert(source, reason);
            }
            Event::SourceRecovered(source) => {
                self.failures.remove(&source);
            }
            Event::Full(subject, _) => {
                let title = subject.namespace.title(&subject.listener.name);
                self.full.insert(title);
            }
            _ => {}
        }
    }
}

fn check(options: CheckOptions) -> io::Result<u8> {
    let (selection, duration) = (options.selection, options.duration);
    let interval = selection.interval.min(duration / FEWEST_ROUNDS);
    let procfs = selection.procfs.clone();
    if let Some(files) = OpenFiles::read(&procfs) {
        files.require(FILES).map_err(io::Error::other)?;
    }
    let mut netstat = Netstat::open(&procfs).ok();
    let before = tcp_ext(netstat.as_mut());
    let discovery = Discovery {
        filter: selection.filter,
        limit: selection.limit,
        own: Vec::new(),
    };
    let config = sampler::Config {
        interval,
        // The check is short, and the last figure must be from its end.
        tcp_interval: interval.max(duration / FEWEST_ROUNDS),
        watch: Watch::new(selection.listeners, discovery, selection.node.as_ref()),
        nginx_log: None,
        ebpf: None,
        procfs: selection.procfs,
        node: selection.node,
    };
    let mut ledger = Ledger::new(interval, duration.max(Duration::from_secs(1)) * 2);
    if !selection.idle {
        ledger = ledger.without_idle();
    }
    let ledger = Arc::new(Mutex::new(ledger));
    let reported = Arc::new(Mutex::new(Reported::default()));
    let receiver = Arc::clone(&reported);
    sampler::start(config, Arc::clone(&ledger), move |event| {
        let mut reported = receiver.lock().unwrap_or_else(PoisonError::into_inner);
        reported.take(event);
    })?;
    let heads = wait(duration, interval, &ledger)?;
    let view = ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .view()
        .shown();
    let after = tcp_ext(netstat.as_mut());

    let report = Report::new(&view);
    let holders = holders_of(&view, &procfs);
    let owners = owners_of(&view, &holders);
    let reported = reported.lock().unwrap_or_else(PoisonError::into_inner);
    let works = |source: Source| view.sources.get(&source).is_some_and(|figures| figures.up);
    let failures: Vec<Failure> = reported
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
    let is_removed = |name: &&String| view.listener(name).is_none();
    let removed_full: Vec<String> = reported.full.iter().filter(is_removed).cloned().collect();
    let diagnoses = diagnose(&Findings {
        listeners: &report.listeners,
        owners: &owners,
        holders: &holders,
        failures: &failures,
        stale: &stale(&view),
        elsewhere: &elsewhere(&view),
        still: &still(&view, &heads, duration),
        removed_full: &removed_full,
        idle: report.idle_listeners.unwrap_or_default(),
        left_out: view.left_out(),
        ignored_namespaces: view.ignored_namespaces.unwrap_or_default(),
        before,
        after,
        duration,
    });
    let code = exit_code(&diagnoses);
    let printed = match options.format {
        CheckFormat::Json => print_json(&Check {
            report: &report,
            seconds: duration.as_secs_f64(),
            owners: owners
                .iter()
                .map(|(name, owner)| (name.as_str(), OwnerReport::of(owner)))
                .collect(),
            diagnoses: &diagnoses,
            exit_code: code,
        }),
        CheckFormat::Table => {
            let mut out = io::stdout().lock();
            let text = table::render(&report, &owners, &diagnoses, duration, Style::of(&out));
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        }
    };
    match printed {
        // The reader has closed the pipe. The result does not change.
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

/// The arrival times of the heads of the queues that were not empty in the first round.
type Heads = BTreeMap<String, Duration>;

fn heads(view: &View) -> Heads {
    let at = view.last_sample.unwrap_or_default();
    let head = |ledger: &ListenerLedger| {
        let wait = ledger.waits.oldest.filter(|_| ledger.depth() > 0)?;
        Some((ledger.title(), at.saturating_sub(wait)))
    };
    view.listeners.iter().filter_map(head).collect()
}

/// Waits until rounds have run for the duration of the check, and shows the progress on a terminal.
fn wait(duration: Duration, interval: Duration, ledger: &Mutex<Ledger>) -> io::Result<Heads> {
    let started = sampler::now();
    let mut first = None;
    let mut last = || {
        let ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let view = ledger.view();
        if view.last_sample.is_some() && first.is_none() {
            first = Some(heads(view));
        }
        (view.last_sample, view.pace.unwrap_or(interval))
    };
    let mut errors = io::stderr();
    let progress = duration > LONG && errors.is_terminal();
    let mut shown = None;
    loop {
        let now = sampler::now();
        let (sampled, pace) = last();
        if sampled.is_some_and(|at| at >= started + duration) {
            break;
        }
        if now > started + duration + PATIENCE + pace * 2 {
            return Err(io::Error::other(
                "the kernel did not reply: no sampling round was completed",
            ));
        }
        let passed = now.saturating_sub(started).as_secs();
        if progress && shown != Some(passed) {
            write!(
                errors,
                "\rsampling: {passed} s of {} s ",
                duration.as_secs()
            )?;
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

/// Queues that no connection left during a check of a second or more.
fn still(view: &View, heads: &Heads, duration: Duration) -> Vec<String> {
    if duration < SHORTEST_STILL {
        return Vec::new();
    }
    let now = self::heads(view);
    let is_still = |ledger: &&ListenerLedger| {
        let name = &ledger.title();
        let (Some(before), Some(after)) = (heads.get(name), now.get(name)) else {
            return false;
        };
        let Some(totals) = &ledger.totals else {
            return false;
        };
        match &totals.waits {
            Some(waits) => waits.left == 0,
            // The age of a TCP head is from the last scan. If no connection leaves, the queue never becomes shorter.
            None => {
                after.abs_diff(*before) <= duration / FEWEST_ROUNDS * 2
                    && ledger.depth() == u64::from(totals.peak.highest())
            }
        }
    };
    let still = view.listeners.iter().filter(is_still);
    still.map(ListenerLedger::title).collect()
}

/// The processes that hold each socket, by its inode.
fn holders_of(view: &View, procfs: &Path) -> BTreeMap<u32, Owner> {
    let inodes: Vec<u32> = view
        .listeners
        .iter()
        .flat_map(|ledger| ledger.readings.iter().map(|reading| reading.id.inode))
        .collect();
    owners(procfs, &inodes).unwrap_or_default()
}

/// The processes that hold any socket of each listener.
fn owners_of(view: &View, by_inode: &BTreeMap<u32, Owner>) -> BTreeMap<String, Owner> {
    view.listeners
        .iter()
        .filter_map(|ledger| {
            let readings = ledger.readings.iter();
            let holders = readings.filter_map(|reading| by_inode.get(&reading.id.inode));
            let owner = holders.cloned().reduce(|all, owner| all.and(&owner))?;
            Some((ledger.title(), owner))
        })
        .collect()
}

/// Other sockets with the name and file system of a listener, with the connections that they hold. On another file
/// system, a socket with the same name probably belongs to another container.
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
            (held > 0).then(|| (ledger.title(), held))
        })
        .collect()
}

fn elsewhere(view: &View) -> Vec<String> {
    let elsewhere = view.listeners.iter().filter(|ledger| {
        matches!(
            ledger.presence,
            Presence::Missing(Absence::NoListenerOfFile | Absence::NotInTable)
        )
    });
    elsewhere.map(ListenerLedger::title).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Round;

    #[test]
    fn a_check_waits_for_a_round_that_is_far_away() {
        let interval = Duration::from_millis(10);
        let ledger = Mutex::new(Ledger::new(interval, Duration::from_mins(1)));
        let record = |pace| {
            let at = sampler::now();
            let round = Round {
                at,
                pace,
                ..Round::default()
            };
            ledger.lock().unwrap().record_round(&round);
        };
        let duration = Duration::from_millis(100);
        thread::scope(|scope| {
            record(Some(Duration::from_mins(1)));
            scope.spawn(|| {
                thread::sleep(duration + PATIENCE + interval * 50);
                record(None);
            });
            assert!(wait(duration, interval, &ledger).is_ok());
        });
    }
}
