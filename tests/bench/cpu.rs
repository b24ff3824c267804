//! CPU time of the sampling, window by window in turn with the bare loops, so that the machine is the same for all.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::common::exporter::Exporter;
use super::common::namespace::Namespace;
use super::common::program::{self, Process, directory};
use super::common::socket::{Listener, label};
use super::hold::Held;
use super::report::Report;

const PORT: u16 = 8000;
/// Windows of each program in each case; the median counts.
const WINDOWS: usize = 7;
const WINDOW: Duration = Duration::from_secs(1);
/// After a stop, the program is left alone for this long.
const SETTLE: Duration = Duration::from_millis(200);

/// What else is in the network namespace.
pub(crate) const POPULATIONS: [(&str, Population); 4] = [
    ("nothing else", Population::Nothing),
    ("1,000 unix sockets", Population::Unix(1_000)),
    ("10,000 unix sockets", Population::Unix(10_000)),
    ("20,000 TCP connections", Population::Tcp(20_000)),
];

pub(crate) fn measure(report: &mut Report) {
    let program = compile();
    report.section(&format!(
        "CPU, one unix and one TCP listener (median of {WINDOWS} windows of {} s, in turn)",
        WINDOW.as_secs()
    ));
    report.row(&[
        "in the namespace",
        "rounds/s",
        "empty loop %",
        "bare C loop %",
        "exporter %",
        "us/round",
        "times the C loop",
    ]);
    for (others, population) in POPULATIONS {
        // A thread of its own, whose namespace goes with it.
        let run = || {
            let _namespace = Namespace::enter();
            let _held = population.make();
            [100, 1000].map(|rate| (rate, compare(&program, rate)))
        };
        let results = std::thread::scope(|scope| scope.spawn(run).join()).expect("no panic");
        for (rate, shares) in results {
            row(report, others, rate, shares);
            let ratio = shares.exporter / shares.bare;
            if let Some(bar) = bar(population, rate) {
                report.bar(
                    &format!("CPU at {rate} rounds/s, {others}: at most {bar} times the C loop"),
                    ratio <= bar,
                    &format!("{ratio:.2}"),
                );
            }
        }
    }
}

/// How much dearer than the bare loop the exporter may be.
fn bar(population: Population, rate: u32) -> Option<f64> {
    match (population, rate) {
        (Population::Nothing, 100) => Some(1.2),
        (Population::Nothing, 1000) => Some(1.15),
        (Population::Unix(10_000), 100) => Some(1.3),
        _ => None,
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Population {
    Nothing,
    Unix(u32),
    Tcp(u32),
}

impl Population {
    pub(crate) fn make(self) -> Held {
        match self {
            Self::Nothing => Held::default(),
            Self::Unix(count) => Held::unix(count),
            Self::Tcp(count) => Held::tcp(count),
        }
    }
}

/// Shares of one processor.
#[derive(Debug, Clone, Copy)]
struct Shares {
    empty: f64,
    bare: f64,
    exporter: f64,
}

fn row(report: &mut Report, others: &str, rate: u32, shares: Shares) {
    let percent = |share: f64| format!("{:.2}", share * 100.0);
    report.row(&[
        others,
        &rate.to_string(),
        &percent(shares.empty),
        &percent(shares.bare),
        &percent(shares.exporter),
        &format!("{:.1}", shares.exporter / f64::from(rate) * 1e6),
        &format!("{:.2}", shares.exporter / shares.bare),
    ]);
    for (name, share) in [
        ("empty", shares.empty),
        ("bare", shares.bare),
        ("exporter", shares.exporter),
    ] {
        report.figure(&format!("cpu share, {others}, {rate}/s, {name}"), share);
    }
}

pub(crate) fn compile() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("loop");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/loop.c");
    let mut gcc = program::command("gcc");
    program::run(gcc.args(["-O2", "-Wall", "-o"]).arg(&program).arg(source));
    program
}

/// A listener whose file has the kernel look through half of the other sockets: a lookup goes through 256 buckets, up to that of the file's inode.
fn bind_amid_the_table(directory: &Path) -> (UnixListener, PathBuf) {
    let mut others = Vec::new();
    for number in 0..5000 {
        let path = directory.join(format!("{number}.sock"));
        let listener = UnixListener::bind(&path).expect("a path that fits");
        let inode = std::fs::metadata(&path).expect("its file").ino();
        if (120..136).contains(&(inode % 256)) {
            return (listener, path);
        }
        others.push(listener);
    }
    panic!("no file in the middle of the table");
}

fn compare(program: &Path, rate: u32) -> Shares {
    let directory = directory();
    let (unix, path) = bind_amid_the_table(directory.path());
    let inode = rustix::fs::fstat(&unix).expect("a socket").st_ino;
    let _tcp = Listener::tcp(&format!("127.0.0.1:{PORT}"), 128);
    let interval = (1_000_000 / rate).to_string();
    let mut empty = Process::start(Command::new(program).arg(&interval));
    let mut bare = Process::start(Command::new(program).args([
        &interval,
        "-",
        &inode.to_string(),
        &PORT.to_string(),
    ]));
    let exporter = Exporter::start(&[
        "--listener",
        &label(&path),
        "--listener",
        &format!("tcp:127.0.0.1:{PORT}"),
        "--sample.interval",
        &format!("{}ms", 1000 / rate),
    ]);
    let contestants = [empty.id(), bare.id(), exporter.id()];
    let signal = |id: u32, signal| {
        let id = rustix::process::Pid::from_raw(i32::try_from(id).expect("an id")).expect("an id");
        rustix::process::kill_process(id, signal).expect("it is there");
    };
    let all = |what| contestants.iter().for_each(|id| signal(*id, what));
    all(Signal::STOP);
    let mut shares = [const { Vec::new() }; 3];
    for window in 0..WINDOWS {
        for turn in 0..contestants.len() {
            let who = (window + turn) % contestants.len();
            let id = contestants[who];
            signal(id, Signal::CONT);
            std::thread::sleep(SETTLE);
            let (start, before) = (Instant::now(), cpu_time(id));
            std::thread::sleep(WINDOW);
            let used = cpu_time(id).saturating_sub(before);
            shares[who].push(used.as_secs_f64() / start.elapsed().as_secs_f64());
            signal(id, Signal::STOP);
        }
    }
    all(Signal::CONT);
    for process in [&mut empty, &mut bare] {
        assert_eq!(process.ended(), None, "a bare loop failed");
    }
    let [empty, bare, exporter] = shares.map(median);
    Shares {
        empty,
        bare,
        exporter,
    }
}

/// What all threads of a process have run so far.
pub(crate) fn cpu_time(id: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).expect("the process");
    let time = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.expect("a task").path().join("schedstat");
        let text = std::fs::read_to_string(path).expect("schedstat");
        let first = text.split(' ').next().and_then(|field| field.parse().ok());
        Duration::from_nanos(first.expect("a number"))
    };
    tasks.map(time).sum()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
