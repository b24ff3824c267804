//! nginx in front of gunicorn on a unix socket, and a burst that is more than its queue holds.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::exporter::Exporter;
use crate::common::exposition::Page;
use crate::common::load;
use crate::common::namespace::Namespace;
use crate::common::site::Site;
use crate::common::socket::label;
use crate::common::wait;

const FULL_SECONDS: &str = "listen_queue_full_seconds_total";

fn statuses(pairs: &[(u16, u32)]) -> BTreeMap<u16, u32> {
    pairs.iter().copied().collect()
}

/// 450 requests in 1.5 s to two workers that need 10 to 30 ms for each.
fn burst(somaxconn: u32) -> (BTreeMap<u16, u32>, usize, Page, String) {
    let namespace = Namespace::enter_alone();
    namespace.set_somaxconn(somaxconn);
    let site = Site::start(2, "sleep", "");
    let exporter = Exporter::start(&["--listener", &format!("gunicorn={}", label(&site.socket))]);
    let answers = load::run(site.server, 450, Duration::from_millis(1500));
    let page = exporter.fresh();
    (answers, site.refused_connects(), page, exporter.log())
}

#[test]
fn a_burst_at_somaxconn_128_fills_the_queue_and_each_refusal_is_a_502() {
    let (answers, refused, page, log) = burst(128);
    println!("{answers:?}");
    let (good, bad) = (answers[&200], answers[&502]);
    assert_eq!(answers, statuses(&[(200, good), (502, bad)]));
    assert_eq!(good + bad, 450);
    assert_eq!(refused, bad as usize);
    // 129 waited, and two workers served one in 20 ms each for 1.5 s: about 279 at most, 177 502s were measured.
    assert!((150..=230).contains(&bad), "{answers:?}");
    assert_eq!(page.of("listen_queue_depth_peak", "gunicorn"), Some(129.0));
    assert_eq!(page.of("listen_queue_capacity", "gunicorn"), Some(129.0));
    assert!(page.of(FULL_SECONDS, "gunicorn") > Some(0.0));
    assert!(page.of("listen_queue_full_episodes_total", "gunicorn") >= Some(1.0));
    assert!(log.contains("listener is full"), "{log}");
}

#[test]
fn the_same_burst_at_somaxconn_4096_waits_and_is_served() {
    let (answers, refused, page, log) = burst(4096);
    assert_eq!(answers, statuses(&[(200, 450)]));
    assert_eq!(refused, 0);
    assert_eq!(page.of("listen_queue_capacity", "gunicorn"), Some(2049.0));
    let peak = page.of("listen_queue_depth_peak", "gunicorn").unwrap();
    assert!((129.0..=448.0).contains(&peak), "{peak}");
    assert_eq!(page.of(FULL_SECONDS, "gunicorn"), Some(0.0));
    assert_eq!(
        page.of("listen_queue_full_episodes_total", "gunicorn"),
        Some(0.0)
    );
    assert!(!log.contains("listener is full"), "{log}");
}

/// 200 requests in one second, none of which ends before the last has begun: the published reproduction, exactly.
fn published(somaxconn: u32, workers: u32, expected: &[(u16, u32)]) {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(somaxconn);
    let site = Site::start(workers, "gate", "");
    let exporter = Exporter::start(&["--listener", &format!("gunicorn={}", label(&site.socket))]);
    let capacity = f64::from(somaxconn) + 1.0;
    assert_eq!(
        exporter.fresh().of("listen_queue_capacity", "gunicorn"),
        Some(capacity)
    );
    let (server, all) = (site.server, Duration::from_secs(1));
    let load = std::thread::spawn(move || load::run(server, 200, all));
    // The workers hold one each, the queue the rest; what it has no room for got its 502 already.
    let waiting = f64::from(200 - workers).min(capacity);
    exporter.when("the queue to hold what it can", |page| {
        page.of("listen_queue_depth", "gunicorn") == Some(waiting)
    });
    let turned_away: u32 = expected
        .iter()
        .filter(|(s, _)| *s == 502)
        .map(|(_, n)| n)
        .sum();
    wait::until_true("the refusals", || {
        site.refused_connects() == turned_away as usize
    });
    let full = exporter.fresh();
    assert_eq!(full.of("listen_queue_depth", "gunicorn"), Some(waiting));
    site.open_gate();
    assert_eq!(load.join().unwrap(), statuses(expected));
    assert_eq!(site.refused_connects(), turned_away as usize);
    let page = exporter.fresh();
    assert_eq!(page.of("listen_queue_depth", "gunicorn"), Some(0.0));
    assert_eq!(
        page.of("listen_queue_depth_peak", "gunicorn"),
        Some(waiting)
    );
    assert_eq!(
        page.of(FULL_SECONDS, "gunicorn") > Some(0.0),
        turned_away > 0
    );
}

#[test]
fn of_200_requests_at_once_129_and_one_a_worker_are_served_and_the_rest_refused() {
    published(128, 4, &[(200, 133), (502, 67)]);
    published(128, 2, &[(200, 131), (502, 69)]);
}

#[test]
fn of_200_requests_at_once_all_are_served_at_somaxconn_1024() {
    published(1024, 4, &[(200, 200)]);
}
