//! Unix queues: the figures of the follower in every sample of a minute, at three paces, compared with what the client and the server did.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use listen_queue_exporter::kernel::SocketId;
use listen_queue_exporter::kernel::sock_diag::Channel;
use listen_queue_exporter::kernel::unix::{self, Show};
use listen_queue_exporter::ledger::{Follower, Ledger, Step, Wait};
use listen_queue_exporter::listener::{Address, Listener as Watch};
use listen_queue_exporter::sample::{Presence, Reading, Sample, Waiting, Watched};
use listen_queue_exporter::sampler::now;

use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};
use crate::truth::{Log, Span, Traffic, count, timed};

const NAME: &str = "unix:@queue";
const BACKLOG: i32 = 300;
const LASTS: Duration = Duration::from_mins(1);

#[test]
fn every_sample_of_a_minute_at_1_ms_is_as_it_was() {
    check(Duration::from_millis(1), Duration::from_millis(1));
}

#[test]
fn every_sample_of_a_minute_at_10_ms_is_as_it_was() {
    check(Duration::from_millis(10), Duration::from_millis(3));
}

#[test]
fn every_sample_of_a_minute_at_100_ms_is_as_it_was() {
    check(Duration::from_millis(100), Duration::from_millis(20));
}

/// The list of a queue in one sample, and the figures made from it.
struct Scan {
    /// The time of the query. The list is that of some moment in between.
    span: Span,
    clients: Vec<u32>,
    step: Step,
    oldest: Option<Wait>,
    abandoned: usize,
    waits: Vec<Duration>,
}

fn check(interval: Duration, service: Duration) {
    let _namespace = Namespace::enter();
    let listener = Listener::abstract_unix(b"queue", BACKLOG);
    let traffic = Traffic {
        lasts: LASTS,
        service,
        phase: (interval * 15).max(Duration::from_millis(400)),
        seed: u64::try_from(interval.as_micros()).unwrap(),
    };
    let done = AtomicBool::new(false);
    let (scans, log) = thread::scope(|scope| {
        let mut sampler = Sampler::new(interval);
        // The queue is empty at the first scan.
        sampler.scan();
        let traffic = scope.spawn(|| {
            let left = traffic.run(&listener, || connect_abstract(b"queue").ok());
            done.store(true, Ordering::Release);
            left
        });
        let mut next = now();
        while !done.load(Ordering::Acquire) {
            next += interval;
            thread::sleep(next.saturating_sub(now()));
            next = next.max(now().saturating_sub(interval));
            sampler.scan();
        }
        let (log, _clients) = traffic.join().unwrap();
        (sampler.end(), log)
    });
    Truth::new(&scans, &log).check();
}

/// The sampler's part on one socket, with times around each query.
struct Sampler {
    channel: Channel,
    id: SocketId,
    watch: Arc<Watch>,
    follower: Follower,
    ledger: Ledger,
    scans: Vec<Scan>,
}

impl Sampler {
    fn new(interval: Duration) -> Self {
        let mut channel = Channel::open().unwrap();
        let mut found = Vec::new();
        unix::list(&mut channel, Show::Queue, |row| found.push(row.id)).unwrap();
        let [id] = found[..] else {
            panic!("the namespace has one listener: {found:?}")
        };
        let address = Address::parse(NAME).unwrap();
        Self {
            channel,
            id,
            watch: Arc::new(Watch::discovered(address)),
            follower: Follower::default(),
            ledger: Ledger::new(interval, Duration::from_mins(1)),
            scans: Vec::new(),
        }
    }

    fn scan(&mut self) {
        let mut clients = Vec::new();
        let (pending, span) = timed(|| unix::pending(&mut self.channel, self.id, &mut clients));
        let (queue, listed) = pending.unwrap().expect("the listener is there");
        assert!(listed);
        assert_eq!(usize::try_from(queue.depth).unwrap(), clients.len());
        let mut waits = Vec::new();
        let step = self.follower.follow(span.from, &clients, |w| waits.push(w));
        let taken = Scan {
            span,
            step,
            oldest: self.follower.oldest(span.from),
            abandoned: self.follower.abandoned(),
            waits,
            clients,
        };
        self.record(&taken, queue);
        self.scans.push(taken);
    }

    /// The ledger makes of it what the follower does.
    fn record(&mut self, scan: &Scan, queue: unix::Queue) {
        self.ledger.record(&Sample {
            at: scan.span.from,
            listeners: vec![Watched {
                listener: Arc::clone(&self.watch),
                presence: Presence::Up,
                limit: listen_queue_exporter::sample::LimitSource::Kernel,
                readings: vec![Reading {
                    id: self.id,
                    depth: queue.depth,
                    backlog: Some(queue.backlog),
                    drops: None,
                }],
                waiting: Waiting {
                    listed: vec![true],
                    clients: scan.clients.clone(),
                    ..Waiting::default()
                },
            }],
            ..Sample::default()
        });
        let waits = self.ledger.view().listener(NAME).unwrap().waits;
        assert_eq!(waits.oldest, scan.oldest.map(|wait| wait.at_least));
        assert_eq!(waits.abandoned, Some(scan.abandoned as u64));
    }

