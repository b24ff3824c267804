"""The programs that are compared. Each tool collects its own output, and returns what it reported of the watched listener."""

import ctypes
import errno as errno_module
import json
import pathlib
import re
import socket
import subprocess
import sys
import threading

from servers import NGINX, ROOT, STATSD, get

HERE = pathlib.Path(__file__).resolve().parent
OURS, FALLBACK, NODE, NODE_EXPORTER = 10128, 10129, 10130, 9300
REFUSE = ROOT / "tests/common/refuse.py"
EPERM = 1
# The bench's name for the watched listener.
APP = "app"


class Tool:
    """`seen` is the most that it reported of each: depth, limit, full, refused, wait, abandoned, member."""

    name = ""

    def __init__(self, stage):
        self.stage = stage
        self.seen = {}
        self.output = []
        self.child = None

    def start(self):
        pass

    def is_up(self):
        return True

    def scrape(self):
        """Asks a tool that is asked."""

    def stop(self):
        pass

    def saw(self, **figures):
        for name, value in figures.items():
            if value is not None:
                self.seen[name] = max(self.seen.get(name, value), value)

    def keep(self, text):
        self.output.append(text if text.endswith("\n") else text + "\n")


def series(text):
    """A page of metrics as a dictionary."""
    rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


class Exporter(Tool):
    """This project beside one application."""

    name = "this project"
    port, interval = OURS, "10ms"
    options = ()
    before = ()
    # Whether it receives nginx's error log.
    takes_log = True

    def __init__(self, stage):
        super().__init__(stage)
        self.syslog = stage.directory / f"{self.port}.syslog"
        self.first = None

    def command(self, *more):
        target = f"unix:{self.stage.watched}" if self.stage.transport == "unix" else f"tcp:{self.stage.watched}"
        listener = f"{APP}={target}" + (f",backlog={self.stage.backlog}" if self.port == FALLBACK else "")
        command = [*self.before, self.stage.arguments.exporter, "--listener", listener, *self.options]
        return [*command, "--web.listen-address", f"127.0.0.1:{self.port}", *more]

    def start(self):
        log = ("--nginx.syslog", f"unix:{self.syslog}") if self.takes_log else ()
        self.child = self.stage.processes.start(f"exporter-{self.port}", self.command("--sample.interval", self.interval, *log))

    def is_up(self):
        return self.of(series(get(self.port, "/metrics")), "listen_queue_depth") is not None

    def of(self, page, name):
        """The sum of the series of this name that are about the watched listener; None if there are none."""
        found = [value for key, value in page.items() if key.startswith(f"{name}{{") and f'listener="{APP}"' in key]
        return sum(found) if found else None

    def scrape(self):
        text = get(self.port, "/metrics")
        self.keep(text)
        page = series(text)
        self.first = self.first or page

        def since(name):
            now = self.of(page, name)
            return None if now is None else now - (self.of(self.first, name) or 0)

        count, total = (since(f"listen_queue_wait_seconds_{part}") for part in ("count", "sum"))
        self.saw(
            depth=self.of(page, "listen_queue_depth_peak"),
            limit=self.of(page, "listen_queue_backlog"),
            full=since("listen_queue_full_seconds_total"),
            refused=since("listen_queue_refused_connects_total" if self.stage.transport == "unix" else "listen_queue_listener_drops_total"),
            wait=self.of(page, "listen_queue_oldest_wait_seconds"),
            mean_wait=total / count if count else None,
            abandoned=self.of(page, "listen_queue_abandoned_connections"),
        )


class Fallback(Exporter):
    name, port = "this project without sock_diag, backlog configured", FALLBACK
    before = (sys.executable, REFUSE, "socket", EPERM)
    takes_log = False


class Node(Exporter):
    name, port, interval = "this project, --node", NODE, "50ms"
    options = ("--node", "--node.idle")
    takes_log = False


class Ss(Tool):
    name = "ss each second"
    command = ("ss", "-lntxmHO")

    def start(self):
        self.ended = threading.Event()
        self.drops = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            self.list_once()
            if self.ended.wait(1):
                return

    def list_once(self):
        text = subprocess.run(self.command, capture_output=True, text=True, check=True).stdout
        rows = [line for line in text.splitlines() if line.split()[4] == self.stage.watched]
        self.keep("\n".join(rows))
        drops = None
        for row in rows:
            depth, limit = map(int, row.split()[2:4])
            self.saw(depth=depth, limit=limit, full=depth > limit)
            found = re.search(r"skmem:\(.*,d(\d+)\)", row)
            if found and self.stage.transport == "tcp":
                drops = (drops or 0) + int(found[1])
        if drops is not None:
            self.drops = drops if self.drops is None else self.drops
            self.saw(refused=drops - self.drops)

    def stop(self):
        self.ended.set()
        self.thread.join()


class Raindrops(Tool):
    name, interval = "raindrops each second", 1

    def start(self):
        unix, tcp = (self.stage.watched, "127.0.0.1:1") if self.stage.transport == "unix" else ("/none", self.stage.watched)
        self.child = self.stage.processes.start("raindrops", ["ruby", HERE / "raindrops.rb", self.interval, unix, tcp])

    def is_up(self):
        return self.stage.processes.log("raindrops") != ""

    def stop(self):
        text = self.stage.processes.log("raindrops")
        self.keep(text)
        for line in text.splitlines():
            self.saw(depth=int(line.split()[0 if self.stage.transport == "unix" else 1]))


