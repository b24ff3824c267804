//! Assigns the refused connects that a source counted to listeners.
//!
//! A source reports the name that a client connected to. The name belongs to a listener that is configured or bound under it, or whose file
//! the name leads to as a path. Once found, the assignment stays, so a listener that restarts keeps its count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sockets::Outcomes;
use crate::kernel::mount::Resolver;
use crate::kernel::udp;
use crate::listener::{Address, FileId, PathTarget, UnixName};
use crate::refusals::{Counts, Ebpf, LogSource};
use crate::sample::{NginxLog, Refused, Source};

/// The label of refusals that belong to no listener, after the first few unknown names.
const OTHER: &str = "other";

/// A unix listener, with everything that a name is compared with.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Its label.
    pub label: &'a str,
    /// The name that the user gave, or discovery found.
    pub name: &'a UnixName,
    /// Its sockets: the names they are bound to, and their files.
    pub bound: Vec<(Option<&'a UnixName>, Option<FileId>)>,
}

/// The sources of refusals, and the listeners to which their names were assigned.
#[derive(Debug)]
pub(super) struct Refusals {
    nginx_log: Option<LogSource>,
    ebpf: Option<Ebpf>,
    procfs: PathBuf,
    /// By network namespace, if there are several.
    labels: BTreeMap<Option<u32>, BTreeMap<UnixName, String>>,
}

impl Refusals {
    pub(super) fn new(nginx_log: Option<LogSource>, ebpf: Option<Ebpf>, procfs: &Path) -> Self {
        Self {
            nginx_log,
            ebpf,
            procfs: procfs.to_owned(),
            labels: BTreeMap::new(),
        }
    }

    pub(super) fn are_counted(&self) -> bool {
        self.nginx_log.is_some() || self.ebpf.is_some()
    }

    /// The refusals of each listener so far, by source, 0 if there are none, and the lines of the log. A source that fails has no entries.
    pub(super) fn read(
        &mut self,
        now: Duration,
        namespace: Option<u32>,
        targets: &[Target],
        resolver: &mut Resolver,
        outcomes: &mut Outcomes,
    ) -> (Vec<Refused>, Option<NginxLog>) {
        let names: BTreeSet<&UnixName> = targets.iter().flat_map(Target::names).collect();
        let mut finder = Labels {
            known: self.labels.remove(&namespace).unwrap_or_default(),
            met: BTreeMap::new(),
            targets,
            resolver,
        };
        let (mut refused, mut log) = (Vec::new(), None);
        if let Some(log_source) = &self.nginx_log {
            let counts = log_source.read(&names);
            if let Ok(counts) = &counts {
                finder.sum(counts, Source::NginxLog, &mut refused);
                log = Some(self.log(log_source, counts));
            }
            outcomes.push((Source::NginxLog, counts.map(|_| ())));
        }
        if let Some(ebpf) = &mut self.ebpf {
            let counts = ebpf.read(now, namespace, &names);
            if let Ok(Some(counts)) = &counts {
                finder.sum(counts, Source::Ebpf, &mut refused);
            }
            outcomes.push((Source::Ebpf, counts.map(|_| ())));
        }
        let mut labels = finder.met;
        if outcomes.iter().any(|(_, outcome)| outcome.is_err()) {
            // Names that a failed source has reported are kept.
            labels.append(&mut finder.known);
        }
        self.labels.insert(namespace, labels);
        (refused, log)
    }

    /// Forgets a network namespace that was removed.
    pub(super) fn forget(&mut self, namespace: u32) {
        self.labels.remove(&Some(namespace));
        if let Some(ebpf) = &mut self.ebpf {
            ebpf.forget(namespace);
        }
    }

    fn log(&self, log_source: &LogSource, counts: &Counts) -> NginxLog {
        let inode = log_source.udp_inode();
        NginxLog {
            lines: counts.kinds(),
            dropped: inode.and_then(|inode| udp::drops(&self.procfs, inode)),
        }
    }
}

/// Finds the label of a name.
struct Labels<'a> {
    /// Labels that were found before.
    known: BTreeMap<UnixName, String>,
    /// Labels of the names that occurred in this round.
    met: BTreeMap<UnixName, String>,
    targets: &'a [Target<'a>],
    resolver: &'a mut Resolver,
}

impl Labels<'_> {
    fn sum(&mut self, counts: &Counts, source: Source, refused: &mut Vec<Refused>) {
        let zero = |target: &Target| (target.label.to_owned(), 0);
        let mut sums: BTreeMap<String, u64> = self.targets.iter().map(zero).collect();
        for (name, count) in counts.names() {
            *sums.entry(self.label(name)).or_default() += count;
        }
        if counts.other() > 0 {
            *sums.entry(OTHER.to_owned()).or_default() += counts.other();
        }
        refused.extend(sums.into_iter().map(|(listener, count)| Refused {
            listener,
            source,
            count,
        }));
    }

    fn label(&mut self, name: &UnixName) -> String {
        if let Some(label) = self.met.get(name) {
            return label.clone();
        }
        let found = self.known.remove(name).or_else(|| self.find(name));
        match found {
            Some(label) => {
                self.met.insert(name.clone(), label.clone());
                label
            }
            None => Address::Unix(name.clone()).to_string(),
        }
    }

    fn find(&mut self, name: &UnixName) -> Option<String> {
        let named = |target: &&Target| target.names().any(|n| n == name);
        if let Some(target) = self.targets.iter().find(named) {
            return Some(target.label.to_owned());
        }
        let leads_to = match name {
            UnixName::Path(path) if path.starts_with(b"/") => self.resolver.resolve(path).ok()?,
            // The directory that a relative path starts from is unknown.
            UnixName::Path(_) | UnixName::Abstract(_) => return None,
        };
        let PathTarget::Socket(file) = leads_to else {
            return None;
        };
        let has_file = |target: &&Target| target.bound.iter().any(|(_, f)| *f == Some(file));
        let target = self.targets.iter().find(has_file)?;
        Some(target.label.to_owned())
    }
}

impl<'a> Target<'a> {
    fn names(&self) -> impl Iterator<Item = &'a UnixName> {
        let bound = self.bound.iter().filter_map(|(name, _)| *name);
        std::iter::once(self.name).chain(bound)
    }
}
