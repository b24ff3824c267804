#!/usr/bin/env python3
"""Hours of a busy web server beside the exporter, and whether anything in it grows, falls behind or counts wrong.

In namespaces of their own: nginx before gunicorn over a unix socket with a short queue, a group of SO_REUSEPORT members, a TCP listener that
never accepts, a unix listener that is filled and drained, and short-lived listeners under ever new names. Requests never cease; bursts
overflow the queue; nginx and gunicorn are reloaded and restarted, members come and go. The exporter is scraped each second and two live
pages are open.

    soak.py --exporter BINARY [--duration 10m] [--gunicorn PROGRAM]

At the end: memory, descriptors and threads are what they were after the first minute, no counter ever fell, every counter whose truth is
known is equal to it, and fewer than one round in a thousand was late. A sleeper of the same interval beside it shows what the machine
itself was late. The exit code is 0 if all of it holds.
"""

import argparse
import asyncio
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
DEMO = HERE.parent / "demo"
sys.path.insert(0, str(DEMO))
from demo import begin, get  # noqa: E402

ROOT = HERE.parents[1]
EXPORTER, NGINX, GROUP, STALLED = 10128, 8080, 8001, 8002
WORKERS, BACKLOG = 2, 8
SERVICE_SECONDS = 0.005
REQUESTS_A_SECOND, BURST = 40, 60
INTERVAL = 0.01
# What may be late: one round in a thousand.
LATE = 0.001
# Listeners that went away and are remembered, and how many are discovered at once.
REMEMBERED, DISCOVERED = 1024, 200
# A run that is shorter does not fill that memory first.
LONG = 120
# Kibibytes that memory may grow by after the first minute, for the allocator's sake.
GROWTH = 1024
UNITS = {"s": 1, "m": 60, "h": 3600}


