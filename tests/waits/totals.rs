//! What the exporter's page adds up to, against what the client and the server did, and what it costs in memory.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use listen_queue_exporter::sampler::now;

use crate::common::exporter::Exporter;
use crate::common::exposition::Page;
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};
use crate::truth::{Span, timed};

const NAME: &str = "unix:@queue";
const WAITS: &str = "listen_queue_wait_seconds";
const UNANCHORED: &str = "listen_queue_unanchored_rounds_total";
const ABANDONED: &str = "listen_queue_abandoned_connections";
const OLDEST: &str = "listen_queue_oldest_wait_seconds";
const INTERVAL: Duration = Duration::from_millis(10);

fn waited(page: &Page) -> f64 {
    page.bucket(WAITS, NAME, "+Inf").unwrap_or_default()
}

fn unanchored(page: &Page) -> f64 {
    page.of(UNANCHORED, NAME).unwrap()
}

/// A queue of which connections come and go at the same pace, so that many stay from round to round.
struct Stream {
    listener: Listener,
    /// Those of the queue, head first; none where one gave up.
    clients: VecDeque<Option<OwnedFd>>,
    connects: Vec<Span>,
    accepts: Vec<Span>,
}

impl Stream {
    fn new() -> Self {
        Self {
            listener: Listener::abstract_unix(b"queue", 600),
            clients: VecDeque::new(),
            connects: Vec::new(),
            accepts: Vec::new(),
        }
    }

    fn come(&mut self) {
        let (client, span) = timed(|| connect_abstract(b"queue").unwrap());
        self.clients.push_back(Some(client));
        self.connects.push(span);
    }

    fn accepted(&self) -> f64 {
        u32::try_from(self.accepts.len()).unwrap().into()
    }

    fn leave(&mut self) {
        let (connection, span) = timed(|| self.listener.accept());
        drop((connection.unwrap(), self.clients.pop_front()));
        self.accepts.push(span);
    }

    /// Keeps the queue as long as it is: again and again `batch` leave and as many come. What is late is not caught up with.
    fn flow(&mut self, times: u32, batch: u32, pause: Duration) {
        let mut next = now();
        for _ in 0..times {
            next = now().max(next + pause);
            thread::sleep(next.saturating_sub(now()));
            for _ in 0..batch {
                self.leave();
                self.come();
            }
        }
    }
}

#[test]
fn the_page_counts_every_connection_that_waited_and_adds_up_how_long() {
    let _namespace = Namespace::enter();
    let mut stream = Stream::new();
    let exporter = Exporter::start(&["--listener", NAME]);
    exporter.shows(NAME);
    let (began, first) = (now(), exporter.scrape());
    (0..300).for_each(|_| stream.come());
    let start = exporter.fresh();
    assert_eq!(waited(&start), 0.0);
    // 250 a second: a whole turn-over takes more than a second, and no round is as late as that.
    stream.flow(500, 5, Duration::from_millis(20));
    let flowed = exporter.fresh();
    assert_eq!(unanchored(&flowed), unanchored(&start));
    assert_eq!(waited(&flowed), stream.accepted());
    assert_eq!(flowed.of(ABANDONED, NAME), Some(0.0));

    // The head is as old as it is, to an interval.
    let head = stream.connects[stream.accepts.len()];
    let before = now();
    let page = exporter.fresh();
    let oldest = page.of(OLDEST, NAME).unwrap();
    let interval = longest_interval(&first, began, &page);
    assert!(oldest <= (now() - head.from).as_secs_f64());
    assert!(oldest + interval >= (before - head.to).as_secs_f64());

    // A third of them give up; they still are accepted, and have waited as long.
    stream
        .clients
        .iter_mut()
        .take(100)
        .for_each(|c| drop(c.take()));
    assert_eq!(exporter.fresh().of(ABANDONED, NAME), Some(100.0));
    while stream.accepts.len() < stream.connects.len() {
        stream.leave();
    }
    let end = exporter.fresh();
    assert_eq!(end.of(ABANDONED, NAME), Some(0.0));
    assert_eq!(end.of(OLDEST, NAME), Some(0.0));
    assert_eq!(waited(&end), stream.accepted());
    let sum = |page: &Page| page.of(&format!("{WAITS}_sum"), NAME).unwrap();
    let pairs = stream.connects.iter().zip(&stream.accepts);
    let (least, most): (Duration, Duration) = pairs
        .fold(Default::default(), |sum, (came, left)| {
            (sum.0 + (left.from - came.to), sum.1 + (left.to - came.from))
        });
    // Each is off by half an interval when it comes and when it leaves.
    let off = longest_interval(&first, began, &end) * waited(&end);
    assert!(sum(&end) + off >= least.as_secs_f64());
    assert!(sum(&end) - off <= most.as_secs_f64());
    println!(
        "{} s of {least:?} to {most:?}, off by {off} s at most",
        sum(&end)
    );
}

/// The most that can have been between two rounds, in seconds: rounds start on the grid, less than one interval late, but for
/// the time that was missed altogether.
fn longest_interval(first: &Page, began: Duration, last: &Page) -> f64 {
    let rounds = [first, last].map(|page| page.get("listen_queue_samples_total").unwrap());
    let interval = INTERVAL.as_secs_f64();
    let missed = (now() - began).as_secs_f64() - (rounds[1] - rounds[0]) * interval;
    2.0 * interval + missed.max(0.0)
}

#[test]
fn half_a_minute_of_5000_connects_a_second_grows_no_memory() {
    let _namespace = Namespace::enter();
    let mut stream = Stream::new();
    let exporter = Exporter::start(&["--listener", NAME]);
    exporter.shows(NAME);
    (0..400).for_each(|_| stream.come());
    let pause = Duration::from_millis(10);
    // The first seconds bring what it needs.
    stream.flow(300, 50, pause);
    exporter.fresh();
    let before = resident(&exporter);
    stream.flow(3000, 50, pause);
    let after = resident(&exporter);
    let page = exporter.fresh();
    assert!(waited(&page) >= 75_000.0);
    assert!(after <= before + 128, "{before} kB became {after} kB");
}

/// VmRSS in kB.
fn resident(exporter: &Exporter) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .strip_suffix(" kB")
        .unwrap()
        .parse()
        .unwrap()
}
