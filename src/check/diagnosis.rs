//! Finds problems, with evidence and remedy. Pure.

use std::time::Duration;

use serde::Serialize;

use super::servers;
use crate::counted::counted;
use crate::kernel::netstat::TcpExt;
use crate::report::{Limit, ListenerReport, QueueReport, State, TotalsReport};
use crate::sample::LeftOut;

/// Utilization from which a queue is considered near its limit. The alerts use the same value.
pub const NEAR: f64 = 0.75;
/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Its severity.
    pub severity: Severity,
    /// Its kind. The names of kinds never change.
    pub kind: Kind,
    /// The listener; absent if it concerns the whole network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The observation, with numbers.
    pub evidence: String,
    /// The remedy.
    pub remedy: String,
}

/// The severity of a finding, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Connections are refused, or were during the check.
    Critical,
    /// It could not be checked.
    Blind,
    /// It may soon be critical.
    Warning,
    /// For information.
    Note,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The queue is full.
    Full,
    /// The queue was full during the check.
    WasFull,
    /// TCP queues overflowed during the check.
    Overflowing,
    /// A source failed.
    SourceFailed,
    /// A source failed, and another one provides a part of its figures.
    Degraded,
    /// No listener at all.
    NoListener,
    /// There are more listeners or network namespaces than are checked.
    Ignored,
    /// The listener does not exist.
    Missing,
    /// The socket file exists, but its listener is not in this network namespace.
    ListenerElsewhere,
    /// The queue was near its limit.
    NearlyFull,
    /// No connection left the queue.
    NotMoving,
    /// One socket of a group is full, and the others are empty.
    StuckMember,
    /// Clients of queued connections have disconnected.
    Abandoned,
    /// Another socket of the same name holds connections.
    StaleListener,
    /// `somaxconn` is lower than the requested backlog.
    CutBySomaxconn,
    /// `somaxconn` was raised after `listen()`.
    OpenedBeforeRaise,
    /// Overflows or SYN cookies in the past.
    History,
}

/// The input of the diagnoses.
#[derive(Debug)]
pub struct Findings<'a> {
    /// The listeners.
    pub listeners: &'a [ListenerReport],
    /// The processes that hold each listener, by name.
    pub owners: &'a std::collections::BTreeMap<String, crate::kernel::owner::Owner>,
    /// The processes that hold each socket, by its inode.
    pub holders: &'a std::collections::BTreeMap<u32, crate::kernel::owner::Owner>,
    /// Sources that failed, and why.
    pub failures: &'a [Failure],
    /// Stale sockets: the listener with the same name, and the connections that they hold.
    pub stale: &'a [(String, u64)],
    /// Listeners whose socket file exists without a listener here.
    pub elsewhere: &'a [String],
    /// Listeners whose queue is not empty and that no connection left.
    pub still: &'a [String],
    /// Discovered listeners that were full and no longer exist.
    pub removed_full: &'a [String],
    /// Listeners that are not shown because nobody ever waited there.
    pub idle: usize,
    /// Discovered listeners that were not checked.
    pub left_out: LeftOut,
    /// Network namespaces that were not checked.
    pub ignored_namespaces: usize,
    /// Counters of the network namespace before the check.
    pub before: TcpExt,
    /// And after it.
    pub after: TcpExt,
    /// Duration of the check.
    pub duration: Duration,
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

