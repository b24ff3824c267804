//! The exporter on the kernels of Debian's releases, booted in qemu: a static build with eBPF reads queues that `guest.c` fills and
//! counts the connects that it is refused. `tests/install.sh kernels ebpf` installs the programs that are needed.

mod matrix;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use listen_queue_exporter::refusals::UNKNOWN_NAMES;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const TARGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/kernels");
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Refused connects that `guest.c` makes at each address, but for those by io_uring that do not wait.
const REFUSED: &[(&str, u32)] = &[
    // 7 that do not wait, 2 that wait in vain, 1 by io_uring that does, 1 through a symlink; none of another network namespace.
    ("g", 7 + 2 + 1 + 1),
    ("abstract", 4),
    ("relative", 3),
    ("unix:/run/unwatched.sock", 6),
    ("unix:/run/cost.sock", 2000),
    ("other", OTHER),
];
/// 300 addresses are refused once each, the last ones when the map in the kernel is full. All are unknown, and so are four before them.
const OTHER: u32 = 300 - TOLD_APART;
const TOLD_APART: u32 = 32 - 4;

/// Depth and backlog of each listener.
const QUEUES: &[(&str, u32, u32)] = &[
    ("g", 5, 4),
    ("abstract", 2, 1),
    ("relative", 1, 0),
    ("web", 3, 3),
];

#[test]
fn linux_5_10() {
    // Each is tried 130 times before the client gets the error.
    boot("bullseye", "5.10.", 130);
}

#[test]
fn linux_6_1() {
    boot("bookworm", "6.1.", 129);
}

#[test]
fn linux_6_12() {
    boot("bookworm-backports", "6.12.", 129);
}

#[test]
fn linux_7() {
    boot("trixie-backports", "7.", 1);
}

#[test]
fn without_the_modules_linux_5_10_shows_what_its_tables_have() {
    fall_back("bullseye", "5.10.", "fallback");
}

#[test]
fn without_unix_diag_linux_6_1_reads_unix_sockets_from_the_table_and_tcp_with_sock_diag() {
    fall_back("bookworm", "6.1.", "fallback kata");
}

#[test]
fn without_the_modules_linux_6_12_shows_what_its_tables_have() {
    fall_back("bookworm-backports", "6.12.", "fallback");
}

#[test]
fn without_unix_diag_linux_7_reads_unix_sockets_from_the_table_and_tcp_with_sock_diag() {
    fall_back("trixie-backports", "7.", "fallback kata");
}

/// Boots a suite's kernel without `unix_diag`, `inet_diag` and `tcp_diag`, or with `kata` without the first, and loads them later.
fn fall_back(suite: &str, version: &str, words: &str) {
    let console = console(suite, words);
    let is_kata = words.contains("kata");
    println!("{console}");
    assert!(console.contains(&format!("kernel: {version}")));
    assert!(console.contains("guest: done"));
    let (_, pages) = console.split_once("=== without\n").expect("a page");
    let (without, pages) = pages.split_once("=== with\n").expect("a second page");
    let (with, _) = pages.split_once("=== end\n").expect("an end");
    for (page, sock_diag) in [(without, 0.0), (with, 1.0)] {
        let inet_diag = if is_kata { 1.0 } else { sock_diag };
        for (source, is_up) in [
            ("unix_diag", Some(sock_diag)),
            ("inet_diag", Some(inet_diag)),
            ("proc_net_unix", Some(1.0)),
            ("proc_net_tcp", (!is_kata).then_some(1.0)),
        ] {
            assert_eq!(up(page, source), is_up, "{source}");
        }
        let limit = match (sock_diag > 0.0, is_kata) {
            (true, _) => ["kernel", "kernel"],
            (false, true) => ["told", "kernel"],
            (false, false) => ["told", "told"],
        };
        for (address, limit) in ["unix:/run/g.sock", "tcp:127.0.0.1:8000"].iter().zip(limit) {
            let labels = format!("address=\"{address}\",limit=\"{limit}\"}}");
            assert_eq!(page.matches(&labels).count(), 1, "{labels} in {page}");
        }
        for (listener, depth, backlog) in QUEUES.iter().filter(|(name, ..)| *name != "relative") {
            let of = |name: &str| {
                value(
                    page,
                    &format!("listen_queue_{name}{{listener=\"{listener}\"}}"),
                )
            };
            assert_eq!(of("depth"), Some(f64::from(*depth)), "{listener}");
            assert_eq!(of("listener_replacements_total"), Some(0.0), "{listener}");
            let is_known = sock_diag > 0.0 || *listener != "abstract";
            let capacity = is_known.then_some(f64::from(*backlog) + 1.0);
            assert_eq!(of("capacity"), capacity, "{listener}");
        }
        let g = |name: &str| value(page, &format!("listen_queue_{name}{{listener=\"g\"}}"));
        assert_eq!(g("full_episodes_total"), Some(1.0), "it stays full");
        assert!(g("full_seconds_total") > Some(0.0));
        assert_eq!(g("blocked_connects"), Some(1.0));
    }
    let of = |page, name: &str| value(page, &format!("{name}{{listener=\"g\"}}"));
    let full = |page| of(page, "listen_queue_full_seconds_total");
    assert!(full(with) > full(without));
    for source in ["unix_diag", "inet_diag"] {
        let count = |message: &str| {
            let lines = console
                .lines()
                .filter(|line| line.contains(&format!("source={source}")));
            lines.filter(|line| line.contains(message)).count()
        };
        let changes = usize::from(source == "unix_diag" || !is_kata);
        let counted = (count("source failed"), count("source recovered"));
        assert_eq!(counted, (changes, changes), "{source}");
    }
    assert!(console.contains("run modprobe unix_diag on the node"));
}

