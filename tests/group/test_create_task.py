"""TaskGroup.create_task(): its keywords, names, eager starts, and what it refuses."""

import asyncio
import contextvars
import inspect
import sys
import threading
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry
from support.capture import capture
from support.coroutines import Boom, forever
from support.group_scenarios import cancelling, fail
from support.loops import settle, task_factory
from support.marks import needs_eager

EAGER = sys.version_info >= (3, 12)


async def test_keywords_are_passed_to_the_task() -> None:
    context = contextvars.copy_context()
    var = contextvars.ContextVar("var", default=0)

    async def child() -> None:
        var.set(1)

    async with TaskGroup() as group:
        task = group.create_task(child(), name="one", context=context)
        other = group.create_task(coro=child(), name=None)
    assert task.get_name() == "one"
    assert other.get_name()
    assert context[var] == 1


@pytest.mark.parametrize("Group", [TaskGroup, asyncio.TaskGroup])
async def test_a_subclass_may_pass_the_coroutine_on_by_name(Group: Any) -> None:
    class Named(Group):  # type: ignore[misc]
        def create_task(self, coro: Any, **keywords: Any) -> Any:
            keywords.setdefault("name", "default")
            return super().create_task(coro=coro, **keywords)

    async with Named() as group:
        tasks = [
            group.create_task(settle()),
            group.create_task(coro=settle(), name="one"),
            group.create_task(name="two", coro=settle(), context=None),
        ]
        with pytest.raises(TypeError, match=r"missing 1 required .*'coro'"):
            Group.create_task(group, name="three")
    assert [task.get_name() for task in tasks] == ["default", "one", "two"]


async def test_the_loop_is_no_keyword_of_create_task() -> None:
    coro = settle(0)
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="loop"):
            group.create_task(coro, loop=None)  # type: ignore[call-arg]
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_an_unknown_keyword_closes_the_coroutine() -> None:
    coro, named = settle(), settle()
    async with TaskGroup() as group:
        with pytest.raises(TypeError):
            group.create_task(coro, colour="red")
        with pytest.raises(TypeError):
            group.create_task(colour="red", coro=named)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    assert inspect.getcoroutinestate(named) == inspect.CORO_CLOSED


async def test_too_many_keywords_are_refused() -> None:
    coro = settle()
    keywords: dict[str, Any] = {f"key{i}": i for i in range(9)}
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="at most 8 keyword arguments"):
            group.create_task(coro=coro, **keywords)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.parametrize("arguments", [(), (1, 2)])
async def test_create_task_takes_one_coroutine(arguments: tuple[Any, ...]) -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="positional argument"):
            group.create_task(*arguments)


@pytest.mark.parametrize("thing", [5, None, "coro", settle])
async def test_create_task_of_no_coroutine_is_a_type_error(thing: Any) -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError):
            group.create_task(thing)
        assert not group._tasks


# ------------------------------------------------------------------ names


async def test_a_name_belongs_to_one_task() -> None:
    async with TaskGroup() as group:
        one = group.create_task(settle(0), name="one")
        with pytest.raises(TypeError):
            group.create_task(settle(0), name="odd", color="red")
        other = group.create_task(settle(0))
        none = group.create_task(settle(0), name=None)
        assert one.get_name() == "one"
        assert other.get_name().startswith("Task-")
        assert none.get_name().startswith("Task-")


async def names(Group: Any) -> list[object]:
    """The names of some children; instead of a number, its distance from the first."""
    async with Group() as group:
        first = group.create_task(settle(0))
        tasks = [
            group.create_task(settle(0), **keywords)
            for keywords in ({"name": "x"}, {}, {"name": "y"}, {}, {"name": None}, {})
        ]
    start = int(first.get_name().removeprefix("Task-"))
    return [
        name
        if not name.startswith("Task-")
        else int(name.removeprefix("Task-")) - start
        for name in (task.get_name() for task in tasks)
    ]


async def test_tasks_are_numbered_as_in_asyncio() -> None:
    assert await names(TaskGroup) == await names(asyncio.TaskGroup)


async def test_registered_tasks_use_up_numbers_as_named_ones_do() -> None:
    def number(task: asyncio.Task[Any]) -> int:
        return int(task.get_name().removeprefix("Task-"))

    registry = TaskRegistry()
    spent = []
    for make in (
        lambda: registry.register(settle(0), "a name"),
        lambda: asyncio.create_task(settle(0), name="a name"),
    ):
        before = asyncio.create_task(settle(0))
        make()
        after = asyncio.create_task(settle(0))
        spent.append(number(after) - number(before))
        await settle()
    assert spent[0] == spent[1]


