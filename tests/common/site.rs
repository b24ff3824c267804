//! nginx in front of gunicorn on a unix socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::program::{self, Process, directory};
use super::socket::label;
use super::wait;

/// Answers after 10 to 30 ms, or when the file `gate` is there; a worker that was left behind ends with the directory.
const APPLICATION: &str = "
import os, random, time
def app(environ, start_response):
    if os.environ['WAIT'] == 'gate':
        open('taken', 'w').close()
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

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) server: SocketAddr,
    pub(crate) socket: PathBuf,
    /// Dropped first: the processes use the directory.
    _nginx: Process,
    _gunicorn: Process,
    directory: TempDir,
}

impl Site {
    /// `settings` are lines for nginx.conf.
    pub(crate) fn start(workers: u32, wait: &str, settings: &str) -> Self {
        Self::start_with(program::command("nginx"), workers, wait, settings)
    }

    /// With another nginx than the machine's.
    pub(crate) fn start_with(mut nginx: Command, workers: u32, wait: &str, settings: &str) -> Self {
        let directory = directory();
        let root = directory.path();
        let socket = root.join("g.sock");
        let file = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        file("app.py", APPLICATION);
        file("settings.py", SETTINGS);
        file("nginx.conf", &nginx_configuration(root, &socket, settings));

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

    /// Whether a request waits at the gate.
    pub(crate) fn has_taken_a_request(&self) -> bool {
        self.directory.path().join("taken").exists()
    }

    /// Lets all requests end that wait at the gate.
    pub(crate) fn open_gate(&self) {
        std::fs::write(self.directory.path().join("gate"), "").unwrap();
    }

    /// Connects that nginx was refused, by its own log.
    pub(crate) fn refused_connects(&self) -> usize {
        self.refusals().len()
    }

    /// The lines of them.
    pub(crate) fn refusals(&self) -> Vec<String> {
        let log = std::fs::read(self.directory.path().join("error.log")).unwrap();
        let log = String::from_utf8_lossy(&log);
        let refused = "failed (11: Resource temporarily unavailable) while connecting to upstream";
        let refusals = log.lines().filter(|line| line.contains(refused));
        refusals.map(str::to_owned).collect()
    }
}

fn nginx_configuration(root: &Path, socket: &Path, settings: &str) -> String {
    format!(
        "daemon off;
        user root;
        worker_processes 1;
        worker_rlimit_nofile 8192;
        pid {root}/nginx.pid;
        error_log {root}/error.log error;
        {settings}
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
                location /files/ {{ root {root}; }}
            }}
        }}",
        root = root.display(),
        socket = socket.display()
    )
}
