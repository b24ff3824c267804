//! What a source of refusals has counted so far, in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use super::nginx_log::Message;
use crate::listener::UnixName;

/// Number of names without a listener that are counted individually. Further names are counted together.
pub const UNKNOWN_NAMES: usize = 32;

/// Refusals by the name that clients connected to, and lines by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    names: BTreeMap<UnixName, Name>,
    unknown: usize,
    other: u64,
    kinds: Kinds,
}

/// Number of lines of the nginx log by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    /// `connect()` to a unix socket failed with `EAGAIN`.
    pub refused: u64,
    /// An upstream did not answer, or could not be connected to, in time.
    pub timeout: u64,
    /// Any other line of nginx.
    pub other: u64,
    /// Not a line of nginx.
    pub malformed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Name {
    refused: u64,
    known: bool,
}

impl Counts {
    /// Records one line.
    pub fn record(&mut self, message: &Message<'_>) {
        match message {
            Message::Refused(path) => {
                self.kinds.refused += 1;
                self.add(&UnixName::path(path), 1);
            }
            Message::Timeout => self.kinds.timeout += 1,
            Message::Other => self.kinds.other += 1,
            Message::Malformed => self.kinds.malformed += 1,
        }
    }

    /// Adds refusals at a name.
    pub fn add(&mut self, name: &UnixName, refused: u64) {
        if let Some(entry) = self.names.get_mut(name) {
            entry.refused += refused;
        } else if self.unknown < UNKNOWN_NAMES {
            self.unknown += 1;
            let entry = Name {
                refused,
                known: false,
            };
            self.names.insert(name.clone(), entry);
        } else {
            self.other += refused;
        }
    }

    /// Adds refusals at names that are no longer known.
    pub fn add_other(&mut self, refused: u64) {
        self.other += refused;
    }

    /// Sets the names that belong to listeners now. They are counted individually, however many unknown names there are.
    pub fn know(&mut self, known: &BTreeSet<&UnixName>) {
        for (name, entry) in &mut self.names {
            entry.known = known.contains(name);
        }
        for name in known {
            self.names.entry((*name).clone()).or_insert(Name {
                refused: 0,
                known: true,
            });
        }
        // A name that no longer belongs to a listener becomes an unknown name like others, and only if a connect was refused there.
        self.names
            .retain(|_, entry| entry.known || entry.refused > 0);
        self.unknown = self.names.values().filter(|entry| !entry.known).count();
        while self.unknown > UNKNOWN_NAMES {
            let Some(name) = self.an_unknown_name() else {
                break;
            };
            self.other += self.names.remove(&name).map_or(0, |entry| entry.refused);
            self.unknown -= 1;
        }
    }

    /// Whether this name is counted individually.
    #[must_use]
    pub fn has(&self, name: &UnixName) -> bool {
        self.names.contains_key(name)
    }

    /// Refusals by name, for every name that occurred or is known.
    pub fn names(&self) -> impl Iterator<Item = (&UnixName, u64)> {
        let names = self.names.iter();
        names.map(|(name, entry)| (name, entry.refused))
    }

    /// Refusals at unknown names that came after the first [`UNKNOWN_NAMES`].
    #[must_use]
    pub fn other(&self) -> u64 {
        self.other
    }

    /// Lines by kind.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    fn an_unknown_name(&self) -> Option<UnixName> {
        let mut unknown = self.names.iter().filter(|(_, entry)| !entry.known);
        unknown.next().map(|(name, _)| name.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(counts: &mut Counts, numbers: std::ops::Range<usize>) {
        for number in numbers {
            counts.record(&Message::Refused(format!("/{number:04}").as_bytes()));
        }
    }

    fn path(text: &[u8]) -> UnixName {
        UnixName::Path(text.to_vec())
    }

    fn of(counts: &Counts, text: &[u8]) -> Option<u64> {
        let mut names = counts.names();
        names.find(|(n, _)| **n == path(text)).map(|(_, n)| n)
    }

    #[test]
    fn unknown_paths_are_bounded_and_known_ones_are_always_counted() {
        let mut counts = Counts::default();
        refused(&mut counts, 0..1000);
        counts.know(&[&path(b"/run/g.sock")].into());
        counts.record(&Message::Refused(b"/run/g.sock"));
        refused(&mut counts, 0..1);
        assert_eq!(counts.names().count(), UNKNOWN_NAMES + 1);
        assert_eq!(
            (of(&counts, b"/run/g.sock"), of(&counts, b"/0000")),
            (Some(1), Some(2))
        );
        assert_eq!(counts.other(), 1000 - UNKNOWN_NAMES as u64);
        assert_eq!(counts.kinds().refused, 1002);
    }

    #[test]
    fn a_path_that_becomes_known_keeps_its_count_and_makes_room() {
        let mut counts = Counts::default();
        refused(&mut counts, 0..UNKNOWN_NAMES);
        counts.know(&[&path(b"/0000")].into());
        counts.record(&Message::Refused(b"/new"));
        assert_eq!((of(&counts, b"/0000"), counts.other()), (Some(1), 0));
        assert_eq!(counts.names().count(), UNKNOWN_NAMES + 1);
    }

    #[test]
    fn listeners_that_come_and_go_do_not_grow_memory_without_bound() {
        let mut counts = Counts::default();
        for number in 0..1000 {
            let name = path(format!("/{number:04}").as_bytes());
            counts.know(&[&name].into());
            refused(&mut counts, number..number + usize::from(number % 2 == 0));
        }
        counts.know(&BTreeSet::new());
        assert_eq!(counts.names().count(), UNKNOWN_NAMES);
        let kept: u64 = counts.names().map(|(_, n)| n).sum();
        assert_eq!(kept + counts.other(), 500);
    }
}
