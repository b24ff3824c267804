//! The tables of `/proc/net` against `sock_diag`: in many random states, every figure that both have is equal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;

use listen_queue_exporter::kernel::inet::{self, Family};
use listen_queue_exporter::kernel::procnet::{TcpTable, UnixPass, UnixTable, unix as table};
use listen_queue_exporter::kernel::sock_diag::Channel;
use listen_queue_exporter::kernel::unix::{self, Show};

use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, connect, connect_abstract, connect_tcp};
use crate::common::wait;

const STATES: usize = 1000;
const NET: &str = "/proc/thread-self/net";

/// A unix address that listeners share, and its clients.
struct Place {
    name: Name,
    listeners: Vec<Listener>,
    clients: Vec<OwnedFd>,
    accepted: Vec<OwnedFd>,
}

#[derive(Clone)]
enum Name {
    Path(std::path::PathBuf),
    Abstract(Vec<u8>),
}

impl Name {
    fn listen(&self, backlog: i32) -> Listener {
        match self {
            Self::Path(path) => {
                // A name is shared when its file is made anew.
                let _ = std::fs::remove_file(path);
                Listener::unix(path, backlog)
            }
            Self::Abstract(name) => Listener::abstract_unix(name, backlog),
        }
    }

    fn connect(&self) -> Option<OwnedFd> {
        match self {
            Self::Path(path) => connect(path).ok(),
            Self::Abstract(name) => connect_abstract(name).ok(),
        }
    }

    fn may_be_shared(&self) -> bool {
        matches!(self, Self::Path(_))
    }
}

/// Names that a line reader would stumble over.
fn names(directory: &Path) -> Vec<Name> {
    let row = |target: &str| {
        format!("0000000012345678: 00000003 00000000 00000000 0001 02     0 {target}")
    };
    let listener = "00000000deadbeef: 00000009 00000000 00010000 0001 01  4242 @phantom";
    let mut names = vec![
        Name::Path(directory.join("g")),
        Name::Path(directory.join("h i\"j")),
        Name::Path(directory.join("k\n\nl m")),
        Name::Path(directory.join("00000002 00000000 00010000 0001 01 12")),
        Name::Abstract(b"g".to_vec()),
        Name::Abstract(b"\xff\xfe\n: \n".to_vec()),
        Name::Abstract(format!("x\n{}", row("@g")).into_bytes()),
        Name::Abstract(format!("y\n{}", row("")).into_bytes()),
        Name::Abstract(format!("z\n{listener}").into_bytes()),
        // Of another address: the same row twice could be hidden by a name.
        Name::Abstract(
            format!("w\n\n{}\nv", row("@g").replacen("12345678", "87654321", 1)).into_bytes(),
        ),
    ];
    // The slashes of the imitated name make directories of the name that holds it.
    let imitated = row(directory.join("g").to_str().unwrap());
    let path = directory.join(format!("n\n{imitated}"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    names.push(Name::Path(path));
    names
}

/// By printed name: sockets, depth, abandoned.
type Unix = BTreeMap<Vec<u8>, (usize, u32, u32)>;

fn by_sock_diag(channel: &mut Channel) -> Unix {
    let mut rows = Vec::new();
    unix::list(channel, Show::Everything, |listener| rows.push(listener)).unwrap();
    let mut found = Unix::new();
    for row in rows {
        let mut clients = Vec::new();
        let (queue, listed) = unix::pending(channel, row.id, &mut clients)
            .unwrap()
            .unwrap();
        assert!(listed || queue.depth == 0);
        let abandoned = clients.iter().filter(|inode| **inode == 0).count();
        let entry = found.entry(table::printed(&row.name.unwrap())).or_default();
        entry.0 += 1;
        entry.1 += queue.depth;
        entry.2 += u32::try_from(abandoned).unwrap();
    }
    found
}

fn by_table(table: &mut UnixTable, pass: &mut UnixPass) -> Unix {
    table.read(pass).unwrap();
    // Of up to three sockets of one name with a row in it, the second and the third could hide that row.
    assert!(pass.unreadable <= 2, "{}", pass.unreadable);
    let sockets = pass
        .listeners
        .iter()
        .filter(|(_, sockets)| !sockets.is_empty());
    let figures = sockets.map(|(name, sockets)| {
        let pending = pass.pending.get(name).copied().unwrap_or_default();
        (
            name.clone(),
            (sockets.len(), pending.depth, pending.abandoned),
        )
    });
    let found: Unix = figures.collect();
    let strangers = pass
        .pending
        .keys()
        .filter(|name| !found.contains_key(*name));
    assert_eq!(strangers.count(), 0, "who waits, waits at a listener");
    found
}

#[test]
fn in_a_thousand_random_states_both_readers_say_the_same_of_unix_queues() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let mut places: Vec<Place> = names(directory.path())
        .into_iter()
        .map(|name| Place {
            name,
            listeners: Vec::new(),
            clients: Vec::new(),
            accepted: Vec::new(),
        })
        .collect();
    assert!(places.len() >= 10);
    let mut channel = Channel::open().unwrap();
    let mut table = UnixTable::open(Path::new(NET), true).unwrap();
    let mut pass = UnixPass::default();
    let mut random = fastrand::Rng::with_seed(12);
    let mut depths = BTreeSet::new();
    for state in 0..STATES {
        for _ in 0..random.usize(1..8) {
            let place = random.usize(0..places.len());
            change(&mut places[place], &mut random);
        }
        let expected = by_sock_diag(&mut channel);
        assert_eq!(by_table(&mut table, &mut pass), expected, "state {state}");
        depths.extend(
            expected
                .values()
                .map(|(_, depth, abandoned)| (*depth, *abandoned)),
        );
    }
    assert!(depths.len() > 50, "the states differ: {depths:?}");
}

fn change(place: &mut Place, random: &mut fastrand::Rng) {
    match random.u8(0..10) {
        0 if place.listeners.is_empty()
            || place.name.may_be_shared() && place.listeners.len() < 3 =>
        {
            place.listeners.push(place.name.listen(random.i32(0..20)));
        }
        1 if !place.listeners.is_empty() => {
            drop(place.listeners.remove(0));
        }
        2..=5 => place.clients.extend(place.name.connect()),
        6..=7 if !place.clients.is_empty() => {
            place
                .clients
                .swap_remove(random.usize(0..place.clients.len()));
        }
        8 => place
            .accepted
            .extend(place.listeners.iter().filter_map(Listener::accept)),
        9 if random.bool() => place.accepted.clear(),
        _ => {}
    }
}

#[test]
fn connects_that_sleep_are_counted_by_the_table() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let path = directory.path().join("g");
    let listener = Listener::unix(&path, 0);
    let _client = connect(&path).unwrap();
    let mut table = UnixTable::open(Path::new(NET), true).unwrap();
    let mut pass = UnixPass::default();
    let printed = path.to_str().unwrap().as_bytes().to_vec();
    thread::scope(|scope| {
        for sleeping in 0..20 {
            wait::until_true("the sleepers", || {
                table.read(&mut pass).unwrap();
                let pending = pass.pending[&printed];
                assert_eq!((pending.depth, pending.abandoned), (1, 0));
                pass.listeners[&printed][0].blocked == sleeping
            });
            scope.spawn(|| std::os::unix::net::UnixStream::connect(&path));
        }
        wait::until_true("all of them", || {
            table.read(&mut pass).unwrap();
            pass.listeners[&printed][0].blocked == 20
        });
        drop(listener);
    });
}

