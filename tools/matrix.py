"""Run the test suite on every available CPython.

python tools/matrix.py [--only 3.13,3.15d] [--tested 3.11] [--sample] [--install]
[arguments for pytest]

Looks for 3.11 to 3.15 on this machine. Of those that are missing, 3.14, 3.15 and the
debug build of 3.15 come from Debian, in a tree that is made on demand. This takes root
and mmdebstrap; with --install, apt-get installs mmdebstrap if it is missing. Versions
that are not available are named at the end. The script fails only if a suite fails.

A sample, for CI: pages, examples and servers are tested as programs on the newest
version only. The suite runs without the capture, and on uvloop too, on the oldest and
the newest; on the others only the tests of groups use uvloop.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from debian_tree import ROOT, WORK, Unavailable
from pythons import VERSIONS, Place, find_place, install

# The tests of code that uses the capture, which run once more without it.
PLAIN_PATH = [
    "tests/group/test_group.py",
    "tests/group/test_create_task.py",
    "tests/group/test_cancel.py",
    "tests/group/test_errors.py",
    "tests/group/test_capture.py",
    "tests/group/test_capture_unseen.py",
    "tests/group/test_patched.py",
    "tests/whole/test_task_factories.py",
    "tests/registry",
    "--ignore=tests/registry/test_faults.py",
]

OLDEST, *_, NEWEST = sorted(v for v in VERSIONS if not v.endswith("d"))

# The tests that mostly wait for child processes, which run beside the others.
WAITING = ["tests/contrib", "tests/examples", "tests/monitor", "tests/signals"]
# The sweep over the allocations of these runs with the other sweeps, in one process:
# tests/whole/test_fault_sites.py looks at all of them together.
SWEEP = "tests/signals/test_faults.py"


@dataclass
class Outcome:
    """The result of the suite on one version."""

    version: str
    ran: str = "not run"
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    failed: bool = False
    note: str = ""


def read_counts(log: str) -> dict[str, int]:
    """Return the counts in pytest's last line; empty if there is none."""
    for line in reversed(log.splitlines()):
        found = re.findall(r"(\d+) (passed|failed|skipped|error|deselected)", line)
        if found and re.search(r" in [\d.:]+", line):
            return {name: int(count) for count, name in found}
    return {}


def run_all(place: Place, suite: Sequence[str]) -> tuple[bool, dict[str, int]]:
    """Run the whole suite; return whether it failed, and the counts."""
    place.waiting_log.unlink(missing_ok=True)
    folders = {f"tests/{path.parent.name}" for path in ROOT.glob("tests/*/test_*.py")}
    others = sorted(folders.difference(WAITING, ["tests/regrtest"]))
    wait = [*suite, *WAITING, f"--ignore={SWEEP}"]
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(place.run, *wait, log=place.waiting_log)
        failed = place.run(*suite, *others, SWEEP) != 0
        failed |= waiting.result() != 0
    counts = Counter(read_counts(place.log.read_text()))
    counts.update(read_counts(place.waiting_log.read_text()))
    return failed, counts


def hunt_leaks(place: Place, outcome: Outcome) -> None:
    """Run CPython's own hunt for leaked references, if its test suite is installed."""
    if place.run("-c", "import test.libregrtest") != 0:
        outcome.note += " regrtest -R: not run, no test suite"
        return
    module: list[str | Path] = [
        "--testdir",
        place.inside / "src/tests/regrtest",
        "test_pyasynclife",
    ]
    leaked = place.run("-m", "test", "-R", "3:3", *module) != 0
    outcome.note += f" regrtest -R 3:3: {'LEAKED' if leaked else 'no leak'}"
    outcome.failed |= leaked


def run_suite(
    version: str,
    arguments: Sequence[str],
    tested: str | None,
    may_install: bool,
    sample: bool,
) -> Outcome:
    outcome = Outcome(version)
    began = time.monotonic()
    try:
        place = find_place(version, may_install)
        code = "import sys; print(*sys.version.split()[:1])"
        outcome.ran = "suite"
        outcome.note = install(place)
        place.run("-c", code)
        outcome.ran = place.log.read_text().splitlines()[-1]
        suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        if sample and version != NEWEST:
            suite += ["-m", "not programs"]
        if sample and version not in (OLDEST, NEWEST):
            suite += ["-k", "not uvloop or group"]
        if version == tested:
            outcome.note += " without the capture alone"
        elif not arguments:
            outcome.failed, outcome.counts = run_all(place, suite)
        else:
            outcome.failed = place.run(*suite) != 0
            outcome.counts = read_counts(place.log.read_text())
        plain = not arguments and (not sample or version in (OLDEST, NEWEST, tested))
        if plain and not outcome.failed:
            off = {"PYASYNCLIFE_PLAIN": "1"}
            if place.run(*suite, *PLAIN_PATH, switches=off) != 0:
                outcome.failed = True
                outcome.note = "FAILED without the capture"
            outcome.counts = outcome.counts or read_counts(place.log.read_text())
        if version.endswith("d") and not arguments:
            hunt_leaks(place, outcome)
    except Unavailable as why:
        outcome.note = str(why)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        outcome.failed = True
        outcome.note = str(error)
    outcome.seconds = time.monotonic() - began
    verdict = "FAILED" if outcome.failed else "passed" if outcome.counts else "not run"
    note = f": {outcome.note.strip()}" if outcome.note else ""
    print(f"{version}: {verdict}{note} ({outcome.seconds:.0f} s)", flush=True)
    return outcome


def show(outcomes: list[Outcome]) -> None:
    """Print the end of each failed log, then a table of the outcomes."""
    for outcome in outcomes:
        for log in sorted(WORK.glob(f"{outcome.version}*.log")):
            if outcome.failed and log.stem.removesuffix("-waiting") == outcome.version:
                print(f"\n---- {log.relative_to(ROOT)}, its end")
                print(*log.read_text().splitlines()[-80:], sep="\n")
    print(f"\n{'':6} {'ran':12} {'passed':>7} {'failed':>7} {'skipped':>7} {'s':>5}")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.version):
        counts = outcome.counts
        bad = counts.get("failed", 0) + counts.get("error", 0)
        note = outcome.note or ("FAILED" if outcome.failed else "")
        print(
            f"{outcome.version:6} {outcome.ran:12} {counts.get('passed', 0):7} "
            f"{bad:7} {counts.get('skipped', 0):7} {outcome.seconds:5.0f}  {note}"
        )


def main() -> int:
    """Run the suite on the versions that the command line names; return the status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="versions, with commas between", default="")
    parser.add_argument("--tested", help="a version whose suite has just passed")
    parser.add_argument(
        "--install", help="apt-get may install mmdebstrap", action="store_true"
    )
    parser.add_argument("--sample", help="what CI runs", action="store_true")
    options, arguments = parser.parse_known_args()
    wanted = options.only.split(",") if options.only else VERSIONS
    if unknown := set(wanted) - set(VERSIONS):
        parser.error(f"no such version: {', '.join(unknown)}; there are {VERSIONS}")
    WORK.mkdir(exist_ok=True)
    with ThreadPoolExecutor(max_workers=2) as pool:  # each runs two processes
        started = [
            pool.submit(
                run_suite,
                version,
                arguments,
                options.tested,
                options.install,
                options.sample,
            )
            for version in wanted
        ]
        outcomes = [future.result() for future in started]
    show(outcomes)
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
