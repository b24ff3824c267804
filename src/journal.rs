//! Writes events to the log. Main calls it, not the sampler: a log that nobody drains must not stop the rounds.

use crate::ledger::{Event, Found};
use crate::listener::Listener;
use crate::sample::Absence;

/// Writes one line for an event.
pub fn write(event: &Event) {
    match event {
        Event::Found(listener, found) => log_queue(listener, *found, "listener found"),
        Event::Replaced(listener, found) => {
            log_queue(
                listener,
                *found,
                "listener replaced: other sockets serve its address",
            );
        }
        Event::Full(listener, found) => tracing::warn!(
            listener = listener.name,
            depth = found.depth,
            capacity = found.capacity,
            backlog = found.backlog,
            somaxconn = found.somaxconn,
            "listener is full: connections are turned away"
        ),
        Event::Missing(listener, absence) => log_absence(listener, absence),
        Event::Gone(listener) => tracing::info!(listener = listener.name, "listener gone"),
        Event::SourceFailed(source, reason) => tracing::warn!(
            source = source.name(),
            reason,
            "source failed: what it could not read is absent"
        ),
        Event::SourceRecovered(source) => {
            tracing::info!(source = source.name(), "source works again");
        }
    }
}

fn log_queue(listener: &Listener, found: Found, message: &str) {
    tracing::info!(
        listener = listener.name,
        sockets = found.sockets,
        depth = found.depth,
        backlog = found.backlog,
        somaxconn = found.somaxconn,
        "{message}"
    );
}

fn log_absence(listener: &Listener, absence: &Absence) {
    let (listener, reason) = (&listener.name, absence);
    if *absence == Absence::NotListening {
        tracing::info!(listener, %reason, "listener missing: waiting for it");
    } else {
        tracing::warn!(listener, %reason, "listener missing");
    }
}
