"""on_finish, and what exits and errors in it do."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from pyasynclife import TaskMetadata, TaskRegistry, TaskState
from support.coroutines import echo, echo_later, forever, raises
from support.registries import adds_up


async def test_on_finish_is_called_at_every_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends: list[tuple[str, TaskState]] = []
    registry = TaskRegistry(
        on_finish=lambda meta: ends.append((meta.task_id, meta.state))
    )
    registry.register(echo(1), "a")
    registry.register(raises(ValueError()), "b")
    registry.register(forever(), "c")
    registry.cancel("c")
    await registry.wait()
    assert sorted(ends) == [
        ("a", TaskState.DONE),
        ("b", TaskState.FAILED),
        ("c", TaskState.CANCELLED),
    ]


async def test_on_finish_may_be_assigned_later_and_counts_at_once(
    tmp_path: Path,
) -> None:
    ends: list[str] = []

    def note(meta: TaskMetadata) -> None:
        ends.append(meta.task_id)

    registry = TaskRegistry()
    assert registry.on_finish is None
    registry.register(echo_later(1), "running already")
    registry.on_finish = note
    assert registry.on_finish is note
    await registry.wait()
    async with registry.record(tmp_path / "tasks.json"):
        registry.on_finish = None
        registry.register(echo_later(1), "no function")
        await registry.wait()
        registry.on_finish = note
        registry.register(echo_later(1), "recorded")
        await registry.wait()
    registry.register(echo_later(1), "after that")
    await registry.wait()
    assert ends == ["running already", "recorded", "after that"]
    assert '"no function"' in (tmp_path / "tasks.json").read_text()
    for bad in (5, echo_later):
        with pytest.raises(TypeError, match="on_finish"):
            registry.on_finish = bad  # type: ignore[assignment]
    assert registry.on_finish is note


async def test_an_on_finish_that_raises_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    def fail(meta: TaskMetadata) -> None:
        raise LookupError(meta.task_id)

    registry = TaskRegistry(on_finish=fail)
    registry.register(echo(1), "a")
    await registry.wait()
    assert [str(context["exception"]) for context in loop_errors] == ["a"]


async def test_on_finish_may_use_the_registry() -> None:
    def reenter(meta: Any) -> None:
        registry.cancel_all()
        registry.heartbeat(meta.task_id)
        registry.stats()
        if len(made) < 20:
            made.append(registry.register(echo(1)))

    made: list[object] = []
    registry = TaskRegistry(history=3, on_finish=reenter)
    for _ in range(10):
        registry.register(forever())
    registry.cancel_all()
    assert await registry.wait(5)
    assert registry.stats().registered == 30
    assert len(await registry.get_status()) == 3


@pytest.mark.parametrize("exit_error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["on_finish", "str", "log"])
def test_an_exit_in_a_hook_propagates_as_from_any_callback(
    exit_error: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            if where == "str":
                raise exit_error(where)
            return "mute"

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if where == "log":
                raise exit_error(where)

    def finish(meta: object) -> None:
        if where == "on_finish":
            raise exit_error(where)

    async def raises() -> None:
        raise Mute

    async def main() -> None:
        registry.register(raises(), "feed")
        await forever()

    registry = TaskRegistry(on_finish=finish)
    handler = Handler()
    logger = logging.getLogger("pyasynclife")
    logger.addHandler(handler)
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(exit_error, match=where):
            loop.run_until_complete(task)
        assert len(registry) == 0
        adds_up(registry)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()
        logger.removeHandler(handler)


def test_of_two_exits_at_one_end_the_first_is_raised() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt("str")

    def finish(meta: object) -> None:
        raise SystemExit("on_finish")

    async def main() -> None:
        async def raises() -> None:
            raise Mute

        registry.register(raises(), "feed")
        await forever()

    registry = TaskRegistry(on_finish=finish)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt, match="str"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
