//! A configured path is the socket that it leads to, however the application named it and wherever the volume is mounted.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::exporter::Exporter;
use crate::common::exposition::Queue;
use crate::common::namespace::Namespace;
use crate::common::program::directory;
use crate::common::socket::{Listener, connect_all, label};

/// An exporter that watches just this path.
fn watch(path: &Path) -> Exporter {
    Exporter::start(&["--listener", &format!("app={}", label(path))])
}

#[test]
fn the_volume_is_mounted_elsewhere_in_the_sidecar() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let directory = directory();
    let (here, there) = (directory.path().join("a"), directory.path().join("b"));
    mounts.tmpfs(&here);
    mounts.bind(&here, &there);
    let _listener = Listener::unix(here.join("g.sock"), 5);
    let _clients = connect_all(here.join("g.sock"), 2);
    let exporter = watch(&there.join("g.sock"));
    assert_eq!(exporter.fresh().queue("app"), Queue::of(2, 5));
}

#[test]
fn the_path_goes_through_symbolic_links() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let run = directory.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let _listener = Listener::unix(run.join("g.sock"), 5);
    let _clients = connect_all(run.join("g.sock"), 2);
    symlink(&run, directory.path().join("var")).unwrap();
    symlink("run/g.sock", directory.path().join("link.sock")).unwrap();
    for path in ["var/g.sock", "link.sock", "var/../run/./g.sock"] {
        let exporter = watch(&directory.path().join(path));
        assert_eq!(exporter.fresh().queue("app"), Queue::of(2, 5), "{path}");
    }
}

#[test]
fn the_application_bound_a_relative_path() {
    let namespace = Namespace::enter();
    let _mounts = namespace.own_mounts();
    let directory = directory();
    std::env::set_current_dir(directory.path()).unwrap();
    let _listener = Listener::unix("run.sock", 5);
    let _clients = connect_all("run.sock", 2);
    let exporter = watch(&directory.path().join("run.sock"));
    assert_eq!(exporter.fresh().queue("app"), Queue::of(2, 5));

    // A discovered socket has the name that it was bound to.
    let all = Exporter::start(&[]);
    assert_eq!(
        all.shows("unix:run.sock").queue("unix:run.sock"),
        Queue::of(2, 5)
    );
    std::env::set_current_dir("/").unwrap();
}

#[test]
fn the_overlay_has_its_upper_layer_on_another_file_system() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    mounts.tmpfs(&at("layers"));
    mounts.overlay(
        &at("lower"),
        &at("layers/upper"),
        &at("layers/work"),
        &at("root"),
    );
    mounts.bind(&at("root"), &at("elsewhere"));
    let socket = at("root/g.sock");
    let _listener = Listener::unix(&socket, 5);
    let _clients = connect_all(&socket, 2);
    // Stat and the kernel's own record disagree about the device here; else the test proves nothing.
    assert_ne!(device_of_file(&socket), device_of_mount(&at("root")));
    for path in ["root/g.sock", "elsewhere/g.sock"] {
        let exporter = watch(&at(path));
        assert_eq!(exporter.fresh().queue("app"), Queue::of(2, 5), "{path}");
    }
    // The same file in its layer is another socket to the kernel, and no client can connect to it there.
    let exporter = watch(&at("layers/upper/g.sock"));
    assert_eq!(exporter.fresh().queue("app"), None);
}

#[test]
fn the_socket_is_in_a_btrfs_subvolume() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let directory = directory();
    let root = directory.path().join("btrfs");
    mounts.btrfs(&directory.path().join("image"), &root);
    for name in ["one", "two"] {
        let subvolume = root.join(name);
        let mut create = crate::common::program::command("btrfs");
        crate::common::program::run(create.args(["subvolume", "create"]).arg(subvolume));
    }
    // The first file of each subvolume: device and inode are the same, only the names differ.
    let _one = Listener::unix(root.join("one/a.sock"), 5);
    let _two = Listener::unix(root.join("two/b.sock"), 7);
    let _clients = connect_all(root.join("one/a.sock"), 2);
    assert_ne!(
        device_of_file(&root.join("one/a.sock")),
        device_of_mount(&root)
    );
    mounts.bind(&root, &directory.path().join("elsewhere"));
    for (path, queue) in [
        ("one/a.sock", Queue::of(2, 5)),
        ("two/b.sock", Queue::of(0, 7)),
    ] {
        let exporter = watch(&directory.path().join("elsewhere").join(path));
        assert_eq!(exporter.fresh().queue("app"), queue, "{path}");
    }
}

