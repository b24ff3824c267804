//! How long connections wait, who gave up and who is stuck outside, held against the truth: servers and clients that log what they
//! do. Each test has its own network namespace. Run as root; `tests/install.sh base` installs the programs that are needed.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test that cannot go on ends here"
)]
#![expect(clippy::float_cmp, reason = "counts are exact")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

mod blocked;
mod long;
mod pace;
mod stop;
mod tcp;
mod totals;
#[expect(dead_code, reason = "the exact tests use the rest")]
mod truth;
