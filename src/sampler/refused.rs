//! Which listener each refusal that a witness counted belongs to.
//!
//! A witness knows the name that was connected to. It is a listener's if the listener is configured or bound under it, or if it is a
//! path that leads to the listener's file. Once found, that stays: a listener that restarts keeps what was counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::sockets::Outcomes;
use crate::kernel::mount::Resolver;
use crate::kernel::udp;
use crate::listener::{Address, FileId, PathTarget, UnixName};
use crate::refusals::{Counts, Ebpf, Witness};
use crate::sample::{NginxLog, Refused, Source};

/// The label of what belongs to no listener and comes after the first few unknown names.
const OTHER: &str = "other";

/// A unix listener as far as a name can mean it.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// Its label.
    pub label: &'a str,
    /// The name that the user gave, or discovery found.
    pub name: &'a UnixName,
    /// Its sockets: the names they are bound to, and their files.
    pub bound: Vec<(Option<&'a UnixName>, Option<FileId>)>,
}

/// The witnesses, and what the names they met were found to mean.
#[derive(Debug)]
pub(super) struct Refusals {
    nginx_log: Option<Witness>,
    ebpf: Option<Ebpf>,
    procfs: PathBuf,
    labels: BTreeMap<UnixName, String>,
}

impl Refusals {
    pub(super) fn new(nginx_log: Option<Witness>, ebpf: Option<Ebpf>, procfs: &Path) -> Self {
        Self {
            nginx_log,
            ebpf,
            procfs: procfs.to_owned(),
            labels: BTreeMap::new(),
        }
    }

    pub(super) fn are_witnessed(&self) -> bool {
        self.nginx_log.is_some() || self.ebpf.is_some()
    }

    /// The refusals of each listener so far, by witness, 0 where there are none, and what the log held. Nothing of a witness that
    /// fails.
    pub(super) fn read(
        &mut self,
        targets: &[Target],
        resolver: &mut Resolver,
        outcomes: &mut Outcomes,
    ) -> (Vec<Refused>, Option<NginxLog>) {
        let names: BTreeSet<&UnixName> = targets.iter().flat_map(Target::names).collect();
        let mut told = Labels {
            known: std::mem::take(&mut self.labels),
            met: BTreeMap::new(),
            targets,
            resolver,
        };
        let (mut refused, mut log) = (Vec::new(), None);
        if let Some(witness) = &self.nginx_log {
            let counts = witness.read(&names);
            if let Ok(counts) = &counts {
                told.sum(counts, Source::NginxLog, &mut refused);
                log = Some(self.log(witness, counts));
            }
            outcomes.push((Source::NginxLog, counts.map(|_| ())));
        }
        if let Some(ebpf) = &mut self.ebpf {
            let counts = ebpf.read(&names);
            if let Ok(counts) = &counts {
                told.sum(counts, Source::Ebpf, &mut refused);
            }
            outcomes.push((Source::Ebpf, counts.map(|_| ())));
        }
        let mut labels = told.met;
        if outcomes.iter().any(|(_, outcome)| outcome.is_err()) {
            // What a witness that failed has met is not forgotten.
            labels.append(&mut told.known);
        }
        self.labels = labels;
        (refused, log)
    }

    fn log(&self, witness: &Witness, counts: &Counts) -> NginxLog {
        let inode = witness.udp_inode();
        NginxLog {
            lines: counts.kinds(),
            dropped: inode.and_then(|inode| udp::drops(&self.procfs, inode)),
        }
    }
}

/// Finds the label of a name.
struct Labels<'a> {
    /// What was found before.
    known: BTreeMap<UnixName, String>,
    /// Of that and of what is found now, what was asked for.
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
            // It is not known from which directory a relative path leads on.
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