/// Boots a suite's kernel, and holds what the exporter says there against what was done. `tries` is how often the kernel itself tries
/// a connect by io_uring that does not wait.
fn boot(suite: &str, version: &str, tries: u32) {
    let console = console(suite, "");
    println!("{console}");
    assert!(console.contains(&format!("kernel: {version}")));
    assert!(console.contains("guest: done"));
    let (_, pages) = console.split_once("=== hooked\n").expect("a page");
    let (hooked, pages) = pages.split_once("=== bare\n").expect("a second page");
    let (bare, pages) = pages.split_once("=== node\n").expect("a third page");
    let (node, _) = pages.split_once("=== end\n").expect("an end");

    for page in [hooked, bare] {
        for (listener, depth, backlog) in QUEUES {
            let of = |name: &str| value(page, &format!("{name}{{listener=\"{listener}\"}}"));
            assert_eq!(of("listen_queue_depth"), Some(f64::from(*depth)));
            assert_eq!(of("listen_queue_backlog"), Some(f64::from(*backlog)));
            assert_eq!(of("listen_queue_capacity"), Some(f64::from(*backlog) + 1.0));
            let full = of("listen_queue_full_seconds_total").expect("a listener");
            assert_eq!(full > 0.0, depth > backlog, "{listener}");
        }
        let blocked = "listen_queue_blocked_connects{listener=\"g\"}";
        assert_eq!(value(page, blocked), Some(1.0));
        for source in ["unix_diag", "inet_diag", "netstat", "sysctl"] {
            assert_eq!(up(page, source), Some(1.0), "{source}");
        }
    }

    assert_eq!(up(hooked, "ebpf"), Some(1.0));
    let by_uring = ("unix:/run/uring.sock", 3 * tries);
    for (listener, count) in REFUSED.iter().chain([&by_uring]) {
        let expected = Some(f64::from(*count));
        assert_eq!(refused(hooked, listener), expected, "{listener}");
    }
    let series = hooked
        .lines()
        .filter(|line| line.starts_with(REFUSED_CONNECTS));
    assert_eq!(
        series.count(),
        REFUSED.len() + 1 + UNKNOWN_NAMES - 4,
        "{hooked}"
    );

    // One exporter for all network namespaces says the same of this one.
    assert_eq!(up(node, "ebpf"), Some(1.0));
    for (listener, address, count) in [
        ("g", "unix:/run/g.sock", refused(hooked, "g")),
        ("abstract", "unix:@abstract", refused(hooked, "abstract")),
    ] {
        let series = format!(
            "{REFUSED_CONNECTS}listener=\"{address}\",source=\"ebpf\",namespace=\"\",pod=\"\","
        );
        let mut lines = node.lines().filter(|line| line.starts_with(&series));
        let printed = lines.find_map(|line| line.rsplit_once(' ')?.1.trim().parse().ok());
        assert_eq!(printed, count, "{listener}");
        assert!(count > Some(0.0), "{listener}");
    }

    assert_eq!(up(bare, "ebpf"), Some(0.0));
    assert!(!bare.contains(&format!("\n{REFUSED_CONNECTS}")));
    let reason = "eBPF requires the capabilities BPF and PERFMON";
    assert_eq!(console.matches(reason).count(), 1, "logged once");
}

const REFUSED_CONNECTS: &str = "listen_queue_refused_connects_total{";

fn refused(page: &str, listener: &str) -> Option<f64> {
    let labels = format!("listener=\"{listener}\",source=\"ebpf\"}}");
    value(page, &format!("{REFUSED_CONNECTS}{labels}"))
}

