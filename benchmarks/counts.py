"""The instructions that tools/instructions.py has counted, as a table."""

import json
from pathlib import Path
from typing import Any

COUNTS = Path(__file__).resolve().parent / "instructions.json"
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
    lines = []
    for build, counted in builds.items():
        where = ", ".join(counted[fact] for fact in ("compiler", "machine"))
        lines += [f"{build}, commit {counted['commit']}, {where}:", ""]
        lines.append(f"| work | {' | '.join(COLUMNS.values())} |")
        lines.append(f"| --- | {' | '.join(['---:'] * len(COLUMNS))} |")
        compared = {what: row for what, row in counted["rows"].items() if len(row) > 1}
        for what, row in compared.items():
            cells = (f"{row[key]:,}" if key in row else "-" for key in COLUMNS)
            lines.append(f"| {what} | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]
