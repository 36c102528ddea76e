"""The annotations: what type checkers say about code of users; that they can be read.

`make lint` runs this module too, where mypy and pyright are installed.
"""

import importlib.util
import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

import pyasynclife
from pyasynclife import console, testing

CODE = Path(__file__).parent / "typing"
ROOT = Path(pyasynclife.__file__).parent.parent

needs_mypy = pytest.mark.skipif(
    importlib.util.find_spec("mypy") is None, reason="mypy is not installed"
)
needs_pyright = pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None,
    reason="basedpyright is not installed",
)


def marked(file: Path, mark: str) -> dict[int, str]:
    """The lines of a file that have a mark in a comment, with what follows it."""
    lines = enumerate(file.read_text().splitlines(), 1)
    return {
        number: line.partition(f"# {mark}: ")[2]
        for number, line in lines
        if f"# {mark}: " in line
    }


def mypy(file: Path) -> list[tuple[int, str]]:
    """The errors that mypy reports in a file: line and code."""
    told = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not told.stderr, told.stderr
    found = re.findall(
        rf"^.*\b{re.escape(file.name)}:(\d+): error: .*\[([\w-]+)\]$",
        told.stdout,
        re.MULTILINE,
    )
    assert f"{file.name}:" in told.stdout or "Success" in told.stdout, told.stdout
    return [(int(line), code) for line, code in found]


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[int]]:
    """The lines of each file in which pyright reports an error, in standard mode.

    It is basedpyright, which contains node; the mode makes it pyright.
    """
    config = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    options = {
        "typeCheckingMode": "standard",
        "include": [str(CODE)],
        "extraPaths": [str(ROOT)],
    }
    config.write_text(json.dumps(options))
    command = [sys.executable, "-m", "basedpyright", "--outputjson"]
    told = subprocess.run(
        [*command, "--project", str(config), "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode in (0, 1), told.stdout + told.stderr
    report = json.loads(told.stdout)
    files = sorted(file.name for file in CODE.glob("*.py"))
    assert report["summary"]["filesAnalyzed"] == len(files), told.stdout
    lines: dict[str, set[int]] = {name: set() for name in files}
    for one in report["generalDiagnostics"]:
        if one["severity"] == "error":
            lines[Path(one["file"]).name].add(one["range"]["start"]["line"] + 1)
    return lines


@needs_mypy
def test_code_that_is_right_passes_mypy() -> None:
    assert mypy(CODE / "right.py") == []


@needs_mypy
def test_each_mistake_is_reported_by_mypy() -> None:
    file = CODE / "wrong.py"
    assert set(mypy(file)) == set(marked(file, "E").items())


@needs_pyright
def test_code_that_is_right_passes_pyright(pyright: Mapping[str, set[int]]) -> None:
    assert pyright["right.py"] == set()


@needs_pyright
def test_each_mistake_is_reported_by_pyright(pyright: Mapping[str, set[int]]) -> None:
    file = CODE / "wrong.py"
    expected = marked(file, "E").keys() | marked(file, "P").keys()
    assert pyright["wrong.py"] == expected


@pytest.mark.parametrize(
    "module", [pyasynclife, testing, console], ids=lambda module: module.__name__
)
def test_the_annotations_of_every_public_name_can_be_read(module: ModuleType) -> None:
    for name in module.__all__:
        thing = getattr(module, name)
        typing.get_type_hints(thing)
        if not isinstance(thing, type):
            continue
        for member in vars(thing).values():
            function = member.fget if isinstance(member, property) else member
            if inspect.isfunction(function):
                typing.get_type_hints(function)
