"""cancel_everywhere finds each planted fault, and no fault in a clean scenario."""

import asyncio
import contextlib
import gc
import sys
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from pyasynclife.testing import CancelReport, Violation, cancel_everywhere
from pyasynclife.testing._report import Kind
from support.children import ROOT, run_child
from support.loops import settle


def kinds(report: CancelReport) -> set[str]:
    return {one.kind for one in report.violations}


async def clean() -> None:
    async with asyncio.timeout(10):
        for _ in range(3):
            await asyncio.sleep(1)


# ------------------------------------------------------------------ no fault


def test_a_clean_scenario_has_every_point_and_no_violation() -> None:
    report = cancel_everywhere(clean, again=())
    # one point for the start, two for each sleep: its timer and the step
    assert (report.turns, report.points) == (7, 7)
    assert report.ok
    assert report.violations == report.wrong == []
    assert str(report) == "clean: cancelled at 7 points in 7 turns, 0 violations"


def test_each_point_is_followed_by_a_second_cancellation() -> None:
    async def scenario() -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError as first:
            for _ in range(3):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            raise first

    assert cancel_everywhere(scenario, again=()).points == 3
    assert cancel_everywhere(scenario, again=(0,)).points == 6
    assert cancel_everywhere(scenario, again=(0, 1, 2)).points == 3 + 3 + 2 + 2
    assert cancel_everywhere(scenario).ok


def test_the_first_cancellation_must_propagate_if_asked_for() -> None:
    async def absorbs() -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError as first:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            raise first

    async def is_interrupted() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.sleep(1)

    async def has_a_timeout_of_its_own() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await absorbs()

    assert cancel_everywhere(absorbs, first=True).ok
    assert cancel_everywhere(has_a_timeout_of_its_own, first=True).ok
    assert cancel_everywhere(is_interrupted).ok
    report = cancel_everywhere(is_interrupted, first=True)
    assert kinds(report) == {"replaced"}
    assert all(len(point) == 2 for point in report.wrong)
    assert "'cancel_everywhere: 2') was raised: it is not the first" in str(report)


def test_two_runs_of_a_scenario_are_the_same() -> None:
    seen: list[list[str]] = [[], []]

    def scenario(into: list[str]) -> Callable[[], Any]:
        async def run() -> None:
            try:
                await clean()
                into.append("done")
            except asyncio.CancelledError as error:
                into.append(f"{error} at {asyncio.get_running_loop().time()}")
                raise

        return run

    for into in seen:
        assert cancel_everywhere(scenario(into)).ok
    assert seen[0] == seen[1]
    assert seen[0][0] == "done"
    assert "cancel_everywhere: 1 at 2.0" in seen[0]


def test_the_collector_is_restored_and_nothing_is_kept() -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    async def scenario() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        await asyncio.sleep(1)

    frozen = gc.get_freeze_count()
    cancel_everywhere(scenario)
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen  # 3.12 starts with some
    assert things
    assert not any(ref() for ref in things)


def test_a_cancellation_that_is_pending_is_not_lost() -> None:
    # as TaskGroup does, which raises its errors first
    async def scenario() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            task.uncancel()
            task.cancel()

    assert cancel_everywhere(scenario, again=()).ok


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_the_task_factory_is_used() -> None:
    began = []

    async def child() -> None:
        began.append("child")

    async def scenario() -> None:
        task = asyncio.create_task(child())
        began.append("scenario")
        await task

    factory: Any = asyncio.eager_task_factory  # type: ignore[attr-defined,unused-ignore]
    cancel_everywhere(scenario, points=[()])
    cancel_everywhere(scenario, points=[()], task_factory=factory)
    assert began == ["scenario", "child", "child", "scenario"]


def test_real_work_is_waited_for() -> None:
    async def scenario() -> None:
        await asyncio.to_thread(int)

    assert cancel_everywhere(scenario, again=()).ok


# ------------------------------------------------------------------ planted faults


async def swallows() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        pass


