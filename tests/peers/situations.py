"""What each tool sees: the same events, all tools side by side, and what each reported of them."""

import asyncio
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time

import tools
from processes import Processes, go_on, pause, sleeps
from report import Table
from servers import NGINX, Fpm, Gunicorn, Uwsgi, connected, start_nginx
from tools import HERE

SOMAXCONN = 128
REQUESTS, BURST_SECONDS = 200, 1.0
# The application hangs for this long after the burst began.
HANGS = 4.0
SHORT = 0.02
# Prometheus' usual interval.
SCRAPE_INTERVAL = 15
# In the group of two, so that half of the connections are more than a member takes.
GROUP_BACKLOG, GROUP_CONNECTIONS = 16, 80
# So much later comes the next: a member that works has served the one before.
GROUP_DISTANCE = 0.02
QUEUED, DISCONNECTED = 5, 3


class Stage:
    """Servers and tools around one watched listener, until the end of a `with`."""

    def __init__(self, arguments, transport, backlog=SOMAXCONN, is_group=False, kinds=tools.ALL):
        self.arguments, self.transport, self.backlog, self.is_group = arguments, transport, backlog, is_group
        self.temporary = tempfile.TemporaryDirectory(prefix="lqp-")
        self.directory = pathlib.Path(self.temporary.name)
        self.processes = Processes(self.directory)
        self.watched = str(self.directory / "gunicorn.socket") if transport == "unix" else f"0.0.0.0:{Gunicorn.port}"
        self.servers = []
        self.tools = [kind(self) for kind in kinds]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for tool in self.tools:
            if kind is None:
                tool.stop()
        self.processes.stop()
        self.temporary.cleanup()

    def built(self, name):
        return self.arguments.built / name

    def bpf_object(self):
        return build_bpf(self.watched, self.directory)

    def start(self, *servers):
        self.servers = list(servers)
        for server in self.servers:
            self.processes.until(server.name, server.is_up)
        syslogs = [tool.syslog for tool in self.tools if isinstance(tool, tools.Exporter) and tool.takes_log]
        self.nginx = start_nginx(self, self.servers if not self.is_group else self.servers[:1], syslogs)
        for tool in self.tools:
            tool.start()
        for tool in self.tools:
            self.processes.until(tool.name, tool.is_up)
        # What the checks above left in the queues is served.
        time.sleep(0.3)

    def scrape(self):
        for tool in self.tools:
            tool.scrape()

    def workers(self, servers=None):
        return [worker for server in servers or self.servers for worker in server.workers()]

    def finish(self, key):
        """Ends the tools, keeps what they said, and returns what each saw by its name."""
        for tool in self.tools:
            tool.stop()
            tool.stop = lambda: None
            kept = self.arguments.output / key
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{re.sub(r'[^a-z0-9]+', '-', tool.name.lower()).strip('-')}.txt").write_text("".join(tool.output))
        return {tool.name: tool.seen for tool in self.tools}


def build(built):
    """The bench's own programs."""
    built.mkdir(parents=True, exist_ok=True)
    for source in (HERE / "dump.c", HERE / "traffic.c", HERE.parent / "bench/loop.c"):
        subprocess.run(["gcc", "-O2", "-Wall", "-o", built / source.stem, source], check=True)


def build_bpf(watched, directory):
    made = directory / "depth.bpf.o"
    command = ["clang", "-O2", "-g", "-target", "bpf", f'-DWATCHED="{watched}"', "-c", HERE / "depth.bpf.c", "-o", made]
    subprocess.run(command, check=True)
    return made


def all_servers(stage):
    return [kind(stage) for kind in (Gunicorn, Uwsgi, Fpm)]


# Load.


