//! What really happened: a client and a server that log every connect, close and accept with the times before and after the call,
//! on the clock that samples carry.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use listen_queue_exporter::sampler::now;

use crate::common::socket::Listener;

/// A call took effect at some moment in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// Everything that was done. A client thread connects, so connects are in the queue's order, and a server thread accepts.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) connects: Vec<Span>,
    /// The inode of each client's socket.
    pub(crate) clients: Vec<u32>,
    pub(crate) accepts: Vec<Span>,
    /// By number of the connection: those that were closed before their `accept()` was seen to be over.
    pub(crate) closes: BTreeMap<usize, Span>,
}

/// Random arrivals and service times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) lasts: Duration,
    /// Mean time between two accepts of a server that has work.
    pub(crate) service: Duration,
    /// Load and share of clients that give up change this often.
    pub(crate) phase: Duration,
    pub(crate) seed: u64,
}

/// Arrivals by what the server manages: idle, busy, overload, rush. The queue is empty now and then.
const LOADS: [f64; 6] = [0.05, 0.2, 0.4, 0.8, 1.2, 3.0];
/// For each arrival, how often a client that waits gives up.
const GIVE_UP: [f64; 4] = [0.0, 0.0, 0.2, 0.9];
/// For each arrival, how often all of them do.
const ALL_GIVE_UP: f64 = 0.03;
/// A server without work looks again after this.
const PAUSE: Duration = Duration::from_micros(200);

pub(crate) fn timed<T>(call: impl FnOnce() -> T) -> (T, Span) {
    let from = now();
    let result = call();
    (result, Span { from, to: now() })
}

/// How many calls, one after the other, had taken effect when the kernel answered a query: at least and at most.
pub(crate) fn count(calls: &[Span], query: Span) -> (usize, usize) {
    let surely = calls.partition_point(|call| call.to <= query.from);
    let perhaps = calls.partition_point(|call| call.from <= query.to);
    (surely, perhaps)
}

impl Traffic {
    /// Serves the listener and connects to it with `connect`, which finds no room where it returns none. What is in the queue at
    /// the end stays there, with its clients, until the listener is dropped.
    pub(crate) fn run(
        self,
        listener: &Listener,
        connect: impl Fn() -> Option<OwnedFd> + Sync,
    ) -> (Log, BTreeMap<usize, OwnedFd>) {
        let accepted = AtomicUsize::new(0);
        let end = now() + self.lasts;
        thread::scope(|scope| {
            let server = scope.spawn(|| self.serve(end, listener, &accepted));
            let (mut log, left) = self.connect(end, connect, &accepted);
            log.accepts = server.join().expect("no panic");
            (log, left)
        })
    }

    fn serve(self, end: Duration, listener: &Listener, accepted: &AtomicUsize) -> Vec<Span> {
        let mut random = Rng::with_seed(self.seed);
        let mut accepts = Vec::new();
        while now() < end {
            let (connection, span) = timed(|| listener.accept());
            if connection.is_none() {
                thread::sleep(PAUSE);
                continue;
            }
            accepts.push(span);
            accepted.store(accepts.len(), Ordering::Release);
            thread::sleep(exponential(&mut random, self.service));
        }
        accepts
    }

    fn connect(
        self,
        end: Duration,
        connect: impl Fn() -> Option<OwnedFd>,
        accepted: &AtomicUsize,
    ) -> (Log, BTreeMap<usize, OwnedFd>) {
        let mut random = Rng::with_seed(!self.seed);
        let mut log = Log::default();
        let mut clients = BTreeMap::new();
        let mut next = now();
        let (mut phase_ends, mut load, mut give_up) = (next, 1.0, 0.0);
        while next < end {
            if next >= phase_ends {
                phase_ends = next + self.phase;
                load = random.choice(LOADS).expect("some");
                give_up = random.choice(GIVE_UP).expect("some");
            }
            // Some come in bursts.
            let burst = if random.u8(..10) == 0 { 10 } else { 1 };
            next += exponential(&mut random, self.service.mul_f64(f64::from(burst) / load));
            // Not later than the next phase, which may be a livelier one.
            next = next.min(phase_ends + self.service);
            thread::sleep(next.saturating_sub(now()));
            let done = accepted.load(Ordering::Acquire);
            clients = clients.split_off(&done);
            for _ in 0..burst {
                if random.f64() < give_up {
                    log.close_one(&mut clients, &mut random);
                }
                let (client, span) = timed(&connect);
                if let Some(client) = client {
                    let inode = rustix::fs::fstat(&client).expect("a socket").st_ino;
                    log.clients.push(u32::try_from(inode).expect("32 bits"));
                    clients.insert(log.connects.len(), client);
                    log.connects.push(span);
                }
            }
            if random.f64() < ALL_GIVE_UP {
                for _ in 0..clients.len() {
                    log.close_one(&mut clients, &mut random);
                }
            }
        }
        (log, clients)
    }
}

impl Log {
    /// A client that waits, or is served already, goes away.
    fn close_one(&mut self, clients: &mut BTreeMap<usize, OwnedFd>, random: &mut Rng) {
        let number = clients.keys().nth(random.usize(..clients.len().max(1)));
        if let Some((number, client)) = number.copied().and_then(|n| clients.remove_entry(&n)) {
            let ((), span) = timed(|| drop(client));
            self.closes.insert(number, span);
        }
    }
}

fn exponential(random: &mut Rng, mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - random.f64()).ln())
}
