//! What is shipped to run the exporter elsewhere: the image, manifests, units and workflows, checked against their schemas and the code, and
//! tried in real containers. Run as root; `tests/install.sh base containers packages` installs the programs that are needed.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on ends here"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

mod agreement;
mod alertmanager;
mod dockerfile;
mod files;
mod gvisor;
mod helm;
mod image;
mod manifests;
#[path = "../../deploy/packages/manual.rs"]
#[expect(dead_code, reason = "as a program it has a main")]
mod manual;
mod memory;
mod packages;
mod pod;
mod podman;
mod scraping;
mod settings;
mod systemd;
mod workflows;
