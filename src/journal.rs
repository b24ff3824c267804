//! Writes events to the log. `main` calls it, not the sampler: a log that nobody reads must not stop the rounds.

use crate::ledger::{Event, Found, Subject};
use crate::sample::Absence;

/// Writes one line for an event.
pub fn write(event: &Event) {
    match event {
        Event::Found(subject, found) => log_queue(subject, *found, "listener found"),
        Event::Replaced(subject, found) => {
            log_queue(
                subject,
                *found,
                "listener replaced: new sockets serve its address",
            );
        }
        Event::Full(subject, found) => tracing::warn!(
            listener = subject.listener.name,
            namespace = subject.namespace.label("namespace"),
            pod = subject.namespace.label("pod"),
            cgroup = subject.namespace.label("cgroup"),
            depth = found.depth,
            capacity = found.capacity,
            backlog = found.backlog,
            somaxconn = found.somaxconn,
            "listener is full: further connections are refused or must wait"
        ),
        Event::Missing(subject, absence, somaxconn) => log_absence(subject, absence, *somaxconn),
        Event::Removed(subject) => tracing::info!(
            listener = subject.listener.name,
            namespace = subject.namespace.label("namespace"),
            pod = subject.namespace.label("pod"),
            cgroup = subject.namespace.label("cgroup"),
            "listener removed"
        ),
        Event::TooMany(of) => tracing::warn!(
            namespace = of.label("namespace"),
            pod = of.label("pod"),
            cgroup = of.label("cgroup"),
            "listeners come and go too often: the rest of the minute is not logged"
        ),
        Event::SourceFailed(source, reason) => {
            tracing::warn!(source = source.name(), reason, "source failed");
        }
        Event::SourceRecovered(source) => {
            tracing::info!(source = source.name(), "source recovered");
        }
        Event::Closed(reason) => {
            tracing::warn!(reason, "network namespaces are read only in part");
        }
    }
}

fn log_queue(subject: &Subject, found: Found, message: &str) {
    tracing::info!(
        listener = subject.listener.name,
        namespace = subject.namespace.label("namespace"),
        pod = subject.namespace.label("pod"),
        cgroup = subject.namespace.label("cgroup"),
        sockets = found.sockets,
        depth = found.depth,
        backlog = found.backlog,
        somaxconn = found.somaxconn,
        "{message}"
    );
}

fn log_absence(subject: &Subject, absence: &Absence, somaxconn: Option<u32>) {
    let listener = &subject.listener;
    let (name, address, reason) = (&listener.name, &listener.address, absence);
    if *absence == Absence::NotListening {
        tracing::info!(listener = name, %address, somaxconn, %reason, "listener missing: waiting for it");
    } else {
        tracing::warn!(listener = name, %address, somaxconn, %reason, "listener missing");
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::listener::Listener;
    use crate::sample::{Namespace, Source};

    const FOUND: Found = Found {
        sockets: 2,
        depth: 7,
        backlog: Some(5),
        capacity: Some(12),
        somaxconn: Some(4096),
    };

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The fields of the one line that is written.
    fn written(event: &Event) -> Value {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(log, || write(event));
        let text = String::from_utf8(std::mem::take(&mut lines.0.lock().unwrap())).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// There may be more fields than these.
    #[track_caller]
    fn assert_written(event: &Event, expected: &Value) {
        let line = written(event);
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(line.get(field), Some(value), "{field} in {line}");
        }
    }

    fn listener() -> Subject {
        Subject {
            namespace: Arc::default(),
            listener: Arc::new(Listener::parse("app=unix:/run/app.sock").unwrap()),
        }
    }

    #[test]
    fn a_listener_of_one_of_many_namespaces_is_logged_with_its_pod() {
        let label = |name, value: &str| (name, value.to_owned());
        let namespace = Namespace {
            id: 7,
            labels: vec![
                label("namespace", "shop"),
                label("pod", "web-1"),
                label("cgroup", "/a"),
            ],
            ..Namespace::default()
        };
        let subject = Subject {
            namespace: Arc::new(namespace),
            ..listener()
        };
        let place = json!({"listener": "app", "namespace": "shop", "pod": "web-1", "cgroup": "/a"});
        for event in [
            Event::Full(subject.clone(), FOUND),
            Event::Removed(subject.clone()),
        ] {
            assert_written(&event, &place);
        }
        assert_written(&Event::Found(subject.clone(), FOUND), &place);
        let place = json!({"namespace": "shop", "pod": "web-1", "cgroup": "/a"});
        assert_written(&Event::TooMany(subject.namespace.clone()), &place);
        assert_eq!(written(&Event::Removed(listener())).get("pod"), None);
        let reason = "cannot enter".to_owned();
        let expected = json!({"level": "WARN", "reason": "cannot enter"});
        assert_written(&Event::Closed(reason), &expected);
    }

    #[test]
    fn a_listener_that_is_found_or_replaced_is_logged_with_its_queue() {
        let replaced = "listener replaced: new sockets serve its address";
        for (event, message) in [
            (Event::Found(listener(), FOUND), "listener found"),
            (Event::Replaced(listener(), FOUND), replaced),
        ] {
            let expected = json!({
                "level": "INFO", "message": message, "listener": "app",
                "sockets": 2, "depth": 7, "backlog": 5, "somaxconn": 4096,
            });
            assert_written(&event, &expected);
        }
    }

    #[test]
    fn a_full_queue_is_a_warning_with_what_limits_it() {
        let expected = json!({
            "level": "WARN", "message": "listener is full: further connections are refused or must wait", "listener": "app",
            "depth": 7, "capacity": 12, "backlog": 5, "somaxconn": 4096,
        });
        assert_written(&Event::Full(listener(), FOUND), &expected);
    }

    #[test]
    fn an_unknown_setting_is_not_logged() {
        let found = Found {
            somaxconn: None,
            ..FOUND
        };
        for event in [
            Event::Found(listener(), found),
            Event::Full(listener(), found),
        ] {
            assert_eq!(written(&event).get("somaxconn"), None);
        }
    }

    #[test]
    fn to_wait_for_a_listener_is_no_warning_and_one_that_cannot_be_found_is() {
        let waiting = json!({
            "level": "INFO", "message": "listener missing: waiting for it", "listener": "app",
            "address": "unix:/run/app.sock", "somaxconn": 4096, "reason": "no socket is listening at this address",
        });
        let event = Event::Missing(listener(), Absence::NotListening, Some(4096));
        assert_written(&event, &waiting);
        let missing = json!({
            "level": "WARN", "message": "listener missing", "listener": "app",
            "address": "unix:/run/app.sock", "reason": "the path exists but is not a socket",
        });
        let event = Event::Missing(listener(), Absence::NotASocket, None);
        assert_written(&event, &missing);
    }

    #[test]
    fn a_removed_listener_is_logged_by_its_label() {
        let expected = json!({"level": "INFO", "message": "listener removed", "listener": "app"});
        assert_written(&Event::Removed(listener()), &expected);
    }

    #[test]
    fn a_source_is_logged_with_why_it_failed_and_that_it_works_again() {
        let failed = json!({
            "level": "WARN", "message": "source failed",
            "source": "unix_diag", "reason": "no reply within 500 ms",
        });
        let event = Event::SourceFailed(Source::UnixDiag, "no reply within 500 ms".to_owned());
        assert_written(&event, &failed);
        let recovered =
            json!({"level": "INFO", "message": "source recovered", "source": "unix_diag"});
        assert_written(&Event::SourceRecovered(Source::UnixDiag), &recovered);
    }
}
