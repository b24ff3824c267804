//! Reads the accept queues of listening sockets and tells Prometheus.
pub mod cli;
pub mod duration;
pub mod http;
pub mod journal;
pub mod kernel;
pub mod ledger;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod sample;
pub mod sampler;

/// The version of this build, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The revision that it was built from, if the build was told.
pub const REVISION: &str = match option_env!("LISTEN_QUEUE_EXPORTER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
