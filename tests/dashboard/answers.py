"""What a Prometheus answers to the dashboard: its variables filled in, as Grafana does it with everything selected."""

import json
import pathlib
import re
import urllib.parse
import urllib.request

DASHBOARD = pathlib.Path(__file__).resolve().parents[2] / "grafana/dashboard.json"


def fill(expression, seconds, rate_interval="1m"):
    """An expression for that many seconds shown."""
    values = {"__range": f"{seconds}s", "__range_s": str(seconds), "__rate_interval": rate_interval}
    return re.sub(r"\$(\w+)", lambda name: values.get(name[1], ".*"), expression)


def targets():
    """Panels with the expressions that they ask."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel, target


def ask(address, path, **parameters):
    url = f"http://{address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.loads(answer.read())["data"]["result"]


def all_of(address, start, end, step, rate_interval="1m"):
    """Every answer over a span, by panel and expression; those at its end where the panel shows one moment."""
    answers = {}
    for panel, target in targets():
        expression = fill(target["expr"], round(end - start), rate_interval)
        if target.get("instant"):
            result = [{"metric": each["metric"], "values": [each["value"]]} for each in ask(address, "query", query=expression, time=end)]
        else:
            result = ask(address, "query_range", query=expression, start=start, end=end, step=step)
        answers.setdefault(panel["id"], {})[target["refId"]] = result
    return {"span": {"start": start, "end": end, "step": step}, "answers": answers}
