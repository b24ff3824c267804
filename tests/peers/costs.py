"""What each tool costs: processor time, memory and system calls for one sample, whatever its pace, and for one scrape."""

import os
import resource
import socket
import statistics
import subprocess
import time
import urllib.request

import tools
from processes import cpu, family, go_on, hold, in_turn, parse_calls, pause, resident_mb, sleeps, spent_on_children, system_calls
from report import Table
from servers import Gunicorn, get
from situations import SOMAXCONN, Stage, all_servers
from tools import NODE_EXPORTER, OURS

WINDOWS, WINDOW = 5, 1.0
# After a stop, a program is left alone for this long.
SETTLE = 0.15
POPULATIONS = {"alone": None, "1,000 unix": ("unix", 1_000), "10,000 unix": ("unix", 10_000), "1,000 TCP": ("tcp", 1_000), "20,000 TCP": ("tcp", 20_000)}
# Once a second is too seldom for a short window; a sample is the same at any pace.
PACE = 0.01
GOAL, GOAL_CROWDED, CROWDED = 10, 40, "10,000 unix"
SCRAPES = 10
SCRAPE_BAR = 1 / 3


class Contestant:
    """Something with a cost: its processes, and how its samples are counted or made."""

    # What the table calls it, and whose depth it reads.
    name, reads = "", None
    # The system call that each of its samples makes once, if it has a pace of its own.
    once = None

    def __init__(self, stage):
        self.stage = stage

    def pids(self):
        return family(self.child.pid)

    def is_up(self):
        return True

    def samples(self):
        """Samples so far, of those with their own pace."""
        return sleeps(self.pids())

    def window(self):
        """Seconds of a processor that a sample takes."""
        count, before = self.samples(), cpu(self.pids())
        time.sleep(WINDOW)
        used, count = cpu(self.pids()) - before, self.samples() - count
        return used / count if count else None

    def memory(self):
        return resident_mb(self.pids())

    def calls(self):
        made, _ = system_calls(self.pids(), lambda: time.sleep(WINDOW))
        return sum(made.values()) / made[self.once] if made.get(self.once) else None


class Asked(Contestant):
    """It does something when it is asked."""

    times = SCRAPES

    def ask(self):
        raise NotImplementedError

    def window(self):
        before = cpu(self.pids())
        for _ in range(self.times):
            self.ask()
        return (cpu(self.pids()) - before) / self.times

    def calls(self):
        made, _ = system_calls(self.pids(), lambda: [self.ask() for _ in range(self.times)])
        return sum(made.values()) / self.times


class Loop(Contestant):
    name, reads, once = "bare C loop", "unix and TCP", "clock_nanosleep"

    def start(self):
        inode = os.stat(f"/proc/self/fd/{self.stage.unix.fileno()}").st_ino
        self.child = self.stage.processes.start("loop", [self.stage.built("loop"), round(PACE * 1e6), "-", inode, Gunicorn.port])


class Ours(Contestant):
    name, reads, once = "this project", "unix and TCP", "clock_nanosleep"
    port, options, before = OURS, (), ()

    def start(self):
        listeners = (word for listener in self.listeners() for word in ("--listener", listener))
        command = [*self.before, self.stage.arguments.exporter, *listeners, "--sample.interval", f"{PACE * 1000:.0f}ms", *self.options]
        self.child = self.stage.processes.start(f"ours-{self.port}", [*command, "--web.listen-address", f"127.0.0.1:{self.port}"])

    def listeners(self):
        return [f"unix:{self.stage.path}", f"tcp:0.0.0.0:{Gunicorn.port}"]

    def is_up(self):
        return get(self.port, "/metrics").count("\nlisten_queue_depth{") == len(self.listeners())

    def samples(self):
        return sleeps(self.pids(), "sampler")


class OursTcp(Ours):
    """For the comparison with those that read TCP alone."""

    name, reads, port = "this project, the TCP listener alone", "TCP", OURS + 10

    def listeners(self):
        return [f"tcp:0.0.0.0:{Gunicorn.port}"]


class OursWithoutSockDiag(Ours):
    name, port, before = "this project without sock_diag", tools.FALLBACK, tools.Fallback.before

    def window(self):
        # Where there is much to read its rounds are seconds apart.
        deadline = time.monotonic() + 3
        count, before = self.samples(), cpu(self.pids())
        time.sleep(WINDOW)
        while self.samples() == count and time.monotonic() < deadline:
            time.sleep(WINDOW)
        used, count = cpu(self.pids()) - before, self.samples() - count
        return used / count if count else None


class OursNode(Ours):
    name, port, options = "this project, --node", tools.NODE, ("--node", "--node.idle")


class RaindropsLoop(Contestant):
    name, reads, once = "raindrops", "unix and TCP", "writev"

    def start(self):
        command = ["ruby", tools.HERE / "raindrops.rb", PACE, self.stage.path, f"0.0.0.0:{Gunicorn.port}"]
        self.child = self.stage.processes.start("raindrops-loop", command)

    def is_up(self):
        return self.samples() > 0

    def samples(self):
        # A line "0 0" each.
        return os.stat(self.stage.directory / "raindrops-loop.log").st_size // 4