async def turns_it_into_an_error() -> None:
    try:
        await asyncio.sleep(1)
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise ValueError("instead")


async def waits_for_one_that_swallows() -> None:
    await asyncio.create_task(swallows())


async def raises_a_fresh_one() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError as error:
        raise asyncio.CancelledError(*error.args) from None


async def raises_the_one_before() -> None:
    before = asyncio.CancelledError("old")
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        raise before from None


async def leaves_a_task() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        asyncio.create_task(asyncio.sleep(5), name="forgotten")
        raise


async def takes_the_count_back() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        raise


async def leaves_a_count() -> None:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(asyncio.CancelledError):
        task.cancel()
        await asyncio.sleep(0)


async def numbers() -> AsyncIterator[int]:
    try:
        for number in range(3):
            yield number
    finally:
        await asyncio.sleep(0)


async def drops_a_generator() -> None:
    async for _ in numbers():
        await asyncio.sleep(1)


async def keeps_a_generator() -> None:
    cycle: list[Any] = [numbers()]
    cycle.append(cycle)
    await anext(cycle[0])
    await asyncio.sleep(1)
    await cycle[0].aclose()


async def keeps_a_coroutine() -> None:
    async def inner() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            print("never")

    coro = inner()
    coro.send(None)
    cycle: list[Any] = [coro]
    cycle.append(cycle)
    await asyncio.sleep(1)
    coro.close()


async def warns() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        warnings.warn("watch out", UserWarning, stacklevel=1)
        raise


async def never_awaits() -> None:
    coro = asyncio.sleep(1)
    await asyncio.sleep(1)
    await coro


async def fail() -> None:
    raise LookupError("nobody asks")


async def leaves_an_error() -> None:
    task = asyncio.create_task(fail())
    try:
        await settle(3)
    finally:
        while not task.done():
            await asyncio.sleep(0)
    task.exception()


async def fails_in_a_callback() -> None:
    def callback() -> None:
        raise KeyError("callback")

    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)
        raise


class Bad:
    def __del__(self) -> None:
        raise OSError("in __del__")


async def fails_in_a_finalizer() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        Bad()
        raise


async def hangs() -> None:
    try:
        await asyncio.sleep(1)
    finally:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            await asyncio.Event().wait()


async def spins() -> None:
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        while True:
            await asyncio.sleep(0)


PLANTED: list[tuple[Callable[[], Any], str, tuple[int, ...], str]] = [
    (swallows, "swallowed", (2,), "None was returned"),
    (turns_it_into_an_error, "swallowed", (2,), "ValueError: instead was raised"),
    (waits_for_one_that_swallows, "swallowed", (3,), "None was returned"),
    (raises_a_fresh_one, "replaced", (2,), "cancel_everywhere: 1"),
    (raises_the_one_before, "replaced", (2,), "'old'"),
    (leaves_a_task, "task left", (2,), "forgotten"),
    (takes_the_count_back, "cancelling", (2,), "0 after 1 cancellation"),
    (leaves_a_count, "cancelling", (), "1 after 0 cancellations"),
    (drops_a_generator, "finally", (2,), "left suspended: numbers"),
    (keeps_a_generator, "finally", (2,), "left suspended: numbers"),
    (keeps_a_coroutine, "finally", (2,), "left suspended: keeps_a_coroutine."),
    (warns, "warning", (2,), "UserWarning: watch out"),
    (never_awaits, "warning", (2,), "was never awaited"),
    (leaves_an_error, "unretrieved", (2,), "LookupError: nobody asks"),
    (fails_in_a_callback, "loop error", (2,), "KeyError: 'callback'"),
    (fails_in_a_finalizer, "unraisable", (2,), "OSError: in __del__"),
    (hangs, "hang", (2,), "in hangs"),
    (spins, "endless", (2,), "100 turns"),
]