def main():
    arguments = parse_arguments()
    if arguments.member:
        return serve_as_member()
    if arguments.sleeper:
        return sleep_beside()
    begin(arguments, ["nginx", "unshare", "ip"])
    with tempfile.TemporaryDirectory(prefix="listen-queue-soak-") as directory:
        soak = Soak(arguments, pathlib.Path(directory))
        try:
            asyncio.run(soak.run())
        finally:
            soak.stop()
    for failure in soak.failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if soak.failures else 0)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporter", type=os.path.abspath, default=str(ROOT / "target/release/listen-queue-exporter"))
    parser.add_argument("--gunicorn", type=os.path.abspath, default=str(ROOT / "target/tools/bin/gunicorn"))
    parser.add_argument("--duration", type=seconds, default="10m", help="as in 90s, 10m, 2h; at least 20s")
    parser.add_argument("--member", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--sleeper", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def seconds(text):
    parts = re.fullmatch(r"(\d+)([smh])", text)
    value = parts and int(parts[1]) * UNITS[parts[2]]
    if not value or value < 20:
        raise argparse.ArgumentTypeError("not a duration of at least 20s, as in 90s, 10m or 2h")
    return value


class Soak:
    def __init__(self, arguments, directory):
        self.arguments = arguments
        self.directory = directory
        self.gunicorn_socket = directory / "gunicorn.socket"
        self.children = {}
        self.members = []
        self.failures = []
        self.statuses = {}
        self.truth = dict.fromkeys(("restarts", "fills", "drops", "reloads", "members", "short"), 0)
        self.filled_seconds = 0.0
        # The last value of each counter, also of listeners that were removed.
        self.counters = {}
        self.page = {}
        self.scrapes = []
        self.events = [0, 0]
        self.usage = []

    async def run(self):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        # nginx drops what does not fit, and no counter shows that.
        pathlib.Path("/proc/sys/net/unix/max_dgram_qlen").write_text("512")
        self.filled = listener(socket.AF_UNIX, str(self.directory / "filled.socket"), 3)
        self.stalled = listener(socket.AF_INET, ("127.0.0.1", STALLED), 0)
        self.waiting = [connected(self.stalled.getsockname())]
        self.start_member()
        self.start_member()
        await self.start_gunicorn()
        self.start_exporter()
        await self.until("the exporter", self.sees_everything)
        self.start_nginx()
        await self.until("nginx", lambda: get(NGINX, "/nginx-is-up") == "yes\n")
        if self.arguments.duration >= LONG:
            await self.fill_memory()
        self.start("sleeper", [sys.executable, __file__, "--sleeper"], stdout=subprocess.PIPE)

        self.began = time.monotonic()
        self.say(f"{self.arguments.duration} s")
        await asyncio.gather(self.scrape_each_second(), self.watch(0), self.watch(1), self.load(), self.disturb(), self.flicker())
        await self.judge()

    async def fill_memory(self):
        """What the exporter remembers of listeners that went is bounded: grown to its bound first, it grows no more."""
        for number in range(0, REMEMBERED, DISCOVERED):
            listeners = [listener(socket.AF_UNIX, f"\0gone-{number + each}", 1) for each in range(DISCOVERED)]
            last = f"unix:@gone-{number + DISCOVERED - 1}"
            await self.until("the last of many listeners", lambda: self.has(last))
            for each in listeners:
                each.close()
            await self.until("all to be removed", lambda: not self.has(last))

    def has(self, name):
        self.scrape()
        return self.of("listen_queue_depth", name) is not None

    # What goes on.

    def left(self):
        return self.began + self.arguments.duration - time.monotonic()

    async def load(self):
        """A steady stream of requests through nginx and to the group, and a burst each five seconds."""
        tasks, number = set(), 0
        while self.left() > 0:
            number += 1
            burst = number % (5 * REQUESTS_A_SECOND) == 0
            requests = [self.request(NGINX) for _ in range(BURST if burst else 1)] + [self.request(GROUP)]
            for request in requests:
                task = asyncio.create_task(request)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / REQUESTS_A_SECOND)
        await asyncio.gather(*tasks)

    async def request(self, port):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
            status = int((await reader.readline()).split()[1])
            await reader.read()
            writer.close()
        except (OSError, IndexError):
            # A member that went had the connection in its queue.
            status = 0
        if port == NGINX:
            self.statuses[status] = self.statuses.get(status, 0) + 1

    async def disturb(self):
        """Reloads, restarts, members, full queues: each thing in its turn, one each two seconds."""
        turns = [self.fill, self.reload_nginx, self.change_members, self.drop, self.reload_gunicorn, self.fill, self.change_members, self.restart_gunicorn]
        number = 0
        while self.left() > 4:
            await turns[number % len(turns)]()
            number += 1
            await asyncio.sleep(min(2, max(0, self.left())))

    async def fill(self):
        """Fills a unix queue to the brim for half a second."""
        clients = [connected(self.filled.getsockname()) for _ in range(4)]
        full = time.monotonic()
        await asyncio.sleep(0.5)
        self.filled_seconds += time.monotonic() - full
        for client in clients:
            self.filled.accept()[0].close()
            client.close()
        self.truth["fills"] += 1

    async def drop(self):
        """SYNs that find the queue full: each connect sends one, and gives up before it sends another."""
        for _ in range(5):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self.stalled.getsockname())
            await asyncio.sleep(0.05)
            client.close()
            self.truth["drops"] += 1

    async def change_members(self):
        """The second member makes room for another; the first one stays."""
        self.start_member()
        await asyncio.sleep(1.5)
        self.end(self.members.pop(1))
        self.truth["members"] += 1

    async def reload_nginx(self):
        self.children["nginx"].send_signal(signal.SIGHUP)
        self.truth["reloads"] += 1

    async def reload_gunicorn(self):
        self.children["gunicorn"].send_signal(signal.SIGHUP)
        self.truth["reloads"] += 1

    async def restart_gunicorn(self):
        await asyncio.to_thread(self.end, "gunicorn")
        await self.start_gunicorn()
        self.truth["restarts"] += 1

    async def flicker(self):
        """Listeners that live for two seconds, each under a name of its own."""
        while self.left() > 4:
            name = f"\0soak-{self.truth['short']}"
            with listener(socket.AF_UNIX, name, 1):
                self.truth["short"] += 1
                await asyncio.sleep(2)

    async def watch(self, number):
        """A live page: its stream of events, four a second."""
        reader, writer = await asyncio.open_connection("127.0.0.1", EXPORTER)
        writer.write(b"GET /-/stream HTTP/1.1\r\nHost: soak\r\n\r\n")
        while self.left() > 0:
            self.events[number] += (await asyncio.wait_for(reader.read(1 << 20), 10)).count(b"data: ")
        writer.close()

    async def scrape_each_second(self):
        while self.left() > 0:
            await asyncio.to_thread(self.scrape)
            self.usage.append(usage(self.children["exporter"].pid))
            await asyncio.sleep(1)

    def scrape(self):
        before = time.monotonic()
        text = get(EXPORTER, "/metrics")
        self.scrapes.append(time.monotonic() - before)
        counts = set(re.findall(r"^# TYPE (\S+) (?:counter|histogram)$", text, re.MULTILINE))
        self.page = {}
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            series, _, value = line.rpartition(" ")
            value = float(value)
            self.page[series] = value
            name = series.partition("{")[0]
            if name in counts or re.sub("_(bucket|sum|count)$", "", name) in counts:
                if value < self.counters.get(series, 0):
                    self.failures.append(f"{series} fell from {self.counters[series]} to {value}")
                self.counters[series] = value

    # What comes of it.

    async def judge(self):
        await self.settle()
        filled, stalled = f"unix:{self.directory}/filled.socket", f"tcp:127.0.0.1:{STALLED}"
        application, group = f"unix:{self.gunicorn_socket}", f"tcp:127.0.0.1:{GROUP}"
        log = (self.directory / "error.log").read_text(errors="replace")
        refused = len(re.findall(r"connect\(\) to unix:\S+ failed \(11: ", log))
        lines = sum(" upstream" in line for line in log.splitlines())
        netstat = tcp_ext()
        of = self.of
        print(f"  truth: {self.truth}; answers: {dict(sorted(self.statuses.items()))}")
        self.check_equal("502s, and lines of nginx about its upstream", lines, self.statuses.get(502, 0))
        self.check("nginx was refused", refused > 0)
        self.check_equal("refused connects", of("listen_queue_refused_connects_total", application, ',source="nginx_log"'), refused)
        self.check_equal("refused lines", self.page.get('listen_queue_nginx_log_messages_total{kind="refused"}'), refused)
        self.check_equal("malformed lines", self.page.get('listen_queue_nginx_log_messages_total{kind="malformed"}'), 0)
        self.check_equal("replacements of gunicorn", of("listen_queue_listener_replacements_total", application), self.truth["restarts"])
        for kept in (group, filled, stalled):
            self.check_equal(f"replacements of {kept}", of("listen_queue_listener_replacements_total", kept), 0)
        self.check_equal("members", of("listen_queue_listener_sockets", group), 2)
        self.check_equal("episodes of a full queue", of("listen_queue_full_episodes_total", filled), self.truth["fills"])
        # Good to an interval at each end. A late round counts for one interval, though a busy machine may hold it up for several.
        error = abs(of("listen_queue_full_seconds_total", filled) - self.filled_seconds)
        late = self.page["listen_queue_samples_late_total"]
        good = self.truth["fills"] * 2 * INTERVAL + self.filled_seconds * 0.01 + late * 5 * INTERVAL
        self.check(f"full seconds are {error:.3f} s off {self.filled_seconds:.3f} s", error <= good)
        self.check_equal("drops", of("listen_queue_listener_drops_total", stalled), self.truth["drops"])
        self.check_equal("ListenOverflows", self.page.get("listen_queue_tcp_listen_overflows_total"), netstat["ListenOverflows"])
        self.check_equal("ListenDrops", self.page.get("listen_queue_tcp_listen_drops_total"), netstat["ListenDrops"])
        self.check_usage()
        self.check_pace()

    async def settle(self):
        """Two scrapes of an idle system."""
        await asyncio.sleep(2)
        for _ in range(2):
            await asyncio.to_thread(self.scrape)
            self.usage.append(usage(self.children["exporter"].pid))
            await asyncio.sleep(1.5)

    def check_usage(self):
        # After the first minute, or the first half of a short run.
        start = min(60, len(self.usage) // 2)
        tenth = max(5, len(self.usage) // 10)
        for name, allowed in (("resident KiB", GROWTH), ("descriptors", 2), ("threads", 0)):
            values = [used[name] for used in self.usage]
            first, last = max(values[start : start + tenth]), max(values[-tenth:])
            self.check(f"{name}: {first} after a minute, {last} at the end, {max(values)} at most", last <= first + allowed)

    def check_pace(self):
        rounds, late = (self.page[f"listen_queue_{name}_total"] for name in ("samples", "samples_late"))
        sleeper = self.children["sleeper"]
        sleeper.terminate()
        slept, slept_late = map(int, sleeper.communicate()[0].split())
        share, machine = late / rounds, slept_late / slept
        figures = f"late rounds: {late:.0f} of {rounds:.0f} ({share:.4%}); a sleeper beside it: {slept_late} of {slept} ({machine:.4%})"
        # Where the machine lets the sleeper wait as well, it says nothing about the exporter.
        self.check(figures, share < LATE or share < 2 * machine)
        span = self.usage[-1]["cpu"] - self.usage[0]["cpu"]
        print(f"  processor time: {span / self.arguments.duration:.2%} of a core")
        self.scrapes.sort()
        print(f"  scrapes: {len(self.scrapes)}, median {self.scrapes[len(self.scrapes) // 2] * 1000:.1f} ms, longest {self.scrapes[-1] * 1000:.1f} ms")
        expected = self.arguments.duration * 4
        self.check(f"events of the live pages: {self.events} of {expected} each", min(self.events) > 0.9 * expected - 10)
        self.check_equal("series of counters checked", len(self.counters) > 100, True)

    def of(self, name, listener, labels=""):
        return self.page.get(f'{name}{{listener="{listener}"{labels}}}')

    def sees_everything(self):
        self.scrape()
        return self.of("listen_queue_listener_sockets", f"tcp:127.0.0.1:{GROUP}") == 2 and self.of("listen_queue_depth", f"unix:{self.gunicorn_socket}") is not None

    def check(self, what, holds):
        print(f"  {'ok' if holds else 'NO'}: {what}", flush=True)
        if not holds:
            self.failures.append(what)

    def check_equal(self, what, found, expected):
        self.check(f"{what}: {found} (expected {expected})", found == expected)

    @staticmethod
    def say(text):
        print(f"\n{text}", flush=True)

    # The programs.

    async def start_gunicorn(self):
        options = ["--workers", str(WORKERS), "--backlog", str(BACKLOG), "--timeout", "0", "--graceful-timeout", "5", "--bind", f"unix:{self.gunicorn_socket}"]
        environment = {**os.environ, "SERVICE_SECONDS": str(SERVICE_SECONDS)}
        command = [self.arguments.gunicorn, *options, "--no-control-socket", "--pythonpath", str(DEMO), "app:application"]
        self.start("gunicorn", command, env=environment)
        await self.until("gunicorn", lambda: connected(str(self.gunicorn_socket)).close() is None)

    def start_exporter(self):
        web = ["--web.listen-address", f"127.0.0.1:{EXPORTER}", "--nginx.syslog", f"unix:{self.directory}/log.socket"]
        self.start("exporter", [self.arguments.exporter, *web])

    def start_nginx(self):
        configuration = (DEMO / "nginx.conf").read_text()
        for word, value in (("DIRECTORY", self.directory), ("UPSTREAM", f"unix:{self.gunicorn_socket}"), ("PORT", NGINX)):
            configuration = configuration.replace(word, str(value))
        path = self.directory / "nginx.conf"
        path.write_text(configuration)
        self.start("nginx", ["nginx", "-c", str(path), "-e", str(self.directory / "error.log")])

    def start_member(self):
        name = f"member {self.truth['members'] + len(self.members)}"
        self.start(name, [sys.executable, __file__, "--member"])
        self.members.append(name)

    def start(self, name, command, **options):
        log = open(self.directory / f"{name}.log", "ab")
        options.setdefault("stdout", log)
        self.children[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True, **options)
        log.close()

    async def until(self, what, is_so):
        deadline = time.monotonic() + 60
        while True:
            try:
                if is_so():
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"{what} did not come up within 60 s")
            await asyncio.sleep(0.1)

    def end(self, name):
        child = self.children.pop(name)
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def stop(self):
        for name in list(self.children):
            self.end(name)


def listener(family, address, backlog):
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(address)
    made.listen(backlog)
    return made


def connected(address):
    client = socket.socket(socket.AF_UNIX if isinstance(address, (str, bytes)) else socket.AF_INET)
    client.settimeout(10)
    client.connect(address)
    return client


def usage(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    number = lambda name: int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1])  # noqa: E731
    ticks = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return {
        "resident KiB": number("VmRSS"),
        "threads": number("Threads"),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "cpu": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
    }


def tcp_ext():
    names, values = (line.split()[1:] for line in pathlib.Path("/proc/net/netstat").read_text().splitlines() if line.startswith("TcpExt:"))
    return dict(zip(names, map(int, values)))


def serve_as_member():
    """One socket of the group: it answers every connection."""
    with socket.socket() as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(("127.0.0.1", GROUP))
        made.listen(64)
        while True:
            client, _ = made.accept()
            try:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                pass
            client.close()


def sleep_beside():
    """What the sampler does with the clock, and nothing else: counts its rounds and those over one interval late."""
    counted = [0, 0]
    signal.signal(signal.SIGTERM, lambda *_: (print(*counted, flush=True), os._exit(0)))
    deadline = time.monotonic()
    while True:
        time.sleep(max(0, deadline - time.monotonic()))
        behind = time.monotonic() - deadline
        counted[0] += 1
        counted[1] += behind > INTERVAL
        deadline += (1 + behind // INTERVAL) * INTERVAL


if __name__ == "__main__":
    main()
