"""The Task that an item runs in: its context, its cancellation, its call graph."""

import asyncio
import contextvars
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pyasynclife import BatchStatus, TaskRegistry, TaskResult, TaskState, bounded_gather
from support.children import start_child
from support.loops import Iterations, settle

BOTH_WAYS = True

var = contextvars.ContextVar("var", default="unset")


# ----------------------------------------------------- context variables


@pytest.mark.parametrize("limit", [1, 3])
async def test_each_item_runs_in_a_copy_of_the_callers_context(limit: int) -> None:
    async def read() -> object:
        return var.get()

    async def fn(x: int) -> tuple[object, object, object]:
        before = var.get()
        token = var.set(x)
        await settle(2)
        assert var.get() == x
        of_a_task = await asyncio.create_task(read())
        of_a_thread = await asyncio.to_thread(var.get)
        if x % 2:
            var.reset(token)
            assert var.get() == "caller"
        return before, of_a_task, of_a_thread

    var.set("caller")
    result = await bounded_gather(fn, range(10), max_concurrent=limit)
    assert result.values() == [("caller", x, x) for x in range(10)]
    assert var.get() == "caller"


async def test_a_context_manager_over_an_await_keeps_its_context() -> None:
    from contextlib import contextmanager

    @contextmanager
    def bound(value: Any) -> Iterator[None]:
        token = var.set(value)
        try:
            yield
        finally:
            var.reset(token)

    async def fn(x: int) -> Any:
        with bound(x):
            await asyncio.sleep(0)
            return var.get()

    result = await bounded_gather(fn, range(10), max_concurrent=3, timeout=5)
    assert result.values() == list(range(10))


async def test_source_key_and_on_result_share_the_batchs_context() -> None:
    seen = []

    def source() -> Iterator[int]:
        var.set("source")
        yield 1
        seen.append(var.get())
        yield 2

    def key(x: Any) -> str:
        seen.append(var.get())
        return str(x)

    def on_result(result: TaskResult[Any]) -> None:
        seen.append(var.get())

    async def fn(x: Any) -> Any:
        value = var.get()
        var.set("item")
        return value

    batch = await bounded_gather(fn, source(), key=key, on_result=on_result)
    assert batch.values() == ["source", "source"]
    assert seen == ["source"] * 5
    assert var.get() == "unset"


async def test_the_batchs_context_is_the_one_of_its_start() -> None:
    var.set("made")
    batch = bounded_gather(lambda x: asyncio.sleep(0, var.get()), [1])
    var.set("awaited")
    assert (await batch).values() == ["awaited"]


# --------------------------------------------------- what its Task says


@pytest.mark.skipif(sys.version_info < (3, 12), reason="get_context() is new in 3.12")
async def test_the_context_of_the_current_task_is_the_items_only_with_a_task_for_each(
    way: str,
) -> None:
    """docs/explanation/tasks.md says so."""

    async def fn(x: int) -> tuple[Any, Any]:
        var.set(x)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        of_the_task = task.get_context().get(var)  # type: ignore[attr-defined]
        return of_the_task, contextvars.copy_context()[var]

    var.set("caller")
    result = await bounded_gather(fn, range(3))
    expected = [(x if way == "tasks" else "caller", x) for x in range(3)]
    assert result.values() == expected


async def test_a_name_given_to_the_current_task_stays_for_the_workers_next_item(
    way: str,
) -> None:
    """docs/explanation/tasks.md says so."""

    async def fn(x: int) -> str:
        task = asyncio.current_task()
        assert task is not None
        before = task.get_name()
        task.set_name(f"mine {x}")
        return before

    names = (await bounded_gather(fn, range(3), max_concurrent=1)).values()
    workers = ["bounded_gather fn", "mine 0", "mine 1"]
    assert names == (["0", "1", "2"] if way == "tasks" else workers)


# ------------------------------------------ items that cancel their task


