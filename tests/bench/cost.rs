//! What the exporter costs, measured beside the least that sampling can cost: a bare C loop that makes the same two lookups at the same
//! pace, and one that only sleeps. `make bench` runs it as root with the static release build and writes target/bench.txt and .json; `make bench ONLY=node`
//! runs one part.
#![expect(clippy::expect_used, reason = "a bench that cannot go on ends here")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod common;

mod cpu;
mod fallback;
mod hold;
mod node;
mod report;
mod scrape;
mod waits;

use std::path::Path;

use common::exporter::BINARY;
use common::program;
use report::Report;

/// Measures a part, and writes what it found.
type Measure = fn(&mut Report);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, hold, what, count] = arguments.as_slice()
        && hold == hold::COMMAND
    {
        hold::run(what, count);
        return;
    }
    let parts: [(&str, Measure); 6] = [
        ("binary", binary),
        ("cpu", cpu::measure),
        ("fallback", fallback::measure),
        ("node", node::measure),
        ("waits", waits::measure),
        ("scrape", scrape::measure),
    ];
    let wanted: Vec<&str> = arguments
        .iter()
        .skip(1)
        .map(String::as_str)
        .filter(|a| *a != "--bench")
        .collect();
    let mut report = Report::default();
    for (name, measure) in parts {
        if wanted.is_empty() || wanted.contains(&name) {
            measure(&mut report);
        }
    }
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
