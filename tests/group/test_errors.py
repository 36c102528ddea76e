"""Errors of children and body: which ones a TaskGroup raises, and how."""

import asyncio
from typing import Any

import pytest

from pyasynclife import TaskGroup
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
