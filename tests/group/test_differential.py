"""Random programs have the same effects in the same iterations of the loop with our
TaskGroup and with CPython 3.15's, and with the capture and without it.

There are PYASYNCLIFE_PROGRAMS programs, from the seed PYASYNCLIFE_SEED on;
`make differential` runs 10,000 on every version.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry, _core
from support.differential import (
    Body,
    Log,
    Registry,
    VirtualLoop,
    Writer,
    in_order,
    reference,
    run,
    show,
    shrink,
    uvloop_type,
)
from support.loops import ready_queue

PROGRAMS = int(os.environ.get("PYASYNCLIFE_PROGRAMS", "500"))
SEED = int(os.environ.get("PYASYNCLIFE_SEED", "0"))
PARTS = 10
LOOPS = {"asyncio": VirtualLoop, "uvloop": uvloop_type()}
# Some program must have each of these, or the programs test less than they should.
EFFECTS = {
    "begin",
    "end",
    "left",
    "count",
    "joined",
    "shared",
    "called",
    "finished",
    "handler",
    "cancelled",
    "finally",
    "timeout",
    "refused",
    "uncancel",
    "out of the loop",
}


@pytest.fixture(autouse=True)
def both_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging.getLogger("pyasynclife"), "disabled", True)
    was = _core.allow_capture(True)
    yield
    _core.allow_capture(was)


def captured(program: Body, loop: Any = VirtualLoop) -> Log:
    _core.allow_capture(True)
    return run(TaskGroup, TaskRegistry, program, loop)


def plain(program: Body, loop: Any) -> Log:
    _core.allow_capture(False)
    return run(TaskGroup, TaskRegistry, program, loop)


FOUND = reference()
Theirs = FOUND and in_order(FOUND[0])


def asyncios(program: Body, loop: Any) -> Log | None:
    """The log of asyncio's group; None where it is no guide."""
    if Theirs is None:
        return None
    Theirs.trapped = False
    log = run(Theirs, Registry, program, loop)
    return None if Theirs.trapped else log


def differ(program: Body, loop: Any) -> str:
    """The pair whose logs differ: the two paths, or ours and asyncio's; or ""."""
    ours = captured(program, loop)
    if ours != plain(program, loop):
        return "the capture and the plain path"
    theirs = asyncios(program, loop)
    return "ours and asyncio's" if theirs is not None and ours != theirs else ""


def explain(seed: int, program: Body, loop: Any) -> str:
    pair = differ(program, loop)
    program = shrink(program, lambda less: differ(less, loop) == pair)
    ours = captured(program, loop)
    other = plain(program, loop) if "plain" in pair else asyncios(program, loop) or []
    lines = [f"seed {seed}: {pair} differ", show(program), repr(program)]
    for i in range(max(len(ours), len(other))):
        here, there = (str(log[i]) if i < len(log) else "" for log in (ours, other))
        lines.append(f"{' ' if here == there else '!'} {here:50} {there}")
    return "\n".join(lines)


@pytest.fixture(params=LOOPS)
def loop_type(request: pytest.FixtureRequest) -> Any:
    return LOOPS[request.param] or pytest.skip("uvloop is not installed")


@pytest.mark.parametrize("part", range(PARTS))
def test_no_program_tells_them_apart(part: int, loop_type: Any) -> None:
    for seed in range(SEED + part, SEED + PROGRAMS, PARTS):
        program = Writer(seed).program()
        if differ(program, loop_type):
            pytest.fail(explain(seed, program, loop_type))


def test_the_reference_is_there() -> None:
    if FOUND is None:
        pytest.skip("not compared with asyncio: 3.15's taskgroups.py is not there")
    print(f"compared with {FOUND[1]}")


def test_the_programs_reach_every_effect() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        for _, what in captured(Writer(seed).program()):
            seen[str(what[0])] += 1
    assert EFFECTS - set(seen) == set()


def test_the_programs_go_through_the_capture(loop_type: Any) -> None:
    if os.environ.get("PYASYNCLIFE_PLAIN", "0") not in ("", "0"):
        pytest.skip("the capture is turned off")
    handles: list[int] = []

    async def main() -> None:
        async with TaskGroup() as group:
            before = len(ready_queue(loop))
            for _ in range(3):
                group.create_task(asyncio.sleep(0))
            handles.append(len(ready_queue(loop)) - before)

    loop = loop_type()
    loop.run_until_complete(main())
    loop.close()
    assert handles == [1]


def test_a_difference_is_found_and_shrunk() -> None:
    class Harsh(TaskGroup):
        def create_task(self, coro: Any, **keywords: Any) -> Any:
            task = super().create_task(coro, **keywords)
            task.cancel()
            return task

    def differs(program: Body) -> bool:
        return run(Harsh, TaskRegistry, program) != run(TaskGroup, Registry, program)

    program = next(p for seed in range(99) if differs(p := Writer(seed).program()))
    assert len(repr(shrink(program, differs))) < 100
