//! Finds the network namespaces of the machine by the processes in them, on a thread of its own: reading thousands of processes takes longer
//! than a round.
//!
//! A namespace without a process is closed at once: an open netlink socket keeps it, and the network devices in it, alive (`sk_alloc` takes
//! a reference with `get_net`, net/core/sock.c).

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SendError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::Scope;
use super::namespace::{Entry, Namespace};
use crate::counted::counted;
use crate::kernel::cgroup;
use crate::kernel::namespace::{Way, alive, identity, network, processes};
use crate::kernel::sysctl::Sysctls;
use crate::listener;
use crate::sample::{self, Access};

/// New namespaces are found within this time.
const SCAN_INTERVAL: Duration = Duration::from_secs(4);
/// Namespaces whose processes have ended are closed within this time.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);
/// Listeners are listed less often than in a sidecar: a hundred listings cost what thousands of rounds do.
const LISTING_INTERVAL: Duration = Duration::from_secs(5);
/// Open files for each namespace.
const FILES: u64 = 8;
/// Open files for all else: connections, what the process has at the start, and what it opens for a moment.
const OTHER_FILES: u64 = 128;
/// Rounds of one share, for example of a pod, take less than a hundredth of a core: the sockets of one pod do not make the rounds of others
/// late.
const DISTANCE: u32 = 100;

/// Which network namespaces are watched.
#[derive(Debug, Clone)]
pub struct Node {
    /// Maximum number of namespaces.
    pub limit: usize,
    /// Where the kubelet keeps the logs of pods, in directories with their names.
    pub pod_logs: PathBuf,
}

/// A change of the watched namespaces.
#[derive(Debug)]
pub(super) enum Change {
    /// A namespace to watch.
    Added(Box<Namespace>),
    /// A namespace is read below this path from now on: the earlier process has ended, and others are still in it.
    Moved(u64, PathBuf),
    /// A namespace has no process any more, or others have precedence.
    Removed(u64),
    /// Number of namespaces beyond the limit.
    Ignored(usize),
    /// Why a part of the namespaces is not available. Each reason is reported once.
    Closed(String),
}

/// Starts the thread.
///
/// # Errors
/// If no thread can be started.
pub(super) fn start(node: Node, procfs: PathBuf, scope: Scope) -> io::Result<Receiver<Change>> {
    let (changes, receiver) = mpsc::channel();
    let files = raise_open_files();
    let mut finder = Finder {
        node,
        files,
        procfs,
        scope,
        changes,
        found: BTreeMap::new(),
        seen: HashSet::new(),
        names: None,
        known: BTreeMap::new(),
        facts: BTreeMap::new(),
        reported: BTreeSet::new(),
    };
    // Until the receiver is dropped.
    let run = move || while finder.watch().is_ok() {};
    thread::Builder::new()
        .name("namespaces".to_owned())
        .spawn(run)?;
    Ok(receiver)
}

/// Raises the limit of open files as far as possible, and returns it, if there is one.
fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where that is not allowed, fewer namespaces can be opened, and that is reported.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current
}

/// Namespaces that can be open at most, if the page is to be served besides.
fn room(files: Option<u64>) -> usize {
    let room = files.map(|files| files.saturating_sub(OTHER_FILES) / FILES);
    room.map_or(usize::MAX, |room| {
        usize::try_from(room).unwrap_or(usize::MAX).max(1)
    })
}

struct Finder {
    node: Node,
    /// The limit of open files, if there is one.
    files: Option<u64>,
    procfs: PathBuf,
    scope: Scope,
    changes: Sender<Change>,
    /// The processes of each namespace, as far as they were seen in it.
    found: BTreeMap<u64, VecDeque<u32>>,
    /// Every process since the last search began.
    seen: HashSet<u32>,
    /// Namespaces and names of pods by uid, if the last search needed them.
    names: Option<cgroup::PodNames>,
    /// The watched namespaces, by identity.
    known: BTreeMap<u64, Known>,
    /// The facts of all namespaces.
    facts: BTreeMap<u64, Facts>,
    /// Reasons that were reported.
    reported: BTreeSet<String>,
}

struct Known {
    /// A process that is in it.
    process: u32,
    place: String,
    /// Whether it belongs to a pod whose name is not known yet.
    is_unnamed: bool,
}