/// All findings, worst first.
#[must_use]
pub fn diagnose(findings: &Findings) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    for failure in findings.failures {
        let (severity, kind, remedy) = if failure.has_fallback {
            let remedy = "allow sock_diag as described above. Until then, configure the limits with --listener ADDRESS,backlog=N";
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
    if findings.listeners.is_empty() && findings.idle == 0 && findings.failures.is_empty() {
        let (evidence, remedy) = nothing_to_check(findings.left_out.excluded);
        found.push(Diagnosis {
            severity: Severity::Blind,
            kind: Kind::NoListener,
            listener: None,
            evidence,
            remedy,
        });
    }
    if findings.left_out.ignored > 0 {
        found.push(Diagnosis {
            severity: Severity::Blind,
            kind: Kind::Ignored,
            listener: None,
            evidence: format!(
                "--discover.limit leaves out {}",
                counted(findings.left_out.ignored as u64, "listener")
            ),
            remedy: "name the important listeners with --listener, or raise --discover.limit"
                .to_owned(),
        });
    }
    if findings.ignored_namespaces > 0 {
        found.push(Diagnosis {
            severity: Severity::Blind,
            kind: Kind::Ignored,
            listener: None,
            evidence: format!(
                "--node.limit or the limit of open files leaves out {}",
                counted(findings.ignored_namespaces as u64, "network namespace")
            ),
            remedy: "raise --node.limit, or the limit of open files (ulimit -n) to ten times as many as there are pods"
                .to_owned(),
        });
    }
    for name in findings.removed_full {
        found.push(Diagnosis {
            severity: Severity::Critical,
            kind: Kind::WasFull,
            listener: Some(name.clone()),
            evidence: "was full during the check and no longer exists".to_owned(),
            remedy: "find out why the application stopped. It refused connections, and now no socket is listening".to_owned(),
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
                "another socket with the same name and file system, to which the path does not lead, holds {}",
                counted(*connections, "connection")
            ),
            remedy: "an old instance was replaced but still runs, and new clients cannot reach it. Let it drain or stop it".to_owned(),
        });
    }
    namespace_findings(findings, &mut found);
    found.sort_by_key(|diagnosis| (diagnosis.severity, diagnosis.kind));
    found
}

/// The exit code: 0 no problem, 1 a warning, 3 full or refusing, 4 the check failed.
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
            listener: Some(listener.title().to_owned()),
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
                format!("{}, and no longer exists", was_full(totals, findings.duration)),
                "find out why the application stopped. It refused connections, and now no socket is listening".to_owned(),
            );
        }
        if listener.state == State::Missing {
            let reason = listener.reason.clone().unwrap_or_default();
            let (kind, remedy) = if findings
                .elsewhere
                .iter()
                .any(|name| name == listener.title())
            {
                (
                    Kind::ListenerElsewhere,
                    "run the exporter in the network namespace of the application. A shared volume is not sufficient. If the application has ended, start it",
                )
            } else {
                (
                    Kind::Missing,
                    "start the application or correct the address",
                )
            };
            note(Severity::Blind, kind, reason, remedy.to_owned());
        }
        return;
    };
    let asked = asked(listener, queue, findings);
    if let Some(member) = queue.only_full_member() {
        let whose = holders_of(member.inode, findings);
        let whose = whose.map_or(String::new(), |whose| {
            format!(". The socket is held by {whose}")
        });
        note(
            Severity::Critical,
            Kind::StuckMember,
            format!("{}{whose}", queue.stuck_words(member)),
            "the kernel still assigns that socket its share of the connections. Find out what its process is doing, or stop it so that the other sockets take over"
                .to_owned(),
        );
    } else {
        crowding(listener, queue, totals, findings, &mut note);
    }
    if let Some(wait) = queue.oldest_wait_seconds
        && findings.still.iter().any(|name| name == listener.title())
    {
        let holders = findings.owners.get(listener.title());
        let holders = holders.map_or(String::new(), |owner| {
            format!(
                ", although the listener has {}",
                counted(owner.pids.len() as u64, "process")
            )
        });
        note(
            Severity::Warning,
            Kind::NotMoving,
            format!(
                "the head of the queue has waited for at least {wait:.1} s, and no connection left the queue during the check{holders}"
            ),
            "the workers are busy or stuck. Find out what they are doing (py-spy dump, strace, a slow database), and whether there are enough of them"
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
            clients_gone(abandoned, queue.depth),
            "clients give up before they are served, but the application will still accept their connections. Add workers, or shorten the queue so that clients get an error quickly"
                .to_owned(),
        );
    }
    limits(queue, asked, &mut note);
}

/// The processes that hold a socket, in words.
fn holders_of(inode: u32, findings: &Findings) -> Option<String> {
    let owner = findings.holders.get(&inode)?;
    let pids: Vec<String> = owner.pids.iter().map(ToString::to_string).collect();
    Some(format!("{} {}", owner.name, pids.join(", ")))
}

/// Which sockets of a group are full, in words.
fn full_members(queue: &QueueReport, findings: &Findings) -> String {
    let of = counted(queue.sockets as u64, "socket");
    let full: Vec<_> = queue
        .members
        .iter()
        .filter(|member| member.is_full())
        .collect();
    match full.as_slice() {
        [one] => {
            let whose = holders_of(one.inode, findings);
            let whose = whose.map_or(String::new(), |whose| format!(", held by {whose}"));
            format!("one of its {of} (inode {}{whose}) is full", one.inode)
        }
        full if full.len() == queue.sockets => format!("all of its {of} are full"),
        full => format!("{} of its {of} are full", full.len()),
    }
}

