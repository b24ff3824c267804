//! A network namespace of the test's own, and mounts that only the test sees.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use super::program;

/// Tests run side by side, but for those whose figures depend on when a round starts.
static MACHINE: RwLock<()> = RwLock::new(());

/// The network namespace of the test's thread and of the threads and processes that it starts from now on.
#[derive(Debug)]
pub(crate) struct Namespace {
    _turn: Turn,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, not read")]
enum Turn {
    Beside(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

#[expect(
    clippy::unused_self,
    reason = "only who has entered a namespace may change its settings"
)]
impl Namespace {
    /// A new namespace with nothing in it but loopback.
    pub(crate) fn enter() -> Self {
        let turn = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Self::new(Turn::Beside(turn))
    }

    /// The same, while no other test runs.
    pub(crate) fn enter_alone() -> Self {
        let turn = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Self::new(Turn::Alone(turn))
    }

    fn new(turn: Turn) -> Self {
        raise_open_files();
        unshare(CloneFlags::CLONE_NEWNET);
        bring_loopback_up();
        Self { _turn: turn }
    }

    /// Sets `/proc/sys/net/` + `name` of this namespace.
    pub(crate) fn set(&self, name: &str, value: impl std::fmt::Display) {
        let path = Path::new("/proc/sys/net").join(name);
        std::fs::write(&path, value.to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub(crate) fn set_somaxconn(&self, value: u32) {
        self.set("core/somaxconn", value);
    }

    /// From here on, mounts and the working directory are the thread's own. The caller unmounts by dropping.
    pub(crate) fn own_mounts(&self) -> Mounts {
        unshare(CloneFlags::CLONE_NEWNS);
        let whole = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, whole, None::<&str>)
            .expect("mounts become private");
        Mounts(Vec::new())
    }
}

/// Mounts of the test, undone in reverse.
#[derive(Debug)]
pub(crate) struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// A new tmpfs on `path`, which is made if it is not there.
    pub(crate) fn tmpfs(&mut self, path: &Path) {
        self.mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), "");
    }

    pub(crate) fn bind(&mut self, from: &Path, to: &Path) {
        let from = from.to_str().expect("a path of ASCII");
        self.mount(Some(from), to, None, MsFlags::MS_BIND, "");
    }

    pub(crate) fn overlay(&mut self, lower: &Path, upper: &Path, work: &Path, merged: &Path) {
        for path in [lower, upper, work] {
            std::fs::create_dir_all(path).expect("a directory");
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={},xino=off",
            lower.display(),
            upper.display(),
            work.display()
        );
        let kind = Some("overlay");
        self.mount(kind, merged, kind, MsFlags::empty(), &options);
    }

    /// A new btrfs in the file `image`.
    pub(crate) fn btrfs(&mut self, image: &Path, target: &Path) {
        let file = std::fs::File::create(image).expect("the image's file");
        file.set_len(128 << 20).expect("a sparse file");
        program::run(program::command("mkfs.btrfs").arg("--quiet").arg(image));
        std::fs::create_dir_all(target).expect("a directory to mount on");
        let mut mount = program::command("mount");
        program::run(
            mount
                .args(["-t", "btrfs", "-o", "loop"])
                .args([image, target]),
        );
        self.0.push(target.to_owned());
    }

    /// Mounts procfs anew, so that users see no processes but their own.
    pub(crate) fn proc_without_others(&mut self) {
        let (path, kind) = (Path::new("/proc"), Some("proc"));
        self.mount(kind, path, kind, MsFlags::empty(), "hidepid=2");
    }

    /// Makes the root file system read-only for this thread and its children. It stays so.
    #[expect(
        clippy::unused_self,
        reason = "only who has mounts of its own may change them"
    )]
    pub(crate) fn read_only_root(&self) {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
            .expect("the root can be remounted");
    }

    fn mount(
        &mut self,
        source: Option<&str>,
        target: &Path,
        kind: Option<&str>,
        flags: MsFlags,
        options: &str,
    ) {
        std::fs::create_dir_all(target).expect("a directory to mount on");
        nix::mount::mount(source, target, kind, flags, Some(options))
            .unwrap_or_else(|error| panic!("mount {kind:?} on {}: {error}", target.display()));
        self.0.push(target.to_owned());
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // A process that still holds it keeps it. The namespace ends with the test anyway.
            let _ = nix::mount::umount2(path, MntFlags::MNT_DETACH);
        }
    }
}

fn unshare(what: CloneFlags) {
    nix::sched::unshare(what).unwrap_or_else(|error| {
        panic!("a namespace of its own: {error}; run the tests as root, or in `unshare --map-root-user`")
    });
}

/// As `ip link set lo up`, without a process: one that is being made holds copies of other tests' sockets for a moment, and a client
/// that is closed meanwhile stays connected.
fn bring_loopback_up() {
    const NEW_LINK: u16 = 16;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
    const LOOPBACK: i32 = 1;
    const UP: u32 = 1;
    let mut request = Vec::new();
    request.extend(32_u32.to_ne_bytes());
    request.extend(NEW_LINK.to_ne_bytes());
    request.extend(REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
    request.extend([0; 8]);
    // struct ifinfomsg: no family, any type, which one, its flags, and which of them change.
    request.extend([0; 4]);
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend(UP.to_ne_bytes());
    request.extend(UP.to_ne_bytes());
    let socket = Socket::new(NETLINK_ROUTE).expect("a netlink socket");
    socket.connect(&SocketAddr::new(0, 0)).expect("the kernel");
    socket.send(&request, 0).expect("the request is sent");
    let (answer, _) = socket.recv_from_full().expect("an acknowledgement");
    let error = answer.get(16..20).expect("a whole one");
    assert_eq!(error, [0; 4], "loopback comes up");
}

/// A thousand listeners and their clients are more than the usual 1024 descriptors.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised to the hard one");
}