/// What is known of a namespace from its oldest process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// The start time of that process.
    started: u64,
    process: u32,
    cgroup: String,
    share: String,
}

type Sent = Result<(), SendError<Change>>;

impl Finder {
    /// Searches for namespaces once, and then checks the known ones until the next search is due.
    fn watch(&mut self) -> Sent {
        self.find()?;
        let found = Instant::now();
        while found.elapsed() + CHECK_INTERVAL < SCAN_INTERVAL {
            thread::sleep(CHECK_INTERVAL);
            self.check()?;
        }
        thread::sleep(SCAN_INTERVAL.saturating_sub(found.elapsed()));
        Ok(())
    }

    /// Looks for another process in each namespace that lost the one by which it was known: among those that were in it, and those that came
    /// since. A search of all processes costs many times more, and whoever lets short-lived processes follow each other would cause them.
    fn check(&mut self) -> Sent {
        let lost = |(number, known): (&u64, &Known)| {
            (!is_there(&self.process(known.process), *number)).then_some(*number)
        };
        let lost: Vec<u64> = self.known.iter().filter_map(lost).collect();
        let mut is_listed = false;
        for number in lost {
            if !self.has_process(number) && !is_listed {
                is_listed = true;
                // If they cannot be listed, the next search reports it.
                self.add(processes(&self.procfs).unwrap_or_default());
            }
            if self.has_process(number) && !self.is_of_visitor(number) {
                self.move_on(number)?;
            } else {
                self.let_go(number)?;
            }
        }
        Ok(())
    }

    /// Whether somebody is in a namespace of those that were seen in it. The others are struck off.
    fn has_process(&mut self, number: u64) -> bool {
        let Some(processes) = self.found.get_mut(&number) else {
            return false;
        };
        while let Some(process) = processes.front() {
            if is_there(&self.procfs.join(process.to_string()), number) {
                return true;
            }
            processes.pop_front();
        }
        false
    }

    /// Adds those of these processes that were not seen yet.
    fn add(&mut self, processes: Vec<u32>) {
        for process in processes {
            // Those that end meanwhile are in none.
            if self.seen.insert(process)
                && let Ok(number) = identity(&self.process(process))
            {
                self.found.entry(number).or_default().push_back(process);
            }
        }
    }

    /// Whether the process that a namespace was labelled by was there for a while only, and lives on in another: the labels are not those of
    /// the namespace then.
    fn is_of_visitor(&self, number: u64) -> bool {
        let (Some(facts), Some(known)) = (self.facts.get(&number), self.known.get(&number)) else {
            return false;
        };
        let process = self.process(facts.process);
        known.process == facts.process
            && identity(&process).is_ok_and(|found| found != number)
            && cgroup::started(&process).is_ok_and(|started| started == facts.started)
    }

    /// Has a namespace read by way of the first process that is in it.
    fn move_on(&mut self, number: u64) -> Sent {
        let first = self.found.get(&number).and_then(VecDeque::front).copied();
        let (Some(known), Some(process)) = (self.known.get_mut(&number), first) else {
            return Ok(());
        };
        known.process = process;
        let process = self.process(process);
        let root = alive(&process).unwrap_or(process);
        self.changes.send(Change::Moved(number, root))
    }

    fn let_go(&mut self, number: u64) -> Sent {
        self.known.remove(&number);
        self.facts.remove(&number);
        self.changes.send(Change::Removed(number))
    }

    fn process(&self, process: u32) -> PathBuf {
        self.procfs.join(process.to_string())
    }