# ------------------------------------------------------------------ eager starts


@needs_eager
async def test_an_eager_child_that_has_ended_costs_no_iteration() -> None:
    async def child() -> int:
        return 1

    iterations = 0

    def count() -> None:
        nonlocal iterations
        iterations += 1

    asyncio.get_running_loop().call_soon(count)
    async with TaskGroup() as group:
        task = group.create_task(child(), eager_start=True)
        assert task.done()
        assert not group._tasks
    assert task.result() == 1
    assert iterations == 0
    await asyncio.sleep(0)


@needs_eager
async def test_an_eager_child_continues_as_a_task() -> None:
    async def child() -> Any:
        me = asyncio.current_task()
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return me

    async with TaskGroup() as group:
        task = group.create_task(child(), name="one", eager_start=True)
        lazy = group.create_task(child(), eager_start=False)
        assert group._tasks == {task, lazy}
    assert task.result() is task
    assert lazy.result() is lazy


@needs_eager
async def test_an_eager_child_that_fails_is_handled_later() -> None:
    went_on = False
    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            group.create_task(fail(), eager_start=True)
            went_on = True
            await forever()
    assert went_on
    assert cancelling() == 0


@needs_eager
async def test_an_eager_start_in_a_context_already_entered_is_refused() -> None:
    # gh-157301: in asyncio it blocks the loop for ever
    context = contextvars.copy_context()
    coro = settle()

    async with TaskGroup() as group:

        def create() -> None:
            group.create_task(coro, context=context, eager_start=True)

        with pytest.raises(RuntimeError, match="already entered"):
            context.run(create)
        with pytest.raises(TypeError, match="context is"):
            group.create_task(settle(), context=5, eager_start=True)  # type: ignore
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.skipif(EAGER, reason="3.11 alone has no eager tasks")
async def test_eager_start_names_the_version_that_has_it() -> None:
    async with TaskGroup() as group:
        coro = settle()
        with pytest.raises(TypeError, match=r"3\.12"):
            group.create_task(coro, eager_start=True)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.parametrize("false", [False, None, 0])
async def test_a_start_that_is_not_eager_is_accepted_on_every_version(
    false: Any,
) -> None:
    async def child() -> None:
        var.set(1)

    var = contextvars.ContextVar("var", default=0)
    context = contextvars.copy_context()
    async with TaskGroup() as group:
        tasks = [
            group.create_task(settle(), eager_start=false),
            group.create_task(settle(), eager_start=false, name="first"),
            group.create_task(settle(), name="mid", eager_start=false, context=None),
            group.create_task(child(), context=context, eager_start=false),
            group.create_task(eager_start=false, coro=settle(), name="last"),
        ]
        assert not any(task.done() for task in tasks)
        assert group._tasks == set(tasks)
    assert all(task.done() for task in tasks)
    names = [task.get_name() for task in tasks]
    assert [names[1], names[2], names[4]] == ["first", "mid", "last"]
    assert context[var] == 1


async def test_a_start_that_is_not_eager_is_the_task_factorys_affair() -> None:
    seen: list[Any] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        seen.append(coro)
        return asyncio.Task(coro, loop=loop)

    coro = settle()
    async with TaskGroup() as group:
        with task_factory(factory):
            group.create_task(coro, eager_start=False)
    assert seen == [coro]


@needs_eager
async def test_a_child_of_an_eager_task_factory_can_be_started_later() -> None:
    class Task(asyncio.Task[Any]):
        pass

    for kind in (asyncio.Task, Task):
        coro = settle()
        eager = asyncio.create_eager_task_factory(kind)  # type: ignore[attr-defined]
        async with TaskGroup() as group:
            with task_factory(eager):
                child = group.create_task(coro, name="child", eager_start=False)
            assert type(child) is kind
            assert inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
        assert child.done()
        assert child.get_name() == "child"


async def test_what_is_refused_beside_eager_start_is_closed() -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise ValueError("undecided")

    async with TaskGroup() as group:
        coro = settle()
        with pytest.raises(ValueError, match="undecided"):
            group.create_task(coro, eager_start=Undecided())
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
        coro = settle()
        with pytest.raises(TypeError, match="argument"):
            group.create_task(coro, eager_start=False, bogus=1)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# ------------------------------------------------------------------ task factories


