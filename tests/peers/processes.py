"""Processes that end with the bench, what they use of the machine, and sockets that are just there."""

import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import time

# Waiting for a condition ends in a failure after this long.
PATIENCE = 60
# Sockets that one process holds.
EACH = 10_000


class Processes:
    """What was started, with a log of each in one directory."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.children = []

    def start(self, name, command, **options):
        log = open(self.directory / f"{name}.log", "ab")
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", log)
        child = subprocess.Popen([str(word) for word in command], stderr=log, start_new_session=True, **options)
        log.close()
        child.name = name
        self.children.append(child)
        return child

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def end(self, child):
        self.children.remove(child)
        for process in family(child.pid):
            send(process, signal.SIGCONT)
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            for process in family(child.pid):
                send(process, signal.SIGKILL)
            child.wait()

    def stop(self):
        for child in reversed(self.children[:]):
            self.end(child)

    def until(self, what, is_so):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if is_so():
                    return
            except OSError:
                pass
            ended = [child for child in self.children if child.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(self.directory.glob("*.log")))
                why = f"{ended[0].name} ended" if ended else f"not within {PATIENCE} s"
                raise SystemExit(f"waiting for {what}: {why}{logs}")
            time.sleep(0.02)


def send(pid, what):
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        pass


def children(pid):
    try:
        tasks = list(pathlib.Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def family(pid):
    """A process and all that it started."""
    return [pid, *(member for child in children(pid) for member in family(child))]


def command_line(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def pause(pids):
    """Stops processes, and returns when they have stopped."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE
    while not all(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids):
        if time.monotonic() > deadline:
            raise SystemExit("processes that were stopped go on")
        time.sleep(0.001)


def go_on(pids):
    for pid in pids:
        send(pid, signal.SIGCONT)


def in_turn(contestants, windows, settle):
    """Yields each contestant in each window, in an order that changes. It alone runs: the others are stopped, from the first window on."""
    for contestant in contestants:
        pause(contestant.pids())
    for number in range(windows):
        turn = number % len(contestants)
        for contestant in contestants[turn:] + contestants[:turn]:
            go_on(contestant.pids())
            time.sleep(settle)
            yield contestant
            pause(contestant.pids())


def tasks(pids):
    for pid in pids:
        try:
            yield from pathlib.Path(f"/proc/{pid}/task").iterdir()
        except OSError:
            pass


def cpu(pids):
    """Seconds of a processor that all threads of these processes have used."""
    total = 0
    for task in tasks(pids):
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except OSError:
            pass
    return total / 1e9


def sleeps(pids, name=None):
    """How often their threads, or those of this name, went to sleep."""
    total = 0
    for task in tasks(pids):
        if name in (None, (task / "comm").read_text().strip()):
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)[1])
    return total


def resident_mb(pids):
    kilobytes = 0
    for pid in pids:
        found = re.search(r"^VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        kilobytes += int(found[1]) if found else 0
    return kilobytes / 1024


def spent_on_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def system_calls(pids, work):
    """How often these processes make each system call while `work` runs, by strace; and what `work` returned."""
    command = ["strace", "--follow-forks", "--summary-only", "--quiet=attach", *(word for pid in pids for word in ("--attach", str(pid)))]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    traced = lambda: all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks(pids))  # noqa: E731
    deadline = time.monotonic() + PATIENCE
    while not traced():
        if strace.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"strace: {strace.communicate()[1]}")
        time.sleep(0.01)
    try:
        done = work()
    finally:
        strace.send_signal(signal.SIGINT)
        summary = strace.communicate(timeout=PATIENCE)[1]
    return parse_calls(summary), done


def parse_calls(summary):
    """How often each system call was made, from strace's table."""
    rows = (line.split() for line in summary.splitlines())
    return {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[-1] != "total" and row[3].isdigit()}


# Sockets that are just there.


def hold(processes, what, count):
    """Starts processes that hold `count` unix sockets, or established TCP connections with both of their ends."""
    pairs = {"unix": count // 2, "tcp": count}[what]
    number = 0
    while pairs > 0:
        now = min(pairs, EACH // 2)
        pairs -= now
        number += 1
        held = processes.start(f"hold-{what}-{number}", [sys.executable, __file__, what, number, now], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if held.stdout.readline() != b"ready\n":
            raise SystemExit(f"cannot hold sockets: {processes.log(held.name)}")


def hold_here(what, number, pairs):
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    held = []
    if what == "unix":
        held = [socket.socketpair() for _ in range(pairs)]
    else:
        with socket.socket() as listener:
            listener.bind((f"127.0.0.{number + 1}", 0))
            listener.listen(64)
            held = [(socket.create_connection(listener.getsockname()), listener.accept()) for _ in range(pairs)]
    print("ready", flush=True)
    sys.stdin.read()
    return held


if __name__ == "__main__":
    hold_here(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
