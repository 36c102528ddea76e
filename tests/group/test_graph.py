"""Groups in the await graph of 3.14 and later look like asyncio's own."""

import asyncio
import re
import subprocess
import sys
from typing import Any

import pytest

from pyasynclife import TaskGroup
from support.children import start_child
from support.coroutines import forever
from support.loops import settle

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="the await graph came with 3.14"
)


async def graph_of_a_grandchild(Group: Any) -> tuple[list[str], str]:
    """The tasks that await a grandchild of a group, and the formatted graph."""
    tasks: list[Any] = []

    async def inner() -> None:
        async with Group() as group:
            tasks.append(group.create_task(forever(), name="grandchild"))

    async def outer() -> None:
        async with Group() as group:
            group.create_task(inner(), name="child")

    parent = asyncio.create_task(outer(), name="parent")
    await settle(4)
    graph = asyncio.capture_call_graph(tasks[0])  # type: ignore[attr-defined]
    names = []
    while graph is not None:
        names.append(graph.future.get_name())
        callers = graph.awaited_by
        assert len(callers) <= 1
        graph = callers[0] if callers else None
    shown = asyncio.format_call_graph(tasks[0])  # type: ignore[attr-defined]
    parent.cancel()
    await asyncio.wait([parent])
    assert not tasks[0]._asyncio_awaited_by
    return names, shown


async def test_the_graph_goes_from_a_child_to_its_groups_parent() -> None:
    names, shown = await graph_of_a_grandchild(TaskGroup)
    their_names, their_shown = await graph_of_a_grandchild(asyncio.TaskGroup)
    assert names == their_names == ["grandchild", "child", "parent"]

    def tasks_in(text: str) -> list[str]:
        return re.findall(r"Task\(name='(\w+)'", text)

    assert tasks_in(shown) == ["grandchild", "child", "parent"]
    assert tasks_in(shown) == tasks_in(their_shown)
    assert "inner()" in shown
    assert "outer()" in shown


async def test_the_edges_end_with_the_child(
    loop_errors: list[dict[str, Any]],
) -> None:
    me = asyncio.current_task()
    async with TaskGroup() as group:
        task: Any = group.create_task(forever())
        assert set(task._asyncio_awaited_by) == {me}
        eager: Any = group.create_task(forever(), eager_start=True)
        assert set(eager._asyncio_awaited_by) == {me}
        await asyncio.sleep(0)
        task.cancel()
        await settle()
        assert not task._asyncio_awaited_by
        group.cancel()
    assert not eager._asyncio_awaited_by


GROUPS = """
    import asyncio
    from {module} import TaskGroup
    async def leaf():
        await asyncio.sleep(60)
    async def branch():
        async with TaskGroup() as group:
            for n in range(2):
                group.create_task(leaf(), name=f"leaf {{n}}")
    async def main():
        asyncio.current_task().set_name("root")
        async with TaskGroup() as group:
            group.create_task(branch(), name="branch")
            asyncio.get_running_loop().call_later(0.1, print, "ready")
    asyncio.run(main())
"""


def pstree(module: str) -> str:
    with start_child(GROUPS.format(module=module)) as child:
        child.wait_for("ready")
        done = subprocess.run(
            [sys.executable, "-m", "asyncio", "pstree", str(child.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if done.returncode != 0:
        if re.search(r"permission|not permitted|privileg", done.stderr, re.IGNORECASE):
            pytest.skip(
                f"not permitted to look into another process: {done.stderr[-200:]}"
            )
        pytest.fail(done.stderr)
    return done.stdout


def test_pstree_shows_groups_from_another_process() -> None:
    def tasks_in(text: str) -> list[tuple[int, str]]:
        """The tasks of the tree and the depth of each, leaves in any order."""
        found = re.finditer(r"^(.*?)\(T\) (\w+)(?: \d)?$", text, re.MULTILINE)
        depths = [(len(match[1]), match[2]) for match in found]
        ranks = sorted({depth for depth, _ in depths})
        return [(ranks.index(depth), name) for depth, name in depths]

    ours, theirs = pstree("pyasynclife"), pstree("asyncio")
    names = [name for _, name in tasks_in(theirs)]
    assert names == ["root", "branch", "leaf", "leaf"], theirs
    assert [name for _, name in tasks_in(ours)] == names, ours
    assert tasks_in(ours) == [(0, "root"), (1, "branch"), (2, "leaf"), (2, "leaf")]
