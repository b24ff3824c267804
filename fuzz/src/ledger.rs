//! Random rounds, and what holds after each of them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use listen_queue_exporter::kernel::SocketId;
use listen_queue_exporter::kernel::netstat::TcpExt;
use listen_queue_exporter::ledger::{Ledger, ListenerLedger, View};
use listen_queue_exporter::listener::{Address, Listener, UnixName};
use listen_queue_exporter::metrics::{self, Extent};
use listen_queue_exporter::report::Report;
use listen_queue_exporter::sample::{
    self, Absence, LimitSource, Presence, Reading, Sample, Slow, Source, TcpWaiting, Waiting,
    Watched,
};

use super::exposition::{Labels, Page};

const INTERVAL: Duration = Duration::from_millis(10);
/// Rounds of one input.
const ROUNDS: u64 = 32;
/// A page is read after so many rounds and after the last: reading it takes most of the time.
const ROUNDS_A_PAGE: u64 = 8;
const SOURCES: [Source; 4] = [
    Source::UnixDiag,
    Source::InetDiag,
    Source::ProcNetUnix,
    Source::ProcNetTcp,
];

/// Names that are hard to print, and one address under two names.
static LISTENERS: LazyLock<Vec<Arc<Listener>>> = LazyLock::new(|| {
    let parse = |text| Listener::parse(text).expect("a listener");
    let mut listeners = vec![
        parse("unix:/run/g.sock"),
        parse("g=unix:/run/g.sock,backlog=3"),
        parse("\"\\=tcp::80"),
        parse("tcp:[::1]:80"),
        Listener::discovered(Address::Unix(UnixName::Path(b"/a\n\"\\\xff".to_vec()))),
        Listener::discovered(Address::Unix(UnixName::Abstract(b"\0".to_vec()))),
    ];
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    listeners.into_iter().map(Arc::new).collect()
});

#[derive(Debug, Arbitrary)]
struct Round {
    gap: u16,
    took: u16,
    late: bool,
    distance: Option<u8>,
    ignored: u8,
    slow: Option<[u8; 3]>,
    failed: [bool; 4],
    unreadable: u8,
    /// Of each listener, unless it is not watched.
    seen: [Option<Seen>; 6],
}

#[derive(Debug, Arbitrary)]
struct Seen {
    presence: u8,
    limit: u8,
    first: Socket,
    others: [Option<Socket>; 2],
    blocked: Option<u8>,
    abandoned: Option<u8>,
    tcp: Option<(Option<u8>, u8, u8)>,
}

#[derive(Debug, Arbitrary)]
struct Socket {
    /// Few, so that they come back.
    number: u8,
    depth: u16,
    backlog: u16,
    drops: Option<u32>,
    /// The clients of a queue that is listed.
    clients: Option<[u8; 4]>,
}

/// What was fed, for the figures to be held against.
#[derive(Default)]
struct Truth {
    rounds: u64,
    late: u64,
    elapsed: Duration,
    counters: BTreeMap<(String, Labels), f64>,
    overflows: u64,
}

pub(crate) fn ledger(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let mut ledger = Ledger::new(INTERVAL, Duration::from_mins(1));
    let (mut truth, mut at) = (Truth::default(), Duration::ZERO);
    while truth.rounds < ROUNDS && !input.is_empty() {
        let Ok(round) = Round::arbitrary(&mut input) else {
            break;
        };
        let sample = round.sample(&mut at, &mut truth);
        ledger.record(&sample);
        ledger.record_round(&sample::Round {
            at,
            took: Duration::from_micros(round.took.into()),
            late: round.late,
            ..sample::Round::default()
        });
        truth.check(&mut ledger, &sample);
        if truth.rounds.is_multiple_of(ROUNDS_A_PAGE) {
            truth.check_page(ledger.view());
        }
    }
    truth.check_page(ledger.view());
}

impl Round {
    fn sample(&self, at: &mut Duration, truth: &mut Truth) -> Sample {
        *at += Duration::from_millis(1 + u64::from(self.gap));
        let distance = self.distance.map(|tens| INTERVAL * (1 + u32::from(tens)));
        truth.rounds += 1;
        truth.late += u64::from(self.late);
        truth.elapsed += distance.unwrap_or(INTERVAL);
        let slow = self.slow.map(|[somaxconn, overflows, _]| {
            truth.overflows += u64::from(overflows);
            let mut slow = Slow::default();
            slow.settings.somaxconn = Some(u32::from(somaxconn));
            slow.tcp_ext = TcpExt {
                listen_overflows: Some(truth.overflows),
                ..TcpExt::default()
            };
            slow
        });
        let outcome = |(source, failed): (&Source, &bool)| {
            let outcome = if *failed {
                Err("x\ny".to_owned())
            } else {
                Ok(())
            };
            (*source, outcome)
        };
        let watched = LISTENERS.iter().zip(&self.seen).enumerate();
        Sample {
            at: *at,
            distance,
            listeners: watched
                .filter_map(|(number, (listener, seen))| {
                    Some(seen.as_ref()?.watched(number, listener))
                })
                .collect(),
            left_out: sample::LeftOut {
                ignored: self.ignored.into(),
                ..sample::LeftOut::default()
            },
            slow,
            outcomes: SOURCES.iter().zip(&self.failed).map(outcome).collect(),
            unreadable: vec![(Source::ProcNetUnix, self.unreadable.into())],
            ..Sample::default()
        }
    }
}

