//! The Kubernetes example in real pods: nginx and gunicorn from Debian's packages, the exporter's image, load sent into the pod.
//!
//! What podman cannot do is changed first: the native sidecar becomes a container, the install step goes (the image has gunicorn), ports are
//! not published, and probes are asked by the test.

use std::collections::BTreeSet;
use std::fs;
use std::iter;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::common::exporter::Exporter;
use crate::common::exposition::{Page, Queue};
use crate::common::{http, load, socket, wait};
use crate::files::{kustomize, of_kind, yaml};
use crate::podman::{Podman, SOMAXCONN, podman};
use listen_queue_exporter::cli::PORT;

const EXPORTER: &str = "listen-queue-exporter";
const SITE: &str = "127.0.0.1:8080";

/// A pod of the example, whose network namespace a thread of the test can enter.
#[derive(Debug)]
struct Pod<'p> {
    podman: &'p Podman,
    name: String,
    exporter: i32,
}

impl<'p> Pod<'p> {
    /// Plays the example under this name after `change` was made to its pod's spec.
    fn play(podman: &'p Podman, name: &str, change: impl Fn(&mut Value)) -> Self {
        let mut documents = yaml(&kustomize("deploy/kubernetes/example"));
        documents.retain(|d| match d["kind"].as_str().unwrap() {
            "Deployment" => true,
            "ConfigMap" => !d["metadata"]["name"]
                .as_str()
                .unwrap()
                .contains("dashboard"),
            _ => false,
        });
        for document in &mut documents {
            let kind = document["kind"].clone();
            let metadata = document["metadata"].as_object_mut().unwrap();
            metadata.remove("namespace");
            if kind == "Deployment" {
                metadata["name"] = json!(name);
                document["spec"]["replicas"] = json!(1);
                let spec = &mut document["spec"]["template"]["spec"];
                adapt(spec);
                change(spec);
                own_volumes(spec, name, &podman.file("volumes").join(name));
            } else {
                suffix(&mut metadata["name"], name);
            }
        }
        let texts: Vec<_> = documents.iter().map(Value::to_string).collect();
        let file = podman.file(&format!("{name}.yaml"));
        fs::write(&file, texts.join("\n---\n")).unwrap();
        let mut pod = Self {
            podman,
            name: name.to_owned(),
            exporter: 0,
        };
        podman.run(&["kube", "play", "--network=none", file.to_str().unwrap()]);
        let pid = pod.inspect(EXPORTER, "{{.State.Pid}}");
        pod.exporter = pid.parse().unwrap();
        pod.enter();
        wait::until_true("the exporter to listen", || {
            std::net::TcpStream::connect(address()).is_ok()
        });
        pod
    }

    fn inspect(&self, container: &str, format: &str) -> String {
        let container = format!("{}-pod-0-{container}", self.name);
        let printed = self
            .podman
            .run(&["inspect", "--format", format, &container]);
        printed.trim().to_owned()
    }

    fn logs(&self, container: &str) -> String {
        let container = format!("{}-pod-0-{container}", self.name);
        let mut logs = self.podman.command();
        let output = logs.args(["logs", &container]).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The thread's network namespace is the pod's from here on.
    fn enter(&self) {
        let namespace = fs::File::open(self.proc("ns/net")).unwrap();
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.exporter)
    }

    fn page(&self) -> Page {
        self.enter();
        let answer = http::get(address(), "/metrics", &[]);
        Page::parse(answer.text()).unwrap()
    }

    fn when(&self, what: &str, is_so: impl Fn(&Page) -> bool) -> Page {
        wait::until(&format!("{what} in {}", self.name), || {
            Some(self.page()).filter(|page| is_so(page))
        })
    }

    /// Waits until the exporter sees both listeners, under these names, empty.
    fn ready(&self, gunicorn: &str, nginx: &str) -> Page {
        self.when("both listeners", |page| {
            page.queue(gunicorn) == Queue::of(0, SOMAXCONN)
                && page.queue(nginx) == Queue::of(0, SOMAXCONN)
        })
    }

