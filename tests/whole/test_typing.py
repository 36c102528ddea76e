"""The annotations: what mypy says about code of users, and that they can be read.

`make lint` runs this module too, where mypy is installed.
"""

import importlib.util
import inspect
import re
import subprocess
import sys
import typing
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


@needs_mypy
def test_code_that_is_right_passes_mypy() -> None:
    assert mypy(CODE / "right.py") == []


@needs_mypy
def test_each_mistake_is_reported_by_mypy() -> None:
    file = CODE / "wrong.py"
    expected = {
        (number, line.partition("# E: ")[2])
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if "# E: " in line
    }
    assert set(mypy(file)) == expected


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
