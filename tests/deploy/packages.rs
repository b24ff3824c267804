//! The deb and the tar.gz: complete, and made of what the other tests try. `make test-packages` makes the rpm too, and installs both packages on
//! clean systems.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use clap::CommandFactory;
use regex_lite::Regex;

use crate::common::program;
use crate::dockerfile;
use crate::files::{IMAGE, ROOT, all, read};
use crate::manual;
use listen_queue_exporter::VERSION;
use listen_queue_exporter::cli::Flags;

const NAME: &str = "listen-queue-exporter";
const SETTINGS: &str = "etc/default/listen-queue-exporter";
/// What deploy/packages/build.sh needs of the project.
const SOURCES: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "deploy",
    "docs",
    "grafana",
    "src",
    "tests",
];

/// A directory with the packages, made once of the binary that is in the image.
fn packages() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let project = Path::new(ROOT).join("target/packaging");
        let _ = fs::remove_dir_all(&project);
        fs::create_dir_all(project.join("target")).unwrap();
        for source in SOURCES {
            let mut cp = Command::new("cp");
            program::run(cp.args(["-r", source]).arg(&project).current_dir(ROOT));
        }
        let tools = Path::new(ROOT).join("target/tools");
        std::os::unix::fs::symlink(tools, project.join("target/tools")).unwrap();
        // Says how to install what is missing.
        packaging_tool("cargo-deb");
        manual::write(&project.join("manual")).unwrap();
        let mut build = Command::new(project.join("deploy/packages/build.sh"));
        build.arg(dockerfile::builder().join("src/image").join(NAME));
        program::run(build.arg(project.join("manual")).args(["deb", "tar"]));
        project.join("target/packages")
    })
}

fn packaging_tool(name: &str) -> Command {
    program::command_of("packages", name)
}