async def test_a_task_factory_gets_only_the_keywords_that_were_passed() -> None:
    seen: list[set[str]] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        seen.append({key for key, value in kwargs.items() if value is not None})
        return asyncio.Task(coro, loop=loop)

    context = contextvars.copy_context()
    async with TaskGroup() as group:
        with task_factory(factory):
            group.create_task(settle())
            group.create_task(settle(), context=context)
    assert seen == [set(), {"context"}]


async def test_a_task_factory_is_called_though_the_loop_hides_it() -> None:
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop: Any, coro: Any, **keywords: Any) -> Any:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **keywords)

    loop.set_task_factory(factory)
    loop.get_task_factory = lambda: None  # type: ignore[method-assign]
    try:
        async with TaskGroup() as group:
            group.create_task(settle(0))
    finally:
        del loop.get_task_factory  # type: ignore[attr-defined]
        loop.set_task_factory(None)
    assert len(made) == 1


async def test_a_task_factory_that_raises_closes_the_coroutine() -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        raise Boom

    coro = settle()
    async with TaskGroup() as group:
        with task_factory(factory), pytest.raises(Boom):
            group.create_task(coro)
        assert not group._tasks
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_task_factory_that_returns_no_task_leaves_nothing() -> None:
    coro = settle()
    async with TaskGroup() as group:
        with (
            task_factory(lambda loop, coro, **kwargs: None),
            pytest.raises(AttributeError),
        ):
            group.create_task(coro)
        assert not group._tasks
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_task_that_is_done_already_can_be_a_child() -> None:
    done = asyncio.create_task(settle(0))
    failed = asyncio.create_task(fail())
    await asyncio.wait([done, failed])
    made = iter([done, failed])

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        coro.close()
        return next(made)

    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            with task_factory(factory):
                assert group.create_task(settle()) is done
                assert group.create_task(settle()) is failed


# ------------------------------------------------------------------ where it is refused


async def test_create_task_before_entering_closes_the_coroutine() -> None:
    coro = settle()
    with pytest.raises(RuntimeError, match="<TaskGroup> has not been entered"):
        TaskGroup().create_task(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_create_task_while_shutting_down_closes_the_coroutine() -> None:
    async with TaskGroup() as group:
        group.create_task(forever())
        group.cancel()
        coro = settle()
        with pytest.raises(RuntimeError, match="cancelling> is shutting down"):
            group.create_task(coro)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_another_thread_is_refused() -> None:
    errors: list[BaseException] = []
    coro = settle()

    def other() -> None:
        for call in (lambda: group.create_task(coro), group.cancel):
            try:
                call()
            except RuntimeError as error:
                errors.append(error)

    async with TaskGroup() as group:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert ["call_soon_threadsafe" in str(error) for error in errors] == [True] * 2
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_closed_loop_is_refused_outside_a_loop() -> None:
    async def main() -> TaskGroup:
        group = TaskGroup()
        await group.__aenter__()
        return group

    group = asyncio.run(main())
    coro = settle()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        group.create_task(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_closed_loop_is_refused_inside_another_loop() -> None:
    loop = asyncio.SelectorEventLoop()
    group = TaskGroup()

    async def enter() -> None:
        await group.__aenter__()

    await asyncio.to_thread(loop.run_until_complete, enter())
    loop.close()
    coro = settle(0)
    with pytest.raises(RuntimeError):
        group.create_task(coro)
    coro.close()


@pytest.mark.parametrize("allowed", [True, False], ids=["captured", "plain"])
@pytest.mark.parametrize("keywords", [{}, {"eager_start": True}])
async def test_a_context_that_is_none_is_refused(
    allowed: bool, keywords: dict[str, Any]
) -> None:
    class Runs:
        def run(self, call: Any, *args: Any) -> Any:
            return call(*args)

    if keywords and not EAGER:
        pytest.skip("eager tasks came with 3.12")
    with capture(allowed):
        async with TaskGroup() as group:
            for context in (object(), Runs(), {}, 0):
                coro: Any = forever()
                with pytest.raises(TypeError, match=r"context is a .*Context, got"):
                    group.create_task(coro, context=context, **keywords)
                assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
                assert not group._tasks