async def test_an_item_that_cancels_its_task_is_cancelled_and_the_next_is_not() -> None:
    async def fn(x: int) -> int | str:
        if x == 1:
            asyncio.current_task().cancel()
            return "returned"
        await asyncio.sleep(0)
        return x

    result = await bounded_gather(fn, range(4), max_concurrent=1)
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.DONE,
        TaskState.DONE,
    ]
    assert result.status is BatchStatus.COMPLETED


async def test_an_item_that_cancels_and_uncancels_its_task_hurts_no_other() -> None:
    async def fn(x: int) -> int:
        if x == 1:
            task = asyncio.current_task()
            task.cancel()
            task.uncancel()
        else:
            await asyncio.sleep(0)
        return x

    result = await bounded_gather(fn, range(4), max_concurrent=1)
    assert [r.state for r in result if r.index != 1] == [TaskState.DONE] * 3


async def test_an_item_that_swallows_a_cancellation_of_its_task_has_its_value() -> None:
    async def fn(x: int) -> tuple[Any, ...]:
        if x == 1:
            asyncio.current_task().cancel()
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                pass
        return asyncio.current_task(), asyncio.current_task().cancelling()

    result = await bounded_gather(fn, range(3), max_concurrent=1)
    assert [r.data[1] for r in result] == [0, 1, 0]
    assert result[2].data[0] is not result[1].data[0]


async def test_an_item_that_raises_cancelled_error_is_cancelled() -> None:
    class Own(asyncio.CancelledError):
        pass

    async def fn(x: int) -> int:
        if x == 1:
            raise asyncio.CancelledError
        if x == 2:
            raise Own
        return x

    result = await bounded_gather(fn, range(4))
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.CANCELLED,
        TaskState.DONE,
    ]


# --------------------------------------------------------------- workers


@pytest.mark.workers_only
@pytest.mark.parametrize("how", ["raise", "timeout", "cancel"])
async def test_the_worker_of_an_item_that_did_not_succeed_is_replaced(how: str) -> None:
    tasks = []
    begun = []

    async def fn(x: int) -> None:
        tasks.append(asyncio.current_task())
        begun.append(iterations.count)
        if x % 2:
            if how == "raise":
                raise ValueError
            if how == "cancel":
                asyncio.current_task().cancel()
            await asyncio.sleep(10)

    async with Iterations() as iterations:
        result = await bounded_gather(fn, range(6), max_concurrent=1, timeout=0.01)
    assert tasks[0] is tasks[1]
    assert tasks[1] is not tasks[2]
    assert begun[2] > begun[1]
    assert len(set(tasks)) >= 3
    assert len(result.failures()) == 3


async def test_a_worker_refuses_to_be_stepped_by_its_own_item() -> None:
    async def fn(x: int) -> Any:
        step = asyncio.current_task().get_coro().cr_await
        errors = []
        for poke in (lambda: step.send(None), lambda: step.throw(ValueError())):
            try:
                poke()
            except BaseException as error:
                errors.append(type(error))
        await asyncio.sleep(0)
        return errors

    result = await bounded_gather(fn, [1])
    assert result[0].success or isinstance(result[0].error, Exception)


async def test_stepping_another_worker_loses_no_result() -> None:
    waiting = {}

    async def fn(x: int) -> Any:
        me = asyncio.current_task()
        if x == 0:
            waiting["coro"] = me.get_coro()
            await asyncio.sleep(0.01)
            return "slept"
        await asyncio.sleep(0)
        if x == 1:
            try:
                waiting["coro"].send(None)
            except BaseException as error:
                return type(error)
        return x

    result = await bounded_gather(fn, range(4), max_concurrent=2)
    assert len(result) == 4
    assert result[3].data == 3


