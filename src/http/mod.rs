//! Serves the figures over HTTP. It reads the ledger and the web config, and never the kernel.

mod bounded;
mod page;
mod routes;
mod server;
mod web_config;

pub use routes::{App, Pages, Streams, router};
pub use server::{LIMITS, Limits, serve};
pub use web_config::{WebConfig, protect};
