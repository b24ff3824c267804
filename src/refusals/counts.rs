//! What a witness has seen so far, in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use super::nginx_log::Message;

/// Paths that belong to no listener and are counted each for itself; what comes on top is counted together.
pub const UNKNOWN_PATHS: usize = 32;

/// Refusals by the path that was connected to, and lines by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    paths: BTreeMap<Vec<u8>, Path>,
    unknown: usize,
    other: u64,
    kinds: Kinds,
}

/// Lines of nginx's log by what they say.
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
struct Path {
    refused: u64,
    known: bool,
}

impl Counts {
    /// Books one line.
    pub fn book(&mut self, message: &Message<'_>) {
        match message {
            Message::Refused(path) => {
                self.kinds.refused += 1;
                self.book_path(path);
            }
            Message::Timeout => self.kinds.timeout += 1,
            Message::Other => self.kinds.other += 1,
            Message::Malformed => self.kinds.malformed += 1,
        }
    }

    /// Says which paths belong to listeners now: they are counted each for itself, however many unknown ones there are.
    pub fn know(&mut self, known: &BTreeSet<&[u8]>) {
        for (path, entry) in &mut self.paths {
            entry.known = known.contains(path.as_slice());
        }
        for path in known {
            self.paths.entry(path.to_vec()).or_insert(Path {
                refused: 0,
                known: true,
            });
        }
        // What belonged to a listener and does no longer is an unknown path like others, and only if something was refused there.
        self.paths
            .retain(|_, entry| entry.known || entry.refused > 0);
        self.unknown = self.paths.values().filter(|entry| !entry.known).count();
        while self.unknown > UNKNOWN_PATHS {
            let Some(path) = self.an_unknown_path() else {
                break;
            };
            self.other += self.paths.remove(&path).map_or(0, |entry| entry.refused);
            self.unknown -= 1;
        }
    }

    /// Whether this path is counted for itself.
    #[must_use]
    pub fn has(&self, path: &[u8]) -> bool {
        self.paths.contains_key(path)
    }

    /// Refusals by path, of every path that was met or is known.
    pub fn paths(&self) -> impl Iterator<Item = (&[u8], u64)> {
        let paths = self.paths.iter();
        paths.map(|(path, entry)| (path.as_slice(), entry.refused))
    }

    /// Refusals at unknown paths that came after the first [`UNKNOWN_PATHS`].
    #[must_use]
    pub fn other(&self) -> u64 {
        self.other
    }

    /// Lines by kind.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    fn an_unknown_path(&self) -> Option<Vec<u8>> {
        let mut unknown = self.paths.iter().filter(|(_, entry)| !entry.known);
        unknown.next().map(|(path, _)| path.clone())
    }

    fn book_path(&mut self, path: &[u8]) {
        if let Some(entry) = self.paths.get_mut(path) {
            entry.refused += 1;
        } else if self.unknown < UNKNOWN_PATHS {
            self.unknown += 1;
            let entry = Path {
                refused: 1,
                known: false,
            };
            self.paths.insert(path.to_owned(), entry);
        } else {
            self.other += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(counts: &mut Counts, numbers: std::ops::Range<usize>) {
        for number in numbers {
            counts.book(&Message::Refused(format!("/{number:04}").as_bytes()));
        }
    }

    fn of(counts: &Counts, path: &[u8]) -> Option<u64> {
        counts.paths().find(|(p, _)| *p == path).map(|(_, n)| n)
    }

    #[test]
    fn unknown_paths_are_bounded_and_known_ones_are_always_counted() {
        let mut counts = Counts::default();
        refused(&mut counts, 0..1000);
        counts.know(&[b"/run/g.sock".as_slice()].into());
        counts.book(&Message::Refused(b"/run/g.sock"));
        refused(&mut counts, 0..1);
        assert_eq!(counts.paths().count(), UNKNOWN_PATHS + 1);
        assert_eq!(
            (of(&counts, b"/run/g.sock"), of(&counts, b"/0000")),
            (Some(1), Some(2))
        );
        assert_eq!(counts.other(), 1000 - UNKNOWN_PATHS as u64);
        assert_eq!(counts.kinds().refused, 1002);
    }

    #[test]
    fn a_path_that_becomes_known_keeps_its_count_and_makes_room() {
        let mut counts = Counts::default();
        refused(&mut counts, 0..UNKNOWN_PATHS);
        counts.know(&[b"/0000".as_slice()].into());
        counts.book(&Message::Refused(b"/new"));
        assert_eq!((of(&counts, b"/0000"), counts.other()), (Some(1), 0));
        assert_eq!(counts.paths().count(), UNKNOWN_PATHS + 1);
    }

    #[test]
    fn listeners_that_come_and_go_do_not_grow_memory_without_bound() {
        let mut counts = Counts::default();
        for number in 0..1000 {
            let path = format!("/{number:04}");
            counts.know(&[path.as_bytes()].into());
            refused(&mut counts, number..number + usize::from(number % 2 == 0));
        }
        counts.know(&BTreeSet::new());
        assert_eq!(counts.paths().count(), UNKNOWN_PATHS);
        let kept: u64 = counts.paths().map(|(_, n)| n).sum();
        assert_eq!(kept + counts.other(), 500);
    }
}
