//! The cost of sampling where `sock_diag` is denied, at the pace that the exporter takes there.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::common::exporter::Exporter;
use super::common::namespace::Namespace;
use super::common::program::directory;
use super::common::sandbox::{self, Refused};
use super::common::socket::{Listener, label};
use super::cpu::{self, POPULATIONS};
use super::report::Report;

/// The exporter finds its pace first.
const SETTLE: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(10);
/// The part of a core that it may take.
const BAR: f64 = 0.01;

pub(crate) fn measure(report: &mut Report) {
    report.section(&format!(
        "Without sock_diag, one unix and one TCP listener (a window of {} s)",
        WINDOW.as_secs()
    ));
    report.row(&["in the namespace", "rounds/s", "exporter %", "us/round"]);
    let mut highest: f64 = 0.0;
    for (others, population) in POPULATIONS {
        let run = || {
            let _namespace = Namespace::enter();
            let _held = population.make();
            sample()
        };
        let (rounds, share) = std::thread::scope(|s| s.spawn(run).join()).expect("no panic");
        highest = highest.max(share);
        report.row(&[
            others,
            &format!("{rounds:.1}"),
            &format!("{:.2}", share * 100.0),
            &format!("{:.0}", share / rounds * 1e6),
        ]);
        report.figure(&format!("cpu share without sock_diag, {others}"), share);
    }
    report.bar(
        "CPU without sock_diag: at most 1 % of a core",
        highest <= BAR,
        &format!("{:.2} %", highest * 100.0),
    );
}

/// Rounds a second, and the share of a core.
fn sample() -> (f64, f64) {
    let directory = directory();
    let path = directory.path().join("g.sock");
    let _unix = Listener::unix(&path, 128);
    let _tcp = Listener::tcp("127.0.0.1:8000", 128);
    let arguments = [
        "--web.listen-address",
        "127.0.0.1:0",
        "--listener",
        &label(&path),
        "--listener",
        "tcp:127.0.0.1:8000",
    ];
    let exporter = Exporter::spawn(sandbox::exporter(Refused::Socket, Errno::PERM, &arguments));
    let rounds = || {
        let page = exporter.scrape();
        page.get("listen_queue_samples_total")
            .expect("always there")
    };
    std::thread::sleep(SETTLE);
    let (start, rounds_before) = (Instant::now(), rounds());
    let before = cpu::cpu_time(exporter.id());
    std::thread::sleep(WINDOW);
    let used = cpu::cpu_time(exporter.id()).saturating_sub(before);
    let elapsed = start.elapsed().as_secs_f64();
    (
        (rounds() - rounds_before) / elapsed,
        used.as_secs_f64() / elapsed,
    )
}
