"""The section of the benchmarks' page that shows benchmarks/instructions.json.

python -m benchmarks.counts writes it anew into docs/benchmarks/index.md, and leaves the
rest of the page as it is. tools/instructions.py --write does the same.
"""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

COUNTS = ROOT / "benchmarks/instructions.json"
PAGE = ROOT / "docs/benchmarks/index.md"
SECTION = re.compile(r"(?ms)^## Instructions\n.*?(?=^## |\Z)")
HEAD = """## Instructions

A count of instructions does not depend on the load of the machine (`make instructions`,
with valgrind; the collector is off). For each build: instructions for one item, child,
registration or supervised run. *Awaited in turn* has no limit and no Task: one
coroutine is awaited after the other, so that each `sleep(0)` takes a loop iteration of
its own.
"""
COLUMNS = {
    "stock": "the articles' code, or asyncio.TaskGroup",
    "by hand": "by hand",
    "no timeout": "by hand, no timeout",
    "floor": "awaited in turn",
    "ours": "pyasynclife",
}


def counts() -> list[str]:
    """Return lines of Markdown: a table for each build, with where it was counted."""
    builds: dict[str, dict[str, Any]] = json.loads(COUNTS.read_text())
    lines = [HEAD]
    for build, counted in builds.items():
        commits = f"commit {counted['commit']}"
        if others := counted.get("others"):
            commits += f" (the other columns: {others})"
        where = ", ".join((build, commits, counted["compiler"], counted["machine"]))
        lines.append(textwrap.fill(f"{where}:", 88))
        lines += ["", f"| work | {' | '.join(COLUMNS.values())} |"]
        lines.append(f"| --- | {' | '.join(['---:'] * len(COLUMNS))} |")
        for what, row in counted["rows"].items():
            cells = (f"{row[key]:,}" if key in row else "-" for key in COLUMNS)
            lines.append(f"| {what} | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def write_section(page: Path = PAGE) -> None:
    """Replace the section in a page."""
    section = "\n".join(counts()) + "\n\n"
    page.write_text(SECTION.sub(lambda _: section, page.read_text()))


if __name__ == "__main__":
    write_section()
