//! Time of a scrape, memory after a thousand of them, and what they do to the rounds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::common::exporter::Exporter;
use super::common::exposition::Page;
use super::common::http::connect;
use super::common::namespace::Namespace;
use super::common::socket::Listener;
use super::report::Report;

const SCRAPES: u32 = 1000;
const EVERY: Duration = Duration::from_millis(10);
const PLAIN: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
const GZIP: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n";
const PROMISED_RSS: f64 = 5e6;

pub(crate) fn measure(report: &mut Report) {
    report.section(&format!(
        "Scrapes, {SCRAPES} at 100 a second on one connection, and as many with gzip, as Prometheus asks for"
    ));
    report.row(&[
        "listeners",
        "page KB",
        "p50 ms",
        "p99 ms",
        "gzip p50 ms",
        "gzip p99 ms",
        "scrapes/s",
        "rounds",
        "late",
        "late without scrapes",
        "RSS MB",
    ]);
    for count in [10, 100, 1000] {
        let run = || {
            let _namespace = Namespace::enter();
            scrape(count)
        };
        let result = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        report.row(&[
            &count.to_string(),
            &format!("{:.0}", result.page / 1e3),
            &format!("{:.2}", result.plain.p50 * 1e3),
            &format!("{:.2}", result.plain.p99 * 1e3),
            &format!("{:.2}", result.gzip.p50 * 1e3),
            &format!("{:.2}", result.gzip.p99 * 1e3),
            &format!("{:.0}", result.rate),
            &format!("{:.0}", result.crowded.taken),
            &format!("{:.0}", result.crowded.late),
            &format!("{:.0}", result.quiet.late),
            &format!("{:.2}", result.resident / 1e6),
        ]);
        for (name, value) in [
            ("p50 seconds", result.plain.p50),
            ("p99 seconds", result.plain.p99),
            ("gzip p50 seconds", result.gzip.p50),
            ("gzip p99 seconds", result.gzip.p99),
            ("late rounds", result.crowded.late),
            ("late rounds without scrapes", result.quiet.late),
            ("resident bytes", result.resident),
        ] {
            report.figure(&format!("{count} listeners, {name}"), value);
        }
        if count == 10 {
            report.bar(
                "RSS after 1000 scrapes of 10 listeners at most 5 MB",
                result.resident <= PROMISED_RSS,
                &format!("{:.2} MB", result.resident / 1e6),
            );
        }
        if count == 100 {
            let times = result.gzip.p50 / result.plain.p50;
            report.bar(
                "a scrape of 100 listeners with gzip: at most 3 times as long as without",
                times <= 3.0,
                &format!("{times:.2}"),
            );
        }
        if count == 1000 {
            let waited = result.crowded.waited;
            report.bar(
                "no round late for a scrape of 1,000 listeners (but for want of a processor)",
                result.crowded.late <= result.quiet.late + (waited / EVERY.as_secs_f64()).floor(),
                &format!("{:.0} late, {waited:.3} s waited", result.crowded.late),
            );
        }
    }
}

struct Outcome {
    page: f64,
    plain: Times,
    gzip: Times,
    rate: f64,
    crowded: Rounds,
    quiet: Rounds,
    resident: f64,
}

/// Seconds of a scrape.
struct Times {
    p50: f64,
    p99: f64,
}

impl Times {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self {
            p50: times[times.len() / 2],
            p99: times[times.len() * 99 / 100],
        }
    }
}

struct Rounds {
    taken: f64,
    late: f64,
    /// Seconds that the sampler was ready to run and had no processor.
    waited: f64,
}

fn scrape(count: u16) -> Outcome {
    let _listeners: Vec<_> = (0..count)
        .map(|number| {
            if number % 2 == 0 {
                Listener::abstract_unix(format!("app-{number}").as_bytes(), 128)
            } else {
                Listener::tcp(&format!("127.0.0.1:{}", 10_000 + number), 128)
            }
        })
        .collect();
    let exporter = Exporter::start(&["--discover.limit", "1000"]);
    exporter.when("all listeners", |page| {
        page.listeners().len() == usize::from(count)
    });
    let page = exporter.scrape_text().len();
    let lasts = EVERY * SCRAPES;
    let quiet = during(&exporter, || std::thread::sleep(lasts));
    let mut times = Vec::new();
    let start = Instant::now();
    let crowded = during(&exporter, || times = paced_scrapes(&exporter, PLAIN));
    let rate = f64::from(SCRAPES) / start.elapsed().as_secs_f64();
    let resident = exporter.scrape().get("process_resident_memory_bytes");
    let gzip = Times::of(paced_scrapes(&exporter, GZIP));
    Outcome {
        page: f64::from(u32::try_from(page).expect("a page below 4 GB")),
        plain: Times::of(times),
        gzip,
        rate,
        crowded,
        quiet,
        resident: resident.expect("procfs is readable"),
    }
}

fn during(exporter: &Exporter, what: impl FnOnce()) -> Rounds {
    let figures = |page: &Page| {
        [
            "listen_queue_samples_total",
            "listen_queue_samples_late_total",
        ]
        .map(|name| page.get(name).expect("always there"))
    };
    let (before, waited) = (figures(&exporter.scrape()), sampler_waited(exporter));
    what();
    let after = figures(&exporter.scrape());
    Rounds {
        taken: after[0] - before[0],
        late: after[1] - before[1],
        waited: sampler_waited(exporter) - waited,
    }
}

fn sampler_waited(exporter: &Exporter) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", exporter.id())).expect("the process");
    for task in tasks.flatten() {
        let file = |name: &str| std::fs::read_to_string(task.path().join(name)).expect("a file");
        if file("comm").trim_end() == "sampler" {
            let schedstat = file("schedstat");
            let waited = schedstat.split(' ').nth(1).and_then(|ns| ns.parse().ok());
            return Duration::from_nanos(waited.expect("a number")).as_secs_f64();
        }
    }
    panic!("no thread is called sampler");
}

/// Seconds of each scrape.
fn paced_scrapes(exporter: &Exporter, request: &str) -> Vec<f64> {
    let mut stream = connect(exporter.address());
    let mut answer = vec![0; 1 << 20];
    let start = Instant::now();
    let mut times = Vec::new();
    for number in 0..SCRAPES {
        std::thread::sleep((start + EVERY * number).saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        scrape_kept(&mut stream, request, &mut answer);
        times.push(sent.elapsed().as_secs_f64());
    }
    times
}

/// One scrape on a connection that stays open.
fn scrape_kept(stream: &mut TcpStream, request: &str, answer: &mut [u8]) {
    stream
        .write_all(request.as_bytes())
        .expect("the request is taken");
    let mut head = Vec::new();
    loop {
        let length = stream.read(answer).expect("an answer");
        assert!(length > 0, "the connection ended");
        head.extend_from_slice(&answer[..length]);
        let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&head[..end]).expect("a header");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let is_packed = text.contains("content-encoding: gzip");
        assert_eq!(is_packed, request == GZIP, "{text}");
        let body = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let body: usize = body
            .and_then(|length| length.parse().ok())
            .expect("a length");
        let mut left = end + 4 + body - head.len();
        while left > 0 {
            let wanted = left.min(answer.len());
            left -= stream.read(&mut answer[..wanted]).expect("an answer");
        }
        return;
    }
}