    fn find(&mut self) -> Sent {
        let listed = processes(&self.procfs);
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return self.report(format!("cannot list the processes: {error}")),
        };
        self.found.clear();
        self.seen.clear();
        self.add(listed);
        self.names = None;
        self.let_go_of_mislabelled()?;
        // A namespace that is not watched yet is opened through its process, which must still be in it.
        self.facts.retain(|number, facts| {
            self.found.get(number).is_some_and(|processes| {
                self.known.contains_key(number) || processes.contains(&facts.process)
            })
        });
        for (number, processes) in &self.found {
            if !self.facts.contains_key(number)
                && let Some(facts) = self.facts_of(processes)
            {
                self.facts.insert(*number, facts);
            }
        }
        let room = room(self.files);
        let chosen = choose(&self.facts, self.node.limit.min(room));
        if self.facts.len().min(self.node.limit) > room {
            self.report(format!(
                "the limit of open files allows for {}: raise it (LimitNOFILE=) to ten times as many as there are pods",
                counted(room as u64, "network namespace")
            ))?;
        }
        let removed: Vec<u64> = self
            .known
            .keys()
            .filter(|number| !chosen.contains(number))
            .copied()
            .collect();
        for number in removed {
            self.known.remove(&number);
            self.changes.send(Change::Removed(number))?;
        }
        for number in &chosen {
            match self.known.get(number) {
                Some(known) if self.was_in(known.process, *number) => {}
                Some(_) => self.move_on(*number)?,
                None => self.open(*number)?,
            }
        }
        self.changes
            .send(Change::Ignored(self.facts.len() - chosen.len()))
    }

    /// Whether the last search found a process in a namespace.
    fn was_in(&self, process: u32, number: u64) -> bool {
        let processes = self.found.get(&number);
        processes.is_some_and(|processes| processes.contains(&process))
    }

    /// Lets go of namespaces whose labels turn out not to be right. They are found anew.
    fn let_go_of_mislabelled(&mut self) -> Sent {
        let known = self.known.iter();
        let visited = known.filter(|(number, known)| {
            !self.was_in(known.process, **number) && self.is_of_visitor(**number)
        });
        let mut mislabelled: Vec<u64> = visited.map(|(number, _)| *number).collect();
        let unnamed = self.known.iter().filter(|(_, known)| known.is_unnamed);
        let unnamed: Vec<u64> = unnamed.map(|(number, _)| *number).collect();
        for number in unnamed {
            let cgroup = self.facts.get(&number).map(|facts| &facts.cgroup);
            let uid = cgroup.and_then(|cgroup| cgroup::pod_uid(cgroup));
            if let Some(uid) = uid
                && self.name_of(&uid)?.is_some()
            {
                mislabelled.push(number);
            }
        }
        mislabelled
            .into_iter()
            .try_for_each(|number| self.let_go(number))
    }

    /// Namespace and name of a pod.
    fn name_of(&mut self, uid: &str) -> Result<Option<(String, String)>, SendError<Change>> {
        let names = match self.names.take() {
            Some(names) => names,
            None => match cgroup::pod_names(&self.node.pod_logs) {
                Ok(names) => names,
                Err(error) => {
                    self.report(format!(
                        "cannot read the names of pods from {}: {error}; mount the node's /var/log/pods read-only, set its path with --path.pod-logs, and run as root or in root's group (supplementalGroups: [0])",
                        self.node.pod_logs.display()
                    ))?;
                    BTreeMap::new()
                }
            },
        };
        let name = names.get(uid).cloned();
        self.names = Some(names);
        Ok(name)
    }

    fn facts_of(&self, processes: &VecDeque<u32>) -> Option<Facts> {
        let started =
            |process: &u32| Some((cgroup::started(&self.process(*process)).ok()?, *process));
        let (started, process) = processes.iter().filter_map(started).min()?;
        let cgroup = cgroup::of(&alive(&self.process(process)).ok()?);
        Some(Facts {
            started,
            process,
            share: cgroup::share(&cgroup),
            cgroup,
        })
    }

    /// Opens a namespace that is not known yet. Does nothing if its processes end in the meantime.
    fn open(&mut self, number: u64) -> Sent {
        let Some(facts) = self.facts.get(&number).cloned() else {
            return Ok(());
        };
        let Ok(process) = alive(&self.process(facts.process)) else {
            return Ok(());
        };
        let is_own = identity(&self.procfs.join("self")).is_ok_and(|own| own == number);
        let way = if is_own {
            Ok(Way::Own)
        } else {
            Way::into(&process)
        };
        let way = match way {
            Ok(way) => way,
            Err(error) if is_out_of_files(&error) => {
                return self.report(format!(
                    "cannot open a network namespace: {error}; raise the limit of open files (LimitNOFILE=) to ten times as many as there are pods"
                ));
            }
            Err(error) => {
                if is_there(&process, number) {
                    self.report(format!(
                        "cannot enter network namespaces: {error}; their queues are read from {}/PID/net, without limits and waits. With CAP_SYS_ADMIN and CAP_SYS_PTRACE they are read in full",
                        self.procfs.display()
                    ))?;
                }
                Way::Outside
            }
        };
        let mut labelled = self.labelled(number, &facts)?;
        labelled.access = Some(match way {
            Way::Own | Way::Inside(_) => Access::SockDiag,
            Way::Outside => Access::Proc,
        });
        let place = labelled.place();
        let is_unnamed = labelled.label("pod").is_none_or(str::is_empty)
            && cgroup::pod_uid(&facts.cgroup).is_some();
        let entry = Entry {
            namespace: Arc::new(labelled),
            root: if is_own {
                self.procfs.clone()
            } else {
                process.clone()
            },
            settings: settings(&way, &self.procfs),
            number: network(&process)
                .ok()
                .and_then(|number| u32::try_from(number).ok()),
            way,
            listing_interval: LISTING_INTERVAL,
            distance: DISTANCE,
        };
        let namespace = Namespace::new(entry, &self.scope);
        if !is_there(&process, number) {
            return Ok(());
        }
        let known = Known {
            process: facts.process,
            place,
            is_unnamed,
        };
        self.known.insert(number, known);
        self.changes.send(Change::Added(Box::new(namespace)))
    }

    /// A namespace with its labels, which no other namespace has.
    fn labelled(
        &mut self,
        number: u64,
        facts: &Facts,
    ) -> Result<sample::Namespace, SendError<Change>> {
        let named = match cgroup::pod_uid(&facts.cgroup) {
            Some(uid) => self.name_of(&uid)?,
            None => None,
        };
        let (namespace, pod) = named.unwrap_or_default();
        let labels = vec![
            ("namespace", namespace),
            ("pod", pod),
            ("cgroup", listener::escape(facts.cgroup.as_bytes())),
        ];
        let mut namespace = sample::Namespace {
            id: number,
            labels,
            access: None,
            share: facts.share.clone(),
        };
        let shown = network(&self.process(facts.process)).unwrap_or(number);
        while self
            .known
            .values()
            .any(|known| known.place == namespace.place())
        {
            if let Some((_, cgroup)) = namespace.labels.last_mut() {
                *cgroup = format!("{cgroup}#{shown}");
            }
        }
        Ok(namespace)
    }

    fn report(&mut self, reason: String) -> Sent {
        if !self.reported.insert(reason.clone()) {
            return Ok(());
        }
        self.changes.send(Change::Closed(reason))
    }
}

