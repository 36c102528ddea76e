"""What is lost when a service is signalled: asyncio.run, aiorun, uvicorn, pyasynclife.

python -m benchmarks.shutdown_peers [--only TEXT] [--deadline 3] [--write FOLDER]

Each contender runs the same service (shutdown_programs.py) in a child process, for each
scenario; the signals are real. A process that has not ended four seconds after its
deadline is killed, as an orchestrator does. Contenders whose packages are missing are
named and left out. --write writes shutdown-compared.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata, util
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.shutdown_page import write_page
from benchmarks.shutdown_programs import CONTENDERS
from benchmarks.shutdown_runs import SCENARIOS, Run, applies, run


def missing(contender: str) -> list[str]:
    """Return the packages that a contender needs and that are not installed."""
    packages = CONTENDERS[contender][1]
    return [package for package in packages if util.find_spec(package) is None]


def versions() -> dict[str, str]:
    """Return the versions of the packages that are compared."""
    packages = {package for _, needs in CONTENDERS.values() for package in needs}
    return {
        package: metadata.version(package)
        for package in sorted({*packages, "pyasynclife"})
        if util.find_spec(package) is not None
    }


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shutdown_peers",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only scenarios with this name"
    )
    parser.add_argument(
        "--deadline", type=float, default=3.0, help="seconds that a shutdown may take"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the runs, too")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the page, too"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.deadline <= 30:
        parser.error(f"--deadline must be 1 to 30, got {options.deadline:g}")
    if options.only and options.only not in SCENARIOS:
        parser.error(f"--only must be one of {', '.join(SCENARIOS)}")
    return options


def main() -> None:
    options = parse()
    there = [name for name in CONTENDERS if not missing(name)]
    for name in CONTENDERS:
        if name not in there:
            print(f"not installed: {', '.join(missing(name))}", file=sys.stderr)
    where = describe()
    where["packages"] = ", ".join(f"{name} {v}" for name, v in versions().items())
    where["deadline"] = f"{options.deadline:g} s"
    print(*(f"{name}: {fact}" for name, fact in where.items()), sep="\n")
    wanted = [
        (name, scenario)
        for scenario in SCENARIOS
        for name in there
        if options.only in ("", scenario) and applies(name, scenario)
        for _ in range(SCENARIOS[scenario].times)
    ]

    def run_pair(pair: tuple[str, str]) -> Run:
        return run(pair[0], pair[1], options.deadline)

    runs: list[Run] = []
    # Most of them wait, so two at a time do not disturb each other.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for one in pool.map(run_pair, wanted):
            print(f"{one.scenario}, {one.contender}: {one}", flush=True)
            runs.append(one)
    if options.json is not None:
        report = {**where, "runs": [asdict(one) for one in runs]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.write is not None:
        write_page(options.write, where, runs)


if __name__ == "__main__":
    main()
