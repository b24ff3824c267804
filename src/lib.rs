//! Reads the accept queues of listening sockets and tells Prometheus.
