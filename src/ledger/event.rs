//! What somebody who reads the log should know. The ledger notes it; main writes it.

use std::sync::Arc;

use crate::listener::Listener;
use crate::sample::{Absence, Source};

/// A change worth one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A listener was found.
    Found(Arc<Listener>, Found),
    /// A configured listener is missing; with `net.core.somaxconn`, if known.
    Missing(Arc<Listener>, Absence, Option<u32>),
    /// A discovered listener is gone.
    Gone(Arc<Listener>),
    /// The address is served by another socket than before.
    Replaced(Arc<Listener>, Found),
    /// The next connection is turned away.
    Full(Arc<Listener>, Found),
    /// A source failed, or fails for another reason than before.
    SourceFailed(Source, String),
    /// A source that had failed works again.
    SourceRecovered(Source),
}

/// The queue at the moment of the event, summed over the sockets of the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Sockets of the listener.
    pub sockets: usize,
    /// Connections waiting.
    pub depth: u64,
    /// Limit of the queue, if known.
    pub backlog: Option<u64>,
    /// Limit plus one a socket, if known.
    pub capacity: Option<u64>,
    /// `net.core.somaxconn`, if known.
    pub somaxconn: Option<u32>,
}