/// The one package whose name ends like this.
fn package(end: &str) -> PathBuf {
    let entries = fs::read_dir(packages()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found = paths.filter(|path| path.to_str().unwrap().ends_with(end));
    let package = found.next().unwrap_or_else(|| panic!("no {end}"));
    assert_eq!(found.next(), None);
    package
}

/// Every file below a directory with its mode.
fn files(directory: &Path) -> BTreeMap<String, u32> {
    let mut find = Command::new("find");
    let listed = program::run(find.args([".", "-type", "f"]).current_dir(directory));
    let paths = listed.lines().map(|path| path[2..].to_owned());
    paths
        .map(|path| {
            let mode = fs::metadata(directory.join(&path)).unwrap().permissions();
            (path, mode.mode() & 0o7777)
        })
        .collect()
}

#[test]
fn manual_pages_and_completions_name_every_flag() {
    let directory = tempfile::tempdir().unwrap();
    manual::write(directory.path()).unwrap();
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    let command = Flags::command();
    let check = command.find_subcommand("check").unwrap();
    let (bash, zsh, fish) = (
        read(&format!("{NAME}.bash")),
        read(&format!("_{NAME}")),
        read(&format!("{NAME}.fish")),
    );
    let mut seen = 0;
    for (command, page, fish_when) in [
        (&command, format!("{NAME}.1"), "__fish_.*_needs_command"),
        (
            check,
            format!("{NAME}-check.1"),
            "__fish_.*_using_subcommand check",
        ),
    ] {
        let page = read(&page).replace("\\-", "-");
        for flag in command.get_arguments() {
            let long = flag.get_long().unwrap();
            let name = regex_escape(long);
            let whole = Regex::new(&format!(r"(^|[^\w.-])--{name}($|[^\w.-])")).unwrap();
            let mut headings = page.lines().filter_map(|line| line.strip_prefix("\\fB"));
            let is_heading = |line: &str| whole.is_match(&line.replace("\\fR", " "));
            assert!(headings.any(is_heading), "the manual page has no --{long}");
            if let Some(variable) = flag.get_env() {
                assert!(page.contains(variable.to_str().unwrap()), "{variable:?}");
            }
            assert!(whole.is_match(&bash), "bash does not complete --{long}");
            assert!(whole.is_match(&zsh), "zsh does not complete --{long}");
            let in_fish = Regex::new(&format!("(?m)^complete .*{fish_when}.* -l {name} ")).unwrap();
            assert!(in_fish.is_match(&fish), "fish does not complete --{long}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} flags");
}

#[test]
fn fish_completes_every_flag() {
    let directory = tempfile::tempdir().unwrap();
    manual::write(directory.path()).unwrap();
    let script = directory.path().join(format!("{NAME}.fish"));
    let command = Flags::command();
    let check = command.find_subcommand("check").unwrap();
    for (command, words) in [
        (&command, NAME.to_owned()),
        (check, format!("{NAME} check")),
    ] {
        let mut fish = packaging_tool("fish");
        fish.env("HOME", directory.path()).arg("--no-config");
        let source = script.display();
        fish.arg("--command").arg(format!(
            "source {source}; complete --do-complete '{words} --'"
        ));
        let offered = program::run(&mut fish);
        let offered: BTreeSet<_> = offered
            .lines()
            .filter_map(|line| line.split('\t').next())
            .collect();
        for flag in command.get_arguments() {
            let flag = format!("--{}", flag.get_long().unwrap());
            assert!(offered.contains(flag.as_str()), "{words}: no {flag}");
        }
    }
}

/// The dots of a flag stand for themselves.
fn regex_escape(flag: &str) -> String {
    flag.replace('.', r"\.")
}

#[test]
fn the_deb_holds_what_is_needed_and_keeps_the_settings() {
    let deb = package(".deb");
    let root = tempfile::tempdir().unwrap();
    let mut extract = packaging_tool("dpkg-deb");
    program::run(extract.arg("--extract").arg(&deb).arg(root.path()));
    let files = files(root.path());
    let (binary, doc) = (format!("usr/bin/{NAME}"), format!("usr/share/doc/{NAME}"));
    let unit = format!("usr/lib/systemd/system/{NAME}.service");
    let mut expected: BTreeSet<String> = [
        binary.clone(),
        unit.clone(),
        SETTINGS.to_owned(),
        format!("usr/share/man/man1/{NAME}.1.gz"),
        format!("usr/share/man/man1/{NAME}-check.1.gz"),
        format!("usr/share/bash-completion/completions/{NAME}"),
        format!("usr/share/fish/vendor_completions.d/{NAME}.fish"),
        format!("usr/share/zsh/vendor-completions/_{NAME}"),
        format!("usr/share/lintian/overrides/{NAME}"),
        format!("{doc}/README.md"),
        format!("{doc}/changelog.gz"),
        format!("{doc}/changelog.Debian.gz"),
        format!("{doc}/copyright"),
        format!("{doc}/examples/node.conf"),
        format!("{doc}/examples/error-log.conf"),
        format!("{doc}/examples/alertmanager.yaml"),
        format!("{doc}/examples/rules.yaml"),
        format!("{doc}/examples/dashboard.json"),
    ]
    .into();
    for page in all(&["docs"])
        .into_keys()
        .filter(|page| Path::new(page).extension() == Some("md".as_ref()))
    {
        expected.insert(format!("{doc}/{page}"));
    }
    assert_eq!(files.keys().cloned().collect::<BTreeSet<_>>(), expected);
    for (path, mode) in &files {
        let wanted = if *path == binary { 0o755 } else { 0o644 };
        assert_eq!(*mode, wanted, "{path}");
    }

    let text = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
    assert_eq!(
        fs::read(root.path().join(binary)).unwrap(),
        fs::read(dockerfile::builder().join("src/image").join(NAME)).unwrap()
    );
    assert_eq!(text(SETTINGS), read(format!("deploy/systemd/{NAME}.env")));
    let original = read(format!("deploy/systemd/{NAME}.service"));
    assert_eq!(
        text(&unit),
        original.replace("/usr/local/bin/", "/usr/bin/")
    );

    let show = |format: &str| {
        let mut show = packaging_tool("dpkg-deb");
        show.arg("--show").arg(format!("--showformat={format}"));
        program::run(show.arg(&deb))
    };
    assert_eq!(show("${Version}"), format!("{VERSION}-1"));
    assert_eq!(show("${Depends}"), "");
    let mut conffiles = packaging_tool("dpkg-deb");
    let conffiles = program::run(conffiles.arg("--info").arg(&deb).arg("conffiles"));
    assert_eq!(conffiles, format!("/{SETTINGS}\n"));
}

#[test]
fn lintian_finds_no_error_in_the_deb() {
    let mut lintian = packaging_tool("lintian");
    lintian.args(["--fail-on", "error"]);
    println!("{}", program::run(lintian.arg(package(".deb"))));
}

#[test]
fn the_archive_holds_what_is_needed_without_a_package_manager() {
    let archive = package(".tar.gz");
    let tree = archive.file_name().unwrap().to_str().unwrap();
    let tree = tree.strip_suffix(".tar.gz").unwrap();
    let architecture = tree.strip_prefix(&format!("{NAME}-{VERSION}.linux-"));
    assert!(matches!(architecture, Some("amd64" | "arm64")), "{tree}");
    let root = tempfile::tempdir().unwrap();
    let mut extract = Command::new("tar");
    extract.arg("--extract").arg("--file").arg(&archive);
    program::run(extract.current_dir(root.path()));
    let root = root.path().join(tree);
    let found: Vec<String> = files(&root).into_keys().collect();
    let mut expected = [
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "alertmanager.yaml",
        "completions/_listen-queue-exporter",
        "completions/listen-queue-exporter.bash",
        "completions/listen-queue-exporter.fish",
        "dashboard.json",
        "error-log.conf",
        "listen-queue-exporter",
        "listen-queue-exporter-check.1",
        "listen-queue-exporter.1",
        "listen-queue-exporter.env",
        "listen-queue-exporter.service",
        "node.conf",
        "rules.yaml",
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
    for (file, source) in [
        ("rules.yaml", "deploy/prometheus/rules.yaml"),
        ("alertmanager.yaml", "deploy/prometheus/alertmanager.yaml"),
        ("error-log.conf", "deploy/nginx/error-log.conf"),
        ("dashboard.json", "grafana/dashboard.json"),
        ("node.conf", "deploy/systemd/node.conf"),
        (
            "listen-queue-exporter.service",
            "deploy/systemd/listen-queue-exporter.service",
        ),
        (
            "listen-queue-exporter.env",
            "deploy/systemd/listen-queue-exporter.env",
        ),
    ] {
        assert_eq!(fs::read_to_string(root.join(file)).unwrap(), read(source));
    }
    let mut version = Command::new(root.join(NAME));
    let version = program::run(version.arg("--version"));
    assert!(version.contains(VERSION), "{version}");
}

#[test]
fn make_image_takes_the_engine_that_works() {
    let directory = tempfile::tempdir().unwrap();
    let (here, called) = (directory.path(), directory.path().join("called"));
    let mut path = std::env::var("PATH").unwrap();
    path.insert_str(0, &format!("{}:", here.display()));
    let run_with = |working: &str| {
        for engine in ["docker", "podman", "buildah"] {
            let program = format!(
                "#!/bin/sh\n[ {engine} = '{working}' ] || exit 1\n[ \"$1\" = info ] || echo {engine} \"$@\" >{}\n",
                called.display()
            );
            let file = here.join(engine);
            fs::write(&file, program).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut make = Command::new("make");
        make.arg("image").env("PATH", &path).env_remove("ENGINE");
        make.current_dir(ROOT).output().unwrap()
    };
    for engine in ["docker", "podman", "buildah"] {
        let made = run_with(engine);
        assert!(made.status.success(), "{made:?}");
        let built = fs::read_to_string(&called).unwrap();
        assert!(
            built.starts_with(&format!("{engine} build --build-arg REVISION=")),
            "{built}"
        );
        assert!(
            built.ends_with(&format!(" --tag {IMAGE}:{VERSION} .\n")),
            "{built}"
        );
    }
    let without = run_with("none");
    assert!(!without.status.success());
    let message = String::from_utf8(without.stderr).unwrap();
    assert!(
        message.starts_with("make image needs docker, podman or buildah: "),
        "{message}"
    );
}
