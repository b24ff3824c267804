#!/usr/bin/env python3
"""Generates the files of files.jsonnet from the mixin, or with --check lists those that differ.

    generate.py [--check]
"""

import json
import pathlib
import sys

import _jsonnet
import yaml

MIXIN = pathlib.Path(__file__).resolve().parent
ROOT = MIXIN.parents[1]
# jsonnet sorts by name.
ORDER = ["record", "alert", "expr", "for", "labels", "annotations", "summary", "description", "runbook_url"]


def ordered(value):
    if isinstance(value, list):
        return [ordered(each) for each in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (ORDER.index(key) if key in ORDER else -1, key))
        return {key: ordered(value[key]) for key in keys}
    return value


class Dumper(yaml.SafeDumper):
    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data):
        return True


def represent(dumper, text):
    style = "|" if "\n" in text else ">" if len(text) > 100 and ": " in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, represent)


def text(path, file):
    if path.endswith(".json"):
        return json.dumps(file["contents"], indent=2, ensure_ascii=False) + "\n"
    dumped = yaml.dump(ordered(file["contents"]), Dumper=Dumper, sort_keys=False, width=140, allow_unicode=True)
    return f"# {file['head']}\n{dumped}"


def main():
    files = json.loads(_jsonnet.evaluate_file(str(MIXIN / "files.jsonnet")))
    made = {ROOT / path: text(path, file) for path, file in files.items()}
    changed = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    names = ", ".join(str(path.relative_to(ROOT)) for path in changed)
    if "--check" in sys.argv[1:]:
        sys.exit(f"not what the mixin makes: {names}; run: make generate" if changed else 0)
    for path in changed:
        path.write_text(made[path])


if __name__ == "__main__":
    main()
