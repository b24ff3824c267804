//! What costs much is done no more often than was said: the exporter's system calls, as strace sees them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::exporter::Exporter;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::socket::{Listener, connect_abstract, connect_tcp};
use crate::common::wait;

/// A system call's start in seconds, and what strace prints of it.
type Call = (f64, String);

/// The calls of one kind that the exporter makes meanwhile.
fn trace(exporter: &Exporter, call: &str, home: &Path, meanwhile: impl FnOnce()) -> Vec<Call> {
    let output: PathBuf = home.join("strace");
    let mut strace = program::command("strace");
    strace.args([
        "-f",
        "-ttt",
        "-yy",
        "-s",
        "64",
        "-e",
        &format!("trace={call}"),
    ]);
    strace.arg("-p").arg(exporter.id().to_string());
    strace.arg("-o").arg(&output).stderr(Stdio::null());
    let mut strace = Process::start(&mut strace);
    let text = || std::fs::read_to_string(&output).unwrap_or_default();
    wait::until_true("strace to see something", || text().lines().count() > 1);
    meanwhile();
    strace.signal(Signal::INT);
    wait::until("strace to end", || strace.ended());
    let read = |line: &str| {
        let (_, rest) = line.trim_start().split_once(' ')?;
        let (time, call) = rest.trim_start().split_once(' ')?;
        Some((time.parse().ok()?, call.to_owned()))
    };
    text().lines().filter_map(read).collect()
}

/// No more than one an interval, and not much fewer.
fn check(calls: &[Call], interval: f64) {
    let times: Vec<f64> = calls.iter().map(|(time, _)| *time).collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let calls = f64::from(u32::try_from(times.len() - 1).unwrap());
    let most = (last - first) / interval;
    // The first may come late, as a machine may be busy, and the last on time.
    assert!(calls <= most + 2.0, "{calls} intervals in {}", last - first);
    assert!(calls >= most / 2.0, "{calls} intervals in {}", last - first);
}

#[test]
fn the_table_of_unix_sockets_is_read_ten_times_a_second_at_most_and_only_while_a_queue_is_full() {
    let _namespace = Namespace::enter();
    let home = directory();
    let listener = Listener::abstract_unix(b"full", 1);
    let exporter = Exporter::start(&["--listener", "unix:@full"]);
    exporter.shows("unix:@full");
    let reads = |lasts: u64| {
        let rest = || std::thread::sleep(Duration::from_secs(lasts));
        let calls = trace(&exporter, "pread64", home.path(), rest);
        let begins = |call: &Call| call.1.contains("/net/unix>") && call.1.contains(", 0) = ");
        calls.into_iter().filter(begins).collect::<Vec<_>>()
    };
    let _first = connect_abstract(b"full").unwrap();
    assert_eq!(reads(3), []);
    let _second = connect_abstract(b"full").unwrap();
    let calls = reads(5);
    assert!(calls.len() >= 20);
    check(&calls, 0.1);
    drop(listener.accept().unwrap());
    exporter.fresh();
    assert_eq!(reads(3), []);
}

#[test]
fn the_table_of_tcp_sockets_is_walked_at_the_interval_of_the_flag_and_only_while_a_connection_waits()
 {
    let _namespace = Namespace::enter();
    let home = directory();
    let address = "127.0.0.1:8000";
    let listener = Listener::tcp(address, 5);
    for (flags, interval, lasts) in [
        (&[][..], 1.0, 6),
        (&["--sample.tcp-interval", "100ms"], 0.1, 4),
        (&["--sample.tcp-interval", "3s"], 3.0, 10),
    ] {
        let arguments = [&["--listener", "tcp:127.0.0.1:8000"], flags].concat();
        let exporter = Exporter::start(&arguments);
        exporter.shows("tcp:127.0.0.1:8000");
        let scans = |lasts: u64| {
            let rest = || std::thread::sleep(Duration::from_secs(lasts));
            let calls = trace(&exporter, "sendto", home.path(), rest);
            assert!(calls.iter().any(|(_, call)| call.contains("TCP_LISTEN")));
            let is_scan = |call: &Call| call.1.contains("TCP_ESTABLISHED");
            calls.into_iter().filter(is_scan).collect::<Vec<_>>()
        };
        assert_eq!(scans(2), []);
        let client = connect_tcp(address);
        let calls = scans(lasts);
        assert!(calls.len() >= 3);
        check(&calls, interval);
        drop((listener.accept().unwrap(), client));
    }
}
