"""docs/benchmarks/index.md: the rows of one or more builds, with plots.

python -m benchmarks.page FOLDER REPORT... makes the page from files that `python -m
benchmarks --json` wrote. The plots show the first of them.
"""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.counts import counts
from benchmarks.plots import write_plots
from benchmarks.report import LOOPS, Report, read_report
from benchmarks.summary import GAINS, SOBERING, summary
from benchmarks.table import SHORT, tables

README = "../../benchmarks/README.md"

HEAD = f"""# Benchmarks

What does pyasynclife itself cost: for an item of a batch, a child of a group, a
registered task, a heartbeat? And what do other ways to do the same work cost? The items
here do almost nothing, so that nothing else is in the figures. An item that waits for a
network or a database takes a thousand times as long, and then this cost hardly matters.

- *The articles' code* is what one of five published articles about asyncio's tasks, "A
  Complete Guide to asyncio Task Lifecycle", prints for the same work: a semaphore and a
  task for each item, with `asyncio.wait_for`; or its `TaskRegistry`.
- *By hand* is 50 workers over one iterator, with `asyncio.timeout`; or, for a shutdown,
  `cancel()` for each task, and waiting for the last one.
- The limit of a batch or a pool is 50, and the timeout is 5 s for each item. Where the
  work is *without a timeout*, no contender has one.

[How the figures are made, and how to read them]({README}).
"""

SOBER = """## Where little or nothing is gained

How many times faster pyasynclife is than the contender in the third column: the median
of the rounds of one run. Below 1, pyasynclife is slower. Two runs on a busy machine
differ by up to 20 % in the rows of HTTP.
"""

CONCLUDE = """## What you may conclude

- **Real requests do not become faster.** aiohttp takes nearly all of the time of a
  request. Take pyasynclife for its limits, its results and its shutdown, and expect no
  gain in throughput from it. Of these figures, the processor time of the client is
  least disturbed by a busy machine.
- **Workers over one iterator, written by hand, are as cheap or cheaper, as long as
  there is no timeout.** With a timeout for each item they cost many times as much as a
  batch, since `asyncio.timeout` is most of their work. They also need less memory: they
  keep the values, and a batch keeps a result object for each item.
- **An item that raises costs about ten times as much as one that returns**: its worker
  ends, and another one takes its place. By hand, a worker goes on after an error.
- **A shutdown costs up to a third more than `cancel()` for each task**: it also keeps a
  deadline and reports how each task ended.
- **The gain is large where there are many short items, children or heartbeats**: items
  from a cache, parsing, fan-out to queues, registries of tens of thousands of tasks.
- Other libraries do other things besides, for which they are slower. anyio and aiometer
  run on trio as well.
"""

MEASURED = """`make bench-builds` writes this page, from one run on each of these
builds. *Load* is that of the machine when the run began, *scale 0.5* is half of the
items of a full run, and *plain* is a build without optimisations.
"""

FASTER = """## How many times faster, at a glance

As above: the median of the rounds.
"""

PLOTS_HEAD = """## Against the number of items

Both axes are logarithmic. The slowest libraries, and those that create a task for each
item at the start, are drawn as far as a round with them takes seconds or hundreds of
megabytes.
"""

ALL = f"""## All figures

A ratio compares the best rounds of two contenders; the median of the ratios of all
rounds is in brackets. *Target* is the ratio that a row is meant to reach, and rows
below it are marked. *The plain path* is a row measured without the
[capture](../explanation/capture.md). The rows of `TaskGroup`, `register` and
`cancel_all` were also measured [on every version](versions.md), in an older run: that
page names its commit. [What falls short, and why]({README}#what-falls-short).
"""


def write_page(folder: Path, reports: Sequence[Report]) -> None:
    """Write index.md and its plots into a folder; the plots show the first report."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEAD]
    if sober := summary(SOBERING, reports):
        parts += [SOBER, *sober, ""]
    parts += [CONCLUDE, "## Where this was measured", "", MEASURED]
    for report in reports:
        parts.append(textwrap.fill(f"- {report.line}", 88, subsequent_indent="  "))
    if faster := summary(GAINS, reports):
        parts += ["", FASTER, *faster]
    parts += ["", *counts()]
    if drawn := write_plots(folder, reports[0]):
        parts += ["", PLOTS_HEAD]
        parts += ["\n\n".join(f"![{caption}]({name})" for name, caption in drawn)]
    parts += ["", ALL.rstrip()]
    for report in reports:
        for loop, rows in report.measured.items():
            parts += ["", f"### {report.python}, {LOOPS[loop]}"]
            for table in tables(rows):
                parts += ["", *_markdown(table)]
    (folder / "index.md").write_text("\n".join(parts) + "\n")


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    marks = any(line[-1] for line in table[1:])
    width = len(table[0]) - (0 if marks else 1)
    lines = [[cell.replace(SHORT, f"*{SHORT}*") for cell in line] for line in table]
    lines.insert(1, ["---", *["---:"] * (width - 1)])
    return ["| " + " | ".join(line[:width]) + " |" for line in lines]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python -m benchmarks.page FOLDER REPORT...")
    write_page(Path(sys.argv[1]), [read_report(Path(name)) for name in sys.argv[2:]])
