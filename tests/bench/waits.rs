//! What it costs to know who waits: following unix queues in each round, and looking at TCP queues now and then.

use std::path::Path;
use std::time::{Duration, Instant};

use listen_queue_exporter::kernel::inet::{self, Family};
use listen_queue_exporter::kernel::sock_diag::Channel;

use super::common::namespace::Namespace;
use super::common::socket::{Listener, connect_tcp};
use super::cpu::compare;
use super::hold::Held;
use super::report::Report;

const RATE: u32 = 1000;
/// The longest queue that is listed.
const LONGEST: u32 = 900;
const PORT: u16 = 8000;
/// Queries of each kind; the median counts.
const QUERIES: usize = 201;

pub(crate) fn measure(report: &mut Report, program: &Path) {
    following(report, program);
    looks(report);
}

fn following(report: &mut Report, program: &Path) {
    report.section(&format!(
        "Following a unix queue, {RATE} rounds/s, as many unix sockets in each case"
    ));
    report.row(&[
        "depth",
        "C loop us/round",
        "exporter us/round",
        "adds us",
        "times depth 0",
        "times the C loop",
    ]);
    let mut at_rest = None;
    for depth in [0, 1, 100, LONGEST] {
        let run = || {
            let _namespace = Namespace::enter();
            // A connection in the queue is two sockets.
            let _others = Held::unix(2 * (LONGEST - depth));
            compare(program, RATE, depth.try_into().expect("a few"))
        };
        let shares = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        let [bare, exporter] = [shares.bare, shares.exporter].map(|s| s / f64::from(RATE) * 1e6);
        let at_rest = *at_rest.get_or_insert(exporter);
        report.row(&[
            &depth.to_string(),
            &format!("{bare:.1}"),
            &format!("{exporter:.1}"),
            &format!("{:.1}", exporter - at_rest),
            &format!("{:.2}", exporter / at_rest),
            &format!("{:.2}", exporter / bare),
        ]);
        for (name, value) in [("bare", bare), ("exporter", exporter)] {
            report.figure(&format!("following, depth {depth}, {name} us/round"), value);
        }
    }
}

fn looks(report: &mut Report) {
    report.section(&format!(
        "A look at who waits in a TCP queue (median of {QUERIES}), beside a lookup of the listener"
    ));
    report.row(&[
        "TCP sockets",
        "lookup us",
        "look us",
        "times the lookup",
        "share at one a second %",
    ]);
    type Others = fn() -> Held;
    let cases: [(&str, Others); 4] = [
        ("none", Held::default),
        ("1,000", || Held::tcp(500)),
        ("20,000", || Held::tcp(10_000)),
        ("20,000, half of them accepted at the port", || {
            Held::tcp_at(PORT, 10_000)
        }),
    ];
    for (name, others) in cases {
        let run = || {
            let _namespace = Namespace::enter();
            let _others = others();
            look()
        };
        let times = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        let [lookup, look] = times.map(|time| time.as_secs_f64() * 1e6);
        report.row(&[
            name,
            &format!("{lookup:.1}"),
            &format!("{look:.0}"),
            &format!("{:.0}", look / lookup),
            &format!("{:.2}", look / 1e6 * 100.0),
        ]);
        report.figure(&format!("TCP look, {name} sockets, us"), look);
        report.figure(&format!("TCP lookup, {name} sockets, us"), lookup);
    }
}

/// How long a lookup and a look take, in turn.
fn look() -> [Duration; 2] {
    let address = format!("127.0.0.1:{PORT}");
    let _listener = Listener::tcp(&address, 5);
    let _client = connect_tcp(&address);
    let mut channel = Channel::open().expect("netlink");
    let mut found = None;
    let address = address.parse().expect("an address");
    inet::list(&mut channel, Family::V4, |row| {
        if row.bound.address == address {
            found = Some(row);
        }
    })
    .expect("a dump");
    let listener = found.expect("it listens");
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..QUERIES {
        let start = Instant::now();
        let queue = inet::queue(&mut channel, listener.id, listener.bound);
        times[0].push(start.elapsed());
        let depth = queue.expect("an answer").expect("it listens").depth;
        let (start, mut waiting) = (Instant::now(), 0);
        inet::members(&mut channel, Family::V4, PORT, |_| waiting += 1).expect("a dump");
        times[1].push(start.elapsed());
        assert_eq!((depth, waiting), (1, 1));
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}
