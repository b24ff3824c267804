"""Application servers that report on their own queue, and nginx before them."""

import json
import os
import pathlib
import shutil
import socket
import struct
import sys

from processes import children, command_line

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEMO = HERE.parent / "demo"
sys.path.insert(0, str(DEMO))
from demo import get  # noqa: E402

NGINX, STATSD = 8080, 8125
WORKERS = 4
# Where nothing fails, an answer takes no time.
INSTANT = {**os.environ, "SERVICE_SECONDS": "0"}


class Server:
    """One application server: where it listens, and its workers."""

    name = ""
    port = 0

    def __init__(self, stage, number=0):
        self.stage, self.transport, self.backlog, self.number = stage, stage.transport, stage.backlog, number
        # A member of a group has one, so that it is either stuck or not.
        self.workers_wanted = 1 if stage.is_group else WORKERS
        self.path = stage.directory / f"{self.name}.socket"
        self.child = stage.processes.start(f"{self.name}-{number}", self.command(), env=INSTANT)

    @property
    def address(self):
        return str(self.path) if self.transport == "unix" else ("127.0.0.1", self.port)

    @property
    def bind(self):
        return f"unix:{self.path}" if self.transport == "unix" else f"0.0.0.0:{self.port}"

    @property
    def upstream(self):
        return f"unix:{self.path}" if self.transport == "unix" else f"127.0.0.1:{self.port}"

    def workers(self):
        return children(self.child.pid)

    def is_up(self):
        return len(self.workers()) >= self.workers_wanted and connected(self.address).close() is None


class Gunicorn(Server):
    name, port = "gunicorn", 8000

    def command(self):
        options = ["--workers", self.workers_wanted, "--backlog", self.backlog, "--timeout", 0, "--no-control-socket", "--bind", self.bind]
        statsd = ["--enable-backlog-metric", "--statsd-host", f"127.0.0.1:{STATSD}", "--statsd-prefix", f"number{self.number}"]
        group = ["--reuse-port"] if self.stage.is_group else []
        return [self.stage.arguments.gunicorn, *options, *statsd, *group, "--pythonpath", DEMO, "app:application"]


class Uwsgi(Server):
    name, port = "uwsgi", 8100

    @property
    def stats_port(self):
        return 9100 + self.number

    def command(self):
        bind = str(self.path) if self.transport == "unix" else f"0.0.0.0:{self.port}"
        options = ["--master", "--processes", self.workers_wanted, "--listen", self.backlog, "--http-socket", bind]
        options += ["--reuse-port"] if self.stage.is_group else []
        return ["uwsgi_python3", *options, "--wsgi-file", DEMO / "app.py", "--stats", f"127.0.0.1:{self.stats_port}", "--die-on-term"]

    def stats(self):
        with connected(("127.0.0.1", self.stats_port)) as client:
            return json.loads(b"".join(iter(lambda: client.recv(65536), b"")))

    def queue(self):
        """Its own words for depth and limit of the socket it serves."""
        found = self.stats()["sockets"][0]
        return found["queue"], found["max_queue"]


class Fpm(Server):
    name, port = "php-fpm", 8200
    status_port = 9200

    def command(self):
        bind = str(self.path) if self.transport == "unix" else f"0.0.0.0:{self.port}"
        configuration = self.stage.directory / "php-fpm.conf"
        (self.stage.directory / "app.php").write_text("ok\n")
        configuration.write_text(
            f"[global]\nerror_log = {self.stage.directory}/php-fpm.err\ndaemonize = no\n[app]\nuser = root\nlisten = {bind}\nlisten.backlog = {self.backlog}\n"
            f"pm = static\npm.max_children = {self.workers_wanted}\npm.status_path = /status\npm.status_listen = 127.0.0.1:{self.status_port}\n"
        )
        return [php_fpm(), "--allow-to-run-as-root", "--fpm-config", configuration]

    def workers(self):
        return [child for child in children(self.child.pid) if command_line(child).endswith("pool app")]

    def status(self):
        return json.loads(fastcgi(("127.0.0.1", self.status_port), {"SCRIPT_NAME": "/status", "SCRIPT_FILENAME": "/status", "QUERY_STRING": "json", "REQUEST_METHOD": "GET"}))

    def queue(self):
        status = self.status()
        return max(status["listen queue"], status["max listen queue"]), status["listen queue len"]


def php_fpm():
    return str(next(iter(sorted(pathlib.Path("/usr/sbin").glob("php-fpm*"))), shutil.which("php-fpm") or "php-fpm"))


def fastcgi(address, parameters):
    """The body of an answer to one FastCGI request (https://fastcgi-archives.github.io)."""
    record = lambda kind, content: struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content  # noqa: E731
    pairs = b"".join(bytes((len(name), len(value))) + name.encode() + value.encode() for name, value in parameters.items())
    with connected(address) as client:
        client.sendall(record(1, struct.pack("!HB5x", 1, 0)) + record(4, pairs) + record(4, b"") + record(5, b""))
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    body = b""
    while answer:
        _, kind, _, length, padding = struct.unpack("!BBHHBx", answer[:8])
        if kind == 6:
            body += answer[8 : 8 + length]
        answer = answer[8 + length + padding :]
    return body.partition(b"\r\n\r\n")[2]


def start_nginx(stage, servers, syslogs):
    """nginx before one or more servers, each at the path of its name. It reports its errors to `syslogs`."""
    directory = stage.directory
    places = ""
    for server in servers:
        if server.name == "php-fpm":
            passes = f"include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME {directory}/app.php; fastcgi_pass {server.upstream}; fastcgi_connect_timeout 600s; fastcgi_read_timeout 600s; fastcgi_next_upstream off;"
        else:
            passes = f"proxy_pass http://{server.upstream}; proxy_connect_timeout 600s; proxy_read_timeout 600s; proxy_next_upstream off;"
        places += f"    location /{server.name} {{ {passes} }}\n"
    configuration = (DEMO / "nginx.conf").read_text()
    for word, value in (("DIRECTORY", directory), ("UPSTREAM", "127.0.0.1:1"), ("PORT", NGINX), ("worker_connections 2048", "worker_connections 4096")):
        configuration = configuration.replace(word, str(value))
    log = f"error_log syslog:server=unix:{directory}/log.socket,nohostname error;\n"
    assert log in configuration
    configuration = configuration.replace(log, "".join(f"error_log syslog:server=unix:{path},nohostname error;\n" for path in syslogs))
    configuration = configuration.replace("    location / {", f"    location = /stub_status {{ stub_status; }}\n{places}    location / {{")
    path = directory / "nginx.conf"
    path.write_text(configuration)
    child = stage.processes.start("nginx", ["nginx", "-c", path, "-e", directory / "error.log"])
    stage.processes.until("nginx", lambda: get(NGINX, "/nginx-is-up") == "yes\n")
    return child


def connected(address):
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    client.settimeout(10)
    client.connect(address)
    return client
