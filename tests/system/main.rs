//! The exporter against the real kernel: each test makes its own network namespace, its own sockets and its own exporter, and asserts
//! exact numbers. Run as root; `tests/install.sh base` installs the programs that are needed.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on ends here"
)]

#[path = "../common/mod.rs"]
mod common;

mod burst;
mod check;
mod cli;
mod crowds;
mod discovery;
mod end_to_end;
mod fallback;
mod faults;
mod follow;
mod http;
mod live;
mod names;
mod nginx_log;
mod node;
mod paths;
mod privilege;
mod proxy;
mod scale;
mod stall;
mod tcp;
mod unix;
mod web_config;
