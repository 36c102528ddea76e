"""The rows that the README shows, one table for all builds and loops."""

from collections.abc import Iterator, Sequence

from benchmarks import (
    gather_rows,
    group_rows,
    http_rows,
    peers_rows,
    pool_rows,
    shutdown_rows,
)
from benchmarks import registry_rows as registry
from benchmarks.contenders import HAND, SEED, STOCK, WORKERS, label
from benchmarks.figures import Row
from benchmarks.report import LOOPS, Report
from benchmarks.table import times

RAISES = "gather, item raises at once"
# The rows in which little or nothing is gained, and the rivals; (): all of them.
SOBERING: tuple[tuple[str, tuple[str, ...]], ...] = (
    (http_rows.CPU, ()),
    (http_rows.RATE, ()),
    (peers_rows.PEERS, (WORKERS,)),
    (peers_rows.PEERS_0, (WORKERS,)),
    (RAISES, (HAND,)),
    (pool_rows.RETRY, ("by hand in fn",)),
    (shutdown_rows.PASSED, (HAND,)),
)
GAINS: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((what, (SEED, HAND)) for what, *_ in gather_rows.WORK),
    (peers_rows.PEERS, tuple(peers_rows.peers.LIBRARIES)),
    (pool_rows.POOL, ()),
    (group_rows.AT_ONCE, (STOCK,)),
    (group_rows.SLEEP, (STOCK,)),
    (group_rows.EAGER, (STOCK,)),
    (registry.REGISTER, (SEED,)),
    (registry.CANCEL, (SEED,)),
    (registry.AWAITED, (SEED,)),
    (registry.STALE_TASKS, (SEED,)),
)

# What a reader sees of a row's name, outside the table that explains it.
NAMES = {
    "gather, ": "bounded_gather with a timeout, ",
    "peers, ": "bounded_gather without a timeout, ",
    "pool: ": "TaskPool: ",
    "group, ": "TaskGroup, ",
    "retry, ": "bounded_gather with retry=, ",
}

Key = tuple[str, int, str]  # a row's name, its n, the rival


def _medians(rows: Sequence[Row]) -> dict[Key, float]:
    return {
        (row.what, row.n, rival): ratio.median
        for row in rows
        for rival, ratio in row.ratios.items()
    }


def _name(what: str) -> str:
    for prefix, text in NAMES.items():
        if what.startswith(prefix):
            return text + what.removeprefix(prefix)
    return what


def _keys(
    chosen: Sequence[tuple[str, tuple[str, ...]]], found: Sequence[Key]
) -> Iterator[Key]:
    for what, rivals in chosen:
        mine = dict.fromkeys(key for key in found if key[0] == what)
        yield from (key for key in mine if not rivals or key[2] in rivals)


def summary(
    chosen: Sequence[tuple[str, tuple[str, ...]]], reports: Sequence[Report]
) -> list[str]:
    """Return lines of Markdown: a column for each build and loop; [] without rows."""
    columns = {
        f"{report.python.removeprefix('CPython ')}, {LOOPS[loop]}": _medians(rows)
        for report in reports
        for loop, rows in report.measured.items()
    }
    keys = list(_keys(chosen, [key for column in columns.values() for key in column]))
    if not keys:
        return []
    lines = [
        f"| work | items | compared with | {' | '.join(columns)} |",
        f"| --- | ---: | --- | {' | '.join(['---:'] * len(columns))} |",
    ]
    for key in keys:
        what, n, rival = key
        cells = [times(column[key]) if key in column else "-"
                 for column in columns.values()]  # fmt: skip
        lines.append(
            f"| {_name(what)} | {n:,} | {label(rival)} | {' | '.join(cells)} |"
        )
    return lines
