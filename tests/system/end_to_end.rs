//! nginx in front of gunicorn on a unix socket, and a burst that is more than its queue holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::exporter::Exporter;
use crate::common::exposition::Page;
use crate::common::load;
use crate::common::namespace::Namespace;
use crate::common::program::{self, Process, directory};
use crate::common::socket::label;
use crate::common::wait;

const FULL_SECONDS: &str = "listen_queue_full_seconds_total";

/// Answers after 10 to 30 ms, or when the file `gate` is there; a worker that was left behind ends with the directory.
const APPLICATION: &str = "
import os, random, time
def app(environ, start_response):
    if os.environ['WAIT'] == 'gate':
        while os.path.exists('app.py') and not os.path.exists('gate'):
            time.sleep(0.01)
    else:
        time.sleep(random.uniform(0.01, 0.03))
    start_response('200 OK', [('Content-Length', '3')])
    return [b'ok\\n']
";

/// gunicorn's configuration: each worker that is about to serve leaves a file.
const SETTINGS: &str = "
def post_worker_init(worker):
    open('ready.%d' % worker.pid, 'w').close()
";

struct Site {
    server: SocketAddr,
    socket: PathBuf,
    /// Dropped first: the processes use the directory.
    _nginx: Process,
    _gunicorn: Process,
    directory: TempDir,
}

impl Site {
    fn start(workers: u32, wait: &str) -> Self {
        let directory = directory();
        let root = directory.path();
        let socket = root.join("g.sock");
        let file = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        file("app.py", APPLICATION);
        file("settings.py", SETTINGS);
        file("nginx.conf", &nginx_configuration(root, &socket));

        let mut gunicorn = program::command("gunicorn");
        gunicorn.args(["--no-control-socket", "--config", "settings.py"]);
        gunicorn.args(["--workers", &workers.to_string(), "--timeout", "600"]);
        gunicorn.args(["--backlog", "2048", "--log-level", "error"]);
        gunicorn.arg("--bind").arg(label(&socket)).arg("app:app");
        gunicorn.env("WAIT", wait).current_dir(root);
        let gunicorn = Process::start(&mut gunicorn);
        let ready = || {
            let files = std::fs::read_dir(root).unwrap().flatten();
            let ready = files.filter(|f| f.file_name().to_string_lossy().starts_with("ready."));
            ready.count() == workers as usize
        };
        wait::until_true("gunicorn's workers", ready);

        let mut nginx = program::command("nginx");
        nginx.arg("-c").arg(root.join("nginx.conf"));
        nginx.arg("-p").arg(root).args(["-e", "error.log"]);
        let nginx = Process::start(&mut nginx);
        let server = "127.0.0.1:8080".parse().unwrap();
        wait::until_true("nginx", || std::net::TcpStream::connect(server).is_ok());
        Self {
            server,
            socket,
            _nginx: nginx,
            _gunicorn: gunicorn,
            directory,
        }
    }

    /// Lets all requests end that wait at the gate.
    fn open_gate(&self) {
        std::fs::write(self.directory.path().join("gate"), "").unwrap();
    }

    /// Connects that nginx was refused, by its own log.
    fn refused_connects(&self) -> usize {
        let log = std::fs::read_to_string(self.directory.path().join("error.log")).unwrap();
        let refused = "failed (11: Resource temporarily unavailable) while connecting to upstream";
        log.lines().filter(|line| line.contains(refused)).count()
    }
}

fn nginx_configuration(root: &Path, socket: &Path) -> String {
    format!(
        "daemon off;
        user root;
        worker_processes 1;
        worker_rlimit_nofile 8192;
        pid {root}/nginx.pid;
        error_log {root}/error.log error;
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            client_body_temp_path {root}/body;
            proxy_temp_path {root}/proxy;
            fastcgi_temp_path {root}/fastcgi;
            uwsgi_temp_path {root}/uwsgi;
            scgi_temp_path {root}/scgi;
            proxy_connect_timeout 600s;
            proxy_read_timeout 600s;
            server {{
                listen 127.0.0.1:8080 backlog=4096;
                location / {{ proxy_pass http://unix:{socket}:/; }}
            }}
        }}",
        root = root.display(),
        socket = socket.display()
    )
}

fn statuses(pairs: &[(u16, u32)]) -> BTreeMap<u16, u32> {
    pairs.iter().copied().collect()
}

