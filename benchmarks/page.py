"""The rows as a page of docs/, with plots if matplotlib is installed."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.figures import Row
from benchmarks.peers_rows import COST, MEMORY
from benchmarks.table import SHORT, tables

PLOTS = {COST: "cost.svg", MEMORY: "memory.svg"}
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bf3989")

HEAD = """# Benchmarks

Written by `make bench`. [How to read it](../../benchmarks/README.md) also says what
falls short. *seed* is the reference implementation, `benchmarks/seed.py`: the code that
five articles about asyncio, among them "A Complete Guide to asyncio Task Lifecycle",
print for the same work, or, in the rows of the group, the running version's
`asyncio.TaskGroup`.
*hand* is 50 workers written by hand. A row marked `<-- SHORT` is below its target. The
rows of `TaskGroup`, `register` and `cancel_all` were also measured [on every
version](versions.md).
"""


def write_page(
    folder: Path, where: Mapping[str, str], measured: Mapping[str, Sequence[Row]]
) -> None:
    """Write index.md and its plots into a folder.

    where: the facts at the head of the page.  measured: the rows of each loop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEAD, *(f"- {name}: {fact}" for name, fact in where.items())]
    for what, name in PLOTS.items():
        if _plot(folder / name, what, measured):
            parts += ["", f"![{what}]({name})"]
    for loop, rows in measured.items():
        parts += ["", f"## {loop}"]
        for table in tables(rows):
            parts += ["", *_markdown(table)]
    (folder / "index.md").write_text("\n".join(parts) + "\n")


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    marks = any(line[-1] for line in table[1:])
    width = len(table[0]) - (0 if marks else 1)
    lines = [[cell.replace(SHORT, "`<-- SHORT`") for cell in line] for line in table]
    lines.insert(1, ["---", *["---:"] * (width - 1)])
    return ["| " + " | ".join(line[:width]) + " |" for line in lines]


def _plot(path: Path, what: str, measured: Mapping[str, Sequence[Row]]) -> bool:
    """Draw figures against n on logarithmic axes; return False if there are none."""
    panels = {
        loop: [row for row in rows if row.what == what]
        for loop, rows in measured.items()
    }
    if not any(len(rows) > 1 for rows in panels.values()):
        return False
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: no plots", file=sys.stderr)
        return False
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # With a fixed salt, the same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "pyasynclife"
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(
        dict.fromkeys(n for r in panels.values() for o in r for n in o.figures)
    )
    names.sort(key=lambda name: not name.startswith("ours"))
    for panel, (loop, rows) in zip(axes, panels.items(), strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            points = [(row.n, row.figures[name]) for row in rows if name in row.figures]
            style = "o-" if name.startswith("ours") else "s--"
            panel.loglog(*zip(*points, strict=True), style, label=name, color=colour)
        panel.set(title=loop, xlabel="items")
        panel.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel(
        f"{what.split(' against')[0]}, {panels[next(iter(panels))][0].unit}"
    )
    axes[-1].legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    return True
