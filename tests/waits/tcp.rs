//! TCP queues: what the metrics show of the last scan.

use std::thread;
use std::time::Duration;

use listen_queue_exporter::sampler::now;

use crate::common::exporter::Exporter;
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_tcp};
use crate::truth::{Span, timed};

const ADDRESS: &str = "127.0.0.1:8000";
const NAME: &str = "tcp:127.0.0.1:8000";
const OLDEST: &str = "listen_queue_oldest_wait_seconds";
const ABANDONED: &str = "listen_queue_abandoned_connections";
/// What a tick of the kernel's clock may add or take away.
const TICK: Duration = Duration::from_millis(10);

#[test]
fn the_page_shows_the_oldest_connection_of_a_tcp_queue_as_of_the_last_scan() {
    let _namespace = Namespace::enter();
    let listener = Listener::tcp(ADDRESS, 100);
    let exporter = Exporter::start(&["--listener", NAME, "--sample.tcp-interval", "50ms"]);
    let empty = exporter.shows(NAME);
    assert_eq!(
        [OLDEST, ABANDONED].map(|name| empty.of(name, NAME)),
        [Some(0.0); 2]
    );
    // Nothing is followed from scan to scan.
    for absent in [
        "listen_queue_unanchored_rounds_total",
        "listen_queue_blocked_connects",
    ] {
        assert_eq!(empty.of(absent, NAME), None);
    }
    assert_eq!(
        empty.bucket("listen_queue_wait_seconds", NAME, "+Inf"),
        None
    );
    let mut clients = Vec::new();
    let connects: Vec<Span> = (0..10)
        .map(|_| {
            let (client, span) = timed(|| connect_tcp(ADDRESS));
            clients.push(client);
            thread::sleep(Duration::from_millis(100));
            span
        })
        .collect();
    for (number, came) in connects.iter().enumerate() {
        let left = f64::from(u32::try_from(connects.len() - number).unwrap());
        let start = now();
        exporter.when("a scan of this head, no longer of the one before", |page| {
            let oldest = page.of(OLDEST, NAME).unwrap_or_default();
            page.queue(NAME).unwrap().depth == left
                && oldest >= (start - came.to).as_secs_f64()
                && oldest <= (now() - came.from + TICK).as_secs_f64()
        });
        drop(listener.accept().unwrap());
    }
    let empty = exporter.when("an empty queue", |page| {
        page.queue(NAME).unwrap().depth == 0.0
    });
    assert_eq!(
        [OLDEST, ABANDONED].map(|name| empty.of(name, NAME)),
        [Some(0.0); 2]
    );
}
