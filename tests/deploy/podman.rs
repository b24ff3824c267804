//! Containers without a daemon, in a storage of the tests' own below target/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::common::program;
use crate::dockerfile;
use crate::files::{IMAGE, ROOT, container_tool};
use listen_queue_exporter::VERSION;

/// The somaxconn of every container: this podman does not take it from a pod's securityContext.
pub(crate) const SOMAXCONN: u32 = 128;
/// The published images that the manifests name, all stood in for by one made from Debian's packages.
pub(crate) const STANDS_FOR: &[&str] = &[
    "docker.io/library/python:3.13-slim-bookworm",
    "docker.io/nginxinc/nginx-unprivileged:1.28-alpine",
];
const WEB: &str = "localhost/web:1";
const WITH_PATH: &str = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug)]
pub(crate) struct Podman {
    home: PathBuf,
}

/// The images are built once; containers are used by one test at a time.
pub(crate) fn podman() -> (&'static Podman, MutexGuard<'static, ()>) {
    static PODMAN: OnceLock<Podman> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (PODMAN.get_or_init(Podman::new), turn)
}

/// The name of the exporter's image with its tag.
pub(crate) fn exporter_image() -> String {
    format!("{IMAGE}:{VERSION}")
}

impl Podman {
    fn new() -> Self {
        let home = Path::new(ROOT).join("target/containers");
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("containers.conf"), configuration()).unwrap();
        let podman = Self { home };
        // What a test that was killed left behind.
        podman.run(&["pod", "rm", "--all", "--force", "--time", "0"]);
        podman.run(&["rm", "--all", "--force", "--time", "0"]);
        podman.run(&["volume", "rm", "--all", "--force"]);
        podman.build_exporter();
        podman.import_web();
        podman
    }

    pub(crate) fn command(&self) -> Command {
        let mut podman = container_tool("podman");
        podman.env("CONTAINERS_CONF", self.home.join("containers.conf"));
        podman.arg("--root").arg(self.home.join("storage"));
        podman.arg("--runroot").arg(self.home.join("run"));
        podman.args(["--storage-driver", "overlay"]);
        podman
    }

    /// Runs it to its end and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        program::run(self.command().args(arguments))
    }

    /// A place for files of this name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The Dockerfile's final stage, on what its builder's commands made.
    fn build_exporter(&self) {
        let binary = "src/image/listen-queue-exporter";
        let context = self.file("builder");
        fs::create_dir_all(context.join("src/image")).unwrap();
        fs::copy(dockerfile::builder().join(binary), context.join(binary)).unwrap();
        fs::write(context.join("Dockerfile"), dockerfile::final_stage()).unwrap();
        let mut build = self.command();
        build.args(["build", "--quiet", "--tag", &exporter_image()]);
        build.args(["--build-arg", &format!("REVISION={}", dockerfile::REVISION)]);
        build.arg("--build-context");
        build.arg(format!("builder={}", context.display()));
        program::run(build.arg(&context));
    }

    fn import_web(&self) {
        let mut exists = self.command();
        let exists = exists.args(["image", "exists", WEB]).status().unwrap();
        if !exists.success() {
            let root = Path::new(ROOT).join("target/tools/web.tar");
            assert!(
                root.exists(),
                "{} is missing; run: tests/install.sh containers",
                root.display()
            );
            let mut import = self.command();
            import.args(["import", "--quiet", "--change", WITH_PATH]);
            program::run(import.arg(root).arg(WEB));
        }
        let mut tag = self.command();
        program::run(tag.args(["tag", WEB]).args(STANDS_FOR));
    }
}

fn configuration() -> String {
    format!(
        "[containers]
default_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]
default_sysctls = [\"net.core.somaxconn={SOMAXCONN}\"]
[engine]
runtime = \"runc\"
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
"
    )
}
