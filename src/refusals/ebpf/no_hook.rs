//! A build without eBPF.

use super::Snapshot;

/// There is none.
#[derive(Debug)]
pub(super) enum Hook {}

impl Hook {
    pub(super) fn attach(_network_namespace: u32) -> Result<Self, String> {
        Err("this build has no eBPF".to_owned())
    }

    pub(super) fn read(&self) -> Result<Snapshot, String> {
        match *self {}
    }
}
