//! The plain data between the sampler and the ledger: what one round saw, in nobody's format.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::kernel::SocketId;
use crate::kernel::netstat::TcpExt;
use crate::kernel::process::ProcessFigures;
use crate::kernel::sysctl::Settings;
use crate::listener::Listener;
use crate::refusals::Kinds;

/// One round.
#[derive(Debug, Default)]
pub struct Sample {
    /// When it started, on the monotonic clock.
    pub at: Duration,
    /// How long reading the kernel took.
    pub took: Duration,
    /// Whether it started over one interval late.
    pub late: bool,
    /// How far it is from the round before, where rounds are further apart than configured because a source costs too much.
    pub distance: Option<Duration>,
    /// Every listener that is watched. One that discovery no longer finds is not in it.
    pub listeners: Vec<Watched>,
    /// Listeners beyond `--discover.limit`.
    pub ignored_listeners: usize,
    /// What was read once a second, in the rounds that did so.
    pub slow: Option<Slow>,
    /// How each source that was asked did.
    pub outcomes: Vec<(Source, Result<(), String>)>,
    /// Rows of tables that could not be read and were left out.
    pub unreadable: Vec<(Source, u64)>,
}

/// What changes slowly or costs more than a round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slow {
    /// Settings of this network namespace.
    pub settings: Settings,
    /// Counters of this network namespace.
    pub tcp_ext: TcpExt,
    /// This process; absent when procfs does not tell.
    pub process: Option<ProcessFigures>,
    /// Refused unix connects, each witness for itself; empty without one.
    pub refused: Vec<Refused>,
    /// What nginx's log held; absent when it is not received.
    pub nginx_log: Option<NginxLog>,
}

/// Refused connects to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The label of the listener; an address where there is no such listener, `other` for the rest.
    pub listener: String,
    /// Who witnessed them.
    pub source: Source,
    /// How many.
    pub count: u64,
}

/// Lines of nginx's log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NginxLog {
    /// By what they say.
    pub lines: Kinds,
    /// Datagrams that the kernel dropped because they came faster than they were read; known over UDP only.
    pub dropped: Option<u64>,
}

/// A listener and what the round saw of it.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Who it is.
    pub listener: Arc<Listener>,
    /// Whether there is something to read.
    pub presence: Presence,
    /// Where the limits of its queues come from.
    pub limit: LimitSource,
    /// One a socket; empty unless present.
    pub readings: Vec<Reading>,
    /// Who waits in its queues, as far as was looked.
    pub waiting: Waiting,
}

/// Where the limit of a queue comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitSource {
    /// The kernel reports it, through `sock_diag`.
    #[default]
    Kernel,
    /// It is the smaller of `backlog=` and `net.core.somaxconn`: `sock_diag` is not available.
    Told,
    /// Nobody reports it: `sock_diag` is not available.
    Unknown,
}

/// Who waits in the queues of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// One a reading of a unix listener: whether its queue was listed. Too long a queue is not.
    pub listed: Vec<bool>,
    /// The lists one after the other, as many clients each as the reading's depth, the head of the queue first: the inode of the
    /// client's socket, 0 once the client has gone.
    pub clients: Vec<u32>,
    /// Connections in the queues of a unix listener whose client has gone, where `/proc/net/unix` reports them instead of the lists.
    pub abandoned: Option<u64>,
    /// `connect()` calls that sleep because a queue of a unix listener is full.
    pub blocked: Option<u64>,
    /// What the last look at a TCP listener's connections found. There is one only while its queue is not empty.
    pub tcp: Option<TcpWaiting>,
}

/// The connections of a TCP listener that no application has accepted yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpWaiting {
    /// How long the oldest has been in the accept queue; absent if none that has not been reset was seen there.
    pub oldest: Option<Duration>,
    /// Those in the accept queue whose client has closed its end.
    pub abandoned: u64,
    /// Those whose handshake is going on.
    pub half_open: u64,
}

/// One socket's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Which socket.
    pub id: SocketId,
    /// Connections waiting for `accept()`.
    pub depth: u32,
    /// The limit of the socket; it is full one above. Absent where nobody reports it.
    pub backlog: Option<u32>,
    /// Packets dropped at a TCP listener since its birth, wrapping at 2^32.
    pub drops: Option<u32>,
}

/// Whether a listener is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Its sockets were read.
    Up,
    /// Its source answered, and it was not among what was listed.
    Missing(Absence),
    /// Its source failed.
    Unknown,
}

/// Why a configured listener is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Absence {
    /// Nothing listens there.
    NotListening,
    /// The path leads to a file that is no socket.
    NotASocket,
    /// The path leads to a socket file that no listener of this network namespace made.
    NoListenerOfFile,
    /// This directory on the way to the path may not be searched.
    Unreadable(PathBuf),
    /// The path could not be looked at.
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

impl LimitSource {
    /// The `limit` label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Told => "told",
            Self::Unknown => "unknown",
        }
    }
}

impl Watched {
    /// Whether anybody waits in its queues.
    #[must_use]
    pub fn occupied(&self) -> bool {
        self.readings.iter().any(|reading| reading.depth > 0)
    }
}

impl Reading {
    /// Whether the next connection is turned away.
    #[must_use]
    pub fn full(&self) -> bool {
        self.backlog.is_some_and(|backlog| self.depth > backlog)
    }

    /// The depth at which the next connection is turned away.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.backlog.map(|backlog| u64::from(backlog) + 1)
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListening => f.write_str("nothing listens there"),
            Self::NotASocket => f.write_str("the path exists but is no socket"),
            Self::NoListenerOfFile => f.write_str(
                "the socket file exists, but no listener of this network namespace made it: its process has ended, has shut it down, or lives in another network namespace",
            ),
            Self::Unreadable(directory) => write!(
                f,
                "the directory {} may not be searched by this user; nothing that listens is bound to the path's name either",
                crate::listener::escape(directory.as_os_str().as_encoded_bytes())
            ),
            Self::Failed(reason) => write!(f, "the path could not be looked at: {reason}"),
        }
    }
}
