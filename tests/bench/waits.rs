//! The cost of the waits: following unix queues in each round, and scanning TCP queues now and then.

use std::time::{Duration, Instant};

use listen_queue_exporter::kernel::inet::{self, Family};
use listen_queue_exporter::kernel::sock_diag::Channel;
use listen_queue_exporter::kernel::unix::{self, Show};
use listen_queue_exporter::ledger::Follower;

use super::common::namespace::Namespace;
use super::common::socket::{Listener, connect_abstract, connect_tcp};
use super::hold::Held;
use super::report::Report;

const PORT: u16 = 8000;
/// Queries of each kind, in turn; the median counts.
const QUERIES: u32 = 1001;

/// Makes what else is in the namespace.
type Others = fn() -> Held;

pub(crate) fn measure(report: &mut Report) {
    following(report);
    scans(report);
}

fn following(report: &mut Report) {
    report.section(&format!(
        "Following a unix queue (median of {QUERIES}), as many unix sockets in each case"
    ));
    report.row(&[
        "depth",
        "lookup us",
        "with its list us",
        "following us",
        "adds to a round us",
        "times the lookup",
    ]);
    for depth in [0, 1, 100, unix::LONGEST_LIST] {
        let run = || {
            let _namespace = Namespace::enter();
            // A connection in the queue is two sockets.
            let _others = Held::unix(2 * (unix::LONGEST_LIST - depth));
            follow(depth)
        };
        let times = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        let [lookup, listed, following] = times.map(microseconds);
        // An empty queue is only looked up.
        let listed = if depth == 0 { lookup } else { listed };
        let adds = listed + following - lookup;
        report.row(&[
            &depth.to_string(),
            &format!("{lookup:.1}"),
            &format!("{listed:.1}"),
            &format!("{following:.1}"),
            &format!("{adds:.1}"),
            &format!("{:.2}", (lookup + adds) / lookup),
        ]);
        report.figure(&format!("following, depth {depth}, lookup us"), lookup);
        report.figure(&format!("following, depth {depth}, adds us"), adds);
    }
}

/// How long a lookup takes, one with the list of the queue, and following it.
fn follow(depth: u32) -> [Duration; 3] {
    let _listener = Listener::abstract_unix(b"queue", 1000);
    let client = |_| connect_abstract(b"queue").expect("there is room");
    let _clients: Vec<_> = (0..depth).map(client).collect();
    let mut channel = Channel::open().expect("netlink");
    let mut found = None;
    unix::list(&mut channel, Show::Queue, |row| found = Some(row.id)).expect("a dump");
    let id = found.expect("it listens");
    let (mut follower, mut list) = (Follower::default(), Vec::new());
    medians(|number| {
        list.clear();
        let start = Instant::now();
        let queue = channel
            .ask_one(&unix::lookup(id), |answer| unix::queue(id, answer))
            .expect("an answer");
        let looked_up = Instant::now();
        let listed = unix::pending(&mut channel, id, &mut list).expect("an answer");
        let pending = Instant::now();
        follower.follow(Duration::from_millis(number.into()), &list, |_| ());
        let end = Instant::now();
        assert_eq!(queue.map(|queue| (queue, true)), listed);
        assert_eq!(u32::try_from(list.len()), Ok(depth));
        [
            looked_up.duration_since(start),
            pending.duration_since(looked_up),
            end.duration_since(pending),
        ]
    })
}

fn medians<const N: usize>(mut query: impl FnMut(u32) -> [Duration; N]) -> [Duration; N] {
    let mut times: Vec<[Duration; N]> = (0..QUERIES).map(&mut query).collect();
    let mut column = 0;
    [(); N].map(|()| {
        times.sort_unstable_by_key(|row| row[column]);
        column += 1;
        times[times.len() / 2][column - 1]
    })
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn scans(report: &mut Report) {
    report.section(&format!(
        "A scan of a TCP queue (median of {QUERIES}), beside a lookup of the listener"
    ));
    report.row(&[
        "TCP sockets",
        "lookup us",
        "scan us",
        "times the lookup",
        "share at one a second %",
    ]);
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
            lookup_and_scan()
        };
        let times = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        let [lookup, scan] = times.map(microseconds);
        report.row(&[
            name,
            &format!("{lookup:.1}"),
            &format!("{scan:.0}"),
            &format!("{:.0}", scan / lookup),
            &format!("{:.2}", scan / 1e6 * 100.0),
        ]);
        report.figure(&format!("TCP scan, {name} sockets, us"), scan);
        report.figure(&format!("TCP lookup, {name} sockets, us"), lookup);
    }
}

/// How long a lookup and a scan take, in turn.
fn lookup_and_scan() -> [Duration; 2] {
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
    medians(|_| {
        let start = Instant::now();
        let lookup = inet::lookup(listener.id, listener.bound);
        let queue = channel.ask_one(&lookup, |answer| inet::queue(listener.id, answer));
        let looked_up = Instant::now();
        let mut waiting = 0;
        inet::members(&mut channel, Family::V4, PORT, |_| waiting += 1).expect("a dump");
        let scanned = Instant::now();
        let depth = queue.expect("an answer").expect("it listens").depth;
        assert_eq!((depth, waiting), (1, 1));
        [
            looked_up.duration_since(start),
            scanned.duration_since(looked_up),
        ]
    })
}
