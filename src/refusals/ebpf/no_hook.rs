//! A build without eBPF.

use super::{Scope, Snapshot};

/// There is no hook.
#[derive(Debug)]
pub(super) enum Hook {}

impl Hook {
    pub(super) fn attach(_scope: Scope) -> Result<Self, String> {
        Err("this build does not include eBPF".to_owned())
    }

    pub(super) fn forget(&self, _network_namespace: u32) {
        match *self {}
    }

    pub(super) fn read(&self) -> Result<Snapshot, String> {
        match *self {}
    }
}
