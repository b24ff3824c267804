//! Serves the figures over HTTP. It reads the ledger and never the kernel.

mod bounded;
mod page;
mod routes;
mod server;

pub use routes::{App, Pages, Streams, router};
pub use server::{LIMITS, Limits, serve};
