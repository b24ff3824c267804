//! The tests that make sockets and read their queues on other kernels: the same programs, built statically, in a guest. What a guest cannot have
//! is named in the table.
//!
//! `make test` runs a part of them on two kernels, `make test-kernels` all of them on four.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{TARGET, TRIPLE, build, fetch, fill, pack, programs, run, start};

/// Suite and version of each kernel, the oldest first.
const KERNELS: [(&str, &str); 4] = [
    ("bullseye", "5.10."),
    ("bookworm", "6.1."),
    ("bookworm-backports", "6.12."),
    ("trixie-backports", "7."),
];

/// The test programs, in the order in which they run.
const PROGRAMS: [&str; 3] = ["exact", "system", "waits"];

/// What `make test` runs on the oldest and the newest kernel: how queues are read, in every way that there is.
const PART: &[&str] = &[
    "exact::tables::connects_that_sleep_are_counted_by_the_table",
    "system::paths::the_volume_is_mounted_elsewhere_in_the_sidecar",
    "system::privilege::uid_65534_without_capabilities_sees_everything",
    "system::tcp::a_dual_stack_listener_is_seen_once_with_the_clients_of_both_families",
    "system::tcp::a_group_with_one_full_member_is_full_while_the_others_are_idle",
    "system::tcp::six_clients_fill_a_backlog_of_five_and_each_further_one_is_a_drop",
    "system::tcp::the_counters_of_the_namespace_are_the_kernels_own",
    "system::unix::an_abstract_listener_is_watched_by_its_name",
    "system::unix::clients_that_have_closed_stay_in_the_queue_until_accepted",
    "system::unix::six_clients_fill_a_backlog_of_five_and_the_seventh_is_turned_away",
    "system::unix::sockets_that_keep_message_boundaries_have_queues_too",
];

/// What does not run in a guest, by the beginning of its name, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("exact::common::", "no kernel in it"),
    ("system::common::", "no kernel in it"),
    ("waits::common::", "no kernel in it"),
    ("system::check::", "no kernel in it"),
    ("system::cli::", "no kernel in it"),
    ("system::crowds::", "no kernel in it"),
    ("system::http::", "no kernel in it"),
    ("system::live::", "no kernel in it"),
    ("system::web_config::", "no kernel in it"),
    (
        "system::discovery::a_listener_has_as_many_series_as_the_documentation_says",
        "no kernel in it",
    ),
    ("system::nginx_log::a_newer_nginx", "needs nginx"),
    ("system::nginx_log::the_file_for_nginx", "needs nginx"),
    // Its root is a file system in memory, and /tmp another.
    ("system::paths::the_overlay", "no overlay there"),
    ("system::privilege::a_read_only_root", "no root of a disk"),
    // Their loads and their truth need a processor that is not emulated.
    ("exact::tcp::", "too slow"),
    ("exact::unix::", "too slow"),
    ("system::burst::", "too slow"),
    ("system::faults::a_tcp_queue_of_60000", "too slow"),
    ("system::faults::each_of_ten_thousand", "too slow"),
    (
        "system::follow::a_listener_replaced_every_50_ms",
        "too slow",
    ),
    ("system::stall::", "too slow"),
    ("waits::pace::", "too slow"),
    ("waits::tcp::", "too slow"),
    ("waits::totals::", "too slow"),
];

/// What does not run on one kernel, by its version, and why.
const NOT_ON: &[(&str, &str, &str)] = &[
    (
        "5.10.",
        "system::tcp::a_multipath_listener_is_seen_once",
        "has no MPTCP",
    ),
    // The test asks there who sleeps, not the exporter.
    (
        "5.10.",
        "waits::blocked::as_many_connects_are_blocked_as_sleep_before_a_full_queue",
        "wchan is empty",
    ),
];

/// Programs that a guest does not have. Whatever needs them does not run there.
const ABSENT: &[&str] = &[
    "btrfs",
    "curl",
    "gunicorn",
    "mkfs.btrfs",
    "nginx",
    "openssl",
    "prometheus",
    "promtool",
    "python3",
    "strace",
];

/// Programs of the machine that a guest gets, with their libraries.
const BROUGHT: &[&str] = &["mount", "nsenter", "prlimit", "setpriv", "unshare"];

/// How a test ended on a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// Failed beside other tests, which a slow guest explains, and passed alone.
    PassedAlone,
    Needs(String),
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Passed => formatter.pad("ok"),
            Self::PassedAlone => formatter.pad("ok alone"),
            Self::Needs(program) => formatter.pad(&format!("needs {program}")),
            Self::Failed => formatter.pad("FAILED"),
        }
    }
}

