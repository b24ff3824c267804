"""Tables on the terminal, and the same on the page of the documentation, between markers."""

import dataclasses



@dataclasses.dataclass
class Table:
    """Its key on the page, its headings, the first cells of its rows, and the cells."""

    key: str
    title: str
    headings: list
    names: list
    rows: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)
    # What is worse than promised.
    missed: list = dataclasses.field(default_factory=list)

    def put(self, name, cells):
        assert name in self.names and len(cells) == len(self.headings) - 1, (self.key, name, cells)
        self.rows[name] = [shown(cell) for cell in cells]

    def lines(self):
        return [self.headings, *([name, *self.rows[name]] for name in self.names if name in self.rows)]

    def text(self):
        lines = self.lines()
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.headings))]
        rows = ["  " + "  ".join(f"{cell:<{width}}" if column == 0 else f"{cell:>{width}}" for column, (cell, width) in enumerate(zip(line, widths))) for line in lines]
        return "\n".join(["", self.title, *rows, *(f"  {note}" for note in self.notes)])

    def markdown(self):
        head, *rows = self.lines()
        rule = ["---"] + ["---:"] * (len(head) - 1)
        lines = ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])

    def shape(self):
        return {"headings": self.headings, "rows": self.names}


def shown(cell):
    """What a program did not report is a dash; a number has three digits that count."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 99.5 or cell == int(cell) else f"{cell:.3g}"
    if isinstance(cell, int):
        return f"{cell:,}"
    return str(cell)


def write_page(path, parts):
    """Writes each text between <!-- KEY --> and <!-- /KEY -->, which tests/docs.rs uses, too."""
    page = path.read_text()
    for key, text in parts.items():
        begin, end = f"<!-- {key} -->\n", f"<!-- /{key} -->"
        if begin not in page or end not in page:
            raise SystemExit(f"{path} has no {begin.strip()} with its end")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"
    path.write_text(page)
