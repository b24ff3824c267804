//! What the tests against the real kernel have in common: namespaces, sockets, the exporter's process, its page.

pub(crate) mod exporter;
pub(crate) mod exposition;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod namespace;
pub(crate) mod pods;
pub(crate) mod program;
pub(crate) mod sandbox;
pub(crate) mod site;
pub(crate) mod socket;
pub(crate) mod wait;
