//! Time that goes missing, and time that must not: a stopped process, a stuck sampler, a crowd of scrapers, and rest.

use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::http::get;
use crate::common::namespace::Namespace;
use crate::common::socket::{Listener, connect_abstract};
use crate::common::wait;

const SAMPLES: &str = "listen_queue_samples_total";
const LATE: &str = "listen_queue_samples_late_total";

/// One thread of the exporter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Thread {
    id: i32,
    name: String,
    /// Times that it went to sleep by itself.
    slept: u64,
    /// Times that it was put aside for another.
    preempted: u64,
    /// Time that it was ready and waited for a processor.
    waited: Duration,
}

fn threads(exporter: &Exporter) -> Vec<Thread> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", exporter.id())).unwrap();
    let read = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.unwrap().path();
        let file = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        let status = file("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok()).unwrap()
        };
        let schedstat = file("schedstat");
        let waited = schedstat.split(' ').nth(1).unwrap().parse().unwrap();
        Thread {
            id: path.file_name().unwrap().to_str().unwrap().parse().unwrap(),
            name: file("comm").trim_end().to_owned(),
            slept: field("voluntary_ctxt_switches:"),
            preempted: field("nonvoluntary_ctxt_switches:"),
            waited: Duration::from_nanos(waited),
        }
    };
    tasks.map(read).collect()
}

fn sampler(exporter: &Exporter) -> Thread {
    let threads = threads(exporter);
    let is_it = |thread: &Thread| thread.name == "sampler";
    threads.into_iter().find(is_it).unwrap()
}

#[test]
fn a_stop_of_the_process_is_not_booked_as_full_time_and_the_late_round_is_counted() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"full", 0);
    let _client = connect_abstract(b"full").unwrap();
    let name = "unix:@full";
    let exporter = Exporter::start(&["--listener", name]);
    let before = exporter.fresh();
    assert_eq!(before.queue(name), Queue::of(1, 0));
    exporter.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(2));
    exporter.signal(Signal::CONT);
    let after = exporter.fresh();
    let grown = |name: &str, page: fn(&Page, &str) -> Option<f64>| {
        page(&after, name).unwrap() - page(&before, name).unwrap()
    };
    // A page may be taken after the sample of a round and before the round itself is counted.
    let rounds = grown(SAMPLES, Page::get) + 1.0;
    let full = grown("listen_queue_full_seconds_total", |page, metric| {
        page.of(metric, "unix:@full")
    });
    assert!(grown(LATE, Page::get) >= 1.0);
    assert!(
        full > 0.0 && full <= rounds * 0.01 + 1e-9,
        "{full} s in {rounds} rounds of 10 ms"
    );
    assert_eq!(
        after.of("listen_queue_full_episodes_total", name),
        Some(1.0)
    );
}

#[test]
fn a_sampler_that_hangs_makes_it_unhealthy_until_it_goes_on() {
    let _namespace = Namespace::enter();
    let exporter = Exporter::start(&[]);
    let thread = Pid::from_raw(sampler(&exporter).id);
    // A tracer can hold one thread alone.
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    let reason = wait::until("an unhealthy answer", || {
        let answer = exporter.get("/-/healthy");
        (answer.status == 503).then(|| answer.text().to_owned())
    });
    assert!(reason.contains("sampler has not advanced"), "{reason}");
    // The rest of it goes on.
    assert_eq!(exporter.get("/metrics").status, 200);
    ptrace::detach(thread, None).unwrap();
    wait::until_true("a healthy answer", || {
        exporter.get("/-/healthy").status == 200
    });
}

