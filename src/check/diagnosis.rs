//! What is wrong, on what evidence, and what to do about it. Pure.

use std::time::Duration;

use serde::Serialize;

use super::servers;
use crate::kernel::netstat::TcpExt;
use crate::report::{Limit, ListenerReport, QueueReport, State, TotalsReport};

/// Depth by capacity from which on a queue counts as near its limit; the alerts use the same.
pub const NEAR: f64 = 0.75;
/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// How bad.
    pub severity: Severity,
    /// Which finding; these words do not change.
    pub kind: Kind,
    /// Of which listener; left out if of the whole network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// What was seen.
    pub evidence: String,
    /// What to do.
    pub remedy: String,
}

/// How bad a finding is, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Connections are turned away, or were during the look.
    Critical,
    /// It could not be looked at.
    Blind,
    /// It may soon be critical.
    Warning,
    /// Worth knowing.
    Note,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The queue is full.
    Full,
    /// The queue was full during the look.
    WasFull,
    /// TCP overflows during the look.
    Overflowing,
    /// A source failed.
    SourceFailed,
    /// A source failed, and another one has a part of its figures.
    Degraded,
    /// No listener at all.
    NoListener,
    /// There are more listeners than are looked at.
    Ignored,
    /// The listener is not there.
    Missing,
    /// The socket file is there, and its listener is not in this network namespace.
    ListenerElsewhere,
    /// The queue was near its limit.
    NearlyFull,
    /// Nobody left the queue.
    NotMoving,
    /// Clients in the queue have gone.
    Abandoned,
    /// Another socket of the same name holds connections.
    StaleListener,
    /// `somaxconn` cuts the limit.
    CutBySomaxconn,
    /// `somaxconn` was raised after `listen()`.
    OpenedBeforeRaise,
    /// Overflows or SYN cookies in the past.
    History,
}

/// What the look found.
#[derive(Debug)]
pub struct Findings<'a> {
    /// The listeners.
    pub listeners: &'a [ListenerReport],
    /// Who holds each, by name.
    pub owners: &'a std::collections::BTreeMap<String, crate::kernel::owner::Owner>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// Sources that failed, and why.
    pub failures: &'a [Failure],
    /// Stale sockets: the listener that bears their name, and the connections that they hold.
    pub stale: &'a [(String, u64)],
    /// Listeners whose socket file exists without a listener here.
    pub elsewhere: &'a [String],
    /// Listeners that nobody left though somebody waits.
    pub still: &'a [String],
    /// Discovered listeners that were full and are gone.
    pub gone_full: &'a [String],
    /// Listeners beyond `--discover.limit`.
    pub ignored: usize,
    /// Counters of the network namespace before the look.
    pub before: TcpExt,
    /// And after it.
    pub after: TcpExt,
    /// How long the look was.
    pub look: Duration,
}

/// A source that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub source: &'static str,
    /// Why.
    pub reason: String,
    /// Whether a table of `/proc/net` is read in its place.
    pub has_fallback: bool,
}