fn up(page: &str, source: &str) -> Option<f64> {
    value(
        page,
        &format!("listen_queue_source_up{{source=\"{source}\"}}"),
    )
}

fn value(page: &str, series: &str) -> Option<f64> {
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.trim().parse().expect("a number"))
}

/// Boots a suite's kernel with this word on its command line, and returns what the guest printed.
fn console(suite: &str, word: &str) -> String {
    static PACKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let directory = fetch(suite);
    let archive = directory.join("initramfs.cpio");
    {
        let mut packed = PACKED.lock().unwrap_or_else(PoisonError::into_inner);
        if packed.insert(archive.clone()) {
            let root = directory.join("root");
            fill(&root, &directory.join("modules"));
            pack(&root, &archive);
        }
    }
    start(
        &directory.join("vmlinuz"),
        &archive,
        word,
        &["-m", "512"],
        600,
    )
}

/// Where the kernel and the modules of a suite are. They are fetched by one test at a time.
fn fetch(suite: &str) -> PathBuf {
    static FETCHING: Mutex<()> = Mutex::new(());
    let directory = Path::new(TARGET).join(suite);
    let _turn = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
    run(Command::new(format!("{ROOT}/tests/kernels/fetch.sh"))
        .arg(suite)
        .arg(&directory));
    directory
}

/// Everything that the guest printed, without the carriage returns of its console. `size` are qemu's options for its
/// memory and processors; it has `limit` seconds.
fn start(kernel: &Path, initramfs: &Path, word: &str, size: &[&str], limit: u32) -> String {
    let mut qemu = Command::new("timeout");
    qemu.arg(limit.to_string());
    qemu.args(["qemu-system-x86_64", "-machine", "accel=tcg"]);
    // Debian 12's qemu damages the flags at cmpxchg16b, which kernels from 6.12 on use where they find it.
    // Without rdrand nothing in the guest is random, and whoever asks for a random number waits for ever.
    qemu.args(["-cpu", "qemu64,-cx16,+rdrand", "-net", "none"]);
    qemu.args(["-nographic", "-no-reboot"]).args(size);
    qemu.arg("-append");
    qemu.arg(format!("console=ttyS0 panic=-1 quiet {word}"));
    qemu.arg("-kernel");
    qemu.arg(kernel).arg("-initrd").arg(initramfs);
    run(qemu.stdin(std::process::Stdio::null())).replace('\r', "")
}

/// Fills a directory with what every guest has.
fn fill(root: &Path, modules: &Path) {
    // It may be there from the run before.
    let _ = fs::remove_dir_all(root);
    for directory in ["bin", "dev", "modules", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let copy = |from: &Path, to: &str| {
        fs::copy(from, root.join(to)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    };
    for module in fs::read_dir(modules).unwrap().flatten() {
        let name = format!("modules/{}", module.file_name().display());
        copy(&module.path(), &name);
    }
    let (exporter, guest) = programs();
    copy(exporter, "bin/listen-queue-exporter");
    copy(guest, "bin/guest");
    copy(Path::new("/bin/busybox"), "bin/busybox");
    copy(Path::new(&format!("{ROOT}/tests/kernels/init")), "init");
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes the guest's whole file system of a directory.
fn pack(root: &Path, archive: &Path) {
    let pack = "cd \"$1\" && find . | cpio --quiet -o -H newc >\"$2\"";
    run(Command::new("sh")
        .args(["-ec", pack, "sh"])
        .args([root, archive]));
}

/// The exporter and the guest's program, both static, built once.
fn programs() -> (&'static Path, &'static Path) {
    static PROGRAMS: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    let (exporter, guest) = PROGRAMS.get_or_init(|| {
        run(&mut build("build"));
        let guest = Path::new(TARGET).join("guest");
        let mut compile = Command::new("cc");
        compile.args(["-static", "-O2", "-Wall", "-Werror", "-o"]);
        let source = format!("{ROOT}/tests/kernels/guest.c");
        run(compile.arg(&guest).arg(source));
        let exporter = Path::new(TARGET).join(format!("{TRIPLE}/debug/listen-queue-exporter"));
        (exporter, guest)
    });
    (exporter, guest)
}

/// A command of cargo that builds for the guests.
fn build(what: &str) -> Command {
    let mut build = Command::new(env!("CARGO"));
    build.args([what, "--quiet", "--locked", "--features", "ebpf"]);
    build.args(["--target", TRIPLE, "--target-dir", TARGET]);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    build.env("CARGO_PROFILE_DEV_DEBUG", "0");
    build.current_dir(ROOT);
    build
}

/// Runs a command to its end, which must be a success, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; run: tests/install.sh kernels ebpf");
    });
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}; what it needs: tests/install.sh kernels ebpf\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}
