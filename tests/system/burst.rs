//! Short bursts at the default interval: each is seen, whenever it comes.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::common::exporter::Exporter;
use crate::common::exposition::Page;
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, connect, connect_all, label};

/// Bursts in which no round was late: each of these is seen.
const BURSTS: u32 = 50;
/// On a machine that others keep busy, rounds are late now and then, as the exporter says.
const TRIES: u32 = 4 * BURSTS;
const FULL_FOR: Duration = Duration::from_millis(20);

#[test]
fn a_queue_that_is_full_for_20_ms_is_seen_every_time() {
    let _namespace = Namespace::enter_alone();
    let directory = directory();
    let path = directory.path().join("g.sock");
    let listener = Listener::unix(&path, 0);
    let name = label(&path);
    let exporter = Exporter::start(&["--listener", &name]);
    let page = exporter.shows(&name);
    assert_eq!(
        page.of("listen_queue_full_episodes_total", &name),
        Some(0.0)
    );
    let late_rounds = |page: &Page| page.get("listen_queue_samples_late_total");

    let random = RandomState::new();
    let (mut seen, mut tried, mut full_for) = (0, 0, Duration::ZERO);
    let mut late = late_rounds(&page);
    while seen < BURSTS {
        tried += 1;
        assert!(tried <= TRIES, "{seen} bursts without a late round");
        // Where in the interval the burst begins is left to chance; two bursts are 25 to 35 ms apart at least.
        let offset = random.hash_one(tried) % 10_000;
        std::thread::sleep(Duration::from_millis(25) + Duration::from_micros(offset));

        // Each queue is longer than the one before, so each has a peak of its own.
        let backlog = 10 + tried;
        listener.listen(i32::try_from(backlog).unwrap());
        let clients = connect_all(&path, backlog as usize + 1);
        let full = Instant::now();
        assert!(connect(&path).is_err(), "the queue is full");
        std::thread::sleep(FULL_FOR);
        let accepted = listener.accept_all();
        full_for += full.elapsed();
        assert_eq!(accepted.len(), clients.len());

        let page = exporter.fresh();
        let late_before = std::mem::replace(&mut late, late_rounds(&page));
        if late == late_before {
            seen += 1;
            assert_eq!(
                page.of("listen_queue_depth_peak", &name),
                Some(f64::from(backlog + 1)),
                "peak of burst {tried}"
            );
        }
    }
    let page = exporter.fresh();
    let episodes = page.of("listen_queue_full_episodes_total", &name).unwrap();
    let possible = f64::from(seen)..=f64::from(tried);
    assert!(possible.contains(&episodes), "{episodes} of {possible:?}");
    let full = page.of("listen_queue_full_seconds_total", &name).unwrap();
    // One sample at least of each, and at most one more than fit into it.
    assert!(full >= f64::from(seen) * 0.01 - 1e-9, "{full} s full");
    let longest = full_for.as_secs_f64() + f64::from(tried) * 0.02;
    assert!(full <= longest, "{full} s full of {longest} s");
}
