//! What the exporter costs, measured beside the least that sampling can cost: a bare C loop that makes the same two lookups at the same
//! pace, and one that only sleeps. `make bench` runs it as root with the static release build and writes target/bench.txt and .json.
#![expect(clippy::expect_used, reason = "a bench that cannot go on ends here")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod common;

mod cpu;
mod fallback;
mod hold;
mod report;
mod scrape;
mod waits;

use std::path::Path;

use common::exporter::BINARY;
use common::program;
use report::Report;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, hold, what, count] = arguments.as_slice()
        && hold == hold::COMMAND
    {
        hold::run(what, count);
        return;
    }
    let mut report = Report::default();
    binary(&mut report);
    cpu::measure(&mut report);
    fallback::measure(&mut report);
    waits::measure(&mut report);
    scrape::measure(&mut report);
    report.finish(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target")));
}

fn binary(report: &mut Report) {
    let size = std::fs::metadata(BINARY).expect("the binary").len();
    let size = f64::from(u32::try_from(size).expect("less than 4 GB"));
    let headers = program::run(program::command("readelf").args(["-lW", BINARY]));
    let is_static = !headers.contains("INTERP");
    report.section("Binary");
    report.row(&["bytes", "static"]);
    report.row(&[&size.to_string(), if is_static { "yes" } else { "no" }]);
    report.figure("binary_bytes", size);
    report.bar(
        "static binary at most 5 MB",
        is_static && size <= 5e6,
        &format!("{:.2} MB", size / 1e6),
    );
}
