#!/usr/bin/env python3
"""The failure that this project exists for, on real programs: nginx, gunicorn, the exporter and Prometheus with the shipped rules.

In a network namespace of its own with somaxconn 128, 200 requests arrive within one second at 4 workers that are busy for longer than
that. 4 are served, 129 wait, and the rest are refused: nginx answers 502. Then somaxconn is raised, gunicorn restarted (a listener keeps
the limit that it was given), and the same load passes.

Over TCP no connect is refused: the kernel drops SYNs to a full queue, and clients try again later.

    demo.py --exporter BINARY [--gunicorn PROGRAM] [--transport unix|tcp]

It prints each step and, at the end, the figures with their expected values. The exit code is 0 if all agree.
Everything that it starts lives in a process namespace of its own and ends with it, also on Ctrl-C.
"""

import argparse
import asyncio
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(ROOT / "tests/dashboard"))
import answers as dashboard  # noqa: E402

RULES = ROOT / "deploy/prometheus/rules.yaml"

WORKERS = 4
REQUESTS = 200
BURST_SECONDS = 1.0
# Of an overload that is long enough to be critical without a source of refused connects.
LASTING = 15
# How long the queue stays full after a burst: without sock_diag it is read a few times a second, or less often beside much other work.
SERVICE_SECONDS, SERVICE_SECONDS_WITHOUT_SOCK_DIAG = 2.0, 4.0
LOW, HIGH = 128, 4096
EXPORTER, PROMETHEUS, NGINX, GUNICORN = 10128, 9090, 8080, 8000
# The alert that says it while it happens.
REFUSED_ALERT = {"unix": "ListenQueueConnectionsRefused", "tcp": "ListenQueueTcpOverflow"}
# What only the other transport has, and what the demo has not: nginx's log over UDP.
ABSENT = {
    "unix": ('limit="unknown"', "listen_queue_listener_drops_total", "listen_queue_syn_queue_depth", "nginx_log_dropped_datagrams"),
    "tcp": (
        'limit="unknown"',
        "listen_queue_refused_connects_total",
        "listen_queue_wait_seconds",
        "listen_queue_unanchored_rounds_total",
        "listen_queue_blocked_connects",
        "nginx_log_dropped_datagrams",
    ),
}
# Seconds after the burst began: the queue is full of work, and two scrapes have seen it.
FAILURE = 10
# Seconds that the dashboard shows then.
SHOWN = 60
# Waiting for a condition ends in a failure after this long.
PATIENCE = 240


def main():
    arguments = parse_arguments()
    begin(arguments, ["nginx", "prometheus", "unshare", "ip"])
    with tempfile.TemporaryDirectory(prefix="listen-queue-demo-") as directory:
        demo = Demo(arguments, pathlib.Path(directory))
        try:
            failures = demo.run()
        except KeyboardInterrupt:
            failures = ["interrupted"]
        finally:
            demo.stop()
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures else 0)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporter", required=True, type=os.path.abspath)
    parser.add_argument("--gunicorn", default=str(ROOT / "target/tools/bin/gunicorn"), type=os.path.abspath)
    parser.add_argument("--transport", choices=("unix", "tcp"), default="unix")
    parser.add_argument("--without-sock-diag", choices=("configured", "unknown"), help="deny sock_diag to the exporter, with the backlog configured or unknown")
    parser.add_argument("--answers", type=os.path.abspath, help="a file for what Prometheus answered to the dashboard, for tests/dashboard/draw.sh")
    return parser.parse_args()


def begin(arguments, programs, groups="base"):
    """Sees that all programs are there, and goes on in namespaces of its own."""
    missing = [program for program in programs if not shutil.which(program)]
    missing += [path for path in (arguments.gunicorn, arguments.exporter) if not os.access(path, os.X_OK)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}; install with: tests/install.sh {groups}, build the exporter with: cargo build --release")
    if os.environ.pop("LISTEN_QUEUE_DEMO", None) != "inside":
        enter_namespaces()


