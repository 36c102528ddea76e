"""What is kept of finished tasks, and the log of their failures."""

import asyncio
import logging

import pytest

from pyasynclife import TaskRegistry, TaskState, UnknownTaskError
from support.children import run_child
from support.coroutines import echo, forever, raises
from support.loops import settle


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


async def test_a_failure_outlives_the_tasks_that_ended_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    registry.register(raises(ValueError("no price")), "poller")
    await registry.wait()
    for number in range(1001):
        registry.register(echo(number), f"job_{number}")
        if number % 100 == 0:
            await registry.wait()
    await registry.wait()
    assert registry["poller"].state is TaskState.FAILED
    status = await registry.get_status()
    assert len(status) == 1000
    assert list(status)[:2] == ["poller", "job_2"]
    assert list(status)[-1] == "job_1000"


async def test_cancelled_tasks_leave_the_history_before_failures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=3)
    for task_id in ("f1", "c1", "d1", "f2", "c2", "f3", "f4", "d2", "d3"):
        coro = {"f": raises, "c": forever, "d": echo}[task_id[0]]
        registry.register(coro(ValueError(task_id)), task_id)
        await settle()
        if task_id[0] == "c":
            registry.cancel(task_id)
        await registry.wait()
        expected = {
            "d1": ["f1", "c1", "d1"],
            "f2": ["f1", "d1", "f2"],
            "c2": ["f1", "f2", "c2"],
            "f3": ["f1", "f2", "f3"],
            "f4": ["f2", "f3", "f4"],
            "d2": ["f3", "f4", "d2"],  # the newest stays
            "d3": ["f3", "f4", "d3"],
        }
        if task_id in expected:
            assert list(await registry.get_status()) == expected[task_id], task_id


async def test_a_history_of_nothing_keeps_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=0)
    registry.register(raises(ValueError()))
    registry.register(echo(1))
    await registry.wait()
    assert await registry.get_status() == {}


async def test_an_id_that_comes_back_replaces_its_ended_entry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=2)
    for coro in (raises(ValueError()), echo(1), raises(ValueError()), echo(2)):
        registry.register(coro, "feed")
        await registry.wait()
        assert list(await registry.get_status()) == ["feed"]
    for number in range(3):
        registry.register(echo(number), str(number))
        await registry.wait()
    assert list(await registry.get_status()) == ["1", "2"]


async def test_an_id_that_is_in_use_again_stays_when_the_history_is_full() -> None:
    registry = TaskRegistry(history=2)
    gate = asyncio.Event()
    registry.register(echo(0), "feed")
    await registry.wait()
    registry.register(gate.wait(), "feed")
    for number in range(3):
        await (await registry.register(echo(number), str(number)))[0]
        await settle()
    assert sorted(await registry.get_status()) == ["1", "2", "feed"]
    assert await registry.heartbeat("feed")
    gate.set()
    await registry.wait()
    assert sorted(await registry.get_status()) == ["2", "feed"]


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
    assert vars(record)["task_id"] == "feed"
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