    /// Time that the exporter's cgroup was held back by its cpu limit.
    fn throttled(&self) -> Duration {
        let groups = fs::read_to_string(self.proc("cgroup")).unwrap();
        let path = |controllers: &str, mount: &str| {
            let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
            let path = lines.find_map(|mut line| {
                let found = line.next()?.split(',').any(|c| c == controllers);
                found.then(|| line.next()).flatten()
            })?;
            fs::read_to_string(format!("/sys/fs/cgroup{mount}{path}/cpu.stat")).ok()
        };
        let stat = path("cpu", "/cpu")
            .or_else(|| path("", ""))
            .expect("cpu.stat");
        let figure = |name: &str| -> Option<u64> {
            stat.lines()
                .find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
        };
        figure("throttled_time ")
            .map(Duration::from_nanos)
            .or_else(|| figure("throttled_usec ").map(Duration::from_micros))
            .expect("a cgroup with a cpu limit")
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for container in [EXPORTER, "gunicorn", "nginx"] {
                eprintln!("--- {container} of {}\n{}", self.name, self.logs(container));
            }
        }
        let pod = format!("{}-pod-0", self.name);
        // A test that failed may have left it half made.
        let mut remove = self.podman.command();
        let _ = remove
            .args(["pod", "rm", "--force", "--time=0", &pod])
            .output();
    }
}

/// One exporter for the machine, outside of the pods.
#[derive(Debug)]
struct Node {
    exporter: Exporter,
    namespace: fs::File,
}

impl Node {
    fn start() -> Self {
        Self {
            // What was full at the beginning is compared at the end.
            exporter: Exporter::start(&["--node", "--sample.peak-window", "1h"]),
            namespace: fs::File::open("/proc/thread-self/ns/net").unwrap(),
        }
    }

    /// Backlog, capacity, depth and highest depth of each gunicorn of a pod.
    fn gunicorns(&self) -> Vec<[f64; 4]> {
        nix::sched::setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let page = self.exporter.scrape();
        let figures = ["backlog", "capacity", "depth", "depth_peak"];
        let names = figures.map(|figure| format!("listen_queue_{figure}"));
        let backlogs = page.series.keys().filter(|(name, labels)| {
            *name == names[0] && labels["listener"] == "unix:/run/app/gunicorn.socket"
        });
        let of = |labels: &_, name: &String| page.series[&(name.clone(), Clone::clone(labels))];
        let mut found: Vec<[f64; 4]> = backlogs
            .map(|(_, labels)| names.each_ref().map(|name| of(labels, name)))
            .collect();
        found.sort_by(|a, b| a[0].total_cmp(&b[0]));
        found
    }

    fn shows(&self, gunicorns: [[f64; 4]; 2]) {
        let mut before = Vec::new();
        wait::until_true(&format!("{gunicorns:?} of the whole machine"), || {
            let shown = self.gunicorns();
            if shown != before {
                println!("{shown:?}");
                before.clone_from(&shown);
            }
            shown == gunicorns
        });
    }
}

/// The queue of a pod's gunicorn, full as long as this lives: gunicorn is stopped.
struct HeldFull {
    stopped: Vec<Pid>,
    _clients: Vec<OwnedFd>,
}

impl HeldFull {
    fn of(pod: &Pod) -> Self {
        let gunicorn = pod.inspect("gunicorn", "{{.State.Pid}}");
        let workers = fs::read_to_string(format!("/proc/{gunicorn}/task/{gunicorn}/children"));
        let stopped: Vec<_> = [gunicorn.as_str()]
            .into_iter()
            .chain(workers.unwrap().split_whitespace())
            .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
            .collect();
        for process in &stopped {
            kill_process(*process, Signal::STOP).unwrap();
        }
        let path = format!("/proc/{gunicorn}/root/run/app/gunicorn.socket");
        let clients = iter::from_fn(|| match socket::connect(&path) {
            Err(Errno::AGAIN) => None,
            connected => Some(connected.unwrap()),
        });
        Self {
            _clients: clients.collect(),
            stopped,
        }
    }
}

