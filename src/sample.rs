//! The plain data between the sampler and the ledger: the result of one round, independent of any external format.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::kernel::SocketId;
use crate::kernel::netstat::TcpExt;
use crate::kernel::process::ProcessFigures;
use crate::kernel::sysctl::Settings;
use crate::listener::{Address, Listener};
use crate::refusals::Kinds;

/// One round of all namespaces.
#[derive(Debug, Default, Clone, Copy)]
pub struct Round {
    /// When it started, on the monotonic clock.
    pub at: Duration,
    /// How long reading the kernel took.
    pub took: Duration,
    /// Whether it started over one interval late.
    pub late: bool,
    /// The time until the next round, if it is longer than configured because a source costs too much.
    pub pace: Option<Duration>,
    /// This process, in the rounds that read it; absent if procfs does not have it.
    pub process: Option<Option<ProcessFigures>>,
    /// Network namespaces beyond `--node.limit`; absent if only the exporter's own namespace is watched.
    pub ignored_namespaces: Option<usize>,
}

/// A network namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its number, which is unique among the watched namespaces.
    pub id: u64,
    /// What distinguishes its series from those of others, besides the listener; empty if there is only one namespace.
    pub labels: Vec<(&'static str, String)>,
    /// How it is read, if there are several.
    pub access: Option<Access>,
    /// Whose it is, if there are several: what is done for the namespaces of one share is bounded together.
    pub share: String,
}

impl Namespace {
    /// Its location for people: the pod, or the control group. Empty if there is only one namespace.
    #[must_use]
    pub fn place(&self) -> String {
        let label = |wanted| self.label(wanted).unwrap_or_default();
        let (pod, cgroup) = (label("pod"), label("cgroup"));
        if pod.is_empty() {
            return cgroup.to_owned();
        }
        let number = cgroup
            .rsplit_once('#')
            .map_or(String::new(), |(_, number)| format!("#{number}"));
        format!("{}/{pod}{number}", label("namespace"))
    }

    /// The name of a listener and, if there are several namespaces, its location. It is unique.
    #[must_use]
    pub fn title(&self, listener: &str) -> String {
        match self.place() {
            place if place.is_empty() => listener.to_owned(),
            place => format!("{listener} in {place}"),
        }
    }

    /// The value of one of its labels.
    #[must_use]
    pub fn label(&self, wanted: &str) -> Option<&str> {
        let mut labels = self.labels.iter();
        let found = labels.find(|(name, _)| *name == wanted);
        found.map(|(_, value)| value.as_str())
    }
}

/// How a network namespace is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It was entered briefly, to open `sock_diag` there.
    SockDiag,
    /// It may not be entered, and is read from the tables that everybody may read.
    Proc,
}

/// The result of one round in one namespace.
#[derive(Debug, Default)]
pub struct Sample {
    /// Which namespace.
    pub namespace: Arc<Namespace>,
    /// When the round started, on the monotonic clock.
    pub at: Duration,
    /// Time since the previous round of the namespace, if that is longer than configured because a source costs too much.
    pub distance: Option<Duration>,
    /// Every watched listener. It does not contain listeners that discovery no longer finds.
    pub listeners: Vec<Watched>,
    /// Listeners that discovery found and that are not watched.
    pub left_out: LeftOut,
    /// Namespaces of the same share besides this one.
    pub others_of_share: usize,
    /// What was read once a second, in the rounds that did so.
    pub slow: Option<Slow>,
    /// The outcome of each source that was read.
    pub outcomes: Vec<(Source, Result<(), String>)>,
    /// Rows of tables that could not be read and were omitted.
    pub unreadable: Vec<(Source, u64)>,
}

/// Listeners that discovery found and that are not watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// By `--discover.exclude` and `--discover.include`.
    pub excluded: usize,
    /// Beyond `--discover.limit`.
    pub ignored: usize,
}

/// What changes slowly or costs more than a round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slow {
    /// Settings of this network namespace.
    pub settings: Settings,
    /// Counters of this network namespace.
    pub tcp_ext: TcpExt,
    /// Refused unix connects, separately for each source; empty without a source.
    pub refused: Vec<Refused>,
    /// Lines of the nginx log; absent if it is not received.
    pub nginx_log: Option<NginxLog>,
}

/// Refused connects to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The label of the listener; an address where there is no such listener, `other` for the rest.
    pub listener: String,
    /// The source that counted them.
    pub source: Source,
    /// How many.
    pub count: u64,
}

/// Lines of nginx's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NginxLog {
    /// By kind.
    pub lines: Kinds,
    /// Datagrams that the kernel dropped because they arrived faster than they were read; known only for UDP.
    pub dropped: Option<u64>,
}

/// A listener and its state in this round.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The listener.
    pub listener: Arc<Listener>,
    /// Whether there is something to read.
    pub presence: Presence,
    /// Where the limits of its queues come from.
    pub limit: LimitSource,
    /// One for each socket; empty unless present.
    pub readings: Vec<Reading>,
    /// The connections that wait in its queues, as far as they were read.
    pub waiting: Waiting,
}

/// Where the limit of a queue comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitSource {
    /// The kernel reports it, through `sock_diag`.
    #[default]
    Kernel,
    /// It is the smaller of `backlog=` and `net.core.somaxconn`: `sock_diag` is not available.
    Configured,
    /// It is not reported: `sock_diag` is not available.
    Unknown,
}

