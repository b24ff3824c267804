//! Events for the log. The ledger records them; main writes them.

use std::sync::Arc;

use crate::listener::Listener;
use crate::sample::{Absence, Namespace, Source};

/// A change that is logged with one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A listener was found.
    Found(Subject, Found),
    /// A configured listener is missing; with `net.core.somaxconn`, if known.
    Missing(Subject, Absence, Option<u32>),
    /// A discovered listener was removed.
    Removed(Subject),
    /// New sockets replaced those of the address.
    Replaced(Subject, Found),
    /// The queue is full: the next connection is refused or must wait.
    Full(Subject, Found),
    /// The listeners of this namespace, and of those with the same owner, had so many events that the next ones are left out for a while.
    TooMany(Arc<Namespace>),
    /// A source failed, or fails for a new reason.
    SourceFailed(Source, String),
    /// A failed source works again.
    SourceRecovered(Source),
    /// A part of the machine's network namespaces is not available, for this reason.
    Closed(String),
}

/// A listener and its network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its network namespace.
    pub namespace: Arc<Namespace>,
    /// The listener.
    pub listener: Arc<Listener>,
}

/// The queue when the event occurred, summed over the sockets of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Sockets of the listener.
    pub sockets: usize,
    /// Connections waiting.
    pub depth: u64,
    /// Limit of the queue, if known.
    pub backlog: Option<u64>,
    /// Limit plus one for each socket, if known.
    pub capacity: Option<u64>,
    /// `net.core.somaxconn`, if known.
    pub somaxconn: Option<u32>,
}
