//! Queues that are too long to list, and the way back.

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};

const NAME: &str = "unix:@long";
const BESIDE: &str = "unix:@beside";
const OLDEST: &str = "listen_queue_oldest_wait_seconds";
const ABANDONED: &str = "listen_queue_abandoned_connections";
const UNANCHORED: &str = "listen_queue_unanchored_rounds_total";
const WAITS: &str = "listen_queue_wait_seconds";
/// The longest queue that is listed.
const LISTED: u32 = 900;

#[test]
fn a_queue_of_2000_has_a_depth_and_no_waits_and_the_counter_says_so() {
    check(2000);
}

#[test]
fn a_queue_of_8200_has_a_depth_and_no_waits_and_the_counter_says_so() {
    check(8200);
}

fn check(depth: u32) {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(10_000);
    let long = Listener::abstract_unix(b"long", 10_000);
    let _beside = Listener::abstract_unix(b"beside", 10);
    let exporter = Exporter::start(&["--listener", NAME, "--listener", BESIDE]);
    exporter.shows(NAME);
    let _one = connect_abstract(b"beside").unwrap();
    // A connection's age is 0 in the round that sees it first.
    exporter.when("its age", |page| page.of(OLDEST, BESIDE) > Some(0.0));
    let connect = |count: u32| (0..count).map(|_| connect_abstract(b"long").unwrap());
    let mut clients: Vec<_> = connect(LISTED).collect();
    let shows = |depth: u32, abandoned: Option<f64>| {
        let page = exporter.fresh();
        assert_eq!(page.queue(NAME), Queue::of(depth, 10_000));
        assert_eq!(page.of(ABANDONED, NAME), abandoned);
        assert_eq!(page.of(OLDEST, NAME).is_some(), abandoned.is_some());
        // Its neighbour is read all the same.
        assert_eq!(page.queue(BESIDE), Queue::of(1, 10));
        assert_eq!(page.of(ABANDONED, BESIDE), Some(0.0));
        assert!(page.of(OLDEST, BESIDE).unwrap() > 0.0);
        page
    };
    // Every second client disconnects.
    clients = clients.into_iter().step_by(2).collect();
    shows(LISTED, Some(450.0));

    clients.extend(connect(depth - LISTED));
    let start = shows(depth, None);
    let waited = waited(&start);
    let end = (0..50).fold(None, |_, _| Some(shows(depth, None))).unwrap();
    let grown = |name: &str, page: fn(&Page, &str) -> Option<f64>| {
        page(&end, name).unwrap() - page(&start, name).unwrap()
    };
    let rounds = grown("listen_queue_samples_total", Page::get);
    assert!(rounds >= 50.0);
    assert_eq!(grown(UNANCHORED, |page, name| page.of(name, NAME)), rounds);
    assert_eq!(grown(UNANCHORED, |page, name| page.of(name, BESIDE)), 0.0);
    assert_eq!(self::waited(&end), waited);

    let accept = |count: u32| (0..count).for_each(|_| drop(long.accept().unwrap()));
    accept(depth - LISTED - 1);
    shows(LISTED + 1, None);
    accept(1);
    let listed = shows(LISTED, Some(0.0));
    // Their arrival is unknown, so their waits are not counted.
    accept(LISTED - 1);
    let one = shows(1, Some(0.0));
    let unanchored = |page: &Page| page.of(UNANCHORED, NAME);
    assert_eq!(unanchored(&one), unanchored(&listed));
    assert_eq!(self::waited(&one), waited);
    assert!(one.of(OLDEST, NAME) > listed.of(OLDEST, NAME));
}

/// Number of waits in the histogram.
fn waited(page: &Page) -> f64 {
    page.bucket(WAITS, NAME, "+Inf").unwrap()
}
