"""Figures against n as SVG, readable on white pages, on dark ones, and on a phone."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import STYLES, label
from benchmarks.figures import Row
from benchmarks.peers_rows import COST, COST_TIMED, MEMORY
from benchmarks.report import LOOPS, Report

INK = "#7b7b7b"  # a contrast of 4.2 or more on white, and on near-black
# The file, its title and the workload, by the name of the rows.
PLOTS = {
    COST: (
        "cost.svg",
        "Cost of one item",
        "limit 50, no timeout, the item returns at once",
    ),
    COST_TIMED: (
        "cost-timeout.svg",
        "Cost of one item with a timeout",
        "limit 50, timeout 5 s, the item returns at once",
    ),
    MEMORY: (
        "memory.svg",
        "Peak memory",
        "limit 50, no timeout, n results kept (or streamed)",
    ),
}


def plot_cost(path: Path, report: Report) -> None:
    """Draw the cost of an item; the name of the file says whether as SVG or PNG."""
    loop, rows = next(iter(report.measured.items()))
    _plot(path, rows, COST, report, loop)


def write_plots(folder: Path, report: Report) -> list[tuple[str, str]]:
    """Draw the rows of the report's first loop; return file and caption of each."""
    loop, rows = next(iter(report.measured.items()))
    drawn = []
    for what, (name, title, work) in PLOTS.items():
        if sum(row.what == what for row in rows) < 2:
            continue
        if importlib.util.find_spec("matplotlib") is None:
            print("matplotlib is not installed: no plots", file=sys.stderr)
            return drawn
        _plot(folder / name, rows, what, report, loop)
        drawn.append((name, f"{title}, {work}"))
    return drawn


def _plot(
    path: Path, rows: Sequence[Row], what: str, report: Report, loop: str
) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    # With a fixed salt, the same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "pyasynclife"
    mpl.rcParams["svg.fonttype"] = "none"
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color")
    mpl.rcParams |= dict.fromkeys([*inked, "ytick.color", "grid.color"], INK)
    _, title, work = PLOTS[what]
    rows = [row for row in rows if row.what == what]
    where = f"{report.python}, {LOOPS[loop]}\n{report.where['machine']}, commit "
    where += report.where["commit"]
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes: Any = figure.subplots()
    base, unit = (1e-9, "s") if rows[0].unit == "ns" else (1e6, "B")
    measured = {name for row in rows for name in row.figures}
    # Ours is drawn last, over the others.
    for name, style in reversed(STYLES.items()):
        if name in measured:
            points = [(row.n, row.figures[name] * base) for row in rows
                      if name in row.figures]  # fmt: skip
            width = 2.4 if style.line == "-" else 1.4
            axes.loglog(*zip(*points, strict=True), style.line, marker=style.marker,
                        color=style.colour, linewidth=width, markersize=6,
                        label=label(name))  # fmt: skip
    axes.set_title(f"{title}\n{work}", fontsize=11, loc="left")
    for axis, formatter in (
        (axes.xaxis, EngFormatter(sep="")),
        (axes.yaxis, EngFormatter(unit=unit)),
    ):
        axis.set_major_formatter(formatter)
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside lower left", ncols=2,
                  frameon=False, fontsize=8.5, columnspacing=1)  # fmt: skip
    axes.set_xlabel(f"items\n{where}", fontsize=8.5)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, transparent=True, metadata=metadata)