    fn end(self) -> Vec<Scan> {
        let listener = self.ledger.view().listener(NAME).unwrap();
        let totals = listener.totals.as_ref().unwrap().waits.as_ref().unwrap();
        let waits: Vec<Duration> = self.scans.iter().flat_map(|l| l.waits.clone()).collect();
        let unanchored = self.scans.iter().filter(|scan| !scan.step.anchored);
        assert_eq!(totals.unanchored_rounds, unanchored.count() as u64);
        assert_eq!(totals.waited.count(), waits.len() as u64);
        let sum: f64 = waits.iter().map(Duration::as_secs_f64).sum();
        assert!((totals.waited.sum() - sum).abs() < 1e-6);
        self.scans
    }
}

/// The figures, beside what was done.
struct Truth<'a> {
    scans: &'a [Scan],
    log: &'a Log,
    /// The number of the connection of each client.
    numbers: HashMap<u32, usize>,
    /// The scan that started at each time.
    times: HashMap<Duration, usize>,
    /// For each scan, the number of the connection at the head, or that the next one will have if the queue is empty: at least and at
    /// most. One client in the list determines it exactly.
    heads: Vec<(usize, usize)>,
}

/// The cases that occurred, so that the test cannot pass without them.
#[derive(Debug, Default)]
struct Seen {
    scans: usize,
    empty: usize,
    only_abandoned: usize,
    anchored: usize,
    came: usize,
    left: usize,
    turned_over: usize,
    abandoned: usize,
    heads: usize,
    doubtful_heads: usize,
    /// Heads whose arrival and a query were at the same time, so that the log does not determine their order.
    skewed_heads: usize,
    waits: usize,
    longest_queue: usize,
}

impl<'a> Truth<'a> {
    fn new(scans: &'a [Scan], log: &'a Log) -> Self {
        let numbers: HashMap<u32, usize> = log.clients.iter().copied().zip(0..).collect();
        assert_eq!(numbers.len(), log.clients.len(), "an inode came back");
        let times: HashMap<Duration, usize> = scans.iter().map(|l| l.span.from).zip(0..).collect();
        assert_eq!(times.len(), scans.len());
        let heads = scans.iter().map(|scan| head(scan, &numbers, log)).collect();
        Self {
            scans,
            log,
            numbers,
            times,
            heads,
        }
    }

    fn check(&self) {
        let mut seen = Seen::default();
        for index in 0..self.scans.len() {
            self.check_clients(index, &mut seen);
            self.check_head(index, &mut seen);
            if index > 0 {
                self.check_step(index, &mut seen);
            }
        }
        self.check_waits(&mut seen);
        println!("{seen:#?}");
        for cases in [
            seen.empty,
            seen.turned_over,
            seen.abandoned,
            seen.doubtful_heads,
        ] {
            assert!(cases > 0);
        }
        assert!(seen.anchored >= seen.scans / 5 && seen.anchored >= 100);
        assert!(seen.waits >= 200 && seen.longest_queue >= 50);
        // Else the brackets would prove little.
        assert!(seen.skewed_heads <= seen.heads / 4);
    }

    /// Each place of the list has the client whose turn it is, or 0 if and only if that client had disconnected.
    fn check_clients(&self, index: usize, seen: &mut Seen) {
        let scan = &self.scans[index];
        seen.scans += 1;
        seen.longest_queue = seen.longest_queue.max(scan.clients.len());
        let zeros = scan.clients.iter().filter(|client| **client == 0).count();
        assert_eq!(scan.abandoned, zeros);
        seen.abandoned += zeros;
        let (head, at_most) = self.heads[index];
        if scan.clients.is_empty() {
            seen.empty += 1;
        } else if zeros == scan.clients.len() {
            seen.only_abandoned += 1;
        }
        if head < at_most {
            return;
        }
        for (client, number) in scan.clients.iter().zip(head..) {
            let closed = self.log.closes.get(&number);
            if *client == 0 {
                assert!(closed.is_some_and(|close| close.from <= scan.span.to));
            } else {
                assert_eq!(*client, self.log.clients[number]);
                assert!(closed.is_none_or(|close| close.to >= scan.span.from));
            }
        }
    }

