"""What looks at Tasks sees the items: call graphs, pstree, where()."""

import asyncio
import io
import re
import subprocess
import sys

import pytest

from pyasynclife import TaskRegistry, bounded_gather
from support.children import start_child
from support.loops import settle

BOTH_WAYS = True

needs_graph = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="no call graph before 3.14"
)


async def deepest(gate):
    await gate


async def middle(gate):
    await deepest(gate)


class Items:
    """Items that wait, and their tasks."""

    def __init__(self):
        self.gate = asyncio.get_running_loop().create_future()
        self.tasks = []

    async def __call__(self, item):
        self.tasks.append(asyncio.current_task())
        await middle(self.gate)


@needs_graph
async def test_a_call_graph_goes_down_to_the_items_own_await():
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
async def test_a_call_graph_from_inside_an_item():
    async def fn(x):
        return [
            entry.frame.f_code.co_name
            for entry in asyncio.capture_call_graph().call_stack
        ]

    async def main():
        return await bounded_gather(fn, [1])

    (names,) = (await main()).values()
    assert "fn" in names


async def test_where_shows_an_items_own_await():
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


async def test_between_items_a_worker_shows_none():
    async def fn(x):
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
    await bounded_gather(item, range(3), task_per_item={solo})

asyncio.run(main())
"""


@needs_graph
@pytest.mark.skipif(sys.platform != "linux", reason="another process's memory")
@pytest.mark.parametrize("solo", [False, True])
@pytest.mark.workers_only
def test_pstree_of_another_process_shows_the_items_tasks(solo):
    with start_child(SOURCE.format(solo=solo)) as child:
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
    if solo:
        assert seen.stdout.count("deepest") == 3
        assert seen.stdout.count("item") >= 3
    else:
        assert seen.stdout.count("(T) bounded_gather") == 3
        assert seen.stdout.count("work") >= 3