impl Seen {
    fn watched(&self, number: usize, listener: &Arc<Listener>) -> Watched {
        let mut watched = Watched {
            listener: Arc::clone(listener),
            presence: match self.presence % 8 {
                0 => Presence::Missing(Absence::NotListening),
                1 => Presence::Unknown,
                _ => Presence::Up,
            },
            limit: match self.limit % 4 {
                0 => LimitSource::Configured,
                1 => LimitSource::Unknown,
                _ => LimitSource::Kernel,
            },
            readings: Vec::new(),
            waiting: Waiting {
                blocked: self.blocked.map(u64::from),
                ..Waiting::default()
            },
        };
        if watched.presence != Presence::Up {
            return watched;
        }
        let is_unix = matches!(listener.address, Address::Unix(_));
        for socket in [&self.first]
            .into_iter()
            .chain(self.others.iter().flatten())
        {
            socket.add_to(&mut watched, number, is_unix);
        }
        let waiting = &mut watched.waiting;
        if is_unix {
            waiting.abandoned = self.abandoned.map(u64::from);
        } else {
            waiting.tcp = self.tcp.map(|(oldest, abandoned, half_open)| TcpWaiting {
                oldest: oldest.map(|seconds| Duration::from_secs(seconds.into())),
                abandoned: abandoned.into(),
                half_open: half_open.into(),
            });
        }
        watched
    }
}

impl Socket {
    fn add_to(&self, watched: &mut Watched, listener: usize, is_unix: bool) {
        let inode = u32::from(self.number % 8) << 8 | u32::try_from(listener).expect("few");
        let id = SocketId {
            inode,
            cookie: [self.number % 8; 8],
        };
        if watched.readings.iter().any(|reading| reading.id == id) {
            return;
        }
        let clients = self.clients.filter(|_| is_unix);
        let depth = match &clients {
            Some(_) => u32::from(self.depth % 5),
            None => u32::from(self.depth),
        };
        let list = clients.iter().flatten().map(|client| u32::from(*client));
        watched.waiting.listed.push(clients.is_some());
        watched.waiting.clients.extend(list.take(depth as usize));
        watched.readings.push(Reading {
            id,
            depth,
            backlog: (watched.limit != LimitSource::Unknown).then_some(self.backlog.into()),
            drops: self.drops.filter(|_| !is_unix),
        });
    }
}

impl Truth {
    fn check(&mut self, ledger: &mut Ledger, sample: &Sample) {
        let view = ledger.view();
        let watched: Vec<_> = sample
            .listeners
            .iter()
            .map(|w| w.listener.name.as_str())
            .collect();
        let known: Vec<_> = view
            .listeners
            .iter()
            .map(|l| l.listener.name.as_str())
            .collect();
        assert_eq!(known, watched, "in the order of their names");
        for (ledger, watched) in view.listeners.iter().zip(&sample.listeners) {
            self.check_listener(ledger, watched);
        }
        assert_eq!((view.samples, view.late_samples), (self.rounds, self.late));
        assert_eq!(view.sample_duration.count(), self.rounds);

        let recent = ledger.recent(0);
        let parts = usize::try_from(recent.end - recent.first).expect("few");
        assert!(
            recent
                .peaks
                .values()
                .all(|peaks| peaks.iter().count() == parts)
        );
        for name in watched {
            assert!(
                ledger
                    .stayed_above(name, Duration::from_secs(1), 0.9)
                    .is_some()
            );
        }
        let _ = ledger.take_events().count();
    }

    fn check_listener(&self, ledger: &ListenerLedger, watched: &Watched) {
        let depth: u64 = watched.readings.iter().map(|r| u64::from(r.depth)).sum();
        assert_eq!(
            (ledger.depth(), &ledger.readings),
            (depth, &watched.readings)
        );
        let Some(totals) = &ledger.totals else {
            assert_ne!(watched.presence, Presence::Up);
            return;
        };
        if watched.presence == Presence::Up {
            assert!(u64::from(totals.peak.highest()) >= depth);
        }
        assert!(totals.full <= self.elapsed);
        assert!(totals.utilization.count() <= self.rounds);
        assert!(totals.full_episodes <= self.rounds && totals.replacements < self.rounds);
        if let Some(waits) = &totals.waits {
            assert!(waits.waited.count() <= waits.left);
            assert!(waits.unanchored_rounds <= self.rounds);
        }
    }

    fn check_page(&mut self, view: &View) {
        let mut text = Vec::new();
        metrics::write(view, Extent::default(), &mut text).expect("memory");
        let text = String::from_utf8(text).expect("text");
        let page = Page::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        self.check_counters(page);
        serde_json::to_vec(&Report::new(view)).expect("JSON");
    }

    /// What counts never falls, also of listeners that went away and came back.
    fn check_counters(&mut self, page: Page) {
        for ((name, labels), value) in page.series {
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let kind = page
                .families
                .get(base.unwrap_or(&name))
                .or_else(|| page.families.get(&name));
            if kind.is_some_and(|kind| kind == "gauge") {
                continue;
            }
            let series = (name, labels);
            if let Some(before) = self.counters.get(&series) {
                assert!(value >= *before, "{series:?} fell from {before} to {value}");
            }
            self.counters.insert(series, value);
        }
    }
}
