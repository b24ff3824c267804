//! Refused connects as the kernel sees them: a hook at the end of its `unix_stream_connect()`, for every client and every way to connect.
//!
//! The hook sees the address that the client used, not the socket that it led to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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

/// Minimum time between reads of the map of the hook: with many network namespaces it is long.
const READ_INTERVAL: Duration = Duration::from_millis(900);

/// The clients that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of the network namespace with this inode.
    One(u32),
    /// Those of every network namespace.
    All,
}

/// The hook, or the reason why there is none, and its counts.
#[derive(Debug)]
pub struct Ebpf {
    hook: Result<Hook, String>,
    scope: Result<Scope, String>,
    /// Content of the hook's map at the last read, by network namespace.
    snapshot: Snapshot,
    next_read: Duration,
    tallies: BTreeMap<u32, Tally>,
}

/// Content of the hook's map, by network namespace.
type Snapshot = BTreeMap<u32, OfNamespace>;

/// Counts that only increase, for names that are never removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfNamespace {
    names: BTreeMap<UnixName, u64>,
    /// Refusals at names for which the map had no room.
    overflow: u64,
}

/// Converts the entries of a network namespace into counts of bounded size.
#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    before: BTreeMap<UnixName, u64>,
    overflow_before: u64,
}

impl Ebpf {
    /// Attaches the hook. If that fails, reading returns the reason.
    #[must_use]
    pub fn attach(scope: Result<Scope, String>) -> Self {
        Self {
            hook: scope.clone().and_then(Hook::attach),
            scope,
            snapshot: Snapshot::new(),
            next_read: Duration::ZERO,
            tallies: BTreeMap::new(),
        }
    }

    /// The counts so far of clients of a network namespace, in a round that started at `now`, after setting which names belong to listeners.
    /// Without a number of the one that the hook is for.
    ///
    /// # Errors
    /// Why there is no hook, or why its map cannot be read.
    pub fn read(
        &mut self,
        now: Duration,
        namespace: Option<u32>,
        known: &BTreeSet<&UnixName>,
    ) -> Result<Option<&Counts>, String> {
        let hook = self.hook.as_ref().map_err(Clone::clone)?;
        if now >= self.next_read {
            self.snapshot = hook.read()?;
            self.next_read = now + READ_INTERVAL;
        }
        let number = match (namespace, &self.scope) {
            (Some(number), _) => number,
            (None, Ok(Scope::One(number))) => *number,
            // One that cannot be entered.
            _ => return Ok(None),
        };
        let tally = self.tallies.entry(number).or_default();
        let held = self.snapshot.get(&number).cloned();
        tally.take(held.unwrap_or_default(), known);
        Ok(Some(&tally.counts))
    }

    /// Removes a network namespace that no longer exists.
    pub fn forget(&mut self, namespace: u32) {
        self.tallies.remove(&namespace);
        self.snapshot.remove(&namespace);
        if let Ok(hook) = &self.hook {
            hook.forget(namespace);
        }
    }
}

#[cfg(any(feature = "ebpf", test))]
impl OfNamespace {
    /// Adds what the map counts under one of the spellings of a name.
    fn add(&mut self, name: UnixName, count: u64) {
        *self.names.entry(name).or_default() += count;
    }
}

impl Tally {
    fn take(&mut self, held: OfNamespace, known: &BTreeSet<&UnixName>) {
        self.counts.know(known);
        for (name, count) in held.names {
            let before = self.before.get(&name).copied().unwrap_or_default();
            if count > before {
                self.counts.add(&name, count - before);
                self.before.insert(name, count);
            }
        }
        let more = held.overflow.saturating_sub(self.overflow_before);
        self.counts.add_other(more);
        self.overflow_before += more;
    }
}

/// Reads a key of the map: the client's network namespace, a length, then a path without its NUL, or an abstract name with the NUL before it.
#[cfg(any(feature = "ebpf", test))]
fn parse_key(key: &[u8]) -> Option<(u32, UnixName)> {
    let (namespace, key) = key.split_first_chunk()?;
    let (length, bytes) = key.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let name = match bytes.get(..length)?.split_first()? {
        (0, name) => UnixName::Abstract(name.to_vec()),
        _ => UnixName::path(bytes.get(..length)?),
    };
    Some((u32::from_ne_bytes(*namespace), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> UnixName {
        UnixName::Path(text.as_bytes().to_vec())
    }

    fn key(length: u32, bytes: &[u8]) -> Vec<u8> {
        let mut key = [7_u32, length].map(u32::to_ne_bytes).concat();
        key.extend(bytes);
        key.resize(120, 0);
        key
    }

    #[test]
    fn a_key_is_a_path_or_an_abstract_name_and_anything_else_is_nothing() {
        assert_eq!(parse_key(&key(2, b"/a")), Some((7, path("/a"))));
        assert_eq!(
            parse_key(&key(4, b"\0a\0b")),
            Some((7, UnixName::Abstract(b"a\0b".to_vec())))
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
        let mut snapshot = OfNamespace {
            names: BTreeMap::from([(g.clone(), 3)]),
            overflow: 1,
        };
        tally.take(snapshot.clone(), &known);
        tally.take(snapshot.clone(), &known);
        snapshot.add(g.clone(), 2);
        snapshot.add(abstract_name.clone(), 7);
        snapshot.overflow = 2;
        tally.take(snapshot, &known);
        let names: Vec<_> = tally.counts.names().collect();
        assert_eq!(names, [(&g, 5), (&abstract_name, 7)]);
        assert_eq!(tally.counts.other(), 2);
    }

    #[test]
    fn the_counts_of_all_spellings_of_a_path_are_added() {
        let app = path("/run/app.sock");
        let (mut tally, mut snapshot) = (Tally::default(), OfNamespace::default());
        for (spelling, count) in [(&b"/run/app.sock"[..], 5), (b"//run/./app.sock", 3)] {
            let length = u32::try_from(spelling.len()).unwrap();
            let (_, name) = parse_key(&key(length, spelling)).unwrap();
            snapshot.add(name, count);
        }
        tally.take(snapshot.clone(), &BTreeSet::new());
        tally.take(snapshot, &BTreeSet::new());
        assert_eq!(tally.counts.names().collect::<Vec<_>>(), [(&app, 8)]);
    }
}
