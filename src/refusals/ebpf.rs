//! Refused connects as the kernel sees them: a hook at the end of its `unix_stream_connect()`, whoever connects and however.
//!
//! The kernel tells the address that the client gave, not the socket that it led to.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(feature = "ebpf")]
mod hook;
#[cfg(not(feature = "ebpf"))]
#[path = "ebpf/no_hook.rs"]
mod hook;

use super::counts::Counts;
use crate::listener::UnixName;
use hook::Hook;

/// Whether this build has the hook.
pub const EBPF_BUILT: bool = cfg!(feature = "ebpf");

/// The hook, or why there is none, and what it has counted.
#[derive(Debug)]
pub struct Ebpf {
    hook: Result<Hook, String>,
    tally: Tally,
}

/// What the hook's map holds: counts that only rise, of names that stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Snapshot {
    names: Vec<(UnixName, u64)>,
    /// Refusals at names for which the map had no room.
    overflow: u64,
}

/// Turns what the map holds into counts of bounded size.
#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    before: BTreeMap<UnixName, u64>,
    overflow_before: u64,
}

impl Ebpf {
    /// Puts the hook in place, for clients of this network namespace. Where that fails, reading says why.
    #[must_use]
    pub fn attach(network_namespace: Result<u32, String>) -> Self {
        Self {
            hook: network_namespace.and_then(Hook::attach),
            tally: Tally::default(),
        }
    }

    /// The counts so far, after telling which names belong to listeners.
    ///
    /// # Errors
    /// Why there is no hook, or what reading its map said.
    pub fn read(&mut self, known: &BTreeSet<&UnixName>) -> Result<&Counts, String> {
        let snapshot = self.hook.as_ref().map_err(Clone::clone)?.read()?;
        self.tally.take(snapshot, known);
        Ok(&self.tally.counts)
    }
}

impl Tally {
    fn take(&mut self, snapshot: Snapshot, known: &BTreeSet<&UnixName>) {
        self.counts.know(known);
        for (name, count) in snapshot.names {
            let before = self.before.get(&name).copied().unwrap_or_default();
            if count > before {
                self.counts.add(&name, count - before);
                self.before.insert(name, count);
            }
        }
        let more = snapshot.overflow.saturating_sub(self.overflow_before);
        self.counts.add_other(more);
        self.overflow_before += more;
    }
}

/// Reads a key of the map: a length, then a path without its NUL, or an abstract name with the NUL before it.
#[cfg(any(feature = "ebpf", test))]
fn parse_key(key: &[u8]) -> Option<UnixName> {
    let (length, bytes) = key.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    match bytes.get(..length)?.split_first()? {
        (0, name) => Some(UnixName::Abstract(name.to_vec())),
        _ => Some(UnixName::Path(bytes.get(..length)?.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> UnixName {
        UnixName::Path(text.as_bytes().to_vec())
    }

    fn key(length: u32, bytes: &[u8]) -> Vec<u8> {
        let mut key = length.to_ne_bytes().to_vec();
        key.extend(bytes);
        key.resize(116, 0);
        key
    }

    #[test]
    fn a_key_is_a_path_or_an_abstract_name_and_anything_else_is_nothing() {
        assert_eq!(parse_key(&key(2, b"/a")), Some(path("/a")));
        assert_eq!(
            parse_key(&key(4, b"\0a\0b")),
            Some(UnixName::Abstract(b"a\0b".to_vec()))
        );
        assert_eq!(parse_key(&key(0, b"")), None);
        assert_eq!(parse_key(&key(113, b"/a")), None);
        assert_eq!(parse_key(b"\x01"), None);
    }

    #[test]
    fn what_the_map_holds_is_added_once() {
        let (g, abstract_name) = (path("/run/g.sock"), UnixName::Abstract(b"g".to_vec()));
        let known = BTreeSet::from([&g, &abstract_name]);
        let mut tally = Tally::default();
        let mut snapshot = Snapshot {
            names: vec![(g.clone(), 3)],
            overflow: 1,
        };
        tally.take(snapshot.clone(), &known);
        tally.take(snapshot.clone(), &known);
        snapshot.names[0].1 = 5;
        snapshot.names.push((abstract_name.clone(), 7));
        snapshot.overflow = 2;
        tally.take(snapshot, &known);
        let names: Vec<_> = tally.counts.names().collect();
        assert_eq!(names, [(&g, 5), (&abstract_name, 7)]);
        assert_eq!(tally.counts.other(), 2);
    }
}