class Dump(Tool):
    """promenade's method: a C program of ours."""

    name, interval = "promenade's method each 25 ms", 0.025

    def start(self):
        self.child = self.stage.processes.start("dump", [self.stage.built("dump"), round(self.interval * 1e6)])

    def stop(self):
        text = self.stage.processes.log("dump")
        self.keep(text)
        if self.stage.transport == "tcp":
            self.saw(depth=0)
            for line in text.splitlines():
                port, queued = line.split()
                if self.stage.watched.endswith(f":{port}"):
                    self.saw(depth=int(queued))


class NodeExporter(Tool):
    name = "node_exporter"

    def start(self):
        self.first = None
        self.child = self.stage.processes.start("node_exporter", ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{NODE_EXPORTER}", "--log.level=error"])

    def is_up(self):
        return get(NODE_EXPORTER, "/metrics") != ""

    def scrape(self):
        text = get(NODE_EXPORTER, "/metrics")
        self.keep("\n".join(line for line in text.splitlines() if line.startswith("node_netstat_Tcp")))
        drops = series(text).get("node_netstat_TcpExt_ListenDrops")
        if drops is not None and self.stage.transport == "tcp":
            self.first = drops if self.first is None else self.first
            self.saw(refused_of_all=drops - self.first)


class GunicornMetric(Tool):
    name = "gunicorn --enable-backlog-metric"

    def start(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", STATSD))
        self.socket.settimeout(0.2)
        self.received = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ended.is_set():
            try:
                text = self.socket.recv(65536).decode()
            except TimeoutError:
                continue
            for prefix, value in re.findall(r"^(\S*?)\.?gunicorn\.backlog:(-?\d+)", text, re.MULTILINE):
                self.received += 1
                self.keep(f"{prefix}.gunicorn.backlog {value}")
                self.saw(depth=int(value))

    def stop(self):
        self.ended.set()
        self.thread.join()
        self.socket.close()


class UwsgiStats(Tool):
    name = "uWSGI stats"

    def scrape(self):
        for server in self.stage.servers:
            if server.name == "uwsgi":
                depth, limit = server.queue()
                self.keep(json.dumps(server.stats()["sockets"]))
                self.saw(depth=depth, limit=limit, full=depth > limit > 0)


class FpmStatus(Tool):
    name = "PHP-FPM status"

    def scrape(self):
        for server in self.stage.servers:
            if server.name == "php-fpm":
                depth, limit = server.queue()
                self.keep(json.dumps(server.status()))
                self.saw(depth=depth, limit=limit, full=depth > limit > 0)


class StubStatus(Tool):
    name = "nginx stub_status"

    def scrape(self):
        self.keep(get(NGINX, "/stub_status"))


class Ebpf(Tool):
    """ebpf_exporter's method: a BPF program of ours, loaded with libbpf."""

    name = "ebpf_exporter's method"

    def start(self):
        self.library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        for function, result, arguments in (
            ("bpf_object__open_file", pointer, [text, pointer]),
            ("bpf_object__load", ctypes.c_int, [pointer]),
            ("bpf_object__next_program", pointer, [pointer, pointer]),
            ("bpf_program__attach", pointer, [pointer]),
            ("bpf_object__find_map_fd_by_name", ctypes.c_int, [pointer, text]),
            ("bpf_map_lookup_elem", ctypes.c_int, [ctypes.c_int, pointer, pointer]),
            ("bpf_object__close", None, [pointer]),
        ):
            declared = getattr(self.library, function)
            declared.restype, declared.argtypes = result, arguments
        self.library.libbpf_set_print(None)
        self.object = self.library.bpf_object__open_file(str(self.stage.bpf_object()).encode(), None)
        if not self.object:
            raise SystemExit("libbpf cannot open tests/peers/depth.bpf.c")
        outcome = self.library.bpf_object__load(self.object)
        if outcome == 0 and self.library.bpf_program__attach(self.library.bpf_object__next_program(self.object, None)):
            self.map = self.library.bpf_object__find_map_fd_by_name(self.object, b"depths")
            return
        errno = -outcome if outcome else ctypes.get_errno()
        self.map = None
        self.seen["refusal"] = f"refused by this kernel ({errno_module.errorcode.get(errno, errno)})"
        self.keep(self.seen["refusal"])

    def scrape(self):
        """The upper bound of the highest bucket that counts something; of unix sockets alone."""
        if self.map is None or self.stage.transport == "tcp":
            return
        buckets = []
        for bucket in range(18):
            count = ctypes.c_uint64()
            self.library.bpf_map_lookup_elem(self.map, ctypes.byref(ctypes.c_uint32(bucket)), ctypes.byref(count))
            buckets.append(count.value)
        self.keep(json.dumps(buckets))
        highest = max((bucket for bucket, count in enumerate(buckets) if count), default=0)
        self.saw(depth=2**highest - 1)

    def stop(self):
        self.library.bpf_object__close(self.object)


ALL = [Exporter, Fallback, Node, Ss, Raindrops, NodeExporter, GunicornMetric, UwsgiStats, FpmStatus, StubStatus, Dump, Ebpf]
