"""Each hostile case ends well in a process of its own, and without a word."""

import json
from pathlib import Path

import hostile_cases  # noqa: F401
import pytest
from conftest import uvloop
from helpers import run_child
from hostile import CASES

import pyasynclife

LOOPS = ["asyncio", *(["uvloop"] if uvloop is not None else [])]
Outcomes = dict[str, tuple[int, str]]


@pytest.fixture(scope="module", params=LOOPS)
def outcomes(request: pytest.FixtureRequest) -> Outcomes:
    wanted = {
        item.callspec.params["name"]
        for item in request.session.items
        if "outcomes" in getattr(item, "fixturenames", ())
    }
    script = str(Path(__file__).with_name("hostile.py"))
    environment = {"PYTHONPATH": str(Path(pyasynclife.__file__).parent.parent)}
    command = [script, request.param, *sorted(wanted)]
    done = run_child(command, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {name: (code, said) for name, code, said in lines}


@pytest.mark.parametrize("name", CASES)
def test_it_survives(name: str, outcomes: Outcomes) -> None:
    assert outcomes[name] == (0, "")


def test_there_are_enough() -> None:
    assert len(CASES) >= 100
