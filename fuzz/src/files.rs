//! What is read from a file: the input is what the file holds.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use listen_queue_exporter::http::WebConfig;
use listen_queue_exporter::kernel::inet::Family;
use listen_queue_exporter::kernel::procnet::{TcpTable, UnixPass, UnixTable, tcp, unix};
use tempfile::TempDir;

thread_local! {
    static DIRECTORY: TempDir = tempfile::tempdir().expect("a directory");
}

/// A file of this name that holds the input, and its directory.
fn file(name: &str, input: &[u8]) -> (PathBuf, PathBuf) {
    let directory = DIRECTORY.with(|directory| directory.path().to_owned());
    let path = directory.join(name);
    fs::write(&path, input).expect("a file");
    (path, directory)
}

/// There are no more connections and listeners than lines, however the table is read.
pub(crate) fn proc_net_unix(input: &[u8]) {
    let lines = input.split(|byte| *byte == b'\n');
    let rows = lines.clone().filter_map(unix::parse).count();
    let (_, directory) = file("unix", input);
    let mut table = UnixTable::open(&directory, true).expect("it can be opened");
    let mut pass = UnixPass::default();
    for _ in 0..2 {
        table.read(&mut pass).expect("it can be read");
        let listening = pass.listeners.values().map(Vec::len).sum::<usize>();
        let depth: u32 = pass.pending.values().map(|pending| pending.depth).sum();
        assert!(listening + depth as usize <= rows);
        for pending in pass.pending.values() {
            assert!(pending.depth > 0 && pending.abandoned <= pending.depth);
        }
        assert!(pass.unreadable <= lines.clone().count() as u64);
    }
}

pub(crate) fn proc_net_tcp(input: &[u8]) {
    let rows = input.split(|byte| *byte == b'\n').filter_map(tcp::parse);
    let addresses: BTreeSet<_> = rows
        .filter_map(|line| match line {
            tcp::Line::Listening(row) => Some(row.address),
            tcp::Line::Other => None,
        })
        .collect();
    let (_, directory) = file("tcp", input);
    let mut table = TcpTable::open(&directory, Family::V4).expect("it can be opened");
    let mut read = || {
        let mut rows = Vec::new();
        let unreadable = table.read(|row| {
            rows.push(row);
            ControlFlow::Continue(())
        });
        (unreadable.expect("it can be read"), rows)
    };
    let first = read();
    assert!(first.1.len() <= input.len() / 10);
    if input.len() < 512 {
        assert!(first.1.iter().all(|row| addresses.contains(&row.address)));
    }
    assert_eq!(read(), first, "in other steps it is the same table");
}

pub(crate) fn web_config(input: &[u8]) {
    let (path, _) = file("web.yaml", input);
    if let Err(error) = WebConfig::open(path) {
        assert!(!error.is_empty());
    }
}
