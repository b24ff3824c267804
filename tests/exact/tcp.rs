//! TCP queues: the age of each connection as a look at the table tells it, against when it was made.

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

struct Look {
    span: Span,
    /// The oldest first.
    ages: Vec<Duration>,
    abandoned: usize,
}

fn look(channel: &mut Channel) -> Look {
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
    Look {
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
    let (looks, log) = thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let left = traffic.run(&listener, || {
                // A full queue would drop the SYN: then the connection would be made later.
                Some(connect_tcp(ADDRESS))
            });
            done.store(true, Ordering::Release);
            left
        });
        let mut channel = Channel::open().unwrap();
        let mut looks = Vec::new();
        while !done.load(Ordering::Acquire) {
            looks.push(look(&mut channel));
            thread::sleep(INTERVAL);
        }
        let (log, _clients) = traffic.join().unwrap();
        (looks, log)
    });
    assert!(log.connects.len() < 300 + log.accepts.len());
    let (mut checked, mut connections, mut abandoned) = (0, 0, 0);
    for look in &looks {
        if check(look, &log) {
            checked += 1;
            connections += look.ages.len();
            abandoned += look.abandoned;
        }
    }
    println!(
        "{checked} of {} looks, {connections} ages, {abandoned} abandoned",
        looks.len()
    );
    assert!(checked >= looks.len() / 4 && connections >= 1000 && abandoned >= 100);
}

/// Holds a look against the truth. False if something was done while the kernel walked the table: then no moment is all of it.
fn check(look: &Look, log: &Log) -> bool {
    let (connects, accepts) = (
        count(&log.connects, look.span),
        count(&log.accepts, look.span),
    );
    let closing = |close: &Span| close.from <= look.span.to && close.to >= look.span.from;
    if connects.0 < connects.1 || accepts.0 < accepts.1 || log.closes.values().any(closing) {
        return false;
    }
    let waiting = &log.connects[accepts.0..connects.0];
    assert_eq!(look.ages.len(), waiting.len());
    for (age, came) in look.ages.iter().zip(waiting) {
        assert!(*age + TICK >= look.span.from - came.to, "{age:?}");
        assert!(*age <= look.span.to - came.from + TICK, "{age:?}");
    }
    let gone = log.closes.range(accepts.0..connects.0);
    let gone = gone.filter(|(_, close)| close.to <= look.span.from);
    assert_eq!(look.abandoned, gone.count());
    true
}
