//! The Dockerfile, read and carried out as far as that goes without a base image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::common::program;
use crate::files::{ROOT, read};

/// The revision that is passed to the tests' build.
pub(crate) const REVISION: &str = "revision-of-the-test";

/// A line of a Dockerfile with those that continue it: the word and the rest.
#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) word: String,
    pub(crate) rest: String,
}

/// The instructions by stage; each begins with its FROM.
pub(crate) fn stages() -> Vec<Vec<Instruction>> {
    let text = read("Dockerfile");
    let code = text.lines().filter(|line| !line.starts_with('#'));
    let joined = code.collect::<Vec<_>>().join("\n").replace("\\\n", "");
    let mut stages: Vec<Vec<Instruction>> = Vec::new();
    for line in joined.lines().filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap();
        if word == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().unwrap().push(Instruction {
            word: word.to_owned(),
            rest: rest.trim().to_owned(),
        });
    }
    stages
}

/// The last stage as a Dockerfile of its own.
pub(crate) fn final_stage() -> String {
    let text = read("Dockerfile");
    text[text.rfind("\nFROM ").unwrap()..].to_owned()
}

/// The builder stage's `/` after its commands ran here, on this machine's toolchain instead of the base image's. Run once; what cargo built
/// stays for the next time.
pub(crate) fn builder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(ROOT).join("target/image");
        if !up_to_date(&root.join("src/image/listen-queue-exporter")) {
            build(&root);
        }
        root
    })
}

fn build(root: &Path) {
    let src = root.join("src");
    fs::create_dir_all(&src).unwrap();
    // A new container has none of it; only cargo's target folder is kept.
    for entry in fs::read_dir(&src).unwrap().map(Result::unwrap) {
        if entry.file_name() != "target" {
            let path = entry.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.unwrap();
        }
    }
    let mut given = BTreeMap::from([
        ("TARGETARCH".to_owned(), architecture().to_owned()),
        ("REVISION".to_owned(), REVISION.to_owned()),
    ]);
    let mut environment = BTreeMap::new();
    for Instruction { word, rest } in &stages()[0] {
        match word.as_str() {
            "FROM" => assert!(rest.ends_with(" AS builder"), "{rest}"),
            "WORKDIR" => assert_eq!(rest, "/src"),
            "ARG" => {
                let (name, default) = rest.split_once('=').unwrap_or((rest, "\"\""));
                let value = given.remove(name);
                let value = value.unwrap_or_else(|| default.trim_matches('"').to_owned());
                environment.insert(name.to_owned(), value);
            }
            "ENV" => {
                let (name, value) = rest.split_once('=').unwrap();
                environment.insert(name.to_owned(), value.trim_matches('"').to_owned());
            }
            "COPY" => copy(rest, &src),
            "RUN" => {
                program::run(shell(rest, &src).envs(&environment));
            }
            _ => panic!("{word} is new here: teach the test what it does"),
        }
    }
    assert!(given.is_empty(), "the builder does not ask for {given:?}");
}

/// A RUN of the builder stage.
pub(crate) fn shell(script: &str, directory: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(directory);
    for name in ["CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS"] {
        shell.env_remove(name);
    }
    shell
}

fn copy(rest: &str, to: &Path) {
    let (from, into) = rest.rsplit_once(' ').unwrap();
    assert!(["./", "."].contains(&into), "{rest}");
    let context = context();
    let wanted = |path: &&String| from == "." || from.split(' ').any(|f| f == path.as_str());
    let copied: Vec<_> = context.iter().filter(wanted).collect();
    assert!(!copied.is_empty(), "nothing to copy for COPY {rest}");
    for path in copied {
        let mut cp = Command::new("cp");
        program::run(cp.args(["-r", path]).arg(to).current_dir(ROOT));
    }
}

/// What .dockerignore lets through.
fn context() -> Vec<String> {
    let text = read(".dockerignore");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"), "all is left out but what is named");
    lines
        .map(|line| line.strip_prefix('!').unwrap().to_owned())
        .filter(|path| Path::new(ROOT).join(path).exists())
        .collect()
}

fn up_to_date(binary: &Path) -> bool {
    let Ok(built) = fs::metadata(binary).and_then(|m| m.modified()) else {
        return false;
    };
    let mut pending: Vec<PathBuf> = context()
        .into_iter()
        .chain(["Dockerfile".to_owned(), ".dockerignore".to_owned()])
        .map(|path| Path::new(ROOT).join(path))
        .collect();
    while let Some(path) = pending.pop() {
        if fs::metadata(&path).unwrap().modified().unwrap() > built {
            return false;
        }
        if path.is_dir() {
            let inside = fs::read_dir(&path).unwrap().map(Result::unwrap);
            pending.extend(inside.map(|entry| entry.path()));
        }
    }
    true
}

/// This machine's, as TARGETARCH spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("there is no image for {other}"),
    }
}

#[test]
fn both_architectures_have_their_target_and_others_are_refused_in_words() {
    let stages = stages();
    let choice = stages[0]
        .iter()
        .find(|i| i.word == "RUN" && i.rest.contains(">target-triple"))
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let run = |architecture| {
        let mut shell = shell(&choice.rest, directory.path());
        shell.env("TARGETARCH", architecture).output().unwrap()
    };
    for (architecture, triple) in [
        ("amd64", "x86_64-unknown-linux-gnu\n"),
        ("arm64", "aarch64-unknown-linux-gnu\n"),
    ] {
        assert!(run(architecture).status.success());
        let written = fs::read_to_string(directory.path().join("target-triple")).unwrap();
        assert_eq!(written, triple);
    }
    let refused = run("s390x");
    assert!(!refused.status.success());
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(
        message,
        "no image for TARGETARCH 's390x': amd64 and arm64 only\n"
    );
}

#[test]
fn the_builder_has_the_release_of_rust_that_the_tests_were_run_with() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("rust-version = \"").unwrap();
    let version = rest.split('"').next().unwrap();
    let from = &stages()[0][0].rest;
    assert!(
        from.starts_with(&format!("docker.io/library/rust:{version}-")),
        "{from}"
    );
}

#[test]
fn for_ebpf_the_builder_gets_what_the_tests_get() {
    let install = read("tests/install.sh");
    let (_, rest) = install.split_once("\nebpf() { apt ").unwrap();
    let mut tools: Vec<_> = rest.split(';').next().unwrap().split(' ').collect();
    // The base image has these.
    tools.retain(|tool| !["gcc", "libc6-dev"].contains(tool));
    let stages = stages();
    let choice = stages[0]
        .iter()
        .find(|i| i.rest.contains("apt-get"))
        .unwrap();
    let (_, rest) = choice.rest.split_once("--no-install-recommends").unwrap();
    let given: Vec<_> = rest
        .split("&&")
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    tools.sort_unstable();
    assert_eq!(given, tools);
}
