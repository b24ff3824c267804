#!/usr/bin/env python3
"""This project beside what else reports on accept queues: what each sees, what it costs, and what it costs the application.

    peers.py --exporter BINARY [--with-ebpf BINARY] [--page docs/performance.md] [--only sees,costs,scrapes,application]

Everything runs in network and process namespaces of its own. Every cell comes from a program's own output in this run, which is kept in
target/bench-peers, or from what the kernel accounts to it. With --page the tables of that page are written anew.
The exit code is 1 if a scrape or the application is worse off than promised.

    peers.py --short         one burst and two tools, in seconds: the exporter reports its peak, and ss before and after it nothing
    peers.py --shape         prints which columns and rows each table has
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import textwrap
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import application  # noqa: E402
import costs  # noqa: E402
import situations  # noqa: E402
from report import write_page  # noqa: E402
from servers import ROOT, php_fpm  # noqa: E402
from demo import begin  # noqa: E402

PARTS = {
    "sees": (situations.measure, situations.empty),
    "costs": (costs.costs, costs.empty),
    "scrapes": (costs.scrapes, costs.empty_scrapes),
    "application": (application.measure, application.empty),
}
PROGRAMS = ["nginx", "unshare", "ip", "ss"]
PEERS = [*PROGRAMS, "ruby", "prometheus-node-exporter", "uwsgi_python3", php_fpm(), "strace", "gcc", "clang"]
# What `make` runs at the root of the project.
COMMAND = "make bench-peers"


def main():
    arguments = parse_arguments()
    if arguments.shape:
        return print(json.dumps({table.key: table.shape() for _, empty in PARTS.values() for table in empty()}, indent=1))
    arguments.built = arguments.output / "built"
    begin(arguments, PROGRAMS if arguments.short else PEERS, "base" if arguments.short else "base peers")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    pathlib.Path("/proc/sys/net/core/somaxconn").write_text(str(situations.SOMAXCONN))
    if arguments.short:
        return situations.short(arguments)
    situations.build(arguments.built)
    began, load = time.monotonic(), Load()
    tables = []
    for part in arguments.only:
        for table in PARTS[part][0](arguments):
            print(table.text(), flush=True)
            tables.append(table)
    measured = f"Measured on {datetime.date.today():%d %B %Y} with `{COMMAND}`, in {(time.monotonic() - began) / 60:.0f} minutes. {machine()} {versions(arguments)} {load.summary()}"
    print(f"\n{measured}")
    if arguments.page:
        write_page(arguments.page, {"machine": textwrap.fill(measured, 150), **{table.key: table.markdown() for table in tables}})
    missed = [bar for table in tables for bar in table.missed]
    if missed:
        sys.exit("\n".join(f"MISSED: {bar}" for bar in missed))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporter", type=os.path.abspath, default=str(ROOT / "target/release/listen-queue-exporter"))
    parser.add_argument("--with-ebpf", type=os.path.abspath, help="a build with the feature ebpf")
    parser.add_argument("--gunicorn", type=os.path.abspath, default=str(ROOT / "target/tools/bin/gunicorn"))
    parser.add_argument("--output", type=absolute, default=ROOT / "target/bench-peers")
    parser.add_argument("--page", type=absolute, help="a page whose tables are written anew")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--shape", action="store_true")
    arguments = parser.parse_args()
    if arguments.page and arguments.only != list(PARTS):
        parser.error("--page needs all parts: the page has one date for all of its tables")
    return arguments


def absolute(path):
    return pathlib.Path(os.path.abspath(path))


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    memory = int(re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1])
    virtual = ", a virtual machine" if re.search(r"^flags\s*:.*\bhypervisor\b", info, re.MULTILINE) else ""
    return f"Machine: {os.cpu_count()} processors ({model[1] if model else platform.machine()}{virtual}), {memory / 2**20:.0f} GB, Linux {platform.release()}."


def versions(arguments):
    """Of the programs that were compared, as they print it themselves."""
    commands = {
        "ss": ["ss", "-V"],
        "node_exporter": ["prometheus-node-exporter", "--version"],
        "gunicorn": [arguments.gunicorn, "--version"],
        "uWSGI": ["uwsgi_python3", "--version"],
        "PHP-FPM": [php_fpm(), "--version"],
        "nginx": ["nginx", "-v"],
        "raindrops": ["dpkg-query", "--show", "--showformat", "${Version}", "ruby-raindrops"],
    }
    revision = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    found = [f"this project {revision or 'of unknown revision'}"]
    for name, command in commands.items():
        output = subprocess.run(command, capture_output=True, text=True)
        number = re.search(r"\d+(\.\d+)+", output.stdout + output.stderr)
        found.append(f"{name} {number[0] if number else 'of unknown version'}")
    return f"Versions: {', '.join(found)}."


class Load:
    """How busy the machine was with other things."""

    def __init__(self):
        self.before = self.read()

    @staticmethod
    def read():
        """Ticks of all processors, and those with work of whomever."""
        ticks = list(map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]))
        # user nice system idle iowait irq softirq steal
        return sum(ticks[:8]), sum(ticks[:8]) - ticks[3] - ticks[4], ticks[7]

    def summary(self):
        every, busy, stolen = (now - before for now, before in zip(self.read(), self.before))
        used = os.times()
        own = (used.user + used.system + used.children_user + used.children_system) * os.sysconf("SC_CLK_TCK")
        others = max(0, busy - own) / every
        return f"Meanwhile the processors were busy for {busy / every:.0%} of the time, with other work than this bench for at most {others:.0%}, and {stolen / every:.0%} was stolen by the host."


if __name__ == "__main__":
    main()