/// Everything that is wrong, worst first.
#[must_use]
pub fn diagnose(findings: &Findings) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for failure in findings.failures {
        let (severity, kind, remedy) = if failure.has_fallback {
            let remedy = "allow sock_diag as said above; until then give the limits with --listener ADDRESS,backlog=N";
            (Severity::Warning, Kind::Degraded, remedy)
        } else {
            let remedy = remedy_for_source(failure.source);
            (Severity::Blind, Kind::SourceFailed, remedy)
        };
        found.push(Diagnosis {
            severity,
            kind,
            listener: None,
            evidence: format!("{} failed: {}", failure.source, failure.reason),
            remedy: remedy.to_owned(),
        });
    }
    if findings.listeners.is_empty() && findings.failures.is_empty() {
        found.push(Diagnosis {
            severity: Severity::Blind,
            kind: Kind::NoListener,
            listener: None,
            evidence: "nothing listens in this network namespace".to_owned(),
            remedy:
                "run it where the application listens: in its pod or container, or with nsenter -n"
                    .to_owned(),
        });
    }
    if findings.ignored > 0 {
        found.push(Diagnosis {
            severity: Severity::Blind,
            kind: Kind::Ignored,
            listener: None,
            evidence: format!("{} more listeners were not looked at", findings.ignored),
            remedy: "name those that matter with --listener, or raise --discover.limit".to_owned(),
        });
    }
    for name in findings.gone_full {
        found.push(Diagnosis {
            severity: Severity::Critical,
            kind: Kind::WasFull,
            listener: Some(name.clone()),
            evidence: "was full during the look, and is gone now".to_owned(),
            remedy: "see why it ended; clients found no room, and now find nobody".to_owned(),
        });
    }
    for listener in findings.listeners {
        listener_findings(listener, findings, &mut found);
    }
    for (name, connections) in findings.stale {
        found.push(Diagnosis {
            severity: Severity::Warning,
            kind: Kind::StaleListener,
            listener: Some(name.clone()),
            evidence: format!(
                "another socket of its name and file system, to which its path does not lead, holds {connections} connections"
            ),
            remedy: "an old instance was replaced and has not ended: nobody new reaches it; let it drain, or stop it".to_owned(),
        });
    }
    namespace_findings(findings, &mut found);
    found.sort_by_key(|diagnosis| (diagnosis.severity, diagnosis.kind));
    found
}

/// The exit code: 0 nothing wrong, 1 a warning, 3 full or refusing, 4 could not look.
#[must_use]
pub fn exit_code(found: &[Diagnosis]) -> u8 {
    match found.iter().map(|diagnosis| diagnosis.severity).min() {
        None | Some(Severity::Note) => 0,
        Some(Severity::Warning) => 1,
        Some(Severity::Critical) => 3,
        Some(Severity::Blind) => 4,
    }
}

fn listener_findings(listener: &ListenerReport, findings: &Findings, found: &mut Vec<Diagnosis>) {
    let mut note = |severity, kind, evidence, remedy| {
        found.push(Diagnosis {
            severity,
            kind,
            listener: Some(listener.name.clone()),
            evidence,
            remedy,
        });
    };
    let (Some(queue), Some(totals)) = (&listener.queue, &listener.totals) else {
        if let Some(totals) = listener
            .totals
            .as_ref()
            .filter(|t| t.full_episodes > Some(0))
        {
            note(
                Severity::Critical,
                Kind::WasFull,
                format!("{}, and is gone now", was_full(totals, findings.look)),
                "see why it ended; clients found no room, and now find nobody".to_owned(),
            );
        }
        if listener.state == State::Missing {
            let reason = listener.reason.clone().unwrap_or_default();
            let (kind, remedy) = if findings.elsewhere.contains(&listener.name) {
                (
                    Kind::ListenerElsewhere,
                    "run it in the network namespace of the application: a shared volume is not enough. If the application has ended, start it",
                )
            } else {
                (
                    Kind::Missing,
                    "start the application, or correct the address",
                )
            };
            note(Severity::Blind, kind, reason, remedy.to_owned());
        }
        return;
    };
    let asked = asked(listener, queue, findings);
    crowding(listener, queue, totals, findings, &mut note);
    if let Some(wait) = queue.oldest_wait_seconds
        && findings.still.contains(&listener.name)
    {
        let holders = findings.owners.get(&listener.name);
        let holders = holders.map_or(String::new(), |owner| {
            format!(", though the listener has {}", processes(owner.processes))
        });
        note(
            Severity::Warning,
            Kind::NotMoving,
            format!(
                "the head of the queue has waited for {wait:.1} s at least{holders}: nobody left the queue during the look"
            ),
            "the workers are busy or stuck: see what they do (py-spy dump, strace, a slow database), and that there are enough of them"
                .to_owned(),
        );
    }
    if let Some(abandoned) = queue
        .abandoned_connections
        .filter(|abandoned| *abandoned > 0)
    {
        note(
            Severity::Warning,
            Kind::Abandoned,
            format!(
                "{abandoned} of {} waiting connections have no client any more",
                queue.depth
            ),
            "clients give up before they are served, and the workers will serve them all the same: more workers, or a shorter queue and a quick error"
                .to_owned(),
        );
    }
    limits(queue, asked, findings.somaxconn, &mut note);
}