@pytest.mark.parametrize(
    ("scenario", "kind", "point", "text"),
    PLANTED,
    ids=[scenario.__name__ for scenario, *_ in PLANTED],
)
def test_a_planted_fault_is_found(
    scenario: Callable[[], Any], kind: str, point: tuple[int, ...], text: str
) -> None:
    report = cancel_everywhere(scenario, max_turns=100)
    assert not report.ok
    assert point in report.wrong
    (found,) = (one for one in report.violations if one.point == point)
    assert (found.kind, text in found.text) == (kind, True), found

    # the point alone reproduces it
    again = cancel_everywhere(scenario, points=[point], max_turns=100)
    assert again.points == len([point]) * bool(point)
    assert [one.kind for one in again.violations] == [kind]
    # and the text names the point and the kind
    assert f"again: cancel_everywhere(..., points={report.wrong})" in str(report)
    assert f"{kind}, " in str(report)


@pytest.mark.parametrize("kind", ["hang", "endless"])
def test_a_scenario_that_never_ends_runs_only_once(kind: str) -> None:
    runs = []

    async def scenario() -> None:
        runs.append(kind)
        if kind == "hang":
            await asyncio.Event().wait()
        while True:
            await asyncio.sleep(0)

    report = cancel_everywhere(scenario, max_turns=100)
    assert [(one.point, one.kind) for one in report.violations] == [((), kind)]
    assert len(runs) == 1
    assert report.points == 0


def test_each_kind_of_violation_is_planted() -> None:
    assert Violation.__doc__ is not None
    named = {kind for _, kind, *_ in PLANTED} | {"check"}
    assert all(f"``{kind}``" in Violation.__doc__ for kind in named)
    assert named == set(get_args(Kind))


def test_a_fault_after_the_second_cancellation_is_found() -> None:
    async def scenario() -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError as error:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
                raise error
            await asyncio.sleep(0)
            return

    assert kinds(cancel_everywhere(scenario, again=())) == {"swallowed"}
    assert (2, 3) in cancel_everywhere(scenario, points=[(2, 3)]).wrong


def test_a_task_may_be_left_for_as_long_as_is_allowed() -> None:
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)

    async def scenario() -> None:
        task = asyncio.create_task(slow())
        try:
            await asyncio.sleep(1)
        finally:
            task.cancel()

    assert kinds(cancel_everywhere(scenario)) == {"task left"}
    assert kinds(cancel_everywhere(scenario, settle=2)) == {"task left"}
    assert cancel_everywhere(scenario, settle=4).ok


@pytest.mark.parametrize("settle", [0.0, 5.0])
def test_a_task_that_does_not_end_is_abandoned(settle: float) -> None:
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    async def scenario() -> None:
        asyncio.create_task(stubborn(), name="stubborn")
        await asyncio.sleep(1)

    report = cancel_everywhere(scenario, settle=settle, points=[(), (2,)])
    assert kinds(report) == {"task left"}
    assert "stubborn" in str(report)


def test_check_is_called_after_each_run() -> None:
    taken: list[int] = []

    async def scenario() -> None:
        taken.append(1)
        await asyncio.sleep(1)
        taken.remove(1)

    def check() -> None:
        left = len(taken)
        taken.clear()
        assert left == 0, "a slot is taken"

    report = cancel_everywhere(scenario, check=check, again=())
    assert [(one.point, one.kind) for one in report.violations] == [
        ((2,), "check"),
        ((3,), "check"),
    ]
    assert "AssertionError: a slot is taken" in str(report)


def test_an_error_of_the_undisturbed_scenario_propagates() -> None:
    with pytest.raises(LookupError) as caught:
        cancel_everywhere(fail)
    assert "undisturbed" in caught.value.__notes__[0]


def test_a_keyboard_interrupt_propagates() -> None:
    async def scenario() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancel_everywhere(scenario)
    assert gc.isenabled()


async def test_cancel_everywhere_is_refused_in_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="call it from a plain function"):
        cancel_everywhere(clean)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"settle": -1}, ValueError, "settle"),
        ({"settle": "1"}, TypeError, "settle"),
        ({"again": [-1]}, ValueError, "again"),
        ({"max_turns": 0}, ValueError, "max_turns"),
        ({"check": 5}, TypeError, "check"),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    ran = []

    async def scenario() -> None:
        ran.append(1)

    with pytest.raises(error, match=text):
        cancel_everywhere(scenario, **options)
    assert not ran


