//! Prometheus exporter for the accept queues of listening sockets.
fn main() {}
