"""Random programs have the same effects in the same iterations of the loop with our
TaskGroup and with CPython 3.15's, and with the capture and without it.

There are PYASYNCLIFE_PROGRAMS programs, from the seed PYASYNCLIFE_SEED on;
`make differential` runs 10,000 on every version.
"""

import asyncio
import contextvars
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry, _core
from support.differential import (
    Log,
    Registry,
    VirtualLoop,
    in_order,
    reference,
    run,
    uvloop_type,
)
from support.differential_programs import SWITCHES, Body, Writer, show, shrink
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
    "stopped",
    "stopped early",
    "hooked",
    "not hooked",
    "removed",
}
# Operations that must occur, and from where. Each act says its name.
OPERATIONS = {"child in", "register in", "own hook", "shield", "wait for"}
ACTS = {
    "adopt and hook",
    "callback in",
    "callbacks",
    "color",
    "hook",
    "hook and callback",
    "hook cancel",
    "interrupt",
    "loop signal",
    "remove",
    "signal",
    "stop",
    "switch",
    "thread",
    "thread hook",
}
SOURCES = {"signal", "loop signal", "thread"}


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
    again = f"PYASYNCLIFE_PROGRAMS=1 PYASYNCLIFE_SEED={seed}"
    lines = [f"{pair} differ; again: {again}", show(program), repr(program)]
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
    seen: Counter[Any] = Counter()
    for seed in range(500):
        for _, what in captured(Writer(seed).program()):
            seen[str(what[0])] += 1
            if what[0] == "at":
                seen["operation", what[3]] += 1
            elif what[0] == "act":
                seen["act", what[2]] += 1
                seen["from", what[1].rpartition(".")[2]] += 1
            elif what[0] == "switch":
                seen[what] += 1
            elif what[0] == "removed":
                seen["removed", what[1] > 0] += 1
    wanted = {
        *EFFECTS,
        *(("operation", name) for name in OPERATIONS),
        *(("act", name) for name in ACTS),
        *(("from", source) for source in SOURCES),
        *(("switch", what, on) for what in SWITCHES for on in (True, False)),
        ("removed", True),
    }
    assert {what: seen[what] for what in wanted if seen[what] < 3} == {}


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


class Harsh(TaskGroup):
    """Cancels the children that it creates when there is an occasion."""

    occasion: Callable[[Any, dict[str, Any]], bool]

    def create_task(self, coro: Any, **keywords: Any) -> Any:
        task = super().create_task(coro, **keywords)
        if self.occasion(task.get_loop(), keywords):
            task.cancel()
        return task


def harsh(occasion: Callable[[Any, dict[str, Any]], bool]) -> type[TaskGroup]:
    return type("Harsh", (Harsh,), {"occasion": staticmethod(occasion)})


class LateHooks(VirtualLoop):
    """Calls what is scheduled with a Task an iteration late."""

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if "hook" in getattr(callback, "__name__", ""):
            args = (super().call_soon, callback, *args)
            callback = apply
        return super().call_soon(callback, *args, context=context)


class LateThreads(VirtualLoop):
    """Calls what another thread has scheduled an iteration late."""

    def call_soon_threadsafe(self, *args: Any, context: Any = None) -> Any:
        return super().call_soon_threadsafe(self.call_soon, *args, context=context)


class OneContext(Registry):
    """Has one context for the ends of all its tasks."""

    def __init__(self, *, on_finish: Callable[[Any], None]) -> None:
        context = contextvars.copy_context()
        super().__init__(on_finish=lambda task: context.run(on_finish, task))


def apply(function: Callable[..., Any], *args: Any) -> None:
    function(*args)


# A group, a registry and a loop, one of which has a fault that an operation shows.
FAULTS: dict[str, tuple[Any, Any, Any]] = {
    "debug mode": (harsh(lambda loop, _: loop.get_debug()), Registry, VirtualLoop),
    "a task factory": (
        harsh(lambda loop, _: loop.get_task_factory() is not None),
        Registry,
        VirtualLoop,
    ),
    "a patched call_soon": (
        harsh(lambda loop, _: "call_soon" in vars(loop)),
        Registry,
        VirtualLoop,
    ),
    "a handler of a signal": (
        harsh(lambda *_: signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL),
        Registry,
        VirtualLoop,
    ),
    "a loop that stops": (
        harsh(lambda loop, _: loop._stopping),
        Registry,
        VirtualLoop,
    ),
    "a shared context": (
        harsh(lambda _, keywords: keywords.get("context") is not None),
        Registry,
        VirtualLoop,
    ),
    "call_soon(f, child)": (TaskGroup, Registry, LateHooks),
    "another thread": (TaskGroup, Registry, LateThreads),
    "context variables": (TaskGroup, OneContext, VirtualLoop),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str) -> None:
    def differs(seed: int) -> bool:
        program = Writer(seed).program()
        good = run(TaskGroup, Registry, program)
        return run(*FAULTS[fault][:2], program, FAULTS[fault][2]) != good

    assert any(map(differs, range(1000)))


def test_a_difference_is_found_and_shrunk() -> None:
    always = harsh(lambda *_: True)

    def differs(program: Body) -> bool:
        return run(always, TaskRegistry, program) != run(TaskGroup, Registry, program)

    program = next(p for seed in range(99) if differs(p := Writer(seed).program()))
    assert len(repr(shrink(program, differs))) < 100


def test_an_act_in_an_act_is_shrunk() -> None:
    act = ("thread", ("signal", ("register", (("boom",), ("pause", 1)))))
    program = (("group", (("pause", 1), ("soon", act))),)
    less = shrink(program, lambda less: "boom" in repr(less))
    assert less == (("soon", ("register", (("boom",),))),)
    less = shrink(program, lambda less: "register" in repr(less))
    assert less == (("soon", ("register", ())),)