/// By test, with the name of its program before its own.
type Outcomes = BTreeMap<String, Outcome>;

#[test]
fn the_tests_of_queues_pass_on_other_kernels() {
    let is_whole = std::env::var_os("KERNELS").is_some_and(|which| which == "all");
    let kernels = if is_whole {
        KERNELS.to_vec()
    } else {
        vec![KERNELS[0], KERNELS[3]]
    };
    let programs = test_programs();
    let all = names(&programs);
    let wanted = |(_, version): (&str, &str)| -> BTreeSet<String> {
        let is_wanted = |test: &&String| {
            if is_whole {
                left_out(test, version).is_none()
            } else {
                PART.contains(&test.as_str())
            }
        };
        all.iter().filter(is_wanted).cloned().collect()
    };
    let mut columns = Vec::new();
    // Two guests at a time.
    for pair in kernels.chunks(2) {
        columns.extend(std::thread::scope(|scope| {
            let boot = |kernel| {
                let (programs, wanted) = (&programs, wanted(kernel));
                scope.spawn(move || boot(kernel, programs, &wanted))
            };
            let guests: Vec<_> = pair.iter().copied().map(boot).collect();
            let columns = guests.into_iter().map(|guest| guest.join().unwrap());
            columns.collect::<Vec<_>>()
        }));
    }
    let table = table(&all, &columns, is_whole);
    print!("{table}");
    fs::write(Path::new(TARGET).join("matrix.txt"), &table).unwrap();
    for ((release, outcomes), kernel) in columns.iter().zip(&kernels) {
        for (test, outcome) in outcomes {
            assert_ne!(*outcome, Outcome::Failed, "{test} on {release}");
            if let Outcome::Needs(program) = outcome {
                assert!(ABSENT.contains(&program.as_str()), "{test} needs {program}");
            }
        }
        let ran: BTreeSet<_> = outcomes.keys().cloned().collect();
        assert_eq!(ran, wanted(*kernel), "{release}");
        assert!(is_whole || ran.len() == PART.len(), "{ran:?}");
    }
    let begins = LEFT_OUT.iter().map(|(begin, _)| begin);
    for begin in begins.chain(NOT_ON.iter().map(|(_, test, _)| test)) {
        assert!(
            all.iter().any(|test| test.starts_with(begin)),
            "nothing is called {begin}"
        );
    }
}

fn left_out(test: &str, release: &str) -> Option<&'static str> {
    let everywhere = LEFT_OUT
        .iter()
        .filter(|(begin, _)| test.starts_with(begin))
        .map(|(_, reason)| *reason);
    let here = NOT_ON
        .iter()
        .filter(|(version, name, _)| release.starts_with(version) && test == *name)
        .map(|(.., reason)| *reason);
    everywhere.chain(here).next()
}

/// The programs by name, built like the exporter of the other tests here.
fn test_programs() -> BTreeMap<&'static str, PathBuf> {
    // First what all have in common.
    programs();
    let mut command = build("test");
    command.args(["--no-run", "--message-format", "json"]);
    for name in PROGRAMS {
        command.args(["--test", name]);
    }
    let messages = run(&mut command);
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let messages: Vec<_> = messages.collect();
    let executable = |name: &'static str| {
        let of = |message: &&Value| {
            message["target"]["name"] == name && message["executable"].is_string()
        };
        let built = messages.iter().find(of).expect("it was built");
        (
            name,
            PathBuf::from(built["executable"].as_str().expect("a path")),
        )
    };
    PROGRAMS.into_iter().map(executable).collect()
}

/// All tests, as the programs list them.
fn names(programs: &BTreeMap<&str, PathBuf>) -> BTreeSet<String> {
    let list = |(program, path): (&&str, &PathBuf)| {
        let listed = run(Command::new(path).arg("--list"));
        let tests = listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"));
        let tests = tests.map(|test| format!("{program}::{test}"));
        tests.collect::<Vec<_>>()
    };
    programs.iter().flat_map(list).collect()
}

