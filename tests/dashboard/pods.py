#!/usr/bin/env python3
"""An hour of many pods for Prometheus, and what it then answers to the dashboard.

    pods.py --pods N [--prometheus DIRECTORY] [--port PORT] OUTPUT

Every pod has a unix listener and a TCP listener. One in 16 has a burst in which connects are refused; the last is replaced by one whose first
scrape shows 250 refusals. An exporter for a node finds an old pod with 1000 overflows, and sees 3 more. A host without labels of Kubernetes has a queue that is nearly full. Prometheus is filled with it through promtool.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import answers

SECONDS, STEP = 3600, 15
LATE = 250


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, required=True)
    parser.add_argument("--prometheus", default="", help="where prometheus and promtool are, if not in the PATH")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("output", type=pathlib.Path)
    arguments = parser.parse_args()
    program = lambda name: str(pathlib.Path(arguments.prometheus) / name) if arguments.prometheus else name
    # A block of Prometheus has two hours: this hour is not at the edge of one.
    start = int(time.time()) // 7200 * 7200 - 7200 + 1800
    with tempfile.TemporaryDirectory(prefix="listen-queue-pods-") as directory:
        directory = pathlib.Path(directory)
        file = directory / "series.txt"
        file.write_text(exposition(arguments.pods, start))
        data = directory / "data"
        subprocess.run([program("promtool"), "tsdb", "create-blocks-from", "openmetrics", file, data], check=True, stdout=subprocess.DEVNULL)
        (directory / "prometheus.yaml").write_text("{}")
        address = f"127.0.0.1:{arguments.port}"
        command = [
            program("prometheus"),
            f"--config.file={directory}/prometheus.yaml",
            f"--storage.tsdb.path={data}",
            f"--web.listen-address={address}",
            "--storage.tsdb.retention.time=10y",
        ]
        prometheus = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_for(address)
            found = answers.all_of(address, start, start + SECONDS, STEP)
        finally:
            prometheus.terminate()
            prometheus.wait()
    arguments.output.write_text(json.dumps(found))


def wait_for(address):
    deadline = time.monotonic() + 120
    while True:
        try:
            if answers.ask(address, "query", query="vector(1)"):
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit("Prometheus did not come up")
        time.sleep(0.1)


def exposition(pods, start):
    """All series, a family after the other, as OpenMetrics wants them."""
    families = {}

    def add(name, labels, values, kind="gauge"):
        family = families.setdefault(name, (kind, []))[1]
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        for at in range(0, SECONDS + 1, STEP):
            value = values(at)
            if value is not None:
                family.append(f"{name}{{{text}}} {value} {start + at}\n")

    for number in range(pods):
        gone = SECONDS // 2 if pods > 1 and number == pods - 1 else None
        of_pod(add, pod_labels(number), number, start, lambda at, gone=gone: gone is None or at < gone)
    if pods > 1:
        of_pod(add, pod_labels(pods), pods, start + SECONDS // 2, lambda at: at >= SECONDS // 2, first=LATE)
    of_host(add, {"job": "hosts", "instance": "db.example.org:10128"}, start)
    of_old_pod(add, start)
    lines = []
    for name, (kind, samples) in families.items():
        base = name.removesuffix("_total") if kind == "counter" else name
        lines.append(f"# TYPE {base} {kind}\n")
        lines += samples
    return "".join(lines) + "# EOF\n"


def of_old_pod(add, start):
    scrape = {"job": "nodes", "instance": "10.1.0.1:10128"}
    began = SECONDS // 4
    add("up", scrape, lambda at: 1 if at >= began else None)
    add("process_start_time_seconds", scrape, lambda at: start + began - 5 if at >= began else None)
    labels = {**scrape, "namespace": "shop", "pod": "old", "cgroup": "/kubepods/old"}
    add("listen_queue_tcp_listen_overflows_total", labels, lambda at: None if at < began else 1000 if at < 2 * began else 1003, "counter")


def pod_labels(number):
    return {"job": "pods", "instance": f"10.0.{number // 250}.{number % 250}:10128", "namespace": "shop", "pod": f"web-{number}", "workload": "web"}


def of_exporter(add, labels, started, here):
    def constant(value):
        return lambda at: value if here(at) else None

    add("up", labels, constant(1))
    add("process_start_time_seconds", labels, constant(started))
    add("listen_queue_exporter_build_info", {**labels, "version": "0.1.0", "revision": "unknown"}, constant(1))
    add("listen_queue_somaxconn", labels, constant(4096))
    return constant


def of_listener(add, labels, family, capacity, constant):
    add("listen_queue_listener_up", labels, constant(1))
    add("listen_queue_listener_info", {**labels, "family": family, "address": labels["listener"], "limit": "kernel"}, constant(1))
    add("listen_queue_listener_sockets", labels, constant(1))
    add("listen_queue_capacity", labels, constant(capacity))
    add("listen_queue_backlog", labels, constant(capacity - 1))


def of_pod(add, labels, number, started, here, first=0):
    constant = of_exporter(add, labels, started, here)
    is_hit = number % 16 == 3
    began = 600 + number * 7 % 1800
    minutes = 1 + number % 5

    def burst(idle, busy):
        return lambda at: None if not here(at) else busy(at) if is_hit and began <= at < began + 60 * minutes else idle

    def counted(rate, first=0):
        def value(at):
            lasted = min(max(at - began, 0), 60 * minutes) if is_hit else 0
            return round(first + rate * lasted, 3) if here(at) else None

        return value

    unix = {**labels, "listener": "gunicorn"}
    of_listener(add, unix, "unix", 129, constant)
    add("listen_queue_depth", unix, burst(number % 3, lambda at: 120 + at % 10))
    add("listen_queue_depth_peak", unix, burst(4 + number % 40, lambda at: 129))
    add("listen_queue_oldest_wait_seconds", unix, burst(0.01, lambda at: 2 + minutes))
    add("listen_queue_refused_connects_total", {**unix, "source": "ebpf"}, counted(2 + number % 7, first), "counter")
    add("listen_queue_full_seconds_total", unix, counted(0.4, first / 100), "counter")
    add("listen_queue_full_episodes_total", unix, counted(0.1), "counter")
    add("listen_queue_wait_seconds_sum", unix, lambda at: at * 0.05 + number if here(at) else None, "unknown")
    for bound, share in (("0.01", 0.6), ("0.1", 0.9), ("1", 0.98), ("+Inf", 1)):
        add("listen_queue_wait_seconds_bucket", {**unix, "le": bound}, lambda at, share=share: at * share if here(at) else None, "unknown")
    for bound, share in (("0", 0), ("0.1", 0.7), ("0.25", 0.9), ("0.5", 0.95), ("0.75", 0.96), ("0.9", 0.97), ("0.99", 0.98), ("1", 1), ("+Inf", 1)):
        add("listen_queue_utilization_ratio_bucket", {**unix, "le": bound}, lambda at, share=share: round(at * 100 * share) if here(at) else None, "unknown")
    add("listen_queue_abandoned_connections", unix, burst(0, lambda at: at % 7))
    add("listen_queue_blocked_connects", unix, burst(0, lambda at: at % 3))
    add("listen_queue_listener_replacements_total", unix, constant(0), "counter")
    tcp = {**labels, "listener": "nginx"}
    of_listener(add, tcp, "tcp", 512, constant)
    add("listen_queue_depth", tcp, constant(number % 5))
    add("listen_queue_depth_peak", tcp, constant(10 + number % 90))
    add("listen_queue_oldest_wait_seconds", tcp, constant(0))
    add("listen_queue_full_seconds_total", tcp, constant(0), "counter")
    add("listen_queue_tcp_listen_overflows_total", labels, constant(0), "counter")
    add("listen_queue_source_up", {**labels, "source": "unix_diag"}, constant(1))
    add("process_cpu_seconds_total", labels, lambda at: at * 0.004 if here(at) else None, "counter")
    add("process_resident_memory_bytes", labels, constant(4 << 20))


def of_host(add, labels, started):
    constant = of_exporter(add, labels, started, lambda _: True)
    unix = {**labels, "listener": "unix:/run/postgresql/.s.PGSQL.5432"}
    of_listener(add, unix, "unix", 4097, constant)
    add("listen_queue_depth", unix, constant(12))
    add("listen_queue_depth_peak", unix, constant(3900))
    add("listen_queue_oldest_wait_seconds", unix, constant(0.2))
    add("listen_queue_full_seconds_total", unix, constant(0), "counter")


if __name__ == "__main__":
    main()
