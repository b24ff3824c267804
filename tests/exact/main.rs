//! The figures of the readers and the follower in every sample, compared with the truth: a server and clients that log what they
//! do. No test here starts a process: one that is being made holds copies of all sockets for a moment, and a client that is closed
//! meanwhile stays connected. Run as root.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test that cannot go on ends here"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

mod tables;
mod tcp;
#[path = "../waits/truth.rs"]
mod truth;
mod unix;