/// What the application asks for: as it was told, else by default of its server.
#[derive(Debug, Clone, Copy)]
struct Asked {
    backlog: u32,
    by_default_of: Option<&'static servers::Server>,
}

impl Asked {
    fn words(self) -> String {
        let backlog = self.backlog;
        match self.by_default_of {
            None => format!("the application asks for {backlog}, as backlog= says"),
            Some(server) => format!("{} asks for {backlog} by default", server.name),
        }
    }
}

fn asked(listener: &ListenerReport, queue: &QueueReport, findings: &Findings) -> Option<Asked> {
    if let Some(backlog) = queue.requested_backlog {
        return Some(Asked {
            backlog,
            by_default_of: None,
        });
    }
    let server = servers::server(&findings.owners.get(&listener.name)?.name)?;
    Some(Asked {
        backlog: server.backlog,
        by_default_of: Some(server),
    })
}

fn was_full(totals: &TotalsReport, look: Duration) -> String {
    format!(
        "was full for {:.0} ms, {}, within {:.1} s",
        totals.full_seconds.unwrap_or_default() * 1e3,
        times(totals.full_episodes.unwrap_or_default()),
        look.as_secs_f64()
    )
}

fn crowding(
    listener: &ListenerReport,
    queue: &QueueReport,
    totals: &TotalsReport,
    findings: &Findings,
    note: &mut impl FnMut(Severity, Kind, String, String),
) {
    let Some(capacity) = queue.capacity.or(queue.capacity_at_most) else {
        return;
    };
    #[expect(clippy::cast_precision_loss, reason = "a capacity is below 2^42")]
    let peak = f64::from(totals.depth_peak) / capacity.max(1) as f64;
    let next = match listener.family {
        "unix" => "the next connect() gets EAGAIN, or sleeps if it blocks",
        _ => "the next SYN is dropped, and its client tries again a second later",
    };
    let raise = raise(queue, findings.somaxconn);
    if queue.capacity.is_none() {
        let evidence = format!(
            "{} connections waited at the peak; the limit is not known, but not above {capacity}",
            totals.depth_peak
        );
        if peak >= 1.0 {
            note(Severity::Critical, Kind::WasFull, evidence, raise);
        } else if peak >= NEAR {
            note(Severity::Warning, Kind::NearlyFull, evidence, raise);
        }
    } else if queue.full {
        let sleeping = match queue.blocked_connects {
            Some(blocked) if blocked > 0 => format!("; {blocked} connects sleep before it"),
            _ => String::new(),
        };
        note(
            Severity::Critical,
            Kind::Full,
            match queue.sockets {
                1 => format!(
                    "{} of {capacity} connections wait: {next}{sleeping}",
                    queue.depth
                ),
                sockets => format!(
                    "one of its {sockets} sockets is full, {} of {capacity} connections wait in all: if it is that one's turn, {next}{sleeping}",
                    queue.depth
                ),
            },
            raise,
        );
    } else if totals.full_episodes > Some(0) {
        note(
            Severity::Critical,
            Kind::WasFull,
            format!("{}: while it is, {next}", was_full(totals, findings.look)),
            raise,
        );
    } else if queue.utilization.is_some_and(|now| peak.max(now) >= NEAR) {
        note(
            Severity::Warning,
            Kind::NearlyFull,
            format!(
                "{} of {capacity} connections waited at the peak",
                totals.depth_peak
            ),
            raise,
        );
    }
}

