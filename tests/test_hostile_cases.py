"""Each hostile case ends well in a process of its own, and without a word."""

import json
from collections.abc import Iterator
from pathlib import Path

import hostile_cases  # noqa: F401
import pytest
from conftest import uvloop
from helpers import Child, start_child
from hostile import CASES

import pyasynclife

LOOPS = ["asyncio", *(["uvloop"] if uvloop is not None else [])]
ROOT = Path(pyasynclife.__file__).parent.parent


class Outcomes:
    """What the cases of one run came to, read as it comes."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.known: dict[str, tuple[int, str]] = {}

    def of(self, name: str) -> tuple[int, str]:
        while name not in self.known:
            found, code, said = json.loads(self.child.read_line(100.0))
            self.known[found] = code, said
        return self.known[name]


@pytest.fixture(scope="module", params=LOOPS)
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    wanted = dict.fromkeys(
        item.callspec.params["name"]
        for item in request.session.items
        if "outcomes" in getattr(item, "fixturenames", ())
    )
    script = str(Path(__file__).with_name("hostile.py"))
    command = [script, request.param, *wanted]
    with start_child(command, env={"PYTHONPATH": str(ROOT)}) as child:
        yield Outcomes(child)


@pytest.mark.parametrize("name", CASES)
def test_it_survives(name: str, outcomes: Outcomes) -> None:
    assert outcomes.of(name) == (0, "")


def test_there_are_enough() -> None:
    assert len(CASES) >= 100