fn is_there(process: &Path, number: u64) -> bool {
    identity(process).is_ok_and(|found| found == number)
}

fn is_out_of_files(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// The files of a namespace's settings, opened inside it; none if it cannot be entered.
fn settings(way: &Way, procfs: &Path) -> Option<Sysctls> {
    let mut settings = Sysctls::new(procfs);
    way.inside(|| settings.open()).ok()?;
    Some(settings)
}

/// Selects the namespaces to watch. If there are more than `limit`, the oldest of each share come first, then the second oldest of each: a share
/// with many namespaces takes the place of no other.
fn choose(facts: &BTreeMap<u64, Facts>, limit: usize) -> BTreeSet<u64> {
    let mut by_age: Vec<(&u64, &Facts)> = facts.iter().collect();
    by_age.sort_by_key(|(number, facts)| (facts.started, **number));
    let mut ranks: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, u64)> = by_age
        .into_iter()
        .map(|(number, facts)| {
            let rank = ranks.entry(&facts.share).or_default();
            *rank += 1;
            (*rank, *number)
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
        .into_iter()
        .take(limit)
        .map(|(_, number)| number)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(started: u64, share: &str) -> Facts {
        Facts {
            started,
            process: 1,
            cgroup: String::new(),
            share: share.to_owned(),
        }
    }

    #[test]
    fn one_share_with_many_namespaces_takes_the_place_of_no_other() {
        let mut all: BTreeMap<u64, Facts> = (0..1000)
            .map(|number| (number, facts(number, "greedy")))
            .collect();
        for number in 1000..1010 {
            all.insert(number, facts(number, &format!("pod {number}")));
        }
        let chosen = choose(&all, 20);
        assert_eq!(chosen.len(), 20);
        assert!((1000..1010).all(|number| chosen.contains(&number)));
        let greedy: Vec<u64> = chosen.into_iter().filter(|number| *number < 1000).collect();
        assert_eq!(greedy, (0..10).collect::<Vec<_>>(), "the oldest stay");
        assert_eq!(choose(&all, 2000).len(), 1010);
    }
}
