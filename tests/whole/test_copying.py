"""A public object is a value, which is pickled and copied, or it refuses both."""

import asyncio
import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest

import pyasynclife
from pyasynclife import (
    Backoff,
    Batch,
    BatchError,
    BatchProgress,
    BatchResult,
    BatchStatus,
    BlockedLoop,
    ClosedError,
    DuplicateTaskError,
    Histogram,
    Job,
    LoopWatch,
    NotRunError,
    PoolFullError,
    PyAsyncLifeError,
    Ready,
    RegistryStats,
    Retry,
    ShutdownReport,
    SignalCoordinator,
    SignalSetupError,
    TaskExit,
    TaskGroup,
    TaskHealth,
    TaskMetadata,
    TaskPool,
    TaskRegistry,
    TaskResult,
    TaskState,
    UnknownTaskError,
    bounded_gather,
    cancel_all_tasks,
    testing,
)
from pyasynclife._blocked_loop import Seen
from support.coroutines import echo, fail, swallow
from support.loops import settle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def again(protocol: int, value: Any) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": partial(again, protocol) for protocol in PROTOCOLS},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


class Odd(Exception):
    """An error that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise LookupError("Odd is not for export")


def shown(value: Any) -> Any:
    """What two equal values have in common: exceptions are equal to themselves only."""
    if isinstance(value, BatchError):
        return type(value), value.message, [shown(e) for e in value.exceptions]
    if isinstance(value, BaseException):
        return type(value), str(value), value.args
    if isinstance(value, BatchResult):
        return value.status, value.exhausted, repr(value), [repr(one) for one in value]
    return type(value), repr(value)


def raised_by(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


# ---------------------------------------------------------------- values


async def some_report() -> ShutdownReport:
    async def clean_up_badly() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("clean-up")

    tasks = [asyncio.create_task(coro) for coro in (echo(), clean_up_badly())]
    tasks.append(asyncio.create_task(swallow()))
    await settle()
    report = await cancel_all_tasks(tasks)
    assert len(report.finished) == len(report.failed) == len(report.swallowed) == 1
    return report


async def some_exit() -> TaskExit:
    return (await some_report()).failed[0]


async def some_backoff() -> Backoff:
    return Backoff(1, jitter=0.5)


async def some_stats() -> RegistryStats:
    registry = TaskRegistry()
    registry.register(echo())
    await registry.wait()
    return registry.stats()


async def some_histogram() -> Histogram:
    return (await some_stats()).durations


async def some_progress() -> BatchProgress:
    batch = bounded_gather(echo, [1, 2])
    await batch
    return batch.progress


async def some_results() -> BatchResult[Any]:
    batch = bounded_gather(fail, range(5), max_errors=0)
    with pytest.raises(BatchError) as caught:
        await batch
    assert caught.value.result is not None
    return caught.value.result


async def some_result() -> TaskResult[Any]:
    return (await some_results())[0]


async def some_batch_error() -> BatchError:
    results = await some_results()
    error = raised_by(results.values)
    assert isinstance(error, BatchError)
    error.add_note("a note")
    return error


async def unknown_task_error() -> BaseException:
    return raised_by(lambda: TaskRegistry()["nobody"])


async def duplicate_task_error() -> BaseException:
    registry = TaskRegistry()
    registry.register(echo(), "one")
    error = raised_by(lambda: registry.register(echo(), "one"))
    await registry.wait()
    return error


VIOLATION = testing.Violation((1,), "hang", "it did not end")

VALUES: dict[type, Callable[[], Any]] = {
    BatchError: some_batch_error,
    BatchProgress: some_progress,
    BatchResult: some_results,
    DuplicateTaskError: duplicate_task_error,
    Histogram: some_histogram,
    RegistryStats: some_stats,
    Retry: lambda: echo(Retry(5, on=ValueError)),
    Backoff: some_backoff,
    ShutdownReport: some_report,
    TaskExit: some_exit,
    TaskResult: some_result,
    UnknownTaskError: unknown_task_error,
    ClosedError: lambda: echo(ClosedError("shutting down")),
    NotRunError: lambda: echo(NotRunError("never started")),
    PoolFullError: lambda: echo(PoolFullError("full")),
    PyAsyncLifeError: lambda: echo(PyAsyncLifeError("no", 1)),
    SignalSetupError: lambda: echo(SignalSetupError("no", 1)),
    testing.HangError: lambda: echo(testing.HangError("no", 1)),
    testing.CancelReport: lambda: echo(testing.CancelReport("echo", 1, 1, [VIOLATION])),
    testing.Violation: lambda: echo(VIOLATION),
    BatchStatus: lambda: echo(BatchStatus.ABORTED),
    BlockedLoop: lambda: echo(Seen(0.0).blocked_loop(1.5)),
    TaskHealth: lambda: echo(TaskHealth.STALE),
    TaskState: lambda: echo(TaskState.FAILED),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", VALUES, ids=lambda cls: cls.__name__)
async def test_a_value_is_pickled_and_copied(cls: type, way: str) -> None:
    value = await VALUES[cls]()
    copied = WAYS[way](value)
    assert type(copied) is cls
    assert shown(copied) == shown(value)


@pytest.mark.parametrize("way", WAYS)
async def test_a_batcherror_keeps_its_notes_and_a_copy_its_result(way: str) -> None:
    error = await some_batch_error()
    copied = WAYS[way](error)
    assert copied.__notes__ == ["a note"]
    if way.startswith("pickle"):
        assert copied.result is None
    else:
        assert shown(copied.result) == shown(error.result)
    (first, _) = error.split(lambda one: str(one) == "0")
    assert isinstance(first, BatchError)
    assert WAYS[way](first).message == error.message


async def test_results_that_were_pickled_are_read_and_complete() -> None:
    results = pickle.loads(pickle.dumps(await some_results()))
    assert [one.state for one in results] == [TaskState.FAILED] + [
        TaskState.PENDING
    ] * 4
    assert repr(pickle.loads(pickle.dumps(results[1:]))) == repr(results[1:])
    assert not results.ok
    assert len(results.failures()) == 5
    with pytest.raises(BatchError) as caught:
        results.values()
    assert caught.value.result is results


async def test_a_value_that_cannot_be_pickled_gives_its_own_error() -> None:
    batch = bounded_gather(raise_odd, [1])
    error = raised_by((await batch).values)
    with pytest.raises(LookupError, match="not for export"):
        pickle.dumps(error)
    with pytest.raises(LookupError, match="not for export"):
        copy.deepcopy(error)
    assert copy.copy(error) is not error


async def raise_odd(_: object) -> None:
    raise Odd


# ---------------------------------------------------------------- bound to a loop


async def some_metadata() -> TaskMetadata:
    registry = TaskRegistry()
    registry.register(echo(), "one")
    await registry.wait()
    return registry["one"]


BOUND: dict[type, Callable[[], Any]] = {
    Batch: lambda: bounded_gather(echo, [1]),
    Job: lambda: bounded_gather(echo, []).add(1),
    TaskPool: TaskPool,
    LoopWatch: LoopWatch,
    Ready: lambda: TaskRegistry().cancel_all(),
    SignalCoordinator: SignalCoordinator,
    TaskGroup: TaskGroup,
    TaskMetadata: some_metadata,
    TaskRegistry: TaskRegistry,
}


@pytest.mark.parametrize("cls", BOUND, ids=lambda cls: cls.__name__)
async def test_what_belongs_to_a_loop_refuses_at_once(cls: type) -> None:
    made = BOUND[cls]()
    thing = await made if asyncio.iscoroutine(made) else made
    assert type(thing) is cls
    for way in WAYS.values():
        with pytest.raises(TypeError, match="neither pickled nor copied") as caught:
            way(thing)
        assert cls.__name__ in str(caught.value)


def test_each_public_class_is_one_or_the_other() -> None:
    for module in (pyasynclife, testing):
        for name in module.__all__:
            cls = getattr(module, name)
            if isinstance(cls, type) and cls is not testing.VirtualTimeLoop:
                assert (cls in VALUES) + (cls in BOUND) == 1, name


# ---------------------------------------------------------------- a process pool


def too_many_errors() -> Any:
    return asyncio.run(bounded_gather(fail, [1, 2], max_errors=0).collect())


def values_of_failures() -> Any:
    return asyncio.run(bounded_gather(fail, [1, 2]).collect()).values()


def stats() -> Any:
    return asyncio.run(some_stats())


def results() -> Any:
    return asyncio.run(bounded_gather(fail, [1, 2]).collect())


def report() -> Any:
    return asyncio.run(some_report())


def test_errors_and_values_leave_a_process_pool() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with pytest.raises(BatchError, match="1 item failed; max_errors is 0") as one:
            pool.submit(too_many_errors).result()
        assert [str(error) for error in one.value.exceptions] == ["1"]
        with pytest.raises(BatchError, match="2 of 2 items did not succeed") as two:
            pool.submit(values_of_failures).result()
        assert [repr(error) for error in two.value.exceptions] == [
            "ValueError(1)",
            "ValueError(2)",
        ]
        assert pool.submit(stats).result().done == 1
        assert [one.index for one in pool.submit(results).result()] == [0, 1]
        assert not pool.submit(report).result().ok
