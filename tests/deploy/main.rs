//! What is shipped to run the exporter elsewhere: the image, manifests, units and workflows, checked against their schemas and the code, and
//! tried in real containers. Run as root; `tests/install.sh base containers` installs the programs that are needed.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on ends here"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

mod agreement;
mod dockerfile;
mod files;
mod gvisor;
mod image;
mod manifests;
mod pod;
mod podman;
mod settings;
mod systemd;
mod workflows;