#[test]
fn of_two_containers_with_the_same_path_name_each_sees_its_own() {
    let namespace = Namespace::enter();
    let mut mounts = namespace.own_mounts();
    let directory = directory();
    let (run, kept) = (directory.path().join("run"), directory.path().join("kept"));
    let path = run.join("app.sock");
    mounts.tmpfs(&run);
    mounts.bind(&run, &kept);
    let _first = Listener::unix(&path, 5);
    let _first_clients = connect_all(&path, 2);
    mounts.tmpfs(&run);
    let _second = Listener::unix(&path, 7);
    let _second_clients = connect_all(&path, 3);
    let exporter = Exporter::start(&[
        "--listener",
        &format!("first={}", label(kept.join("app.sock"))),
        "--listener",
        &format!("second={}", label(&path)),
    ]);
    let page = exporter.fresh();
    assert_eq!(page.queue("first"), Queue::of(2, 5));
    assert_eq!(page.queue("second"), Queue::of(3, 7));
    // Discovery knows them by one name, though the path leads to one of them here.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    let page = discovering.shows(&label(&path));
    assert_eq!(page.queue(&label(&path)), Queue::of_group(2, 5, 12, 14));
}

#[test]
fn two_listeners_of_one_name_that_cannot_be_distinguished_are_one_group() {
    let namespace = Namespace::enter();
    let directory = directory();
    let run = directory.path().join("run");
    let path = run.join("app.sock");
    let _listeners;
    let _clients;
    {
        let mut mounts = namespace.own_mounts();
        mounts.tmpfs(&run);
        let first = Listener::unix(&path, 5);
        let first_clients = connect_all(&path, 2);
        mounts.tmpfs(&run);
        let second = Listener::unix(&path, 7);
        _clients = (first_clients, connect_all(&path, 3));
        _listeners = (first, second);
    }
    // The volumes are not visible here, as in a sidecar that does not mount them.
    assert!(!path.exists());
    let configured = Exporter::start(&["--listener", &label(&path)]);
    // The other exporter has a port of its own.
    let discovering = Exporter::start(&["--discover.exclude", "^tcp:"]);
    for exporter in [configured, discovering] {
        let page = exporter.shows(&label(&path));
        assert_eq!(page.queue(&label(&path)), Queue::of_group(2, 5, 12, 14));
        assert_eq!(page.listeners().len(), 1);
    }
}

#[test]
fn a_path_that_leads_nowhere_is_not_a_listener_and_the_log_says_why() {
    let _namespace = Namespace::enter();
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), "").unwrap();
    drop(Listener::unix(at("dead.sock"), 5));
    let elsewhere = listener_of_another_namespace(&at("foreign.sock"));
    let names = ["file", "dead.sock", "foreign.sock", "nothing"];
    let arguments = names.map(|name| format!("{name}={}", label(at(name))));
    let arguments: Vec<_> = arguments
        .iter()
        .flat_map(|argument| ["--listener", argument])
        .collect();
    let exporter = Exporter::start(&arguments);
    let page = exporter.fresh();
    for name in names {
        assert_eq!(page.queue(name), None);
        assert_eq!(page.of("listen_queue_listener_up", name), Some(0.0));
        assert_eq!(page.of("listen_queue_depth_peak", name), None);
    }
    exporter.logged(&["listener=file", "is not a socket"]);
    exporter.logged(&["listener=foreign.sock", "another network namespace"]);
    exporter.logged(&[
        "listener=dead.sock",
        "no listener of this network namespace",
    ]);
    exporter.logged(&["listener=nothing", "waiting for it"]);
    drop(elsewhere);
}

fn listener_of_another_namespace(path: &Path) -> Listener {
    let path = path.to_owned();
    let listen = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        Listener::unix(path, 5)
    };
    std::thread::spawn(listen).join().unwrap()
}

fn device_of_file(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).unwrap().dev()
}

/// The device of the newest mount on the path, as in the third field of mountinfo.
fn device_of_mount(path: &Path) -> u64 {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let of_path = |line: &&str| line.split(' ').nth(4).map(Path::new) == Some(path);
    let line = mounts.lines().rfind(of_path).unwrap();
    let (major, minor) = line.split(' ').nth(2).unwrap().split_once(':').unwrap();
    rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap())
}
