//! What a witness has seen so far, in bounded memory.

use std::collections::BTreeMap;

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

    /// Says that a listener has this path: it is counted for itself, however many unknown ones there are.
    pub fn know(&mut self, path: &[u8]) {
        match self.paths.get_mut(path) {
            Some(entry) if !entry.known => {
                entry.known = true;
                self.unknown -= 1;
            }
            Some(_) => {}
            None => {
                let entry = Path {
                    refused: 0,
                    known: true,
                };
                self.paths.insert(path.to_owned(), entry);
            }
        }
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

    #[test]
    fn unknown_paths_are_bounded_and_known_ones_are_always_counted() {
        let mut counts = Counts::default();
        for number in 0..1000 {
            counts.book(&Message::Refused(format!("/{number}").as_bytes()));
        }
        counts.know(b"/run/g.sock");
        counts.book(&Message::Refused(b"/run/g.sock"));
        counts.book(&Message::Refused(b"/0"));
        assert_eq!(counts.paths().count(), UNKNOWN_PATHS + 1);
        let of = |path: &[u8]| counts.paths().find(|(p, _)| *p == path).map(|(_, n)| n);
        assert_eq!((of(b"/run/g.sock"), of(b"/0")), (Some(1), Some(2)));
        assert_eq!(counts.other(), 1000 - UNKNOWN_PATHS as u64);
        assert_eq!(counts.kinds().refused, 1002);
    }

    #[test]
    fn a_path_that_becomes_known_keeps_its_count_and_makes_room() {
        let mut counts = Counts::default();
        for number in 0..UNKNOWN_PATHS {
            counts.book(&Message::Refused(format!("/{number}").as_bytes()));
        }
        counts.know(b"/0");
        counts.know(b"/0");
        counts.book(&Message::Refused(b"/new"));
        assert_eq!(counts.other(), 0);
        assert_eq!(counts.paths().count(), UNKNOWN_PATHS + 1);
    }
}