    /// The head arrived between the two scans that the follower reports.
    fn check_head(&self, index: usize, seen: &mut Seen) {
        let scan = &self.scans[index];
        let Some(wait) = scan.oldest else {
            assert!(scan.clients[0] == 0 && !scan.step.anchored);
            seen.doubtful_heads += 1;
            return;
        };
        if scan.clients.is_empty() {
            assert_eq!(wait.at_least, Duration::ZERO);
            return;
        }
        seen.heads += 1;
        let first = self.times[&(scan.span.from - wait.at_least)];
        let not_yet =
            self.times[&(scan.span.from - wait.at_most.expect("the queue was empty at first"))];
        let (present, absent) = (self.scans[first].span, self.scans[not_yet].span);
        let (head, at_most) = self.heads[index];
        let came = |number: &usize| {
            let came = self.log.connects[*number];
            came.from <= present.to && came.to >= absent.from
        };
        assert!(
            (head..=at_most).any(|number| came(&number)),
            "scan {index}: {wait:?}"
        );
        if head == at_most {
            let came = self.log.connects[head];
            seen.skewed_heads += usize::from(came.to > present.from || came.from < absent.to);
            if !self.log.closes.contains_key(&head) {
                assert_eq!(first, not_yet + 1, "the bracket is one interval");
            }
        }
    }

    /// With an anchor the numbers are exact, without one they are lower bounds.
    fn check_step(&self, index: usize, seen: &mut Seen) {
        let (before, scan) = (&self.scans[index - 1], &self.scans[index]);
        let stayed = |client: &u32| *client != 0 && before.clients.contains(client);
        assert_eq!(scan.step.anchored, scan.clients.iter().any(stayed));
        let (old, new) = (self.heads[index - 1], self.heads[index]);
        let Step { came, left, .. } = scan.step;
        let (held, holds) = (before.clients.len(), scan.clients.len());
        assert_eq!(held + came, holds + left);
        if scan.step.anchored {
            assert!(old.0 == old.1 && new.0 == new.1);
            assert_eq!(left, new.0 - old.0);
            assert_eq!(came, new.0 + holds - old.0 - held);
            seen.anchored += 1;
            seen.came += came;
            seen.left += left;
        } else {
            assert!(left <= new.1 - old.0);
            assert!(came <= new.1 + holds - old.0 - held);
            seen.turned_over += usize::from(held > 0 && left == held && holds > 0);
        }
    }

    /// Each connection that was seen, kept its client and left is reported once, with the middle of the possible waits. The true wait is possible.
    fn check_waits(&self, seen: &mut Seen) {
        let mut stays: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (index, scan) in self.scans.iter().enumerate() {
            for number in scan.clients.iter().filter_map(|c| self.numbers.get(c)) {
                stays.entry(*number).or_insert((index, index)).1 = index;
            }
        }
        stays.retain(|number, (_, last)| {
            !self.log.closes.contains_key(number) && *last + 1 < self.scans.len()
        });
        let mut reported: Vec<_> = self.scans.iter().map(|scan| scan.waits.iter()).collect();
        for (number, (first, last)) in stays {
            let span = |index: usize| self.scans[index].span;
            let (absent, present, still, left_by) =
                (span(first - 1), span(first), span(last), span(last + 1));
            let longest = left_by.from - absent.from;
            let shortest = still.from - present.from;
            let middle = (longest + shortest) / 2;
            // It may still be among connections without a client, which the lists do not distinguish.
            let next = &self.scans[last + 1];
            if next.step.anchored || next.clients.first() != Some(&0) {
                assert!(reported[last + 1].any(|wait| *wait == middle));
            }
            let (came, left) = (self.log.connects[number], self.log.accepts[number]);
            assert!(left.to - came.from >= still.from.saturating_sub(present.to));
            assert!(left.from.saturating_sub(came.to) <= left_by.to - absent.from);
            seen.waits += 1;
        }
    }
}

/// The number of the connection at the head of a list. The queue is first in, first out.
fn head(scan: &Scan, numbers: &HashMap<u32, usize>, log: &Log) -> (usize, usize) {
    let accepts = count(&log.accepts, scan.span);
    let connects = count(&log.connects, scan.span);
    let length = scan.clients.len();
    let head = match scan.clients.iter().position(|client| *client != 0) {
        Some(place) => {
            let head = numbers[&scan.clients[place]] - place;
            (head, head)
        }
        None => (
            accepts.0.max(connects.0.saturating_sub(length)),
            accepts.1.min(connects.1 - length),
        ),
    };
    assert!(accepts.0 <= head.0 && head.1 <= accepts.1, "{accepts:?}");
    assert!(connects.0 <= head.0 + length && head.1 + length <= connects.1);
    assert!(head.0 <= head.1);
    head
}
