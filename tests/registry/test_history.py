"""What is kept of finished tasks, and the log of their failures."""

import logging

import pytest

from pyasynclife import TaskRegistry, TaskState, UnknownTaskError
from support.children import run_child
from support.coroutines import echo, raises


async def test_the_history_keeps_its_limits_and_the_newest_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=5, keep_errors=2, keep_results=False)
    for number in range(8):
        registry.register(raises(ValueError(number)), str(number))
        await registry.wait()
    registry.register(echo(1), "value")
    await registry.wait()
    status = await registry.get_status()
    assert list(status) == ["4", "5", "6", "7", "value"]
    kept = [meta.task_id for meta in status.values() if meta.error is not None]
    assert kept == ["6", "7"]
    assert status["4"].error_text == "ValueError: 4"
    assert status["value"].result is None
    with pytest.raises(UnknownTaskError):
        registry["3"]


async def test_the_history_never_touches_the_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(keep_errors=0)
    error = ValueError("kept by its owner")
    task, _ = await registry.register(raises(error))
    await registry.wait()
    with pytest.raises(ValueError, match="kept by"):
        await task
    assert error.__traceback__ is not None


async def test_a_failure_is_logged_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    registry.register(raises(ValueError("no price")), "feed")
    await registry.wait()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pyasynclife", logging.ERROR)
    assert "feed" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_an_error_whose_str_raises_is_recorded_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("I say nothing")

    async def fails() -> None:
        raise Mute

    registry = TaskRegistry()
    registry.register(fails(), "feed")
    await registry.wait()
    assert registry["feed"].state is TaskState.FAILED
    assert "Mute" in str(registry["feed"].error_text)
    caplog.clear()


async def test_a_result_may_register_a_task_when_it_is_freed() -> None:
    registry = TaskRegistry(history=2, keep_results=True)
    dropped = []

    class Bomb:
        def __del__(self) -> None:
            dropped.append(len(registry))
            registry.register(echo(None), f"from the grave {len(dropped)}")

    for number in range(6):
        registry.register(echo(Bomb()), str(number))
        await registry.wait()
    await registry.wait()
    assert dropped
    assert len(await registry.get_status()) == 2
    for _ in range(4):
        registry.register(echo(None))
        await registry.wait()


def test_a_long_chain_of_results_is_freed_without_overflow() -> None:
    child = run_child(
        """
        import asyncio, resource, sys, os
        from pyasynclife import TaskRegistry

        if len(sys.argv) == 1:  # a small stack overflows sooner
            most = resource.getrlimit(resource.RLIMIT_STACK)[1]
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, most))
            os.execv(sys.executable, [*sys.orig_argv, "again"])

        async def returns(value):
            return value

        async def main():
            registry = TaskRegistry(history=1)
            meta = None
            for number in range(30_000):
                registry.register(returns(meta), str(number))
                meta = registry[str(number)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            del meta
            await registry.wait()
            await registry.register(returns(1), "end")
            await registry.wait()

        asyncio.run(main())
        print("over")
        """,
        timeout=120,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "over\n", "")