impl Drop for HeldFull {
    fn drop(&mut self) {
        for process in &self.stopped {
            let _ = kill_process(*process, Signal::CONT);
        }
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], PORT))
}

fn adapt(spec: &mut Value) {
    let sidecar = spec["initContainers"].take();
    let sidecar = sidecar.as_array().unwrap().iter();
    let sidecar: Vec<_> = sidecar.filter(|c| c["restartPolicy"] == "Always").collect();
    assert_eq!(sidecar.len(), 1);
    let mut sidecar = sidecar[0].clone();
    sidecar.as_object_mut().unwrap().remove("restartPolicy");
    spec.as_object_mut().unwrap().remove("initContainers");
    // What ends is not to come back before the test has seen how it ended.
    spec["restartPolicy"] = json!("Never");
    let containers = spec["containers"].as_array_mut().unwrap();
    containers.insert(0, sidecar);
    for container in containers {
        let container = container.as_object_mut().unwrap();
        for key in ["ports", "livenessProbe", "readinessProbe"] {
            container.remove(key);
        }
    }
}

/// podman's volumes are known by name to all pods, Kubernetes' to their own only. And podman gives an empty directory to the user of the
/// container that starts first, where Kubernetes lets all users write: it becomes a directory of the test that they may.
fn own_volumes(spec: &mut Value, pod: &str, place: &Path) {
    // Of the run before, if there was one.
    let _ = fs::remove_dir_all(place);
    for volume in spec["volumes"].as_array_mut().unwrap() {
        if let Some(name) = volume.pointer_mut("/configMap/name") {
            suffix(name, pod);
        } else {
            let empty = volume.as_object_mut().unwrap().remove("emptyDir");
            assert_eq!(empty, Some(json!({})));
            let directory = place.join(volume["name"].as_str().unwrap());
            fs::create_dir_all(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
            volume["hostPath"] = json!({"path": directory, "type": "Directory"});
        }
        suffix(&mut volume["name"], pod);
    }
    for container in spec["containers"].as_array_mut().unwrap() {
        for mount in container["volumeMounts"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            suffix(&mut mount["name"], pod);
        }
    }
}

fn suffix(name: &mut Value, pod: &str) {
    *name = json!(format!("{}-{pod}", name.as_str().unwrap()));
}

fn container<'a>(spec: &'a mut Value, name: &str) -> &'a mut Value {
    let containers = spec["containers"].as_array_mut().unwrap();
    containers.iter_mut().find(|c| c["name"] == name).unwrap()
}

fn status_has(status: &str, line: &str) {
    assert!(status.lines().any(|l| l == line), "{line} in {status}");
}

fn has_no_right(pod: &Pod) {
    let status = fs::read_to_string(pod.proc("status")).unwrap();
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "Gid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        status_has(&status, line);
    }
    let mounts = fs::read_to_string(pod.proc("mountinfo")).unwrap();
    let options = |place: &str| {
        let mut mounts = mounts.lines().map(|line| line.split(' '));
        mounts
            .find_map(|mut m| (m.nth(4)? == place).then(|| m.next()).flatten())
            .unwrap_or_else(|| panic!("no mount at {place}"))
    };
    assert!(options("/").starts_with("ro,"), "{mounts}");
    assert!(options("/run/app").starts_with("ro,"), "{mounts}");
    assert_eq!(
        pod.inspect(EXPORTER, "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}"),
        format!("{} {}", 16 << 20, 50_000_000)
    );
}

/// Rounds late so far, and time that the cpu limit held the exporter back.
fn held_up(pod: &Pod) -> (f64, Duration) {
    let late = pod.page().get("listen_queue_samples_late_total").unwrap();
    (late, pod.throttled())
}