async def test_throwing_into_another_worker_loses_no_result() -> None:
    waiting = {}

    async def fn(x: int) -> Any:
        if x == 0:
            waiting["step"] = asyncio.current_task().get_coro().cr_await
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        if x == 1:
            try:
                step = waiting["coro"] = waiting["step"]
                step.throw(ValueError("thrown"))
            except BaseException as error:
                return type(error)
        return x

    try:
        async with asyncio.timeout(20):
            result = await bounded_gather(fn, range(4), max_concurrent=2)
            assert len(result) == 4
            result.failures()
    finally:
        waiting.clear()


# ----------------------------------------------------------- call graphs


needs_graph = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="no call graph before 3.14"
)


async def deepest(gate: asyncio.Future[Any]) -> None:
    await gate


async def middle(gate: asyncio.Future[Any]) -> None:
    await deepest(gate)


class Items:
    """Items that wait for a gate; their tasks are kept."""

    def __init__(self) -> None:
        self.gate = asyncio.get_running_loop().create_future()
        self.tasks = []

    async def __call__(self, item: Any) -> None:
        self.tasks.append(asyncio.current_task())
        await middle(self.gate)


@needs_graph
async def test_a_call_graph_goes_down_to_the_items_own_await() -> None:
    items = Items()
    running = asyncio.create_task(bounded_gather(items, range(3)).collect())
    await settle(5)
    for task in items.tasks:
        graph = asyncio.capture_call_graph(task)
        names = [entry.frame.f_code.co_name for entry in graph.call_stack]
        assert names[:3] == ["deepest", "middle", "__call__"]
        text = io.StringIO()
        asyncio.print_call_graph(task, file=text)
        assert "in async deepest()" in text.getvalue()
    items.gate.set_result(None)
    await running


@needs_graph
async def test_a_call_graph_can_be_captured_inside_an_item() -> None:
    async def fn(x: int) -> list[Any]:
        return [
            entry.frame.f_code.co_name
            for entry in asyncio.capture_call_graph().call_stack
        ]

    async def main() -> Any:
        return await bounded_gather(fn, [1])

    (names,) = (await main()).values()
    assert "fn" in names


async def test_where_shows_an_items_own_await() -> None:
    items = Items()
    registry = TaskRegistry()
    running = asyncio.create_task(bounded_gather(items, range(2)).collect())
    await settle(5)
    task_id = registry.track(items.tasks[0])
    lines = registry.where(task_id)
    assert [line.rsplit(" ", 1)[1] for line in lines][-3:] == [
        "Items.__call__",
        "middle",
        "deepest",
    ]
    items.gate.set_result(None)
    await running


async def test_between_items_a_worker_shows_none() -> None:
    async def fn(x: int) -> Any:
        return asyncio.current_task().get_coro()

    (coro,) = (await bounded_gather(fn, [1])).values()
    inner = coro.cr_await
    assert inner is None or not hasattr(inner, "cr_await")


SOURCE = """
import asyncio
from pyasynclife import bounded_gather

async def deepest():
    await asyncio.sleep(30)

async def middle():
    await deepest()

async def item(x):
    if x == 2:
        print("ready", flush=True)
    await middle()

async def main():
    await bounded_gather(item, range(3), task_per_item={task_per_item})

asyncio.run(main())
"""


@needs_graph
@pytest.mark.skipif(sys.platform != "linux", reason="another process's memory")
@pytest.mark.parametrize("task_per_item", [False, True])
@pytest.mark.workers_only
def test_pstree_of_another_process_shows_the_items_tasks(task_per_item: bool) -> None:
    with start_child(SOURCE.format(task_per_item=task_per_item)) as child:
        child.wait_for("ready")
        seen = subprocess.run(
            [sys.executable, "-m", "asyncio", "pstree", str(child.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if seen.returncode and re.search("[Pp]ermission|[Pp]rivilege", seen.stderr):
        pytest.skip("may not read another process's memory")
    assert seen.returncode == 0, seen.stderr
    if task_per_item:
        assert seen.stdout.count("deepest") == 3
        assert seen.stdout.count("item") >= 3
    else:
        assert seen.stdout.count("(T) bounded_gather") == 3
        assert seen.stdout.count("work") >= 3
