//! Reads the accept queues of listening sockets, 100 times a second and without any privilege, and tells Prometheus how deep they
//! are, where they end, how long they were full and what was dropped.
//!
//! The kernel keeps at most `min(backlog, net.core.somaxconn) + 1` connections waiting for `accept()`. What comes on top is turned
//! away: over a unix socket `connect()` fails with `EAGAIN`, nginx answers 502, and no counter moves.
//!
//! # Layout
//!
//! Data flows one way. Arrows are `use`, and none points back.
//!
//! ```text
//! kernel/*  ──▶  sampler  ──▶  ledger  ──▶  metrics  ──▶  http  ──▶  main
//! (Linux)        (a thread)    (pure)       (pure)        (async)
//!        refusals  ──▶  └─ sample ─┘          report ──▶  http, check
//! ```
//!
//! | module | its job |
//! |---|---|
//! | [`listener`] | what the user named or discovery found: parse, print, match |
//! | [`kernel`] | reads Linux: netlink `sock_diag`, `/proc`, the mounts |
//! | [`sample`] | the plain data of one round |
//! | [`sampler`] | a thread with its own clock: rounds by exact lookup or dump, a listing once a second |
//! | [`ledger`] | what samples add up to: peaks, histograms, time full, drops, replacements; and the events worth a line |
//! | [`refusals`] | witnesses of refused unix connects: nginx's log, a hook in the kernel |
//! | [`metrics`] | one table of every metric, and the page made from it |
//! | [`report`] | the same figures as data, and why each limit is what it is |
//! | [`http`] | routes, the live page, connection limits, TLS and passwords |
//! | [`check`] | one look at the terminal: a table, diagnoses, an exit code |
//! | [`cli`], [`duration`], [`logging`], [`journal`] | flags, how durations are written, how log lines look, which line an event gets |
//!
//! # What does not happen
//!
//! - Nothing outside [`kernel`] and [`refusals`] opens a file or a socket to learn something; `main` opens those that it serves on, and
//!   [`http`] the web config and what it names.
//! - Nothing in [`kernel`] knows a metric, a label or a clock.
//! - [`ledger`] and [`metrics`] read no clock and do no I/O: samples and instants come in, values go out.
//! - The sampler waits neither for a scrape nor for the log; a scrape copies the figures under the lock and renders without it.
//! - A round that finds every queue empty and as it was touches neither the ledger nor its lock: such rounds are booked together.
//! - A decoder does not panic, whatever the bytes; text from outside is printed one to one and never splits a line.
//! - A failed source fails no scrape: its series are absent and `listen_queue_source_up` is 0.
//! - Where `sock_diag` is not available, the tables of `/proc/net` have a part of the figures. A limit that nobody reports is absent, not
//!   guessed.
//! - The application's sockets and files are never connected to, written or locked.
//! - A file that protects the page opens no door when it goes wrong: what was protected stays so until a restart.
//! - There is no `unsafe` code; the eBPF program is C, and libbpf loads it.

// Not in Cargo.toml: tests/ may unwrap.
#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod check;
pub mod cli;
pub mod duration;
pub mod http;
pub mod journal;
pub mod kernel;
pub mod ledger;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod refusals;
pub mod report;
pub mod sample;
pub mod sampler;

/// The version of this build, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The revision that it was built from, if the build was told.
pub const REVISION: &str = match option_env!("LISTEN_QUEUE_EXPORTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