fn stayed_within_its_limits(pod: &Pod, before: (f64, Duration)) {
    let (late, throttled) = held_up(pod);
    let (late, throttled) = (late - before.0, throttled.saturating_sub(before.1));
    println!("throttled for {throttled:?}, {late} rounds late");
    // A pause is at most a tenth of a second, which each CPU may count, and the round after it is late.
    let cpus = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let pauses = throttled.as_secs_f64() / (0.1 * f64::from(cpus));
    assert!(late >= pauses.floor(), "{pauses}");
    let status = fs::read_to_string(pod.proc("status")).unwrap();
    let most = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{most} kB at most");
    assert!(most < 8 * 1024, "more than is requested: {most} kB");
}

fn ends_at_once(pod: &Pod) {
    let start = Instant::now();
    let exporter = Pid::from_raw(pod.exporter).unwrap();
    kill_process(exporter, Signal::TERM).unwrap();
    wait::until_true("the exporter to end", || !Path::new(&pod.proc("")).exists());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    wait::until_true("podman to notice", || {
        pod.inspect(EXPORTER, "{{.State.Status}}") == "exited"
    });
    let log = pod.logs(EXPORTER);
    assert_eq!(pod.inspect(EXPORTER, "{{.State.ExitCode}}"), "0", "{log}");
}

#[test]
fn a_full_queue_in_a_pod_shows_in_the_pod_alone_and_the_sidecar_stays_within_its_limits() {
    let (podman, _turn): (_, MutexGuard<()>) = podman();
    let node = Node::start();
    let full = Pod::play(podman, "full", |_| ());
    let beside = Pod::play(podman, "beside", |spec| {
        let gunicorn = container(spec, "gunicorn")["env"].as_array_mut().unwrap();
        gunicorn.push(json!({"name": "GUNICORN_CMD_ARGS", "value": "--backlog=64"}));
    });
    full.ready("gunicorn", "nginx");
    beside.when("its own backlog", |page| {
        page.queue("gunicorn") == Queue::of(0, 64)
    });

    has_no_right(&full);
    full.enter();
    assert_eq!(http::get(address(), "/-/healthy", &[]).status, 200);
    assert_eq!(
        http::get(SITE.parse().unwrap(), "/-/nginx", &[]).status,
        200
    );

    let before = held_up(&full);
    // 450 requests in 1.5 s to four workers that need 0.1 s for each.
    let answers = load::run(SITE.parse().unwrap(), 450, Duration::from_millis(1500));
    println!("{answers:?}");
    let (good, bad) = (answers[&200], answers[&502]);
    assert_eq!((answers.len(), good + bad), (2, 450));
    let log = full.logs("nginx");
    let refused = "failed (11: Resource temporarily unavailable) while connecting to upstream";
    assert_eq!(log.matches(refused).count(), bad as usize, "{log}");
    let by_nginx = [("listener", "gunicorn"), ("source", "nginx_log")];
    full.when("the refusals that nginx logged", |page| {
        let seen = page.labelled("listen_queue_refused_connects_total", &by_nginx);
        seen == Some(f64::from(bad))
    });
    let page = full.when("the queue to drain", |page| {
        page.queue("gunicorn") == Queue::of(0, SOMAXCONN)
    });
    let of = |name: &str| page.of(&format!("listen_queue_{name}"), "gunicorn");
    assert_eq!(of("depth_peak"), Some(129.0));
    assert_eq!(of("requested_backlog"), Some(2048.0));
    assert!(of("full_seconds_total") > Some(0.0));
    assert_eq!(page.get("listen_queue_somaxconn"), Some(128.0));
    for source in ["unix_diag", "inet_diag", "netstat", "sysctl"] {
        let up = page.labelled("listen_queue_source_up", &[("source", source)]);
        assert_eq!(up, Some(1.0), "{source}");
    }

    // The other replica has its own.
    let other = beside.page();
    assert_eq!(other.of("listen_queue_depth_peak", "gunicorn"), Some(0.0));
    assert_eq!(other.queue("gunicorn"), Queue::of(0, 64));

    // As README has it: a queue of 64, and 400 requests at once from inside the pod.
    let gunicorn = "beside-pod-0-gunicorn";
    let printed = podman.run(&["exec", gunicorn, "python3", "/app/burst.py"]);
    println!("{printed}");
    let counts = printed
        .trim()
        .split(", ")
        .map(|part| part.split_once(" got ").unwrap());
    let counts: Vec<(u32, &str)> = counts
        .map(|(n, status)| (n.parse().unwrap(), status))
        .collect();
    assert_eq!(
        counts.iter().map(|(_, status)| *status).collect::<Vec<_>>(),
        ["200", "502"]
    );
    assert_eq!(counts.iter().map(|(count, _)| count).sum::<u32>(), 400);
    beside.when("the end of the burst", |page| {
        page.queue("gunicorn") == Queue::of(0, 64)
    });

    // One exporter for the machine, at its slower pace, says the same of both.
    let held = [&full, &beside].map(HeldFull::of);
    full.when("the full queue", |page| {
        page.queue("gunicorn") == Queue::of(129, SOMAXCONN)
    });
    let page = beside.when("the full queue", |page| {
        page.queue("gunicorn") == Queue::of(65, 64)
    });
    assert_eq!(page.of("listen_queue_depth_peak", "gunicorn"), Some(65.0));
    assert!(page.of("listen_queue_full_episodes_total", "gunicorn") >= Some(1.0));
    node.shows([[64.0, 65.0, 65.0, 65.0], [128.0, 129.0, 129.0, 129.0]]);
    drop(held);
    node.shows([[64.0, 65.0, 0.0, 65.0], [128.0, 129.0, 0.0, 129.0]]);

    stayed_within_its_limits(&full, before);
    ends_at_once(&full);
}