/// How to make a queue hold more, and when that helps.
fn raise(queue: &QueueReport, somaxconn: Option<u32>) -> String {
    let backlog = "the application's backlog (gunicorn --backlog, nginx listen ... backlog=, systemd Backlog=)";
    let of = |limit| (limit, Limit::of(limit, queue.requested_backlog, somaxconn));
    let how = match queue.each.map(of) {
        Some((limit, Limit::Cut | Limit::MaybeCut)) => {
            format!(
                "raise net.core.somaxconn, now {limit}, in the pod (securityContext.sysctls, docker --sysctl) and restart the application; \
                 {backlog} has to ask for as much"
            )
        }
        Some((limit, Limit::Old)) => format!(
            "net.core.somaxconn was raised after the limit of {limit} was granted: restart or reload the application, so that it calls listen() again"
        ),
        Some((limit, Limit::AsAsked)) => format!(
            "raise {backlog}, which asks for {limit}, and net.core.somaxconn if that is lower, and restart it"
        ),
        Some((limit, Limit::Below)) => format!(
            "restart the application if net.core.somaxconn was raised since it was opened; else raise {backlog} above {limit}"
        ),
        _ => format!("raise {backlog} and net.core.somaxconn, and restart it"),
    };
    format!(
        "if this is a burst, {how}. If it lasts, a longer queue only makes clients wait: add workers"
    )
}

fn limits(
    queue: &QueueReport,
    asked: Option<Asked>,
    somaxconn: Option<u32>,
    note: &mut impl FnMut(Severity, Kind, String, String),
) {
    let (Some(asked), Some(limit), Some(somaxconn)) = (asked, queue.each, somaxconn) else {
        return;
    };
    let set_in = asked.by_default_of.map_or(String::new(), |server| {
        format!(" (set by {})", server.setting)
    });
    match Limit::of(limit, Some(asked.backlog), Some(somaxconn)) {
        Limit::Cut => note(
            Severity::Note,
            Kind::CutBySomaxconn,
            format!(
                "the limit is {limit}, which is net.core.somaxconn, and {}",
                asked.words()
            ),
            format!(
                "raise net.core.somaxconn to {} in the pod and restart the application, if bursts are to be held{set_in}",
                asked.backlog
            ),
        ),
        Limit::Old => note(
            Severity::Note,
            Kind::OpenedBeforeRaise,
            format!(
                "the limit is {limit}, net.core.somaxconn is {somaxconn}, and {}: it was opened before somaxconn was raised{}",
                asked.words(),
                if asked.by_default_of.is_some() {
                    ", or asks for less than its default"
                } else {
                    ""
                }
            ),
            format!("reload or restart the application, so that it calls listen() again{set_in}"),
        ),
        _ => {}
    }
}

fn namespace_findings(findings: &Findings, found: &mut Vec<Diagnosis>) {
    let (before, after) = (findings.before, findings.after);
    let mut note = |severity, kind, evidence, remedy: &str| {
        found.push(Diagnosis {
            severity,
            kind,
            listener: None,
            evidence,
            remedy: remedy.to_owned(),
        });
    };
    let overflows = after.listen_overflows.unwrap_or(0);
    let grown = overflows.saturating_sub(before.listen_overflows.unwrap_or(overflows));
    if grown > 0 {
        note(
            Severity::Critical,
            Kind::Overflowing,
            format!(
                "{grown} connections or SYNs met a full TCP queue during the look (ListenOverflows)"
            ),
            "see which TCP listener is full or was; raise its backlog and net.core.somaxconn, or add workers",
        );
    }
    let cookies = after.request_queue_full_cookies.unwrap_or(0);
    let refused = after.request_queue_full_drops.unwrap_or(0);
    if grown == 0 && overflows + cookies + refused > 0 {
        note(
            Severity::Note,
            Kind::History,
            format!(
                "since this network namespace was made: {overflows} TCP overflows, {cookies} SYN cookies and {refused} dropped SYNs for a full SYN queue"
            ),
            "it happened before this look; the exporter, left running, tells when and to whom",
        );
    }
}

fn remedy_for_source(source: &str) -> &'static str {
    match source {
        "unix_diag" | "inet_diag" => {
            "sock_diag has to be allowed: the kernel's modules unix_diag, inet_diag and tcp_diag, a seccomp profile that permits netlink sockets; gVisor has none"
        }
        _ => "mount procfs, and say where with --path.procfs",
    }
}

fn processes(count: usize) -> String {
    match count {
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    }
}
