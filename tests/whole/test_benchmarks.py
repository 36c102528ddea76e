"""The benchmarks run and print every row; their speed is not tested.

They need the extra `bench`: `make recipes` installs it and runs this module.
"""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import bench_versions

from support.children import PATH, run_child
from support.marks import needs_uvloop

TINY = ["-m", "benchmarks", "--quick", "--scale", "0.002"]
ROWS = [
    "register",
    "cancel_all and wait",
    "heartbeat by id, awaited",
    "heartbeat by id, not awaited",
    "get_stale_tasks, 10 stale",
    "get_stale_tasks: its time against 1,000 tasks'",
    "memory of an entry and its id",
    "shutdown and report, against cancel_all and gather",
    "shutdown and report, against graceful_shutdown",
    "graceful_shutdown of tasks that are passed",
    "shutdown: lag of the loop meanwhile",
    "shutdown: time after the deadline, all tasks swallow",
    "group, children return at once",
    "group, children do sleep(0)",
    "group, children live long",
    "gather, item returns at once",
    "gather, item does sleep(0)",
    "gather, item waits for a future",
    "gather, item raises at once",
    "gather, item returns at once, task_per_item",
    "gather, item waits for a future, task_per_item",
    "gather, results streamed: peak growth",
    "pool, jobs and failures to on_result: peak growth",
]
# With contenders of their own, so each is a table.
TABLES = [
    "pool: submit and await, job returns at once",
    "pool: submit and await, job does sleep(0)",
    "limit_by of 100 keys, item returns at once",
    "max_per_second=50,000, item returns at once",
    "retry, each item fails once",
]
TIMES = {"group, children return at once": 6} | dict.fromkeys(
    [*ROWS[1:4], "group, children do sleep(0)"], 2
)
# On the standard loop only.
PLAIN = {
    "register, the plain path": 1,
    "cancel_all and wait, the plain path": 2,
    "group, children return at once, the plain path": 6,
}

pytest.importorskip("matplotlib", reason="the extra bench is not installed")


