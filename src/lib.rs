//! Reads the accept queues of listening sockets, 100 times a second and without any privilege, and exposes their depth and limit, how
//! long they were full and what was dropped, as Prometheus metrics.
//!
//! The kernel keeps at most `min(backlog, net.core.somaxconn) + 1` connections waiting for `accept()`. Further
//! connections are refused: on a unix socket `connect()` fails with `EAGAIN`, nginx answers 502, and no counter increases.
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
//! | module | task |
//! |---|---|
//! | [`listener`] | listeners that the user named or discovery found: parse, print, match |
//! | [`kernel`] | reads Linux: netlink `sock_diag`, `/proc`, the mounts |
//! | [`sample`] | the plain data of one round, for each network namespace |
//! | [`sampler`] | a thread with its own clock: rounds over network namespaces, with exact lookups or dumps, and a listing once a second |
//! | [`ledger`] | totals of the samples: peaks, histograms, time full, drops, replacements; and the events for the log |
//! | [`refusals`] | sources of refused unix connects: the nginx log, a hook in the kernel |
//! | [`metrics`] | one table of all metrics, and the page rendered from it |
//! | [`report`] | the same figures as data, and the explanation of each limit |
//! | [`http`] | routes, the live page, connection limits, TLS and passwords |
//! | [`check`] | a check from the terminal: a table, diagnoses, an exit code |
//! | [`cli`], [`duration`], [`logging`], [`journal`] | flags, the format of durations, the format of log lines, the line of each event |
//! | [`counted`] | counts in sentences, with the noun in singular or plural |
//!
//! A network namespace is a value of the sampler: how it is entered, where its `net` directory and settings are, and the labels of its
//! series. A sidecar watches exactly one, which has no labels. No later stage depends on their number. With `--node`, a separate thread
//! finds the namespaces of the machine by their processes, opens them, and passes them to the sampler.
//!
//! # What never happens
//!
//! - Nothing outside [`kernel`] and [`refusals`] opens a file or a socket to read state; `main` opens the sockets that it serves on, and
//!   [`http`] the web configuration and the files that it names.
//! - Nothing in [`kernel`] knows a metric, a label or a clock.
//! - [`ledger`] and [`metrics`] read no clock and do no I/O: samples and instants come in, values go out.
//! - The sampler waits neither for a scrape nor for the log. A scrape copies the figures while it holds the lock, and renders without it.
//! - A round that finds every queue empty and unchanged touches neither the ledger nor its lock: such rounds are recorded together.
//! - A decoder never panics, whatever the bytes. External text is escaped one to one and never splits a line.
//! - A failed source fails no scrape: its series are absent and `listen_queue_source_up` is 0.
//! - If `sock_diag` is not available, the tables of `/proc/net` provide a part of the figures. A limit that is not reported is absent, not
//!   guessed.
//! - The application's sockets and files are never connected to, written or locked.
//! - A file that protects the page never removes protection if it becomes invalid: what was protected stays protected until a restart.
//! - There is no `unsafe` code; the eBPF program is C, and libbpf loads it.

// Not in Cargo.toml: tests/ may unwrap.
#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod check;
pub mod cli;
pub mod counted;
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
/// The revision that it was built from, if the build was given one.
pub const REVISION: &str = match option_env!("LISTEN_QUEUE_EXPORTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
