//! TCP queues: the age of each connection in a scan of the table, compared with the time at which it was made.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use listen_queue_exporter::kernel::inet::{self, Family, Stage};
use listen_queue_exporter::kernel::sock_diag::Channel;

use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_tcp};
use crate::truth::{Log, Span, Traffic, count, timed};

const ADDRESS: &str = "127.0.0.1:8000";
const INTERVAL: Duration = Duration::from_millis(20);
/// What a tick of the kernel's clock may add or take away.
const TICK: Duration = Duration::from_millis(10);

struct Scan {
    span: Span,
    /// The oldest first.
    ages: Vec<Duration>,
    abandoned: usize,
}

fn scan(channel: &mut Channel) -> Scan {
    let (mut ages, mut abandoned) = (Vec::new(), 0);
    let (asked, span) = timed(|| {
        let port = ADDRESS.parse::<SocketAddr>().unwrap().port();
        inet::members(channel, Family::V4, port, |member| match member.stage {
            Stage::Waiting { age, client_closed } => {
                ages.push(age);
                abandoned += usize::from(client_closed);
            }
            Stage::HalfOpen => {}
        })
    });
    asked.unwrap();
    ages.sort_unstable_by(|a, b| b.cmp(a));
    Scan {
        span,
        ages,
        abandoned,
    }
}

#[test]
fn every_connection_in_a_queue_is_as_old_as_it_is_to_ten_milliseconds() {
    let _namespace = Namespace::enter();
    let listener = Listener::tcp(ADDRESS, 300);
    let traffic = Traffic {
        lasts: Duration::from_secs(20),
        service: Duration::from_millis(15),
        phase: Duration::from_millis(500),
        seed: 1,
    };
    let done = AtomicBool::new(false);
    let (scans, log) = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let left = traffic.run(&listener, || {
                // A full queue would drop the SYN: then the connection would be made later.
                Some(connect_tcp(ADDRESS))
            });
            done.store(true, Ordering::Release);
            left
        });
        let mut channel = Channel::open().unwrap();
        let mut scans = Vec::new();
        while !done.load(Ordering::Acquire) {
            scans.push(scan(&mut channel));
            thread::sleep(INTERVAL);
        }
        let (log, _clients) = traffic.join().unwrap();
        (scans, log)
    });
    assert!(log.connects.len() < 300 + log.accepts.len());
    let (mut checked, mut connections, mut abandoned) = (0, 0, 0);
    for scan in &scans {
        if check(scan, &log) {
            checked += 1;
            connections += scan.ages.len();
            abandoned += scan.abandoned;
        }
    }
    println!(
        "{checked} of {} scans, {connections} ages, {abandoned} abandoned",
        scans.len()
    );
    assert!(checked >= scans.len() / 4 && connections >= 1000 && abandoned >= 100);
}

/// Compares a scan with the truth. False if something was done while the kernel walked the table: then the scan is not of one moment.
fn check(scan: &Scan, log: &Log) -> bool {
    let (connects, accepts) = (
        count(&log.connects, scan.span),
        count(&log.accepts, scan.span),
    );
    let closing = |close: &Span| close.from <= scan.span.to && close.to >= scan.span.from;
    if connects.0 < connects.1 || accepts.0 < accepts.1 || log.closes.values().any(closing) {
        return false;
    }
    let waiting = &log.connects[accepts.0..connects.0];
    assert_eq!(scan.ages.len(), waiting.len());
    for (age, came) in scan.ages.iter().zip(waiting) {
        assert!(*age + TICK >= scan.span.from - came.to, "{age:?}");
        assert!(*age <= scan.span.to - came.from + TICK, "{age:?}");
    }
    let closed = log.closes.range(accepts.0..connects.0);
    let closed = closed.filter(|(_, close)| close.to <= scan.span.from);
    assert_eq!(scan.abandoned, closed.count());
    true
}