/// By address: inodes and depths.
type Tcp = BTreeSet<(String, u32, u32)>;

#[test]
fn in_random_states_both_readers_say_the_same_of_tcp_queues() {
    let _namespace = Namespace::enter();
    let addresses: Vec<String> = (0..8)
        .map(|port| match port % 2 {
            0 => format!("127.0.0.1:{}", 8000 + port),
            _ => format!("[::1]:{}", 8000 + port),
        })
        .collect();
    let mut listeners: Vec<Option<Listener>> = addresses.iter().map(|_| None).collect();
    let (mut clients, mut accepted) = (Vec::new(), Vec::new());
    let mut channel = Channel::open().unwrap();
    let mut tables =
        [Family::V4, Family::V6].map(|family| TcpTable::open(Path::new(NET), family).unwrap());
    let mut random = fastrand::Rng::with_seed(13);
    let mut full = 0;
    for state in 0..STATES {
        for _ in 0..random.usize(1..5) {
            let place = random.usize(0..addresses.len());
            match (random.u8(0..8), &listeners[place]) {
                (0, Some(_)) => listeners[place] = None,
                (0 | 1, None) => {
                    listeners[place] = Some(Listener::tcp(&addresses[place], random.i32(0..6)));
                }
                (2..=5, Some(_)) => clients.push(connect_tcp(&addresses[place])),
                (6, Some(listener)) => accepted.extend(listener.accept()),
                (7, _) if clients.len() > 60 => {
                    clients.clear();
                    accepted.clear();
                }
                _ => {}
            }
        }
        let mut listed = || {
            let (mut rows, mut full) = (Tcp::new(), 0);
            for family in [Family::V4, Family::V6] {
                inet::list(&mut channel, family, |row| {
                    full += usize::from(row.queue.depth > row.queue.backlog);
                    rows.insert((row.bound.address.to_string(), row.id.inode, row.queue.depth));
                })
                .unwrap();
            }
            (rows, full)
        };
        let mut read = || {
            let mut rows = Tcp::new();
            for table in &mut tables {
                let unreadable = table.read(|row| {
                    rows.insert((row.address.to_string(), row.inode, row.depth));
                    ControlFlow::Continue(())
                });
                assert_eq!(unreadable.unwrap(), 0);
            }
            rows
        };
        // On a busy machine the last packet of a connect may arrive after connect() has returned.
        let ((expected, now_full), found) = wait::until("a state that does not change", || {
            let (before, found, after) = (listed(), read(), listed());
            (before == after).then_some((before, found))
        });
        full += now_full;
        assert_eq!(found, expected, "state {state}");
    }
    assert!(full > 50, "queues were full {full} times");
}
