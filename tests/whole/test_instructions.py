"""The tool that counts instructions: its programs, its reader and its verdict."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from support.children import run_child

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import counted
import instructions

from benchmarks import counts

PROGRAMS = [(row, column) for row in counted.ROWS for column in counted.ROWS[row]]


@pytest.mark.parametrize(("row", "column"), PROGRAMS)
def test_every_program_runs(row: str, column: str) -> None:
    items = [f"SYM{index}" for index in range(200)]
    asyncio.run(counted.ROWS[row][column](items))


def test_a_program_runs_in_a_process_of_its_own() -> None:
    done = run_child([counted.__file__, "register, run, finish", "ours", "200"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_count_is_read_from_the_log() -> None:
    log = "==7==\n==7== I   refs:      87,910,005\n"
    assert instructions.read_count(log) == 87_910_005


def test_a_log_without_a_count_ends_the_tool_and_is_shown() -> None:
    with pytest.raises(SystemExit, match="Bad option"):
        instructions.read_count("valgrind: Bad option")


@pytest.mark.parametrize(
    ("figure", "above"), [(900, False), (1020, False), (1021, True)]
)
def test_above_is_more_than_two_per_cent(figure: int, above: bool) -> None:
    assert instructions.is_above({"ours": figure}, {"ours": 1000}) is above


def test_without_a_committed_figure_nothing_is_above() -> None:
    assert not instructions.is_above({"ours": 1000}, {})


def test_a_program_that_fails_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise LookupError('seen')"]
    with pytest.raises(SystemExit, match="LookupError: seen"):
        instructions.run(command, tmp_path / "none.so")


def test_the_committed_rows_are_those_that_are_counted() -> None:
    versions = json.loads(instructions.FIGURES.read_text())
    for version in versions.values():
        assert {row: set(cells) for row, cells in version["rows"].items()} == {
            row: set(programs) for row, programs in counted.ROWS.items()
        }


def test_the_page_shows_the_committed_figures(tmp_path: Path) -> None:
    page = tmp_path / "index.md"
    page.write_text(counts.PAGE.read_text())
    counts.write_section(page)
    assert counts.PAGE.read_text() == page.read_text()
    section = counts.SECTION.search(page.read_text())
    assert section is not None
    assert "| supervised, per run | - |" in section[0]