/// Boots a kernel, and reads from its console which release it is and how the tests ended.
fn boot(
    (suite, version): (&str, &str),
    programs: &BTreeMap<&str, PathBuf>,
    wanted: &BTreeSet<String>,
) -> (String, Outcomes) {
    let directory = fetch(suite);
    let root = directory.join("tests");
    fill(&root, &directory.join("modules"));
    for program in BROUGHT {
        bring(program, &root);
    }
    let mut plan = Vec::new();
    for (program, path) in programs {
        let copy = root.join("bin").join(program);
        fs::copy(path, &copy).unwrap();
        run(Command::new("strip").arg(&copy));
        let tests = wanted
            .iter()
            .filter_map(|test| test.strip_prefix(&format!("{program}::")));
        let tests: Vec<_> = tests.collect();
        if !tests.is_empty() {
            plan.push(format!("{program} {}\n", tests.join(" ")));
        }
    }
    fs::write(root.join("plan"), plan.concat()).unwrap();
    // The programs know where the exporter is by the place where it was built.
    let exporter = root.join(format!("{TARGET}/{TRIPLE}/debug").trim_start_matches('/'));
    fs::create_dir_all(&exporter).unwrap();
    symlink(
        "/bin/listen-queue-exporter",
        exporter.join("listen-queue-exporter"),
    )
    .unwrap();
    let initramfs = directory.join("tests.cpio");
    pack(&root, &initramfs);
    let console = start(
        &directory.join("vmlinuz"),
        &initramfs,
        "",
        &["-m", "2048", "-smp", "2"],
        3000,
    );
    println!("{console}");
    // The firmware leaves no line of its own before it.
    let (_, rest) = console.split_once("kernel: ").expect("a kernel");
    let release = rest.lines().next().expect("a release");
    assert!(release.starts_with(version), "{release}");
    assert!(console.contains("=== end"), "{release} got to its end");
    (release.to_owned(), outcomes(&console))
}

/// Copies a program of the machine and the libraries that it loads.
fn bring(program: &str, root: &Path) {
    let path =
        run(Command::new("sh").args(["-c", "readlink -f \"$(command -v \"$1\")\"", "sh", program]));
    let path = path.trim();
    let libraries = run(Command::new("ldd").arg(path));
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries {
        let to = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::copy(path, root.join("usr/bin").join(program)).unwrap();
}

/// What the programs printed of their tests, those that were run again alone last.
fn outcomes(console: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let (mut program, mut again, mut failed) = ("", false, "");
    for line in console.lines() {
        if let Some(title) = line.strip_prefix("=== ") {
            again = title.ends_with(" again");
            program = title.trim_end_matches(" again");
        } else if let Some((test, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        {
            let outcome = match (result, again) {
                ("ok", false) => Outcome::Passed,
                ("ok", true) => Outcome::PassedAlone,
                _ => Outcome::Failed,
            };
            outcomes.insert(format!("{program}::{test}"), outcome);
        } else if let Some(title) = line.strip_prefix("---- ") {
            failed = title.trim_end_matches(" stdout ----");
        } else if let Some((needed, _)) = line.split_once(" is missing; run: ") {
            let outcome = outcomes.get_mut(&format!("{program}::{failed}"));
            let outcome = outcome.expect("a test that failed");
            *outcome = Outcome::Needs(needed.to_owned());
        }
    }
    outcomes
}

fn table(all: &BTreeSet<String>, columns: &[(String, Outcomes)], is_whole: bool) -> String {
    let width = all.iter().map(String::len).max().unwrap_or_default();
    let row = |title: &str, cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<24}")).collect();
        format!("{title:<width$} {}\n", cells.join(" ").trim_end())
    };
    let releases = columns.iter().map(|(release, _)| release.clone());
    let mut rows = vec![row("", releases.collect())];
    let mut others = 0;
    for test in all {
        let cells = columns
            .iter()
            .map(|(release, outcomes)| match outcomes.get(test) {
                Some(outcome) => outcome.to_string(),
                None => left_out(test, release).unwrap_or("did not run").to_owned(),
            });
        if is_whole
            || columns
                .iter()
                .any(|(_, outcomes)| outcomes.contains_key(test))
        {
            rows.push(row(test, cells.collect()));
        } else {
            others += 1;
        }
    }
    let counts = columns.iter().map(|(_, outcomes)| {
        let count = |is_it: fn(&Outcome) -> bool| {
            outcomes.values().filter(|outcome| is_it(outcome)).count()
        };
        let needing = count(|outcome| matches!(outcome, Outcome::Needs(_)));
        let failed = count(|outcome| *outcome == Outcome::Failed);
        let good = outcomes.len() - needing - failed;
        format!("{good} ok, {failed} failed")
    });
    rows.push(row("", counts.collect()));
    if others > 0 {
        rows.push(format!("{others} other tests: make test-kernels runs them, and names those that a guest cannot run\n"));
    }
    rows.concat()
}
