//! Connects that sleep because a unix queue is full: the figure of the exporter, compared with the state of each thread in the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::thread::gettid;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};
use crate::common::wait;

const BLOCKED: &str = "listen_queue_blocked_connects";

/// A thread in a `connect()` that may sleep.
struct Waiter {
    id: i32,
    connect: JoinHandle<io::Result<UnixStream>>,
}

impl Waiter {
    fn start(name: &[u8]) -> Self {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let (sender, receiver) = mpsc::channel();
        let connect = thread::spawn(move || {
            sender.send(gettid().as_raw_nonzero().get()).unwrap();
            UnixStream::connect_addr(&address)
        });
        let id = receiver.recv().unwrap();
        Self { id, connect }
    }

    fn several(name: &[u8], count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::start(name)).collect()
    }

    /// Whether it sleeps because the queue is full.
    fn sleeps(&self) -> bool {
        let place = std::fs::read_to_string(format!("/proc/self/task/{}/wchan", self.id));
        place.is_ok_and(|place| place == "unix_wait_for_peer")
    }
}

fn asleep(waiters: &[Waiter]) -> usize {
    waiters.iter().filter(|waiter| waiter.sleeps()).count()
}

/// A queue with room for three, and three in it.
fn full(name: &[u8]) -> (Listener, Vec<OwnedFd>) {
    let listener = Listener::abstract_unix(name, 2);
    let clients = (0..3).map(|_| connect_abstract(name).unwrap()).collect();
    (listener, clients)
}

#[test]
fn as_many_connects_are_blocked_as_sleep_before_a_full_queue() {
    let _namespace = Namespace::enter();
    let (listener, _clients) = full(b"full");
    let name = "unix:@full";
    let exporter = Exporter::start(&["--listener", name]);
    let mut waiters = Vec::new();
    let shows = |waiters: &[Waiter], expected: u32, more_or_less: std::ops::RangeInclusive<f64>| {
        wait::until_true("the waiters to sleep", || {
            asleep(waiters) == usize::try_from(expected).unwrap()
        });
        let blocked = |page: &Page| page.of(BLOCKED, name).expect("the table can be read");
        exporter.when(&format!("{expected} blocked"), |page| {
            // A queue that has just become full again is scanned within 0.1 s.
            let Some(blocked) = page.of(BLOCKED, name) else {
                return false;
            };
            assert!(more_or_less.contains(&blocked), "{blocked}");
            blocked == f64::from(expected)
        });
        // Long enough for several scans.
        for _ in 0..30 {
            assert_eq!(blocked(&exporter.fresh()), f64::from(expected));
        }
        assert_eq!(asleep(waiters), usize::try_from(expected).unwrap());
        assert_eq!(exporter.fresh().queue(name), Queue::of(3, 2));
    };
    exporter.shows(name);
    shows(&waiters, 0, 0.0..=0.0);
    waiters.extend(Waiter::several(b"full", 1));
    shows(&waiters, 1, 0.0..=1.0);
    waiters.extend(Waiter::several(b"full", 49));
    shows(&waiters, 50, 1.0..=50.0);
    // Each accept lets one in.
    let mut accepted = vec![listener.accept().unwrap()];
    shows(&waiters, 49, 49.0..=50.0);
    for _ in 0..9 {
        accepted.push(wait::until("a connection", || listener.accept()));
    }
    shows(&waiters, 40, 40.0..=49.0);
    while accepted.len() < 53 {
        accepted.push(wait::until("a connection", || listener.accept()));
    }
    exporter.fresh();
    let idle = exporter.when("a scan", |page| page.of(BLOCKED, name) == Some(0.0));
    assert_eq!(idle.queue(name), Queue::of(0, 2));
    for waiter in waiters {
        waiter.connect.join().unwrap().unwrap();
    }
}

#[test]
fn names_with_newlines_neither_hide_nor_make_up_blocked_connects() {
    let _namespace = Namespace::enter();
    let (_plain, _plain_clients) = full(b"plain");
    let (_broken, _broken_clients) = full(b"two\nlines\n");
    let exporter = Exporter::start(&[
        "--listener",
        "plain=unix:@plain",
        "--listener",
        r"broken=unix:@two\x0alines\x0a",
    ]);
    let _waiting = [
        Waiter::several(b"plain", 2),
        Waiter::several(b"two\nlines\n", 1),
    ];
    let blocked = |page: &Page| ["plain", "broken"].map(|name| page.of(BLOCKED, name));
    exporter.when("two and one blocked", |page| {
        blocked(page) == [Some(2.0), Some(1.0)]
    });
    // A name that has in it what the kernel would say of another socket, with seven blocked connects.
    let inode = inode_of(b"plain");
    for end in ["", "\n"] {
        let row = format!("0000000000000001: 00000009 00000000 00010000 0001 01 {inode:5} @plain");
        let _imitator = Listener::abstract_unix(format!("x\n{row}{end}").as_bytes(), 2);
        for _ in 0..30 {
            assert_eq!(blocked(&exporter.fresh()), [Some(2.0), Some(1.0)]);
        }
    }
}

/// The inode of the listener of an abstract name, as /proc/net/unix has it.
fn inode_of(name: &[u8]) -> u32 {
    let name = format!("@{}", name.escape_ascii());
    let table = std::fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect());
    let mut listening = lines.filter(|words: &Vec<&str>| words.get(3) == Some(&"00010000"));
    let line = listening.find(|words| words.get(7) == Some(&name.as_str()));
    line.unwrap()[6].parse().unwrap()
}