def enter_namespaces():
    """Starts this program anew with its own network and processes, which end with it."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *as_root, "--net", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *sys.argv]
    inside = subprocess.Popen(command, env={**os.environ, "LISTEN_QUEUE_DEMO": "inside"})
    # The terminal sends Ctrl-C to both: the inner one cleans up, this one waits for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # unshare does not pass SIGTERM on: the signal goes to its child.
    children = pathlib.Path(f"/proc/{inside.pid}/task/{inside.pid}/children")
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(int(child), signal.SIGTERM) for child in children.read_text().split()])
    sys.exit(inside.wait())


class Demo:
    def __init__(self, arguments, directory):
        self.arguments = arguments
        self.directory = directory
        self.socket = directory / "gunicorn.socket"
        self.children = []
        self.failures = []
        self.counts = {}
        self.alerts_seen = set()
        self.service_seconds = SERVICE_SECONDS_WITHOUT_SOCK_DIAG if arguments.without_sock_diag else SERVICE_SECONDS
        signal.signal(signal.SIGTERM, interrupt)

    def run(self):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self.set_somaxconn(LOW)
        gunicorn = self.start_gunicorn()
        self.start_exporter()
        self.start_nginx()
        self.start_prometheus()

        if self.arguments.without_sock_diag:
            self.burst()
            self.check_without_sock_diag()
            if self.arguments.without_sock_diag == "configured":
                self.say(f"the same, and overload for {LASTING} s more")
                self.burst(goes_on=LASTING)
                alert = REFUSED_ALERT["unix"]
                self.check(f"the alert {alert} fired", self.fired(alert))
            return self.failures
        self.say(f"somaxconn {LOW}, {WORKERS} workers, {self.service_seconds} s a request: {REQUESTS} requests in {BURST_SECONDS:.0f} s")
        self.burst()
        self.check_refusals()
        alert = REFUSED_ALERT[self.arguments.transport]
        self.check(f"the alert {alert} fired", alert in self.alerts_seen)
        self.check_dashboard()
        if self.arguments.answers:
            self.save_answers()
        self.wait_for(f"the alert {alert} resolves", lambda: not self.alerts("firing"))

        self.say(f"somaxconn {HIGH}, gunicorn restarted, the same load")
        self.set_somaxconn(HIGH)
        self.end(gunicorn)
        self.start_gunicorn()
        self.wait_for("the exporter sees the new limit", lambda: self.metric("listen_queue_capacity") == expected_capacity(HIGH))
        before = {name: self.metric(name) for name in ("listen_queue_full_episodes_total", "listen_queue_tcp_listen_overflows_total")}
        self.alerts_seen.clear()
        self.burst()
        self.check_equal("200s", self.counts.get(200, 0), REQUESTS)
        self.check_equal("502s", self.counts.get(502, 0), 0)
        for name, value in before.items():
            self.check_equal(f"growth of {name}", self.metric(name) - value, 0)
        self.check_equal("critical alerts", sorted(self.alerts_seen), [])
        return self.failures

    def check_refusals(self):
        capacity = LOW + 1
        self.check_equal("capacity", self.metric("listen_queue_capacity"), capacity)
        # While it was full: the peak's window may have passed by the time that the last request is answered.
        peak = self.query('listen_queue_depth_peak{listener="gunicorn"}', self.burst_began + FAILURE)
        self.check_equal("peak depth", [float(series["value"][1]) for series in peak], [capacity])
        self.check("the queue was seen full", self.metric("listen_queue_full_seconds_total") > 0)
        if self.arguments.transport == "unix":
            self.check_equal("200s (capacity + workers)", self.counts.get(200, 0), capacity + WORKERS)
            self.check_equal("502s (the rest)", self.counts.get(502, 0), REQUESTS - capacity - WORKERS)
            log = (self.directory / "error.log").read_text(errors="replace")
            self.check_equal("EAGAIN lines of nginx", log.count("failed (11: Resource temporarily unavailable)"), self.counts.get(502, 0))
            refused = self.metric("listen_queue_refused_connects_total", ',source="nginx_log"')
            self.check_equal("refused connects, counted from nginx's log", refused, self.counts.get(502, 0))
        else:
            self.check_equal("200s", self.counts.get(200, 0), REQUESTS)
            overflows = self.metric("listen_queue_tcp_listen_overflows_total")
            self.check("overflows were counted", overflows > 0)
            # An overflow at the end of a handshake counts twice among the drops.
            self.check("drops are at least the overflows", self.metric("listen_queue_listener_drops_total") >= overflows)

    def check_without_sock_diag(self):
        """The burst as the tables of /proc/net show it."""
        self.check_equal("200s (capacity + workers)", self.counts.get(200, 0), LOW + 1 + WORKERS)
        peak = self.query('listen_queue_depth_peak{listener="gunicorn"}', self.burst_began + FAILURE)
        self.check_equal("peak depth", [float(series["value"][1]) for series in peak], [LOW + 1])
        is_configured = self.arguments.without_sock_diag == "configured"
        self.check_equal("capacity", self.metric("listen_queue_capacity"), LOW + 1 if is_configured else 0)
        alert = "ListenQueueFull" if is_configured else "ListenQueueMayBeFull"
        self.check(f"the alert {alert} fired", self.fired(alert))

    def fired(self, alert):
        return bool(self.query(f'max_over_time(ALERTS{{alertname="{alert}",alertstate="firing"}}[5m])', time.time()))

    def check_dashboard(self):
        """Every expression of the dashboard has an answer in the middle of the failure."""
        at = self.burst_began + FAILURE
        expressions = [target["expr"] for _, target in dashboard.targets()]
        empty = [expression for expression in expressions if not self.query(dashboard.fill(expression, SHOWN, "15s"), at)]
        absent = ABSENT[self.arguments.transport]
        wrong = [expression for expression in empty if not any(name in expression for name in absent)]
        self.check_equal("panels without data", wrong, [])

    def save_answers(self):
        """What each panel's expressions answer over the burst, by panel and expression."""
        found = dashboard.all_of(f"127.0.0.1:{PROMETHEUS}", self.burst_began - 15, time.time(), 1, "15s")
        pathlib.Path(self.arguments.answers).write_text(json.dumps(found))

    # The load.

    def burst(self, goes_on=0):
        """A burst, and for so many seconds more requests than the workers finish."""
        self.counts = {}
        self.burst_began = time.time()
        asyncio.run(self.send_burst(goes_on))
        self.show()

    async def send_burst(self, goes_on):
        show = asyncio.create_task(self.show_each_second())
        start = time.monotonic()
        requests = []
        for number in range(REQUESTS):
            await asyncio.sleep(start + number * BURST_SECONDS / REQUESTS - time.monotonic())
            requests.append(asyncio.create_task(self.request()))
        end = time.monotonic() + goes_on
        while time.monotonic() < end:
            await asyncio.sleep(1 / (5 * WORKERS))
            requests.append(asyncio.create_task(self.request()))
        await asyncio.gather(*requests)
        show.cancel()

    async def request(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", NGINX)
        writer.write(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
        status = int((await reader.readline()).split()[1])
        await reader.read()
        writer.close()
        self.counts[status] = self.counts.get(status, 0) + 1

    async def show_each_second(self):
        while True:
            await asyncio.sleep(1)
            await asyncio.to_thread(self.show)

    def show(self):
        firing, pending = self.alerts("firing"), self.alerts("pending")
        self.alerts_seen |= firing
        depth, capacity = self.metric("listen_queue_depth"), self.metric("listen_queue_capacity")
        answers = " ".join(f"{status}: {count:<4}" for status, count in sorted(self.counts.items()))
        alerts = " ".join([*(f"{name} firing" for name in sorted(firing)), *(f"{name} pending" for name in sorted(pending - firing))])
        print(f"  queue {depth:4.0f} of {capacity:.0f}   {answers:<22} {alerts}", flush=True)

    # What was found.

    @staticmethod
    def metric(name, labels=""):
        """The value of the listener's series, or of the only one."""
        for line in get(EXPORTER, "/metrics").splitlines():
            series, _, value = line.rpartition(" ")
            if series in (name, f'{name}{{listener="gunicorn"{labels}}}'):
                return float(value)
        return 0.0

    @staticmethod
    def query(expression, at):
        parameters = urllib.parse.urlencode({"query": expression, "time": at})
        return json.loads(get(PROMETHEUS, f"/api/v1/query?{parameters}"))["data"]["result"]

    def alerts(self, state):
        answer = json.loads(get(PROMETHEUS, "/api/v1/alerts"))
        alerts = answer["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == state and alert["labels"].get("severity") == "critical"}

    def check(self, what, holds):
        print(f"  {'ok' if holds else 'NO'}: {what}", flush=True)
        if not holds:
            self.failures.append(what)

    def check_equal(self, what, found, expected):
        self.check(f"{what}: {found} (expected {expected})", found == expected)

    def wait_for(self, what, condition):
        print(f"  waiting until {what}", flush=True)
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                self.failures.append(f"{what}: not within {PATIENCE} s")
                return
            time.sleep(0.5)

    @staticmethod
    def say(text):
        print(f"\n{text}", flush=True)

    # The programs.

    @staticmethod
    def set_somaxconn(value):
        pathlib.Path("/proc/sys/net/core/somaxconn").write_text(str(value))

    def start_gunicorn(self):
        bind = f"unix:{self.socket}" if self.arguments.transport == "unix" else f"127.0.0.1:{GUNICORN}"
        options = ["--workers", str(WORKERS), "--backlog", "2048", "--timeout", "0", "--bind", bind, "--pythonpath", str(HERE)]
        if "--no-control-socket" in subprocess.run([self.arguments.gunicorn, "--help"], capture_output=True, text=True).stdout:
            options.append("--no-control-socket")
        environment = {**os.environ, "SERVICE_SECONDS": str(self.service_seconds)}
        gunicorn = self.start("gunicorn", [self.arguments.gunicorn, *options, "app:application"], environment)
        booted = "Booting worker"
        self.wait_until_up("gunicorn", lambda: self.log("gunicorn").count(booted) >= WORKERS)
        return gunicorn

    def start_nginx(self):
        upstream = f"unix:{self.socket}" if self.arguments.transport == "unix" else f"127.0.0.1:{GUNICORN}"
        configuration = (HERE / "nginx.conf").read_text()
        for word, value in (("DIRECTORY", self.directory), ("UPSTREAM", upstream), ("PORT", NGINX)):
            configuration = configuration.replace(word, str(value))
        path = self.directory / "nginx.conf"
        path.write_text(configuration)
        self.start("nginx", ["nginx", "-c", str(path), "-e", str(self.directory / "error.log")])
        self.wait_until_up("nginx", lambda: get(NGINX, "/nginx-is-up") == "yes\n")

    def start_exporter(self):
        address = f"unix:{self.socket}" if self.arguments.transport == "unix" else f"tcp:127.0.0.1:{GUNICORN}"
        listener = f"gunicorn={address},backlog=2048"
        command = [self.arguments.exporter]
        options = ["--nginx.syslog", f"unix:{self.directory}/log.socket"]
        if self.arguments.without_sock_diag:
            command = [sys.executable, str(ROOT / "tests/common/refuse.py"), "socket", str(errno.EPERM), *command]
            listener = f"gunicorn={address}" + (f",backlog={LOW}" if self.arguments.without_sock_diag == "configured" else "")
            options = []
        self.start("exporter", [*command, "--listener", listener, *options, "--web.listen-address", f"127.0.0.1:{EXPORTER}"])
        self.wait_until_up("the exporter", lambda: self.metric("listen_queue_listener_up") == 1)

    def rules(self):
        """The rules with a window of one minute instead of five, so that the end of an alert comes sooner."""
        path = self.directory / "rules.yaml"
        path.write_text(RULES.read_text().replace("[5m]", "[1m]").replace("offset 5m", "offset 1m").replace("_seconds < 300", "_seconds < 60"))
        return path

    def start_prometheus(self):
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self.rules())],
            "scrape_configs": [{"job_name": "listen-queue-exporter", "static_configs": [{"targets": [f"127.0.0.1:{EXPORTER}"]}]}],
        }
        path = self.directory / "prometheus.yaml"
        path.write_text(json.dumps(configuration))
        storage = self.directory / "prometheus"
        command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={storage}", f"--web.listen-address=127.0.0.1:{PROMETHEUS}"]
        self.start("prometheus", command)
        self.wait_until_up("prometheus", self.scraped)

    @staticmethod
    def scraped():
        answer = json.loads(get(PROMETHEUS, "/api/v1/query?query=listen_queue_listener_up"))
        return bool(answer["data"]["result"])

    def start(self, name, command, environment=None):
        log = open(self.directory / f"{name}.log", "ab")
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
        self.children.append(child)
        return child

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def wait_until_up(self, what, up):
        deadline = time.monotonic() + 60
        while True:
            try:
                if up():
                    return
            except (OSError, urllib.error.URLError):
                pass
            if time.monotonic() > deadline:
                logs = "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in self.directory.glob("*.log"))
                raise SystemExit(f"{what} did not come up within 60 s{logs}")
            time.sleep(0.1)

    def end(self, child):
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self.children.remove(child)
        # The next "Booting worker" lines have to be the new gunicorn's.
        (self.directory / "gunicorn.log").unlink(missing_ok=True)

    def stop(self):
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def interrupt(*_):
    raise KeyboardInterrupt


def expected_capacity(somaxconn):
    return min(2048, somaxconn) + 1


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