class DumpLoop(Contestant):
    name, reads, once = "promenade's method", "TCP", "clock_nanosleep"

    def start(self):
        self.child = self.stage.processes.start("dump-loop", [self.stage.built("dump"), round(tools.Dump.interval * 1e6)])


class SsRun(Asked):
    name, reads = "ss", "unix and TCP"
    command = tools.Ss.command

    def start(self):
        self.child = None

    def pids(self):
        return []

    def ask(self):
        found = subprocess.run(self.command, capture_output=True, text=True, check=True).stdout
        assert self.stage.path in found

    def window(self):
        before = spent_on_children()
        for _ in range(self.times):
            self.ask()
        return (spent_on_children() - before) / self.times

    def memory(self):
        return None

    def calls(self):
        summary = self.stage.directory / "ss.strace"
        subprocess.run(["strace", "--summary-only", "--output", summary, *self.command], stdout=subprocess.DEVNULL, check=True)
        return float(sum(parse_calls(summary.read_text()).values()))


class NodeExporterScrape(Asked):
    name, times = "node_exporter (no queues)", 3

    def start(self):
        self.child = self.stage.processes.start("node_exporter", ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{NODE_EXPORTER}", "--log.level=error"])

    def is_up(self):
        return get(NODE_EXPORTER, "/metrics") != ""

    def ask(self):
        get(NODE_EXPORTER, "/metrics")


class GunicornMaster(Contestant):
    name, reads, once = "gunicorn's metric (its whole master)", "its own TCP socket", "sendto"

    def start(self):
        self.child = self.stage.servers[0].child

    def pids(self):
        return [self.child.pid]

    def window(self):
        before, start = cpu(self.pids()), time.monotonic()
        time.sleep(WINDOW)
        # One a second.
        return (cpu(self.pids()) - before) / (time.monotonic() - start)

    def calls(self):
        made, _ = system_calls(self.pids(), lambda: time.sleep(2.2))
        return sum(made.values()) / 2.2


class UwsgiRead(Asked):
    name, reads = "uWSGI stats", "its own TCP socket"

    def start(self):
        self.server = self.stage.servers[1]
        self.child = self.server.child

    def ask(self):
        self.server.stats()


class FpmRead(Asked):
    name, reads = "PHP-FPM status", "its own TCP socket"

    def start(self):
        self.server = self.stage.servers[2]
        self.child = self.server.child

    def ask(self):
        self.server.status()


class StubStatusRead(Asked):
    name = "nginx stub_status (no queues)"

    def start(self):
        self.child = self.stage.nginx

    def ask(self):
        get(tools.NGINX, "/stub_status")


CONTESTANTS = [Loop, Ours, OursTcp, OursNode, OursWithoutSockDiag, SsRun, RaindropsLoop, DumpLoop, GunicornMaster, UwsgiRead, FpmRead, StubStatusRead, NodeExporterScrape]
PEERS = [kind for kind in CONTESTANTS if kind.reads and not issubclass(kind, Ours)]


def empty():
    title = "Processor time of a sample in microseconds, by what else is in the network namespace"
    return [
        Table("costs", title, ["", *POPULATIONS, "system calls", "memory MB"], [kind.name for kind in CONTESTANTS]),
        Table("times", "How many times what a sample of this project takes, of the TCP listener alone where the tool reads no more", ["", "reads", *POPULATIONS], ["goal", *(kind.name for kind in PEERS)]),
    ]


class CostStage(Stage):
    """The servers, listeners of the bench, and what else is in the namespace."""

    def __init__(self, arguments):
        super().__init__(arguments, "tcp", kinds=[tools.GunicornMetric])
        self.unix, self.path = bound_amid_the_table(self.directory)
        self.unix.listen(SOMAXCONN)

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self.unix.close()


def bound_amid_the_table(directory):
    """A socket whose file has the kernel look through half of the others: a lookup goes through 256 buckets, up to that of the file's inode."""
    others = []
    for number in range(5000):
        path = str(directory / f"{number}.socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        if os.stat(path).st_ino % 256 in range(120, 136):
            for other in others:
                other.close()
            return listener, path
        others.append(listener)
    raise SystemExit("no file in the middle of the table")


def costs(arguments):
    microseconds = {kind: {} for kind in CONTESTANTS}
    ratios = {kind: {} for kind in PEERS}
    memory, calls, spread = {}, {}, {}
    for population, others in POPULATIONS.items():
        with CostStage(arguments) as stage:
            stage.start(*all_servers(stage))
            if others:
                hold(stage.processes, *others)
            contestants = [kind(stage) for kind in CONTESTANTS]
            for contestant in contestants:
                contestant.start()
                stage.processes.until(contestant.name, contestant.is_up)
            windows = measure_in_turn(contestants)
            for contestant in contestants:
                kind = type(contestant)
                taken = [window for window in windows[kind] if window is not None]
                microseconds[kind][population] = statistics.median(taken) * 1e6 if taken else None
                go_on(contestant.pids())
                if population == "alone":
                    memory[kind] = contestant.memory()
                    calls[kind] = contestant.calls()
                if kind in PEERS:
                    pairs = zip(windows[kind], windows[Ours if kind.reads == Ours.reads else OursTcp])
                    ratios[kind][population] = statistics.median(peer / ours for peer, ours in pairs if peer is not None)
                pause(contestant.pids())
            spread[population] = min(windows[Ours]) * 1e6, max(windows[Ours]) * 1e6
    table, times = empty()
    for kind in CONTESTANTS:
        table.put(kind.name, [*microseconds[kind].values(), calls[kind], memory[kind]])
    windows = ", ".join(f"{least:.0f} to {most:.0f} us {population}" for population, (least, most) in spread.items())
    table.notes = [f"Medians of {WINDOWS} windows, in turn. Windows of this project: {windows}."]
    times.put("goal", [None, *(GOAL_CROWDED if population == CROWDED else GOAL for population in POPULATIONS)])
    for kind in PEERS:
        times.put(kind.name, [kind.reads, *ratios[kind].values()])
    times.notes = ["Medians of the ratios within each turn."]
    return [table, times]


def measure_in_turn(contestants):
    """The processor time of a sample in each window: one contestant runs, the others are stopped."""
    windows = {type(contestant): [] for contestant in contestants}
    for contestant in in_turn(contestants, WINDOWS, SETTLE):
        windows[type(contestant)].append(contestant.window())
    return windows


# Scrapes.

LISTENERS = (2, 10, 100, 1000)
SCRAPE_PORT = 10200
SAMPLED_SELDOM = "10s"


class Scraped(Asked):
    times = 5
    packed = False

    def ask(self):
        """As Prometheus does, which takes gzip; or without, to count the series."""
        headers = {"Accept-Encoding": "gzip"} if self.packed else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()

    def series(self):
        return sum(not line.startswith(b"#") for line in self.ask().splitlines())


class ScrapedExporter(Scraped):
    def __init__(self, stage, count):
        super().__init__(stage)
        self.count, self.port, self.name = count, SCRAPE_PORT + count, f"this project, {count:,} listeners"

    def start(self):
        listeners = (word for name in self.stage.listeners[: self.count] for word in ("--listener", name))
        command = [self.stage.arguments.exporter, *listeners, "--sample.interval", SAMPLED_SELDOM, "--web.listen-address", f"127.0.0.1:{self.port}"]
        self.child = self.stage.processes.start(f"scraped-{self.count}", command)

    def is_up(self):
        return get(self.port, "/metrics").count("\nlisten_queue_depth{") == self.count


class ScrapedNodeExporter(Scraped):
    name, port, start, is_up = "node_exporter", NODE_EXPORTER, NodeExporterScrape.start, NodeExporterScrape.is_up


SCRAPED = [*(f"this project, {count:,} listeners" for count in LISTENERS), ScrapedNodeExporter.name]


def empty_scrapes():
    headings = ["", "series", "us a scrape", "us a series", "us a series with gzip", "with gzip, by node_exporter's"]
    return [Table("scrapes", "Processor time of a scrape", headings, SCRAPED)]


def scrapes(arguments):
    """What a scrape takes, while next to nothing is sampled."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with Stage(arguments, "unix", kinds=[]) as stage:
        made = [one_of_many(number) for number in range(max(LISTENERS))]
        stage.listeners = [name for _, name in made]
        contestants = [*(ScrapedExporter(stage, count) for count in LISTENERS), ScrapedNodeExporter(stage)]
        for contestant in contestants:
            contestant.start()
            stage.processes.until(contestant.name, contestant.is_up)
            pause(contestant.pids())
        results = {contestant.name: ([], []) for contestant in contestants}
        series = {}
        for _ in range(WINDOWS):
            for contestant in contestants:
                go_on(contestant.pids())
                time.sleep(SETTLE)
                series[contestant.name] = contestant.series()
                for packed, windows in enumerate(results[contestant.name]):
                    contestant.packed = bool(packed)
                    windows.append(contestant.window() / series[contestant.name] * 1e6)
                contestant.packed = False
                pause(contestant.pids())
        for listener, _ in made:
            listener.close()
    (table,) = empty_scrapes()
    for name, (plain, packed) in results.items():
        each = statistics.median(plain)
        by = statistics.median(mine / theirs for mine, theirs in zip(packed, results[ScrapedNodeExporter.name][1]))
        table.put(name, [series[name], each * series[name], each, statistics.median(packed), by])
        if name != ScrapedNodeExporter.name and by > SCRAPE_BAR:
            table.missed.append(f"a scrape of {name} takes {by:.2f} of node_exporter's time for each series, more than {SCRAPE_BAR:.2f}")
    table.notes = [f"The goal for the last column is {SCRAPE_BAR:.2f} at most."]
    return [table]


def one_of_many(number):
    """A listener, and its name: every other one is a unix socket."""
    if number % 2:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 20000 + number))
        name = f"tcp:127.0.0.1:{20000 + number}"
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"\0app-{number}")
        name = f"unix:@app-{number}"
    listener.listen(SOMAXCONN)
    return listener, name
