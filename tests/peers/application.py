"""What it costs the application to be watched: connect and accept on a unix socket, without a tool and with each, in turn."""

import re
import statistics
import subprocess
import threading
import urllib.request

import tools
from processes import family, in_turn
from report import Table
from servers import Gunicorn, get
from situations import Stage
from tools import OURS

WINDOWS, WINDOW = 9, 0.8
SETTLE = 0.15


class Watcher:
    """What runs beside the application in its window."""

    name = "nothing"

    def __init__(self, stage):
        self.stage = stage
        self.child = None

    def start(self):
        pass

    def is_up(self):
        return True

    def pids(self):
        return family(self.child.pid) if self.child else []


class Ours(Watcher):
    name, port, options = "this project, 100 rounds/s", OURS, ("--sample.interval", "10ms")

    def start(self):
        command = [self.stage.arguments.exporter, "--listener", f"unix:{self.stage.path}", *self.options, "--web.listen-address", f"127.0.0.1:{self.port}"]
        self.child = self.stage.processes.start(f"ours-{self.port}", command)

    def is_up(self):
        return "\nlisten_queue_depth{" in get(self.port, "/metrics")


class OursFast(Ours):
    name, port, options = "this project, 1,000 rounds/s", OURS + 1, ("--sample.interval", "1ms")


class OursWithPage(Ours):
    name, port = "this project, 100 rounds/s, a page open", OURS + 2

    def start(self):
        super().start()
        self.stage.processes.until(self.name, self.is_up)
        self.page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/stream", timeout=60)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            while self.page.read(4096):
                pass
        except (OSError, ValueError):
            pass


class OursNode(Ours):
    name, port, options = "this project, --node", OURS + 3, ("--node", "--node.idle")


class RaindropsEachSecond(Watcher):
    name = "raindrops each second"

    def start(self):
        self.child = self.stage.processes.start("raindrops-each", ["ruby", tools.HERE / "raindrops.rb", 1, self.stage.path, f"127.0.0.1:{Gunicorn.port}"])


class OursWithEbpf(Ours):
    name, port, options = "this project, --ebpf", OURS + 4, ("--ebpf",)

    def start(self):
        if not self.stage.arguments.with_ebpf:
            raise SystemExit("--with-ebpf BINARY is missing: a build with the feature ebpf")
        command = [self.stage.arguments.with_ebpf, "--listener", f"unix:{self.stage.path}", *self.options, "--web.listen-address", f"127.0.0.1:{self.port}"]
        self.child = self.stage.processes.start(f"ours-{self.port}", command)

    def refusal(self):
        """Why it counts nothing, in its own words; None if it counts."""
        if tools.series(get(self.port, "/metrics")).get('listen_queue_source_up{source="ebpf"}') == 1:
            return None
        log = self.stage.processes.log(f"ours-{self.port}")
        reason = re.search(r"source=ebpf reason=.*?(Operation not permitted|Invalid argument|No such file or directory|$)", log, re.MULTILINE)
        return f"refused by this kernel: {reason[1]}" if reason and reason[1] else "refused by this kernel"


WATCHERS = [Watcher, Ours, OursFast, OursWithPage, OursNode, RaindropsEachSecond, OursWithEbpf]


def empty():
    headings = ["", "connects a second", "p50", "p99", "p99 of all windows", "p99.9", "p99 within the spread of nothing"]
    return [Table("application", "Connect and accept on the watched unix socket, in microseconds", headings, [kind.name for kind in WATCHERS])]


def measure(arguments):
    with Stage(arguments, "unix", kinds=[]) as stage:
        stage.path = str(stage.directory / "traffic.socket")
        traffic = stage.processes.start("traffic", [stage.built("traffic"), stage.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert traffic.stdout.readline() == "ready\n"
        watchers = [kind(stage) for kind in WATCHERS]
        for watcher in watchers:
            watcher.start()
            stage.processes.until(watcher.name, watcher.is_up)
        refusal = watchers[-1].refusal()
        if refusal:
            stage.processes.end(watchers.pop().child)
        results = {watcher.name: [] for watcher in watchers}
        for watcher in in_turn(watchers, WINDOWS, SETTLE):
            traffic.stdin.write(f"{WINDOW}\n")
            traffic.stdin.flush()
            results[watcher.name].append([float(word) for word in traffic.stdout.readline().split()])
    (table,) = empty()
    alone = [window[2] for window in results[Watcher.name]]
    for name, windows in results.items():
        rate, p50, p99, p999 = (statistics.median(column) for column in zip(*windows))
        lowest, highest = (bound(window[2] for window in windows) / 1e3 for bound in (min, max))
        cells = [rate, p50 / 1e3, p99 / 1e3, f"{lowest:.1f} to {highest:.1f}", p999 / 1e3]
        is_within = p99 <= max(alone)
        table.put(name, [*cells, None if name == Watcher.name else is_within])
        if name.startswith("this project") and not is_within:
            table.missed.append(f"beside {name} the p99 of the application is {p99 / 1e3:.1f} us, above the {max(alone) / 1e3:.1f} us with nothing")
    if refusal:
        table.put(OursWithEbpf.name, [refusal, None, None, None, None, None])
    table.notes = [f"Medians of {WINDOWS} windows of {WINDOW:g} s, in turn."]
    return [table]
