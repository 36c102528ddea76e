"""Errors of children and body: which ones a TaskGroup raises, and how."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pyasynclife import TaskGroup
from support.children import PATH, run_child
from support.coroutines import Boom, forever
from support.group_scenarios import cancelling, fail
from support.loops import settle


async def test_errors_are_raised_as_one_group_without_cause() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.create_task(fail())
            group.create_task(fail())
            group.create_task(forever())
    assert caught.value.message == "unhandled errors in a TaskGroup"
    assert [type(error) for error in caught.value.exceptions] == [Boom, Boom]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert cancelling() == 0


async def test_the_error_of_the_body_is_the_last_and_the_context() -> None:
    async def late() -> None:
        try:
            await forever()
        finally:
            raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.create_task(late())
            await asyncio.sleep(0)
            raise Boom
    assert [type(error) for error in caught.value.exceptions] == [ValueError, Boom]
    assert isinstance(caught.value.__context__, Boom)


async def test_an_interrupt_propagates_bare() -> None:
    with pytest.raises(SystemExit):
        async with TaskGroup() as group:
            group.create_task(forever())
            raise SystemExit


async def test_a_failure_after_an_abandoned_exit_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    group = TaskGroup()
    await group.__aenter__()
    group.create_task(fail(3))
    leaving = group.__aexit__(None, None, None)
    step = leaving.__await__()
    next(step)
    with pytest.raises(GeneratorExit):
        step.throw(GeneratorExit())
    await settle(6)
    assert [type(context["exception"]) for context in loop_errors] == [Boom]
    assert "parent task" in loop_errors[0]["message"]


# ------------------------------------------- entered in one task, left in another


async def entered_elsewhere(Group: Any, *coroutines: Any) -> Any:
    """A group whose entering task has ended, and so have its children that can."""
    group = Group()

    async def enter() -> None:
        await group.__aenter__()
        for coro in coroutines:
            group.create_task(coro)

    await asyncio.create_task(enter())
    await settle(4)
    return group


async def error_of(ending: Awaitable[Any]) -> str:
    try:
        return f"returned {await ending!r}"
    except BaseException as error:
        return repr(error)


async def leave_elsewhere(Group: Any) -> str:
    group = await entered_elsewhere(Group, fail(1), fail(2), settle())
    return await error_of(group.__aexit__(None, None, None))


async def leave_in_time(Group: Any) -> str:
    group = await entered_elsewhere(Group, fail(1), asyncio.sleep(10))
    leaving = group.__aexit__(None, None, None)
    return await error_of(asyncio.wait_for(leaving, 0.01))


async def leave_cancelled(Group: Any) -> str:
    group = await entered_elsewhere(Group, fail(1), asyncio.sleep(10))
    task = asyncio.create_task(group.__aexit__(None, None, None))
    await settle()
    task.cancel()
    return await error_of(task)


async def leave_by_a_body_error(Group: Any) -> str:
    group = await entered_elsewhere(Group, fail(1))
    return await error_of(group.__aexit__(ValueError, ValueError(2), None))


async def enter_by_gather(Group: Any) -> str:
    @asynccontextmanager
    async def service(number: int) -> AsyncIterator[None]:
        async with Group() as group:
            group.create_task(fail(number))
            yield

    async def use() -> None:
        async with AsyncExitStack() as stack:
            await asyncio.gather(
                *(stack.enter_async_context(service(number)) for number in range(3))
            )
            await settle(4)

    return await error_of(use())


@pytest.mark.parametrize(
    "scenario",
    [
        leave_elsewhere,
        leave_in_time,
        leave_cancelled,
        leave_by_a_body_error,
        enter_by_gather,
    ],
)
async def test_an_error_after_the_entering_task_has_ended_leaves_the_group(
    scenario: Callable[[Any], Awaitable[str]], loop_errors: list[dict[str, Any]]
) -> None:
    expected = await scenario(asyncio.TaskGroup), len(loop_errors)
    loop_errors.clear()
    assert (await scenario(TaskGroup), len(loop_errors)) == expected
    assert "ExceptionGroup" in expected[0]
    assert loop_errors
    for context in loop_errors:
        assert "has errored out but its parent task" in context["message"]


@pytest.mark.parametrize("group", ["asyncio.TaskGroup", "pyasynclife.TaskGroup"])
def test_an_exit_after_the_entering_task_has_ended_leaves_the_group(
    group: str,
) -> None:
    code = f"""
        import asyncio, pyasynclife
        async def leave():
            await asyncio.sleep(0.001)
            raise SystemExit(3)
        async def enter():
            await group.__aenter__()
            group.create_task(leave())
        async def wait():
            await asyncio.sleep(10)
        async def end():
            await asyncio.sleep(0)
            await group.__aexit__(None, None, None)
        group = {group}()
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: print("reported"))
        for main in (enter, wait, end):
            try:
                loop.run_until_complete(main())
            except SystemExit as error:
                print(error)
    """
    assert run_child(code).stdout.split() == ["3", "reported", "3"]


FIXTURE = """
import asyncio, pytest, pytest_asyncio, {module}

@pytest_asyncio.fixture
async def service():
    async def fails():
        raise ValueError("child failed")

    async with {module}.TaskGroup() as group:
        group.create_task(fails())
        yield

@pytest.mark.asyncio
async def test_nothing(service):
    await asyncio.sleep(0.01)
"""


@pytest.mark.parametrize("module", ["asyncio", "pyasynclife"])
def test_a_fixture_with_a_failing_child_fails_the_test(
    module: str, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(FIXTURE.format(module=module))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        env=os.environ | PATH,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "child failed" in done.stdout
    assert "1 passed, 1 error" in done.stdout


async def test_a_cancellation_does_not_hide_the_error_of_a_body_that_cancelled() -> (
    None
):
    async def owner() -> None:
        async with TaskGroup() as group:
            group.create_task(forever())
            group.cancel()
            raise KeyError("body")

    task = asyncio.create_task(owner())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert [repr(error) for error in caught.value.exceptions] == ["KeyError('body')"]
