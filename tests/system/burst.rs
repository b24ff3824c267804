//! Short bursts at the default interval: each is seen, whenever it comes.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::common::exporter::Exporter;
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, connect, connect_all, label};

const BURSTS: u32 = 50;
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
    let late_at_start = page.get("listen_queue_samples_late_total");

    let random = RandomState::new();
    for burst in 1..=BURSTS {
        // Where in the interval the burst begins is left to chance; two bursts are 25 to 35 ms apart at least.
        let offset = random.hash_one(burst) % 10_000;
        std::thread::sleep(Duration::from_millis(25) + Duration::from_micros(offset));

        // Each queue is longer than the one before, so each has a peak of its own.
        let backlog = 10 + burst;
        listener.listen(i32::try_from(backlog).unwrap());
        let clients = connect_all(&path, backlog as usize + 1);
        assert!(connect(&path).is_err(), "the queue is full");
        std::thread::sleep(FULL_FOR);
        let accepted = listener.accept_all();
        assert_eq!(accepted.len(), clients.len());

        let page = exporter.scrape();
        let late = page.get("listen_queue_samples_late_total");
        assert_eq!(
            page.of("listen_queue_depth_peak", &name),
            Some(f64::from(backlog + 1)),
            "peak of burst {burst}; late rounds before it {late_at_start:?}, now {late:?}"
        );
    }
    let page = exporter.fresh();
    let late = page.get("listen_queue_samples_late_total");
    assert_eq!(
        page.of("listen_queue_full_episodes_total", &name),
        Some(f64::from(BURSTS)),
        "late rounds before {late_at_start:?}, now {late:?}"
    );
    assert_eq!(
        page.of("listen_queue_depth_peak", &name),
        Some(f64::from(11 + BURSTS))
    );
    let full = page.of("listen_queue_full_seconds_total", &name).unwrap();
    let told = f64::from(BURSTS) * FULL_FOR.as_secs_f64();
    // One sample at least and, were each burst held up, not many more than fit into it.
    assert!(full >= f64::from(BURSTS) * 0.01 - 1e-9, "{full} s full");
    assert!(full <= told * 3.0, "{full} s full of {told} s");
}
