"""Reads the dashboard into Grafana's own types and back, and says which keys did not survive: those Grafana would not know."""

import json
import pathlib
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

DASHBOARD = pathlib.Path(__file__).resolve().parents[2] / "grafana/dashboard.json"

# Of the data source, not of Grafana: how it titles the annotations that it makes of series.
OF_PROMETHEUS = re.compile(r"dashboard\.annotations\.list\[\d+\]\.titleFormat")


def lost(before, after, place):
    """Places of the first that the second lacks. What is empty or false may be left out."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(value, after[key], f"{place}.{key}")
            elif value not in (None, False, "", [], {}):
                yield f"{place}.{key}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{place}[{index}]")
    elif before != after:
        yield f"{place}: {before!r} became {after!r}"


def main():
    register_default_plugins()
    before = json.loads(DASHBOARD.read_text())
    after = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(DASHBOARD.read_text()))))
    places = [place for place in lost(before, after, "dashboard") if not OF_PROMETHEUS.fullmatch(place)]
    print("\n".join(places))
    sys.exit(1 if places else 0)


if __name__ == "__main__":
    main()
