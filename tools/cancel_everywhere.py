"""Cancel each of our public coroutines at every iteration of its loop.

python tools/cancel_everywhere.py [-k WORDS] [--sample N [--seed S]] [--stock [-v]]

Runs the scenarios of tests/support/cancel_scenarios*.py, with lazy tasks and with the
eager task factory (3.12 and newer), with the capture and, in a separate process,
without it. Prints the violations, and a line of figures.

--sample: run only that many points, drawn at random from the seed, which is printed.
--stock: run asyncio's own tools instead, and print a row of the table in
docs/how-to/testing.md.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import support.cancel_scenarios_articles  # noqa: E402
import support.cancel_scenarios_contrib  # noqa: E402
import support.cancel_scenarios_live  # noqa: E402, F401
from pyasynclife.testing import CancelReport, cancel_everywhere  # noqa: E402
from support.cancel_scenarios import EAGER, OURS, Case, quiet  # noqa: E402
from support.cancel_scenarios_stock import STOCK  # noqa: E402

Point = tuple[int, ...]

VERSION = sys.version.split()[0]
FACTORIES: dict[str, Any] = {"lazy": None}
if EAGER:
    FACTORIES["eager"] = asyncio.eager_task_factory


@dataclass(frozen=True)
class Choice:
    """Which scenarios to run, and how many of their points (None: all)."""

    words: str
    sample: int | None
    seed: int

    @property
    def arguments(self) -> list[str]:
        sample = [] if self.sample is None else ["--sample", str(self.sample)]
        return ["-k", self.words, "--seed", str(self.seed), *sample]


def run(case: Case, factory: str, points: list[Point] | None = None) -> CancelReport:
    """Run a scenario at the given points (None: at all)."""
    return cancel_everywhere(
        case.scenario,
        points=points,
        settle=case.settle,
        check=case.check_all,
        first=case.first,
        task_factory=FACTORIES[factory],
    )


Job = tuple[Case, str]
"""A scenario, and the name of a task factory."""


def draw(jobs: list[Job], choice: Choice) -> Iterator[tuple[Job, list[Point]]]:
    """Yield random points of random scenarios; the undisturbed run comes first."""
    assert choice.sample is not None
    chance = random.Random(choice.seed)
    rounds = -(-choice.sample // len(jobs))
    drawn = chance.sample(range(len(jobs) * rounds), choice.sample)
    for number, times in sorted(Counter(one % len(jobs) for one in drawn).items()):
        turns = run(*jobs[number], [()]).turns
        points: list[Point] = [()]
        for _ in range(times):
            first = chance.randint(1, turns)
            second = (first + chance.choice((0, 1, 2, 5)),)
            points.append((first, *chance.choice(((), second))))
        yield jobs[number], points


def run_ours(choice: Choice) -> int:
    """Run our own scenarios in this process; return the number of violations."""
    began = time.monotonic()
    cases = [case for case in OURS if choice.words in case.name]
    if not cases:
        sys.exit(f"no scenario has {choice.words!r} in its name")
    jobs = [(case, factory) for factory in FACTORIES for case in cases]
    todo: Iterable[tuple[Job, list[Point] | None]]
    todo = (
        [(job, None) for job in jobs] if choice.sample is None else draw(jobs, choice)
    )
    points = violations = 0
    for (case, factory), chosen in todo:
        report = run(case, factory, chosen)
        points += report.points
        violations += len(report.violations)
        if not report.ok:
            print(f"{factory}: {report}", flush=True)
    how = "without the capture" if is_plain() else "with the capture"
    drawn = "" if choice.sample is None else f", a sample by --seed {choice.seed}"
    print(
        f"cancel-everywhere: {VERSION}, {' and '.join(FACTORIES)}, {how}{drawn}: "
        f"{len(cases)} scenarios, {points} points, {violations} violations, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    return violations


def is_plain() -> bool:
    """Tell whether this process runs without the capture."""
    return os.environ.get("PYASYNCLIFE_PLAIN", "") not in ("", "0")


def run_plain(choice: Choice) -> int:
    """Run this script in another process without the capture; return its status."""
    command = [sys.executable, __file__, *choice.arguments]
    environment = os.environ | {"PYASYNCLIFE_PLAIN": "1"}
    return subprocess.run(command, env=environment, check=False).returncode


def run_stock(verbose: bool) -> None:
    """Print, for each column, at how many of its points asyncio is wrong."""
    for factory in FACTORIES:
        cells = []
        sums = [0, 0]
        for cases in STOCK.values():
            wrong = points = 0
            for case in cases:
                report = run(case, factory)
                points += report.points
                wrong += len([point for point in report.wrong if point])
                if verbose and not report.ok:
                    print(factory, report, file=sys.stderr)
            cells.append(f"{wrong} of {points}")
            sums = [sums[0] + wrong, sums[1] + points]
        cells.append(f"{sums[0]} of {sums[1]}")
        name = VERSION if factory == "lazy" else f"{VERSION}, {factory}"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    """Run the scenarios that the command line chooses; return the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", help="only scenarios with this in their name", default="")
    parser.add_argument("--sample", type=int, help="that many points, at random")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--stock", action="store_true", help="asyncio's own tools")
    parser.add_argument("-v", action="store_true", help="with --stock: what is wrong")
    options = parser.parse_args()
    choice = Choice(options.k, options.sample, options.seed)
    with quiet():
        if options.stock:
            run_stock(options.v)
            return 0
        failed = run_ours(choice) > 0
    if not is_plain():
        failed |= run_plain(choice) != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