/// The connections in the queues of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// For each reading of a unix listener, whether its queue was listed. A queue that is too long is not.
    pub listed: Vec<bool>,
    /// The lists in sequence, each with as many clients as the depth of the reading, the head of the queue first: the inode of the
    /// client's socket, 0 if the client has disconnected.
    pub clients: Vec<u32>,
    /// Connections in the queues of a unix listener whose client has disconnected, if `/proc/net/unix` reports them instead of the lists.
    pub abandoned: Option<u64>,
    /// `connect()` calls that sleep because a queue of a unix listener is full.
    pub blocked: Option<u64>,
    /// What the last scan of a TCP listener's connections found. There is one only while its queue is not empty.
    pub tcp: Option<TcpWaiting>,
}

/// The connections of a TCP listener that no application has accepted yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpWaiting {
    /// Time that the oldest has been in the accept queue; absent if it contains no connection, or only connections that were reset.
    pub oldest: Option<Duration>,
    /// Those in the accept queue whose client has closed its end.
    pub abandoned: u64,
    /// Those whose handshake is in progress.
    pub half_open: u64,
}

/// One socket's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Which socket.
    pub id: SocketId,
    /// Connections waiting for `accept()`.
    pub depth: u32,
    /// The limit of the socket, which is full at this plus one. Absent if it is not reported.
    pub backlog: Option<u32>,
    /// Packets dropped at a TCP listener since it was opened, wrapping at 2^32.
    pub drops: Option<u32>,
}

/// Whether a listener is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Its sockets were read.
    Up,
    /// Its source was read, and the listener was not in the list.
    Missing(Absence),
    /// Its source failed.
    Unknown,
}

/// Why a configured listener is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// No socket is listening at the address.
    NotListening,
    /// No socket is listening at the TCP address, but one at another address of its port.
    OtherAddress(SocketAddr),
    /// The path leads to a file that is not a socket.
    NotASocket,
    /// The path leads to a socket file that no listener of this network namespace created.
    NoListenerOfFile,
    /// The path leads to a socket file, and the table of `/proc/net/unix` has no listener that was bound to its name.
    NotInTable,
    /// This directory of the path may not be searched.
    Unreadable(PathBuf),
    /// The path could not be resolved.
    Failed(String),
}

/// Where figures come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Unix listeners.
    UnixDiag,
    /// TCP listeners.
    InetDiag,
    /// `TcpExt`.
    Netstat,
    /// The settings.
    Sysctl,
    /// Blocked connects, and unix listeners where `unix_diag` is not available.
    ProcNetUnix,
    /// TCP listeners where `inet_diag` is not available.
    ProcNetTcp,
    /// Refused connects and timeouts, from nginx's error log.
    NginxLog,
    /// Refused connects, from a hook in the kernel.
    Ebpf,
}

impl Sample {
    /// An equal part of what all namespaces of its share may have: at least one.
    #[must_use]
    pub fn part_of(&self, limit: usize) -> usize {
        (limit / (self.others_of_share + 1)).max(1)
    }
}

impl Source {
    /// The `source` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnixDiag => "unix_diag",
            Self::InetDiag => "inet_diag",
            Self::Netstat => "netstat",
            Self::Sysctl => "sysctl",
            Self::ProcNetUnix => "proc_net_unix",
            Self::ProcNetTcp => "proc_net_tcp",
            Self::NginxLog => "nginx_log",
            Self::Ebpf => "ebpf",
        }
    }
}

impl Access {
    /// The `access` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SockDiag => "sock_diag",
            Self::Proc => "proc",
        }
    }
}

impl LimitSource {
    /// The `limit` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Configured => "told",
            Self::Unknown => "unknown",
        }
    }
}

impl Watched {
    /// Whether a connection waits in its queues.
    #[must_use]
    pub fn occupied(&self) -> bool {
        self.readings.iter().any(|reading| reading.depth > 0)
    }
}

impl Reading {
    /// Whether the next connection is refused.
    #[must_use]
    pub fn full(&self) -> bool {
        self.backlog.is_some_and(|backlog| self.depth > backlog)
    }

    /// The depth at which the next connection is refused.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.backlog.map(|backlog| u64::from(backlog) + 1)
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListening => f.write_str("no socket is listening at this address"),
            Self::OtherAddress(address) => {
                let other = if address.ip().to_canonical().is_unspecified() {
                    Address::TcpPort(address.port())
                } else {
                    Address::Tcp(*address)
                };
                write!(
                    f,
                    "no socket is listening at this address, but one is listening at {}, which --listener {other} selects",
                    Address::Tcp(*address)
                )
            }
            Self::NotASocket => f.write_str("the path exists but is not a socket"),
            Self::NoListenerOfFile => f.write_str(
                "the socket file exists, but no listener of this network namespace created it: its process has ended, has closed it, or runs in another network namespace",
            ),
            Self::NotInTable => f.write_str(
                "the socket file exists, but /proc/net/unix has no listener with this name: its process has ended, or it bound the path under another name (sock_diag, which reports the files, is not available); use the name that the application binds",
            ),
            Self::Unreadable(directory) => write!(
                f,
                "this user may not search the directory {}, and no listener is bound to the name of the path: either no socket is listening there, or it is bound under another name, and only a user who may search the directory can find it",
                crate::listener::escape(directory.as_os_str().as_encoded_bytes())
            ),
            Self::Failed(reason) => write!(f, "the path cannot be read: {reason}"),
        }
    }
}
