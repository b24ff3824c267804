//! Serves the figures over HTTP. It reads the ledger and the web configuration, and never the kernel.

mod bounded;
mod page;
mod pages;
mod pieces;
mod places;
mod routes;
mod server;
mod web_config;

pub use pages::Pages;
pub use routes::{App, Streams, router};
pub use server::{LIMITS, Limits, serve};
pub use web_config::{WebConfig, protect};