@pytest.mark.parametrize(
    "loop", ["asyncio", pytest.param("uvloop", marks=needs_uvloop)]
)
def test_every_row_is_printed_and_written(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    done = run_child(
        [*TINY, "--loop", loop, "--json", str(path)], timeout=120, env=PATH
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    report = json.loads(path.read_text())
    assert {"commit", "python", "machine", "load", "rows"} <= set(report)
    assert {row["loop"] for row in report["rows"]} == {loop}
    expectations = {what: TIMES.get(what, 1) for what in ROWS}
    expectations |= PLAIN if loop == "asyncio" else dict.fromkeys(PLAIN, 0)
    for what, expected in expectations.items():
        assert sum(line.startswith(f"{what}  ") for line in lines) == expected, what
        assert sum(row["what"] == what for row in report["rows"]) == expected, what
    for what in TABLES:
        assert sum(line.startswith(f"{what}, ns  ") for line in lines) == 1, what
        assert sum(row["what"] == what for row in report["rows"]) == 1, what
    assert sum(row["short"] for row in report["rows"]) == sum(
        line.endswith("below target") for line in lines
    )
    assert f"{loop}: register" in done.stderr, "no progress was shown"

    page = tmp_path / "versions.md"
    monkeypatch.setattr(bench_versions, "PAGE", page)
    bench_versions.write({"3.11": [report], "3.12": [report]})
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert sum(line.startswith("| register |") for line in rows) == 1
    assert all(line.count("|") == 5 for line in rows)


def test_only_measures_the_rows_asked_for() -> None:
    command = [*TINY, "--loop", "asyncio", "--only", "memory"]
    done = run_child(command, timeout=60, env=PATH)
    assert done.returncode == 0, done.stderr
    printed = {what for what in ROWS if f"\n{what} " in done.stdout}
    assert printed == {"memory of an entry and its id"}


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_cost_of_an_item_is_drawn(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cost{suffix}"
    command = [*TINY, "--loop", "asyncio", "--only", "cost of an item against n, no"]
    done = run_child([*command, "--plot", str(path)], timeout=60, env=PATH)
    assert done.returncode == 0, done.stderr
    start = {".svg": b"<?xml", ".png": b"\x89PNG"}[suffix]
    assert path.read_bytes().startswith(start)


def test_a_bad_scale_is_refused() -> None:
    done = run_child([*TINY[:-1], "0"], env=PATH)
    assert done.returncode == 2
    assert "--scale" in done.stderr


# ---------------------------------------------------------------- peers, HTTP, the page

PEERS = {
    "pyarallel": "pyarallel",
    "quattro": "quattro",
    "aiojobs": "aiojobs",
    "aiometer": "aiometer",
    "anyio": "anyio, CapacityLimiter",
    "aiostream": "aiostream",
}


def measure(only: str, tmp_path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows, and what was printed; the page is in the folder."""
    path = tmp_path / "rows.json"
    command = [*TINY, "--loop", "asyncio", "--only", only, "--json", str(path)]
    done = run_child([*command, "--write", str(tmp_path)], timeout=120, env=PATH)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text())["rows"], done.stdout + done.stderr


def test_every_peer_that_is_there_is_measured_and_the_others_are_named(
    tmp_path: Path,
) -> None:
    rows, printed = measure("peers", tmp_path)
    assert len(rows) == 3
    figures = rows[0]["figures"]
    assert {"gather, no limit", "TaskGroup, no limit", "50 workers by hand"} < set(
        figures
    )
    for package, name in PEERS.items():
        if importlib.util.find_spec(package) is not None:
            assert figures[name] > 0
            assert rows[0]["ratios"][name]["must"] == 10
            assert f"\n{name}  " in printed
            assert f"| {name} |" in (tmp_path / "index.md").read_text()
        else:
            assert name not in figures
            missing = printed.partition("not installed: ")[2].partition("\n")[0]
            assert name in missing


AGAINST_N = {
    "cost of an item against n, no timeout": "cost.svg",
    "cost of an item against n, with a timeout": "cost-timeout.svg",
    "peak memory against n, results kept": "memory.svg",
}


def test_cost_and_memory_against_n_have_a_column_for_each_n(tmp_path: Path) -> None:
    rows, printed = measure("against n", tmp_path)
    for what in AGAINST_N:
        mine = [row for row in rows if row["what"] == what]
        assert [row["n"] for row in mine] == sorted({row["n"] for row in mine})
        assert len(mine) > 1
        (head,) = [line for line in printed.splitlines() if line.startswith(f"{what},")]
        assert all(f"{row['n']:,} items" in head for row in mine)
    page = (tmp_path / "index.md").read_text()
    assert "| pyasynclife, streamed |" in page
    for fact in ("commit", "CPython", "scale 0.002", "load"):
        assert fact in " ".join(page.split())
    for what, name in AGAINST_N.items():
        assert f"({name})" in page
        plot = (tmp_path / name).read_text()
        assert "limit 50" in plot
        for row in (row for row in rows if row["what"] == what):
            for contender in row["figures"]:
                assert contender.replace("ours", "pyasynclife") in plot
        assert "fill: #ffffff" not in plot, "it covers a dark page"


def test_one_contender_has_one_colour_in_all_plots(tmp_path: Path) -> None:
    measure("against n", tmp_path)
    colours: dict[str, set[str]] = {}
    for name in AGAINST_N.values():
        plot = (tmp_path / name).read_text()
        legend = plot[plot.index('id="legend_1"') :]
        # Each entry of a legend is a line, and then its text.
        for entry in re.findall(r"stroke: (#\w+).*?<text[^>]*>([^<]+)<", legend, re.S):
            colours.setdefault(entry[1], set()).add(entry[0])
    assert {"pyasynclife", "50 workers by hand"} < set(colours)
    assert all(len(own) == 1 for own in colours.values())
    shared = {"pyasynclife", "pyasynclife, streamed"}
    different = {next(iter(own)) for name, own in colours.items() if name not in shared}
    assert len(different) == len(colours) - 2


def test_requests_to_the_server_are_measured(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    rows = measure("HTTP", tmp_path)[0]
    for row in rows:
        assert len(row["figures"]) == 3
        assert all(figure > 0 for figure in row["figures"].values())
        assert set(row["ratios"]) == set(row["figures"]) - {"ours"}
    assert [row["unit"] for row in rows] == ["1/s", "ms", "µs"]


def test_the_page_opens_with_what_is_not_gained_on_each_build(tmp_path: Path) -> None:
    measure("item raises at once", tmp_path)
    mine, other = tmp_path / "rows.json", tmp_path / "other.json"
    report = json.loads(mine.read_text())
    python = report["python"].removeprefix("CPython ")
    report |= {"python": "CPython 3.99.1 (optimised)", "commit": "another"}
    other.write_text(json.dumps(report))
    command = ["-m", "benchmarks.page", *map(str, (tmp_path, mine, other))]
    done = run_child(command, env=PATH)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.md").read_text()
    (opening,) = re.findall(r"(?s)nothing is gained\n.*?\n\n\|(.*?)\n\n", page)
    builds = f"{python}, standard loop | 3.99.1 (optimised), standard loop"
    assert opening.startswith(f" work | items | compared with | {builds} |")
    assert "item raises at once" in opening
    assert page.index(opening) < page.index("## How many times faster")
    assert "- CPython 3.99.1 (optimised), commit another, " in page


# ------------------------------------------------------------- shutdown, compared

SERVICES = {  # and what the runner of a service loses at SIGTERM
    "asyncio.run": "cleanup (0 of 100 done)",
    "asyncio.run with handlers": "nothing",
    "aiorun": "nothing",
    "uvicorn": "nothing",
    "pyasynclife.run": "nothing",
    "uvicorn with pyasynclife": "nothing",
}


def test_every_runner_of_a_service_that_is_there_is_compared(tmp_path: Path) -> None:
    command = ["-m", "benchmarks.shutdown_peers", "--only", "tasks"]
    options = ["--deadline", "20", "--write", str(tmp_path)]
    done = run_child([*command, *options], timeout=120, env=PATH)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "shutdown-compared.md").read_text()
    (head,) = [line for line in page.splitlines() if line.startswith("| | ")]
    there = head.strip("| ").split(" | ")
    packages = {"aiorun": "aiorun", "uvicorn": "uvicorn"}
    for name, losses in SERVICES.items():
        package = packages.get(name.partition(" ")[0])
        if package is not None and importlib.util.find_spec(package) is None:
            assert f"not installed: {package}" in done.stderr
            assert name not in there
        else:
            assert f"\ntasks, {name}: {losses} (" in done.stdout
            assert name in there


def test_a_scenario_that_does_not_exist_is_refused() -> None:
    done = run_child(["-m", "benchmarks.shutdown_peers", "--only", "none"], env=PATH)
    assert done.returncode == 2
    assert "--only must be one of tasks, storm" in done.stderr