/// 450 requests in 1.5 s to two workers that need 10 to 30 ms for each.
fn burst(somaxconn: u32) -> (BTreeMap<u16, u32>, usize, Page, String) {
    let namespace = Namespace::enter_alone();
    namespace.set_somaxconn(somaxconn);
    let site = Site::start(2, "sleep");
    let exporter = Exporter::start(&["--listener", &format!("gunicorn={}", label(&site.socket))]);
    let answers = load::run(site.server, 450, Duration::from_millis(1500));
    let page = exporter.fresh();
    (answers, site.refused_connects(), page, exporter.log())
}

#[test]
fn a_burst_at_somaxconn_128_fills_the_queue_and_each_refusal_is_a_502() {
    let (answers, refused, page, log) = burst(128);
    println!("{answers:?}");
    let (good, bad) = (answers[&200], answers[&502]);
    assert_eq!(answers, statuses(&[(200, good), (502, bad)]));
    assert_eq!(good + bad, 450);
    assert_eq!(refused, bad as usize);
    // 129 waited, and two workers served one in 20 ms each for 1.5 s: about 279 at most, 177 502s were measured.
    assert!((150..=230).contains(&bad), "{answers:?}");
    assert_eq!(page.of("listen_queue_depth_peak", "gunicorn"), Some(129.0));
    assert_eq!(page.of("listen_queue_capacity", "gunicorn"), Some(129.0));
    assert!(page.of(FULL_SECONDS, "gunicorn") > Some(0.0));
    assert!(page.of("listen_queue_full_episodes_total", "gunicorn") >= Some(1.0));
    assert!(log.contains("listener is full"), "{log}");
}

#[test]
fn the_same_burst_at_somaxconn_4096_waits_and_is_served() {
    let (answers, refused, page, log) = burst(4096);
    assert_eq!(answers, statuses(&[(200, 450)]));
    assert_eq!(refused, 0);
    assert_eq!(page.of("listen_queue_capacity", "gunicorn"), Some(2049.0));
    let peak = page.of("listen_queue_depth_peak", "gunicorn").unwrap();
    assert!((129.0..=448.0).contains(&peak), "{peak}");
    assert_eq!(page.of(FULL_SECONDS, "gunicorn"), Some(0.0));
    assert_eq!(
        page.of("listen_queue_full_episodes_total", "gunicorn"),
        Some(0.0)
    );
    assert!(!log.contains("listener is full"), "{log}");
}

/// 200 requests in one second, none of which ends before the last has begun: the published reproduction, exactly.
fn published(somaxconn: u32, workers: u32, expected: &[(u16, u32)]) {
    let namespace = Namespace::enter();
    namespace.set_somaxconn(somaxconn);
    let site = Site::start(workers, "gate");
    let exporter = Exporter::start(&["--listener", &format!("gunicorn={}", label(&site.socket))]);
    let capacity = f64::from(somaxconn) + 1.0;
    assert_eq!(
        exporter.fresh().of("listen_queue_capacity", "gunicorn"),
        Some(capacity)
    );
    let (server, all) = (site.server, Duration::from_secs(1));
    let load = std::thread::spawn(move || load::run(server, 200, all));
    // The workers hold one each, the queue the rest; what it has no room for got its 502 already.
    let waiting = f64::from(200 - workers).min(capacity);
    exporter.when("the queue to hold what it can", |page| {
        page.of("listen_queue_depth", "gunicorn") == Some(waiting)
    });
    let turned_away: u32 = expected
        .iter()
        .filter(|(s, _)| *s == 502)
        .map(|(_, n)| n)
        .sum();
    wait::until_true("the refusals", || {
        site.refused_connects() == turned_away as usize
    });
    let full = exporter.fresh();
    assert_eq!(full.of("listen_queue_depth", "gunicorn"), Some(waiting));
    site.open_gate();
    assert_eq!(load.join().unwrap(), statuses(expected));
    assert_eq!(site.refused_connects(), turned_away as usize);
    let page = exporter.fresh();
    assert_eq!(page.of("listen_queue_depth", "gunicorn"), Some(0.0));
    assert_eq!(
        page.of("listen_queue_depth_peak", "gunicorn"),
        Some(waiting)
    );
    assert_eq!(
        page.of(FULL_SECONDS, "gunicorn") > Some(0.0),
        turned_away > 0
    );
}

#[test]
fn of_200_requests_at_once_129_and_one_a_worker_are_served_and_the_rest_refused() {
    published(128, 4, &[(200, 133), (502, 67)]);
    published(128, 2, &[(200, 131), (502, 69)]);
}

#[test]
fn of_200_requests_at_once_all_are_served_at_somaxconn_1024() {
    published(1024, 4, &[(200, 200)]);
}
