//! Which listener each refusal that a witness counted belongs to.
//!
//! A witness knows the path that was connected to. It is a listener's if the listener is configured or bound under it, or if it leads
//! to the listener's file. Once found, that stays: a listener that restarts keeps what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::sockets::Outcomes;
use crate::kernel::mount::Resolver;
use crate::kernel::udp;
use crate::listener::{Address, FileId, PathTarget, UnixName};
use crate::refusals::{Counts, Witness};
use crate::sample::{NginxLog, Refused, Source};

/// The label of what belongs to no listener and comes after the first few unknown paths.
const OTHER: &str = "other";

/// A unix listener as far as a path can mean it.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Its label.
    pub label: &'a str,
    /// The path that the user named, or discovery found.
    pub path: Option<&'a [u8]>,
    /// Its sockets: the paths they are bound to, and their files.
    pub bound: Vec<(Option<&'a [u8]>, Option<FileId>)>,
}

/// The witness, and what its paths were found to mean.
#[derive(Debug)]
pub(super) struct Refusals {
    witness: Witness,
    procfs: PathBuf,
    labels: BTreeMap<Vec<u8>, String>,
}

impl Refusals {
    pub(super) fn new(witness: Witness, procfs: &Path) -> Self {
        Self {
            witness,
            procfs: procfs.to_owned(),
            labels: BTreeMap::new(),
        }
    }

    /// The refusals of each listener so far, 0 where there are none, and what the log held. Nothing if it cannot be received.
    pub(super) fn read(
        &mut self,
        targets: &[Target],
        resolver: &mut Resolver,
        outcomes: &mut Outcomes,
    ) -> (Vec<Refused>, Option<NginxLog>) {
        let paths: BTreeSet<&[u8]> = targets.iter().flat_map(Target::paths).collect();
        let counts = self.witness.read(&paths);
        let outcome = counts.as_ref().map(|_| ()).map_err(Clone::clone);
        outcomes.push((Source::NginxLog, outcome));
        let Ok(counts) = counts else {
            return (Vec::new(), None);
        };
        self.labels.retain(|path, _| counts.has(path));
        let mut sums: BTreeMap<String, u64> =
            targets.iter().map(|t| (t.label.to_owned(), 0)).collect();
        for (path, refused) in counts.paths() {
            *sums.entry(self.label(path, targets, resolver)).or_default() += refused;
        }
        if counts.other() > 0 {
            *sums.entry(OTHER.to_owned()).or_default() += counts.other();
        }
        let refused = sums.into_iter().map(|(listener, count)| Refused {
            listener,
            source: Source::NginxLog,
            count,
        });
        (refused.collect(), Some(self.log(&counts)))
    }

    fn log(&mut self, counts: &Counts) -> NginxLog {
        let inode = self.witness.udp_inode();
        NginxLog {
            lines: counts.kinds(),
            dropped: inode.and_then(|inode| udp::drops(&self.procfs, inode)),
        }
    }

    fn label(&mut self, path: &[u8], targets: &[Target], resolver: &mut Resolver) -> String {
        if let Some(label) = self.labels.get(path) {
            return label.clone();
        }
        let by_name = targets
            .iter()
            .find(|target| target.paths().any(|p| p == path));
        let found = by_name.or_else(|| {
            let Ok(PathTarget::Socket(file)) = resolver.resolve(path) else {
                return None;
            };
            let has_file = |target: &&Target| target.bound.iter().any(|(_, f)| *f == Some(file));
            targets.iter().find(has_file)
        });
        match found {
            Some(target) => {
                self.labels.insert(path.to_owned(), target.label.to_owned());
                target.label.to_owned()
            }
            None => Address::Unix(UnixName::Path(path.to_owned())).to_string(),
        }
    }
}

impl<'a> Target<'a> {
    fn paths(&self) -> impl Iterator<Item = &'a [u8]> {
        let bound = self.bound.iter().filter_map(|(path, _)| *path);
        self.path.into_iter().chain(bound)
    }
}