#[test]
fn at_rest_nothing_wakes_up_but_the_sampler() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    let _tcp = Listener::tcp("127.0.0.1:8000", 5);
    let exporter = Exporter::start(&[]);
    exporter.shows("unix:@name");
    // The timers of the last connections may still run out: one window without wake-ups is enough, and a ticker never has one.
    wait::until_true("three seconds without a wake-up", || {
        let before = threads(&exporter);
        std::thread::sleep(Duration::from_secs(3));
        let after = threads(&exporter);
        let others = |threads: &[Thread]| -> Vec<_> {
            let others = threads.iter().filter(|thread| thread.name != "sampler");
            others.map(|t| (t.id, t.slept, t.preempted)).collect()
        };
        others(&before) == others(&after)
    });
    let (page, before) = (exporter.fresh(), sampler(&exporter));
    std::thread::sleep(Duration::from_secs(2));
    let (after, later) = (sampler(&exporter), exporter.fresh());
    let rounds = later.get(SAMPLES).unwrap() - page.get(SAMPLES).unwrap();
    let slept = u32::try_from(after.slept - before.slept).unwrap();
    assert!(
        f64::from(slept) <= rounds + 5.0,
        "the sampler slept {slept} times in {rounds} rounds"
    );
}

#[test]
fn a_hundred_scrapes_at_once_get_whole_pages_and_hold_up_no_round() {
    let _namespace = Namespace::enter_alone();
    let listeners: Vec<_> = (0..20)
        .map(|i| Listener::abstract_unix(format!("name{i}").as_bytes(), i))
        .collect();
    let exporter = Exporter::start(&["--sample.interval", "1ms"]);
    exporter.when("all listeners", |page| page.listeners().len() == 20);
    let server = exporter.address();
    let before = exporter.fresh();
    let (waited, stolen) = (sampler(&exporter).waited, stolen());
    for _ in 0..3 {
        let pages = std::thread::scope(|scope| {
            let scrape = || get(server, "/metrics", &[]);
            let all: Vec<_> = (0..100).map(|_| scope.spawn(scrape)).collect();
            let all = all.into_iter().map(|scrape| scrape.join().unwrap());
            all.collect::<Vec<_>>()
        });
        for answer in pages {
            assert_eq!(answer.status, 200);
            let page = Page::parse(answer.text()).unwrap();
            for backlog in 0..20 {
                let queue = page.queue(&format!("unix:@name{backlog}"));
                assert_eq!(queue, Queue::of(0, backlog));
            }
            // One page is one moment: every histogram has an observation for every round.
            let samples = page.get(SAMPLES);
            let ratio = "listen_queue_utilization_ratio_count";
            assert_eq!(
                page.of(ratio, "unix:@name0"),
                page.of(ratio, "unix:@name19")
            );
            assert_eq!(
                page.get("listen_queue_sample_duration_seconds_count"),
                samples
            );
        }
    }
    let after = exporter.fresh();
    let waited = sampler(&exporter).waited.saturating_sub(waited);
    let stolen = self::stolen().saturating_sub(stolen);
    let late = after.get(LATE).unwrap() - before.get(LATE).unwrap();
    let rounds = after.get(SAMPLES).unwrap() - before.get(SAMPLES).unwrap();
    // A round that is late without its thread waiting for a processor waited for a scrape. The few that are let pass are
    // timer interrupts that came late.
    let explained = (waited + stolen).as_secs_f64() / 0.001;
    assert!(
        late <= explained + rounds * 0.01 + 3.0,
        "{late} of {rounds} rounds late; the sampler waited {waited:?} for a processor, {stolen:?} were stolen from the machine"
    );
    drop(listeners);
}

/// Processor time that the host gave to other machines.
fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks: u64 = stat.split_whitespace().nth(8).unwrap().parse().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn intervals_from_a_millisecond_to_ten_seconds_are_kept() {
    let _namespace = Namespace::enter();
    let _listener = Listener::abstract_unix(b"name", 5);
    for (interval, least, most) in [("1ms", 500.0, 2100.0), ("100ms", 10.0, 23.0)] {
        let exporter = Exporter::start(&["--sample.interval", interval]);
        let start = Instant::now();
        let before = exporter.scrape().get(SAMPLES).unwrap();
        std::thread::sleep(Duration::from_secs(2));
        let rounds = exporter.scrape().get(SAMPLES).unwrap() - before;
        let most = most * start.elapsed().as_secs_f64() / 2.0;
        assert!(
            rounds >= least && rounds <= most,
            "{rounds} rounds of {interval} in 2 s"
        );
    }
    let exporter = Exporter::start(&["--sample.interval", "10s"]);
    assert_eq!(exporter.shows("unix:@name").get(SAMPLES), Some(1.0));
    assert_eq!(exporter.get("/-/healthy").status, 200);
}