def load_through_nginx(names):
    """As many requests for each server, spread over the time. Returns a function that waits for the answers: it returns how many of each status
    there were, and when the request was sent that the queue had no room for."""
    statuses = {name: {} for name in names}
    sent = []

    async def request(name):
        reader, writer = await asyncio.open_connection("127.0.0.1", NGINX)
        writer.write(f"GET /{name} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        await reader.read()
        writer.close()
        statuses[name][status] = statuses[name].get(status, 0) + 1

    async def run():
        requests = []
        for _ in range(REQUESTS):
            sent.append(time.monotonic())
            requests += [asyncio.create_task(request(name)) for name in names]
            await asyncio.sleep(BURST_SECONDS / REQUESTS)
        await asyncio.gather(*requests)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()

    def wait():
        thread.join()
        return statuses, sent[SOMAXCONN + 1]

    return wait


def requests_to_each(addresses):
    """Requests to servers of which not all answer; returns a function that gives the rest of them up."""
    ended = threading.Event()

    async def request(host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()

    async def run():
        requests = []
        for _ in range(GROUP_CONNECTIONS):
            requests += [asyncio.create_task(request(*address)) for address in addresses]
            await asyncio.sleep(GROUP_DISTANCE)
        while not ended.is_set():
            await asyncio.sleep(0.05)
        for each in requests:
            each.cancel()
        await asyncio.gather(*requests, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()

    def stop():
        ended.set()
        thread.join()

    return stop


def connect_to_all(servers, count):
    """Connections that wait until their server goes on. Each begins a request: uWSGI's queue has no TCP connection without one (`TCP_DEFER_ACCEPT`)."""
    clients = [connected(server.address) for server in servers for _ in range(count)]
    for client in clients:
        client.send(b"G")
    return clients


def listed_depth(server):
    """How many connections the kernel has in the queue of a server."""
    address = server.bind.removeprefix("unix:")
    rows = subprocess.run(["ss", "-lntxHO"], capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(int(row.split()[2]) for row in rows if row.split()[4] == address)


# The situations.


def overload(arguments, transport):
    """More requests than the queue takes while the application hangs: a scrape falls into it."""
    key = f"sees-overload-{transport}"
    with Stage(arguments, transport) as stage:
        stage.start(*all_servers(stage))
        stage.scrape()
        workers = stage.workers()
        pause(workers)
        began = time.monotonic()
        wait = load_through_nginx([server.name for server in stage.servers])
        time.sleep(HANGS - 0.5)
        stage.scrape()
        time.sleep(max(0, began + HANGS - time.monotonic()))
        go_on(workers)
        ended = time.monotonic()
        statuses, filled = wait()
        time.sleep(1.5)
        stage.scrape()
        seen = stage.finish(key)
    refused = statuses["gunicorn"].get(502, 0)
    table = table_of(key)
    table.put("what happened", [SOMAXCONN + 1, SOMAXCONN, f"{ended - filled:.2f} s", f"{refused} answers of 502", f"{ended - began:.1f} s"])
    for name, found in seen.items():
        table.put(name, [depth(found), found.get("limit"), full(found), dropped(found), wait_of(found)])
    return table


def short_burst(arguments, transport):
    """A queue that is full for 20 ms between two scrapes."""
    key = f"sees-burst-{transport}"
    with Stage(arguments, transport) as stage:
        stage.start(*all_servers(stage))
        stage.scrape()
        time.sleep(SCRAPE_INTERVAL / 2)
        lasted = burst(stage)
        time.sleep(SCRAPE_INTERVAL / 2)
        stage.scrape()
        seen = stage.finish(key)
    table = table_of(key)
    table.notes = [f"A tool that reads the queue once a second observes a burst of {SHORT * 1000:.0f} ms in one of {1 / SHORT:.0f} cases, and --node, which reads it each 50 ms, in two of five."]
    table.put("what happened", [SOMAXCONN + 1, SOMAXCONN, f"{lasted:.3f} s", f"{lasted:.3f} s at least"])
    for name, found in seen.items():
        table.put(name, [depth(found), found.get("limit"), full(found), wait_of(found)])
    return table


def burst(stage):
    """Fills every server's queue for 20 ms, and returns for how long the watched one was full."""
    watched, *others = stage.servers
    workers = stage.workers()
    pause(workers)
    clients = connect_to_all(others, SOMAXCONN + 1)
    depths = {server.name: listed_depth(server) for server in others}
    assert depths == dict.fromkeys(depths, SOMAXCONN + 1), f"not every queue is full: {depths}"
    clients += connect_to_all([watched], SOMAXCONN + 1)
    filled = time.monotonic()
    time.sleep(SHORT)
    lasted = time.monotonic() - filled
    go_on(workers)
    for client in clients:
        client.close()
    return lasted


def stuck_member(arguments):
    """Two servers of one address, of which one hangs."""
    key = "sees-stuck-member"
    with Stage(arguments, "tcp", GROUP_BACKLOG, True) as stage:
        stage.start(*(kind(stage, number) for kind in (Gunicorn, Uwsgi) for number in (0, 1)))
        stage.scrape()
        stuck = [server for server in stage.servers if server.number == 0]
        pause(stage.workers(stuck))
        stop = requests_to_each([server.address for server in stuck])
        time.sleep(GROUP_CONNECTIONS * GROUP_DISTANCE + 2)
        stage.scrape()
        member = which_member(stage, stuck[0])
        (worker,) = stuck[0].workers()
        stop()
        go_on(stage.workers(stuck))
        seen = stage.finish(key)
    table = table_of(key)
    table.notes = ["Of the stuck socket. This project and promenade's method report both sockets together, raindrops one of them."]
    table.put("what happened", [GROUP_BACKLOG + 1, GROUP_BACKLOG, True, f"gunicorn, process {worker}"])
    for name, found in seen.items():
        table.put(name, [depth(found), found.get("limit"), full(found), member.get(name)])
    return table


def which_member(stage, stuck):
    """Whether the tools that name processes name the one that hangs."""
    pids = set(stuck.workers())
    found = {}
    exporter = stage.tools[0]
    command = [stage.arguments.exporter, "check", "--format", "json", "--listener", f"{tools.APP}=tcp:{stage.watched}"]
    report = subprocess.run(command, capture_output=True, text=True).stdout
    exporter.keep(report)
    findings = " ".join(json.dumps(finding) for finding in json.loads(report)["diagnoses"] if finding["kind"] == "stuck_member")
    is_named = any(re.search(rf"\bgunicorn {pid}\b", findings) for pid in pids)
    found[exporter.name] = "yes, with check" if is_named else None
    rows = subprocess.run(["ss", "-lntpHO"], capture_output=True, text=True, check=True).stdout.splitlines()
    full_rows = [row for row in rows if row.split()[3] == stage.watched and int(row.split()[1]) > int(row.split()[2])]
    named = {int(pid) for row in full_rows for pid in re.findall(r"pid=(\d+)", row)}
    found[tools.Ss.name] = "yes, with -p" if named & pids else None
    return found


def abandoned_head(arguments):
    """Clients at the head of the queue give up, and the application hangs on."""
    key = "sees-abandoned"
    with Stage(arguments, "unix") as stage:
        stage.start(*all_servers(stage))
        stage.scrape()
        workers = stage.workers()
        pause(workers)
        began = time.monotonic()
        clients = [connected(server.address) for server in stage.servers for _ in range(QUEUED)]
        for number, client in enumerate(clients):
            if number % QUEUED < DISCONNECTED:
                client.close()
        time.sleep(3)
        stage.scrape()
        waited = time.monotonic() - began
        go_on(workers)
        for client in clients:
            client.close()
        seen = stage.finish(key)
    table = table_of(key)
    table.put("what happened", [QUEUED, DISCONNECTED, f"{waited:.1f} s"])
    for name, found in seen.items():
        table.put(name, [depth(found), found.get("abandoned"), wait_of(found)])
    return table


def short(arguments):
    """The burst, with two tools: it says so by its exit code if one of them saw something else than it has to."""
    depth, episodes = 41, "listen_queue_full_episodes_total"
    with Stage(arguments, "unix", depth - 1, kinds=[tools.Exporter, tools.Ss]) as stage, socket.socket(socket.AF_UNIX) as listener:
        exporter, ss = stage.tools
        listener.bind(stage.watched)
        listener.listen(depth - 1)
        exporter.start()
        stage.processes.until(exporter.name, exporter.is_up)
        exporter.scrape()
        ss.list_once()
        listed = time.monotonic()
        clients = [connected(stage.watched) for _ in range(depth)]
        lasted = full_for_a_round(exporter)
        accepted = [listener.accept()[0] for _ in clients]
        time.sleep(max(0, listed + 1 - time.monotonic()))
        ss.list_once()
        exporter.scrape()
        page = tools.series(exporter.output[-1])
        print(f"a queue of {depth}, full for {lasted:.3f} s: {exporter.name} saw {exporter.seen}, ss before and after it {ss.seen}")
        checks = {
            "the exporter reports the peak": exporter.seen["depth"] == depth,
            "and that the queue was full once": exporter.of(page, episodes) == 1 and exporter.seen["full"] > 0,
            "ss, a second apart, reports an empty queue": ss.seen == {"depth": 0, "limit": depth - 1, "full": False},
        }
        stage.tools.clear()
        for client in (*clients, *accepted):
            client.close()
    for what, holds in checks.items():
        print(f"  {'ok' if holds else 'NO'}: {what}")
    raise SystemExit(0 if all(checks.values()) else 1)


def full_for_a_round(exporter):
    """Waits for 20 ms, and longer where the machine keeps the sampler waiting: until a whole round has passed."""
    began, rounds = time.monotonic(), sleeps([exporter.child.pid], "sampler")
    while time.monotonic() < began + SHORT or sleeps([exporter.child.pid], "sampler") < rounds + 2:
        time.sleep(0.001)
    return time.monotonic() - began


# The tables.

ROWS = ["what happened", *(kind.name for kind in tools.ALL)]
HANGING = f"{REQUESTS} requests within {BURST_SECONDS:g} s through nginx to an application that hangs for {HANGS:g} s, limit {SOMAXCONN}"
PAUSING = f"{SOMAXCONN + 1} connections while the application pauses for {SHORT * 1000:.0f} ms, between two scrapes {SCRAPE_INTERVAL} s apart, limit {SOMAXCONN}"


def empty():
    group = f"{GROUP_CONNECTIONS} requests to two servers of one TCP port (SO_REUSEPORT), limit {GROUP_BACKLOG} each; one of them hangs"
    title = f"{QUEUED} connections wait in a unix queue, and the clients of the first {DISCONNECTED} have disconnected"
    return [
        Table("sees-overload-unix", f"{HANGING}, unix", ["", "depth", "limit", "full", "refused", "longest wait"], ROWS),
        Table("sees-overload-tcp", f"{HANGING}, TCP", ["", "depth", "limit", "full", "dropped packets", "longest wait"], ROWS),
        Table("sees-burst-unix", f"{PAUSING}, unix", ["", "depth", "limit", "full", "longest wait"], ROWS),
        Table("sees-burst-tcp", f"{PAUSING}, TCP", ["", "depth", "limit", "full", "longest wait"], ROWS),
        Table("sees-stuck-member", group, ["", "depth", "limit", "full", "names the stuck process"], ROWS),
        Table("sees-abandoned", title, ["", "depth", "of which abandoned", "longest wait"], ROWS),
    ]


def table_of(key):
    return next(table for table in empty() if table.key == key)


# Cells.


def depth(found):
    return found.get("refusal", found.get("depth"))


def full(found):
    value = found.get("full")
    # The exporter counts seconds; the others see it or not.
    return value if value is None or isinstance(value, bool) else f"{value:.2f} s"


def dropped(found):
    if "refused_of_all" in found:
        return f"{found['refused_of_all']:.0f}, all listeners together"
    return found.get("refused")


def wait_of(found):
    if "mean_wait" in found and not found.get("wait"):
        return f"{found['mean_wait']:.3f} s on average"
    return f"{found['wait']:.1f} s" if "wait" in found else None


def measure(arguments):
    yield overload(arguments, "unix")
    yield overload(arguments, "tcp")
    yield short_burst(arguments, "unix")
    yield short_burst(arguments, "tcp")
    yield stuck_member(arguments)
    yield abandoned_head(arguments)