/// The backlog that the application requests: as configured, or else the default of its server.
#[derive(Debug, Clone, Copy)]
struct Asked {
    backlog: u32,
    by_default_of: Option<&'static servers::Server>,
}

impl Asked {
    fn words(self) -> String {
        let backlog = self.backlog;
        match self.by_default_of {
            None => format!("the application requests {backlog} according to backlog="),
            Some(server) => format!("{} requests {backlog} by default", server.name),
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
    let server = servers::server(&findings.owners.get(listener.title())?.name)?;
    let servers::Backlog::Fixed(backlog) = server.backlog else {
        return None;
    };
    Some(Asked {
        backlog,
        by_default_of: Some(server),
    })
}

fn was_full(totals: &TotalsReport, duration: Duration) -> String {
    format!(
        "was full for {:.0} ms ({}) within {:.1} s",
        totals.full_seconds.unwrap_or_default() * 1e3,
        times(totals.full_episodes.unwrap_or_default()),
        duration.as_secs_f64()
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
        "unix" => "the next connect() fails with EAGAIN, or sleeps if it is blocking",
        _ => "the next SYN is dropped, and the client retries after one second",
    };
    let raise = raise(queue);
    if queue.capacity.is_none() {
        let evidence = format!(
            "{} waited at the peak. The limit is unknown, and the capacity is at most {capacity}",
            counted(totals.depth_peak.into(), "connection")
        );
        if peak >= 1.0 {
            note(Severity::Critical, Kind::WasFull, evidence, raise);
        } else if peak >= NEAR {
            note(Severity::Warning, Kind::NearlyFull, evidence, raise);
        }
    } else if queue.is_full() {
        let blocked = queue.blocked_connects.filter(|blocked| *blocked > 0);
        let sleeping = blocked.map_or(String::new(), |blocked| {
            let verb = if blocked == 1 { "waits" } else { "wait" };
            let blocked = counted(blocked, "blocked connect");
            format!(". {blocked} {verb} for space")
        });
        note(
            Severity::Critical,
            Kind::Full,
            match queue.sockets {
                1 => format!(
                    "the queue is full with {} of {}: {next}{sleeping}",
                    queue.depth,
                    counted(capacity, "connection")
                ),
                _ => format!(
                    "{}, and together they hold {} of {}. If the kernel selects a full socket, {next}{sleeping}",
                    full_members(queue, findings),
                    queue.depth,
                    counted(capacity, "connection")
                ),
            },
            raise,
        );
    } else if totals.full_episodes > Some(0) {
        note(
            Severity::Critical,
            Kind::WasFull,
            format!(
                "{}. While it is full, {next}",
                was_full(totals, findings.duration)
            ),
            raise,
        );
    } else if queue.utilization.is_some_and(|now| peak.max(now) >= NEAR) {
        note(
            Severity::Warning,
            Kind::NearlyFull,
            format!(
                "the peak depth was {} of {}",
                totals.depth_peak,
                counted(capacity, "connection")
            ),
            raise,
        );
    }
}

/// How to make a queue hold more, and when that helps.
fn raise(queue: &QueueReport) -> String {
    let backlog = "the backlog of the application (gunicorn --backlog, nginx listen ... backlog=, systemd Backlog=)";
    let of = |limit| {
        (
            limit,
            Limit::of(limit, queue.requested_backlog, queue.somaxconn),
        )
    };
    let how = match queue.each.map(of) {
        Some((limit, Limit::Cut | Limit::MaybeCut)) => {
            format!(
                "raise net.core.somaxconn, which is {limit}, in the pod (securityContext.sysctls, docker --sysctl), raise {backlog} to the same value \
                 unless it is higher, and restart the application"
            )
        }
        Some((limit, Limit::Old)) => format!(
            "restart or reload the application so that it calls listen() again, because net.core.somaxconn was raised after the limit of {limit} was granted"
        ),
        Some((limit, Limit::AsAsked)) => format!(
            "raise {backlog}, which is {limit}, raise net.core.somaxconn if it is lower, and restart the application"
        ),
        Some((limit, Limit::Below)) => format!(
            "restart the application if net.core.somaxconn was raised after the listener was opened; otherwise raise {backlog} above {limit}"
        ),
        _ => format!("raise {backlog} and net.core.somaxconn, and restart the application"),
    };
    format!(
        "to absorb a burst, {how}. If the overload lasts, add workers: a longer queue only makes clients wait longer"
    )
}

fn limits(
    queue: &QueueReport,
    asked: Option<Asked>,
    note: &mut impl FnMut(Severity, Kind, String, String),
) {
    let (Some(asked), Some(limit), Some(somaxconn)) = (asked, queue.each, queue.somaxconn) else {
        return;
    };
    let set_in = asked.by_default_of.map_or(String::new(), |server| {
        format!(" (the backlog is set with {})", server.setting)
    });
    match Limit::of(limit, Some(asked.backlog), Some(somaxconn)) {
        Limit::Cut => note(
            Severity::Note,
            Kind::CutBySomaxconn,
            format!(
                "the limit is {limit}, the value of net.core.somaxconn, but {}",
                asked.words()
            ),
            format!(
                "to absorb bursts, raise net.core.somaxconn to {} in the pod and restart the application{set_in}",
                asked.backlog
            ),
        ),
        Limit::Old => note(
            Severity::Note,
            Kind::OpenedBeforeRaise,
            format!(
                "the limit is {limit}, although net.core.somaxconn is {somaxconn} and {}: the listener was opened before somaxconn was raised{}",
                asked.words(),
                if asked.by_default_of.is_some() {
                    ", or the server is configured with a lower backlog"
                } else {
                    ""
                }
            ),
            format!("reload or restart the application so that it calls listen() again{set_in}"),
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
                "a full TCP queue dropped {} during the check (ListenOverflows)",
                counted(grown, "connection attempt")
            ),
            "find the TCP listener that is or was full. Raise its backlog and net.core.somaxconn, or add workers",
        );
    }
    let cookies = after.request_queue_full_cookies.unwrap_or(0);
    let refused = after.request_queue_full_drops.unwrap_or(0);
    if grown == 0 && overflows + cookies + refused > 0 {
        note(
            Severity::Note,
            Kind::History,
            format!(
                "since this network namespace was created: {}, {} and {} dropped because the SYN queue was full",
                counted(overflows, "TCP overflow"),
                counted(cookies, "SYN cookie"),
                counted(refused, "SYN")
            ),
            "this happened before the check. Run the exporter continuously to see when it happens and at which listener",
        );
    }
}

/// Evidence and remedy if no listener was checked, `excluded` of them because of a flag.
fn nothing_to_check(excluded: usize) -> (String, String) {
    if excluded > 0 {
        return (
            format!("the discovery filter excludes all listeners ({excluded})"),
            "name the important listeners with --listener, or use --discover.exclude '' to see all"
                .to_owned(),
        );
    }
    (
        "no socket is listening in this network namespace".to_owned(),
        "run the check where the application listens: in its pod or container, or with nsenter -n"
            .to_owned(),
    )
}

fn remedy_for_source(source: &str) -> &'static str {
    match source {
        "unix_diag" | "inet_diag" => {
            "apply the remedy in the reason. If it contains none, allow netlink sockets in the seccomp profile and load the kernel modules unix_diag, inet_diag and tcp_diag"
        }
        _ => "mount procfs and set its mount point with --path.procfs",
    }
}

fn clients_gone(abandoned: u64, depth: u64) -> String {
    let (clients, have) = if abandoned == 1 {
        ("client", "has")
    } else {
        ("clients", "have")
    };
    let waiting = counted(depth, "waiting connection");
    format!("the {clients} of {abandoned} of {waiting} {have} disconnected")
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        count => counted(count, "time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_and_several_clients_have_disconnected() {
        for (abandoned, depth, expected) in [
            (
                1,
                1,
                "the client of 1 of 1 waiting connection has disconnected",
            ),
            (
                1,
                2,
                "the client of 1 of 2 waiting connections has disconnected",
            ),
            (
                2,
                3,
                "the clients of 2 of 3 waiting connections have disconnected",
            ),
        ] {
            assert_eq!(clients_gone(abandoned, depth), expected);
        }
    }
}
