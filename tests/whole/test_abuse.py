"""Each hostile case ends well in a process of its own and prints nothing."""

import json
import os
from collections.abc import Iterator

import pytest

import support.hostile_cases  # noqa: F401
from support.children import ROOT, Child, start_child
from support.hostile import CASES
from support.marks import HAS_UVLOOP

LOOPS = ["asyncio", *(["uvloop"] if HAS_UVLOOP else [])]


class Outcomes:
    """The results of the cases of one run, read from the child as they come."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.known: dict[str, tuple[int, str]] = {}

    def of(self, name: str) -> tuple[int, str]:
        while name not in self.known:
            found, code, output = json.loads(self.child.read_line(100.0))
            self.known[found] = code, output
        return self.known[name]


@pytest.fixture(scope="module", params=LOOPS)
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    wanted = dict.fromkeys(
        item.callspec.params["name"]
        for item in request.session.items
        if "outcomes" in getattr(item, "fixturenames", ())
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = ["-m", "support.hostile", request.param, *wanted]
    with start_child(command, env={"PYTHONPATH": path}) as child:
        yield Outcomes(child)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_case_ends_well(name: str, outcomes: Outcomes) -> None:
    assert outcomes.of(name) == (0, "")


def test_there_are_a_hundred_cases() -> None:
    assert len(CASES) >= 100