#[test]
fn without_any_configuration_the_sidecar_finds_the_pods_listeners_by_itself() {
    let (podman, _turn) = podman();
    let pod = Pod::play(podman, "bare", |spec| {
        let exporter = container(spec, EXPORTER).as_object_mut().unwrap();
        assert!(exporter.remove("env").is_some());
        assert!(exporter.remove("volumeMounts").is_some());
    });
    let names = ["unix:/run/app/gunicorn.socket", "tcp:0.0.0.0:8080"];
    let page = pod.ready(names[0], names[1]);
    assert_eq!(page.listeners(), BTreeSet::from(names));
}

#[test]
fn a_named_socket_is_found_without_the_volume_and_with_the_volume_at_another_path() {
    let (podman, _turn) = podman();
    let without = Pod::play(podman, "without", |spec| {
        let exporter = container(spec, EXPORTER).as_object_mut().unwrap();
        assert!(exporter.remove("volumeMounts").is_some());
    });
    without.ready("gunicorn", "nginx");
    drop(without);

    let elsewhere = Pod::play(podman, "elsewhere", |spec| {
        let exporter = container(spec, EXPORTER);
        exporter["volumeMounts"][0]["mountPath"] = json!("/elsewhere");
        let listeners = &mut exporter["env"][0]["value"];
        *listeners = json!(
            listeners
                .as_str()
                .unwrap()
                .replace("/run/app/", "/elsewhere/")
        );
    });
    let page = elsewhere.ready("gunicorn", "nginx");
    let labels = [
        ("listener", "gunicorn"),
        ("family", "unix"),
        ("address", "unix:/elsewhere/gunicorn.socket"),
        ("limit", "kernel"),
    ];
    assert_eq!(
        page.labelled("listen_queue_listener_info", &labels),
        Some(1.0)
    );
}

#[test]
fn what_stands_for_the_examples_images_are_those_that_it_names() {
    let documents = yaml(&kustomize("deploy/kubernetes/example"));
    let deployment = of_kind(&documents, "Deployment")[0];
    let spec = &deployment["spec"]["template"]["spec"];
    let lists = ["containers", "initContainers"].map(|list| spec[list].as_array().unwrap());
    let images = lists.iter().flat_map(|list| list.iter());
    let images: BTreeSet<_> = images.map(|c| c["image"].as_str().unwrap()).collect();
    let ours = crate::podman::exporter_image();
    let known = crate::podman::STANDS_FOR.iter().copied();
    assert_eq!(images, known.chain([ours.as_str()]).collect());
}