def test_a_coroutine_for_a_function_is_refused_and_closed() -> None:
    coro: Any = clean()
    with pytest.raises(TypeError, match="function that returns a coroutine"):
        cancel_everywhere(coro)
    assert coro.cr_frame is None


def test_a_function_that_returns_no_coroutine_is_refused() -> None:
    plain: Any = lambda: 5  # noqa: E731
    with pytest.raises(TypeError, match="must return a coroutine, got int 5: pass an"):
        cancel_everywhere(plain)


def test_a_point_that_is_never_reached_does_not_count() -> None:
    assert cancel_everywhere(clean, points=[(100,), (2, 100)]).points == 0


def test_a_long_report_is_cut() -> None:
    async def scenario() -> None:
        for _ in range(30):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)

    text = str(cancel_everywhere(scenario, again=()))
    assert "... and " in text
    assert len(text.splitlines()) < 30


# ------------------------------------------------------------------ for pytest


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["pyasynclife.testing.pytest"]\n'
    )
    return tmp_path


def pytest_in(project: Path, **texts: str) -> tuple[int, str]:
    for name, text in texts.items():
        (project / f"test_{name}.py").write_text(text)
    command = ["-m", "pytest", "-v", "-p", "no:cacheprovider"]
    child = run_child(
        [*command, f"--rootdir={project}", str(project)],
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return child.returncode, child.stdout


TWO_TESTS = """
import asyncio

def test_with_cancel_everywhere(cancel_everywhere):
    async def scenario():
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            {}

    assert cancel_everywhere(scenario, again=()).points == 3

def test_with_virtual_time(virtual_time_loop):
    async def main():
        {}
        await asyncio.sleep(86400)

    virtual_time_loop.run_until_complete(main())
    assert virtual_time_loop.time() == 86400
"""


def test_the_fixtures_pass_a_right_test_and_fail_a_wrong_one(project: Path) -> None:
    left = "asyncio.create_task(asyncio.Event().wait(), name='lost')"
    code, out = pytest_in(
        project,
        right=TWO_TESTS.format("raise", "pass"),
        wrong=TWO_TESTS.format("pass", f"t = {left}"),
    )
    assert code == 1, out
    for verdict in (
        "test_right.py::test_with_cancel_everywhere PASSED",
        "test_right.py::test_with_virtual_time PASSED",
        "test_wrong.py::test_with_cancel_everywhere FAILED",
        "test_wrong.py::test_with_virtual_time ERROR",  # at teardown
        "1 failed, 3 passed, 1 error",
    ):
        assert verdict in out, out
    assert "swallowed, cancelled at turn 2: None was returned" in out
    assert "tasks left: 1 task," in out
    assert "lost" in out


def test_the_fixtures_need_the_plugin(tmp_path: Path) -> None:
    code, out = pytest_in(tmp_path, it=TWO_TESTS.format("raise", "pass"))
    assert (code, "fixture 'cancel_everywhere' not found" in out) == (1, True), out


@pytest.mark.parametrize(
    "options",
    [
        {"points": 3},
        {"points": "ab"},
        {"points": [(2,), -1]},
        {"points": [(2,), ("x",)]},
        {"points": [(2,), (True,)]},
        {"points": [(2,), (0,)]},
        {"points": [(2,), (-1,)]},
        {"again": 3},
        {"again": "12"},
        {"again": [-1]},
        {"first": 3},
        {"first": None},
    ],
    ids=str,
)
def test_a_wrong_option_is_named_before_the_first_run(options: Any) -> None:
    runs = []

    async def scenario() -> None:
        runs.append(1)

    (name,) = options
    with pytest.raises((TypeError, ValueError), match=name.rstrip("s")):
        cancel_everywhere(scenario, **options)
    assert runs == []
