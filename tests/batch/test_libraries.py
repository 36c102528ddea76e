"""asyncio's own tools and other libraries around and inside items, workers included."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.abc
import anyio.lowlevel
import pytest

from pyasynclife import TaskGroup, TaskState, bounded_gather
from support.children import run_child
from support.coroutines import double_later, echo_later, fail
from support.loops import settle

BOTH_WAYS = True


# --------------------------------------------------------- a real server


N = 60


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, dict[str, int]]]:
    """An aiohttp server on loopback that counts the requests it serves at once."""
    web = pytest.importorskip("aiohttp.web", reason="aiohttp is not installed")
    seen = {"now": 0, "most": 0, "ended": 0}

    async def answer(request: Any) -> Any:
        seen["now"] += 1
        seen["most"] = max(seen["most"], seen["now"])
        try:
            number = int(request.match_info["number"])
            if number % 10 == 3:
                raise web.HTTPNotFound
            await asyncio.sleep(60 if number % 10 == 7 and number > 1000 else 0.001)
            return web.json_response({"number": number})
        finally:
            seen["now"] -= 1
            seen["ended"] += 1

    app = web.Application()
    app.router.add_get("/{number}", answer)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}", seen
    finally:
        await runner.cleanup()
        await asyncio.sleep(0.01)  # transports close in an iteration of their own


@asynccontextmanager
async def aiohttp_client(url: str) -> AsyncIterator[tuple[Any, Any]]:
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    async with aiohttp.ClientSession(url, raise_for_status=True) as session:

        async def fetch(number: int) -> Any:
            async with session.get(f"/{number}") as response:
                return (await response.json())["number"]

        yield fetch, aiohttp.ClientResponseError


@asynccontextmanager
async def httpx_client(url: str) -> AsyncIterator[tuple[Any, Any]]:
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:

        async def fetch(number: int) -> Any:
            response = await client.get(f"/{number}")
            response.raise_for_status()
            return response.json()["number"]

        yield fetch, httpx.HTTPStatusError


CLIENTS = [aiohttp_client, httpx_client]


@pytest.mark.parametrize("make_client", CLIENTS)
async def test_a_batch_of_requests_to_a_server_keeps_its_limit(
    make_client: Any, server: tuple[str, dict[str, int]]
) -> None:
    url, seen = server
    async with make_client(url) as (fetch, error):
        result = await bounded_gather(fetch, range(N), max_concurrent=20, timeout=20.0)
    assert [r.data for r in result.successes()] == [n for n in range(N) if n % 10 != 3]
    assert {type(r.error) for r in result.failures()} == {error}
    assert 1 < seen["most"] <= 20


@pytest.mark.parametrize("make_client", CLIENTS)
async def test_requests_that_time_out_leave_the_session_usable(
    make_client: Any, server: tuple[str, dict[str, int]]
) -> None:
    url, _ = server
    hang = [number for number in range(1001, 1041) if number % 10 in (1, 7)]
    async with make_client(url) as (fetch, _):
        result = await bounded_gather(fetch, hang, max_concurrent=4, timeout=3.0)
        assert [r.item for r in result if r.timed_out] == [
            n for n in hang if n % 10 == 7
        ]
        assert len(result.successes()) == 4
        again = await bounded_gather(fetch, [0, 1, 2], timeout=20.0)
        assert again.values() == [0, 1, 2]


@pytest.mark.parametrize("make_client", CLIENTS)
async def test_leaving_a_stream_of_requests_ends_them(
    make_client: Any, server: tuple[str, dict[str, int]]
) -> None:
    url, _ = server
    async with make_client(url) as (fetch, _):
        batch = bounded_gather(fetch, range(1004, 2000), max_concurrent=5)
        async with batch:
            async for result in batch:
                assert result.data == 1004
                break
        assert batch.progress.running == 0
        assert batch.progress.started < 50


# ------------------------------------------------------------ SQLAlchemy


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[tuple[Any, Any]]:
    """A scoped session keyed by the current task, over SQLite in a file."""
    pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
    pytest.importorskip("greenlet", reason="greenlet is not installed")
    asyncio_ext = pytest.importorskip(
        "sqlalchemy.ext.asyncio", reason="SQLAlchemy is not installed"
    )
    from sqlalchemy import text
    from sqlalchemy.pool import NullPool

    engine = asyncio_ext.create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'items.db'}", poolclass=NullPool
    )
    async with engine.begin() as connection:
        await connection.execute(text("create table item (number integer)"))
    scoped = asyncio_ext.async_scoped_session(
        asyncio_ext.async_sessionmaker(engine), scopefunc=asyncio.current_task
    )
    try:
        yield scoped, text
    finally:
        await engine.dispose()


async def test_a_scoped_session_that_the_item_removes_is_its_own(
    database: tuple[Any, Any],
) -> None:
    scoped, text = database
    sessions = []

    async def store(number: int) -> int:
        try:
            session = scoped()
            assert not session.info, "another item's session"
            session.info["item"] = number
            sessions.append(session)
            await session.execute(
                text("insert into item values (:number)"), {"number": number}
            )
            await session.commit()
            assert scoped() is session
            return number
        finally:
            await scoped.remove()

    result = await bounded_gather(store, range(30), max_concurrent=3)
    assert result.values() == list(range(30))
    assert len(set(sessions)) == 30
    stored = await scoped.scalar(text("select count(*) from item"))
    await scoped.remove()
    assert stored == 30


async def test_a_session_that_a_failed_item_left_reaches_no_other(
    database: tuple[Any, Any],
) -> None:
    scoped, text = database
    failed_with = set()

    async def store(number: int) -> int:
        session = scoped()
        assert session not in failed_with
        await session.execute(text("select 1"))
        if number % 3 == 1:
            failed_with.add(session)
            raise ValueError(number)  # the session is not removed
        await scoped.remove()
        return number

    result = await bounded_gather(store, range(12), max_concurrent=2)
    assert [r.data for r in result.successes()] == [n for n in range(12) if n % 3 != 1]
    assert {type(r.error) for r in result.failures()} == {ValueError}
    for session in failed_with:
        await session.close()


async def test_a_session_that_is_kept_reaches_the_next_item_unless_each_has_a_task(
    database: tuple[Any, Any], way: str
) -> None:
    """docs/explanation/tasks.md warns of this."""
    scoped, _ = database
    sessions = set()

    async def use(number: int) -> None:
        sessions.add(scoped())
        await asyncio.sleep(0)

    await bounded_gather(use, range(10), max_concurrent=2)
    assert len(sessions) == (10 if way == "tasks" else 2)
    for session in sessions:
        await session.close()


# ---------------------------------------------------------------- Sentry

SENTRY = """
import asyncio
import sys

import sentry_sdk
from sentry_sdk.integrations.asyncio import AsyncioIntegration
from sentry_sdk.transport import Transport

from pyasynclife import bounded_gather

users = []
parents = []


class Seen(Transport):
    def capture_envelope(self, envelope):
        for sent in envelope.items:
            payload = sent.payload.json
            if sent.type == "event":
                users.append((payload["message"], payload["tags"]["user"]))
            elif sent.type == "transaction":
                spans = {span["span_id"]: span for span in payload["spans"]}
                for span in spans.values():
                    if span["op"] == "item":
                        parent = spans.get(span["parent_span_id"])
                        parents.append(parent["op"] if parent else "root")


async def item(n):
    sentry_sdk.set_tag("user", n)
    with sentry_sdk.start_span(op="item", name=f"item {n}"):
        await asyncio.sleep(0.001)
    sentry_sdk.capture_message(f"user {n}")


async def remedied(n):
    with sentry_sdk.isolation_scope():
        await item(n)


async def main():
    sentry_sdk.init(
        "http://a@localhost/1",
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[AsyncioIntegration()],
        transport=Seen,
        traces_sample_rate=1.0,
    )
    fn, own = {
        "none": (item, False),
        "scope": (remedied, False),
        "task": (item, True),
        "default": (item, None),
    }[sys.argv[1]]
    with sentry_sdk.start_transaction(name="root") as root:
        await bounded_gather(fn, range(3), task_per_item=own)
        kept = sentry_sdk.get_current_span() is root
    print(all(text == f"user {user}" for text, user in users))
    print("item" not in parents and len(parents) == 3)
    print(kept)


asyncio.run(main())
"""


@pytest.mark.workers_only
@pytest.mark.parametrize("remedy", ["none", "scope", "task", "default"])
def test_items_share_sentrys_scope_only_if_they_are_made_to(
    remedy: str, tmp_path: Path
) -> None:
    """docs/explanation/tasks.md says so: tags, spans, the caller's current span."""
    pytest.importorskip("sentry_sdk", reason="sentry-sdk is not installed")
    program = tmp_path / "program.py"
    program.write_text(SENTRY)
    child = run_child([str(program), remedy])
    assert child.stderr == ""
    assert child.stdout.split() == [str(remedy != "none")] * 3


# -------------------------------------------------------- asyncio itself


async def test_a_timeout_left_open_cancels_a_later_item_unless_each_has_a_task(
    way: str,
) -> None:
    """docs/explanation/tasks.md warns of this."""

    async def fn(x: int) -> int:
        if x == 0:
            await asyncio.timeout(0.02).__aenter__()
        elif x == 1:
            await asyncio.sleep(0.2)
        return x

    result = await bounded_gather(fn, range(3), max_concurrent=1)
    second = TaskState.DONE if way == "tasks" else TaskState.CANCELLED
    assert [r.state for r in result] == [TaskState.DONE, second, TaskState.DONE]


async def test_asyncio_timeout_inside_an_item_is_its_own() -> None:
    async def fn(x: int) -> tuple[Any, ...]:
        try:
            async with asyncio.timeout(0.01 if x % 2 else 5):
                await asyncio.sleep(0.05)
        except TimeoutError:
            return asyncio.current_task().cancelling(), "own"
        return asyncio.current_task().cancelling(), "slept"

    result = await bounded_gather(fn, range(6), max_concurrent=2, timeout=5)
    assert result.values() == [(0, "own" if x % 2 else "slept") for x in range(6)]


async def test_an_items_timeout_propagates_through_inner_timeouts() -> None:
    async def fn(x: int) -> None:
        async with asyncio.timeout(5), asyncio.timeout(6):
            await asyncio.sleep(10)

    result = await bounded_gather(fn, range(4), max_concurrent=2, timeout=0.01)
    assert all(r.timed_out for r in result)
    assert "timed out after 0.01 s" in str(result[0].error)


async def test_wait_for_and_shield_inside_an_item_work_as_usual() -> None:
    async def fn(x: int) -> int:
        inner = asyncio.create_task(echo_later(x))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.005):
                await asyncio.sleep(10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), 0.005)
        assert asyncio.current_task().cancelling() == 0
        return await asyncio.shield(inner)

    result = await bounded_gather(fn, range(20), max_concurrent=4, timeout=10.0)
    assert result.values() == list(range(20))


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
async def test_nested_groups_inside_an_item_cancel_as_usual(group_type: Any) -> None:
    async def fails(x: int) -> None:
        await asyncio.sleep(0)
        raise LookupError(x)

    async def fn(x: int) -> tuple[Any, ...]:
        try:
            async with group_type() as outer:
                outer.create_task(asyncio.sleep(10))
                async with group_type() as inner:
                    inner.create_task(echo_later(x))
                    if x % 2:
                        inner.create_task(fails(x))
                    await asyncio.sleep(0.01)
                raise KeyError(x)
        except* LookupError as group:
            failures = len(group.exceptions)
        return failures, asyncio.current_task().cancelling()

    result = await bounded_gather(fn, range(6), max_concurrent=2)
    assert result.values() == [(1, 0)] * 6


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
async def test_groups_inside_an_item_work_as_usual(group_type: Any) -> None:
    async def fn(x: int) -> int:
        async with asyncio.timeout(5), group_type() as outer, group_type() as inner:
            first = outer.create_task(asyncio.sleep(0, x))
            second = inner.create_task(asyncio.sleep(0, x))
        with pytest.raises(ExceptionGroup):
            async with group_type() as group:
                group.create_task(asyncio.sleep(10))
                group.create_task(asyncio.wait_for(asyncio.sleep(10), 0))
        return first.result() + second.result()

    result = await bounded_gather(fn, range(10), max_concurrent=3)
    assert result.values() == [2 * x for x in range(10)]


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
async def test_a_failing_group_inside_an_item_is_its_error(group_type: Any) -> None:
    async def fn(x: int) -> None:
        async with group_type() as group:
            group.create_task(fail(x))
            await asyncio.sleep(10)

    result = await bounded_gather(fn, range(3), max_concurrent=1)
    assert all(isinstance(r.error, ExceptionGroup) for r in result)


async def test_a_batch_may_run_inside_an_item_of_a_batch() -> None:
    async def inner(x: int) -> Any:
        return await bounded_gather(double_later, range(x))

    result = await bounded_gather(inner, [1, 2, 3])
    assert [r.values() for r in result.values()] == [[0], [0, 2], [0, 2, 4]]


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
async def test_a_batch_inside_a_group_that_fails_ends_with_it(group_type: Any) -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(x)

    async def fails() -> None:
        await settle(4)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with group_type() as group:
            group.create_task(bounded_gather(fn, range(3)).collect())
            group.create_task(fails())
    assert isinstance(caught.value.exceptions[0], LookupError)
    assert sorted(ended) == [0, 1, 2]


async def test_a_timeout_around_a_batch_waits_for_the_items() -> None:
    ended = []

    async def fn(x: int) -> None:
        if x == 2:
            scope.reschedule(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as scope:
            await bounded_gather(fn, range(3))
    assert sorted(ended) == [0, 1, 2]
    assert asyncio.current_task().cancelling() == 0


# ----------------------------------------------------------------- anyio


@pytest.fixture
def anyio() -> Any:
    return pytest.importorskip("anyio", reason="anyio is not installed")


async def test_anyio_scopes_and_groups_inside_an_item_work_as_usual(anyio: Any) -> None:
    async def fn(x: int) -> list[int]:
        with anyio.move_on_after(0.005) as scope:
            await anyio.sleep(10)
        assert scope.cancelled_caught
        with anyio.CancelScope() as own:
            own.cancel()
            await anyio.sleep(10)
        with pytest.raises(TimeoutError), anyio.fail_after(0.005):
            await anyio.sleep(10)
        seen = []

        async def child(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(number)

        async with anyio.create_task_group() as group:
            group.start_soon(child, x)
            group.start_soon(child, -x)
        assert asyncio.current_task().cancelling() == 0
        return sorted(seen)

    result = await bounded_gather(fn, range(10), max_concurrent=3, timeout=5)
    assert result.values() == [[-x, x] for x in range(10)]


async def test_an_anyio_group_that_fails_inside_an_item_is_its_error(
    anyio: Any,
) -> None:
    async def fails() -> None:
        raise LookupError

    async def fn(x: int) -> int:
        async with anyio.create_task_group() as group:
            if x % 2:
                group.start_soon(fails)
            await anyio.sleep(0.01)
        return x

    result = await bounded_gather(fn, range(4), max_concurrent=1)
    assert [r.success for r in result] == [True, False, True, False]
    assert all(isinstance(r.error, ExceptionGroup) for r in result.failures())


async def test_an_items_timeout_propagates_through_anyios_scopes(anyio: Any) -> None:
    cleaned = []

    async def fn(x: int) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            try:
                with anyio.fail_after(5):
                    await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.001)
                cleaned.append(x)

    result = await bounded_gather(fn, range(4), max_concurrent=2, timeout=0.02)
    assert [r.state for r in result] == [TaskState.FAILED] * 4
    assert all(r.timed_out for r in result)
    assert sorted(cleaned) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["scope", "deadline", "group"])
async def test_anyio_around_a_batch_cancels_and_waits(how: str, anyio: Any) -> None:
    ended = []

    async def fn(x: int) -> None:
        if how == "scope" and x == 2:
            scope.cancel()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ended.append(x)

    if how == "group":
        async with anyio.create_task_group() as group:
            group.start_soon(bounded_gather(fn, range(3)).collect)
            await settle(5)
            group.cancel_scope.cancel()
    else:
        with anyio.move_on_after(0.02 if how == "deadline" else 60) as scope:
            await bounded_gather(fn, range(3))
        assert scope.cancelled_caught
    assert sorted(ended) == [0, 1, 2]
    assert asyncio.current_task().cancelling() == 0


async def test_anyio_scopes_and_groups_inside_a_source_work_as_usual(
    anyio: Any,
) -> None:
    async def source() -> AsyncIterator[int]:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for i in range(5):
                    group.start_soon(anyio.sleep, 0)
                    with anyio.move_on_after(0.001):
                        await anyio.sleep(10)
                    yield i

    result = await bounded_gather(echo_later, source(), max_concurrent=2)
    assert result.values() == list(range(5))
    async with bounded_gather(echo_later, source()) as batch:
        async for _ in batch:
            break


async def test_an_anyio_group_left_open_cancels_a_later_item_unless_each_has_a_task(
    anyio: Any, way: str, loop_errors: list[dict[str, Any]]
) -> None:
    """docs/explanation/tasks.md warns of this."""
    groups = []

    async def connection() -> None:
        await asyncio.sleep(0.02)
        raise ConnectionError

    async def fn(x: int) -> int:
        if x == 0:
            groups.append(group := anyio.create_task_group())
            await group.__aenter__()
            group.start_soon(connection)
        elif x == 1:
            await asyncio.sleep(0.2)
        return x

    result = await bounded_gather(fn, range(3), max_concurrent=1)
    second = TaskState.DONE if way == "tasks" else TaskState.CANCELLED
    assert [r.state for r in result] == [TaskState.DONE, second, TaskState.DONE]


async def test_an_anyio_stream_is_a_source(anyio: Any) -> None:
    send, receive = anyio.create_memory_object_stream[int](0)

    async def produce() -> None:
        async with send:
            for i in range(10):
                await send.send(i)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            result = await bounded_gather(echo_later, receive, max_concurrent=2)
    assert result.values() == list(range(10))


async def test_an_item_may_hold_a_token_of_an_anyio_limiter(anyio: Any) -> None:
    limiter = anyio.CapacityLimiter(2)
    most = 0

    async def fn(x: int) -> int:
        nonlocal most
        async with limiter:
            most = max(most, limiter.borrowed_tokens)
            await anyio.sleep(0)
        return await anyio.to_thread.run_sync(lambda: x)

    result = await bounded_gather(fn, range(20), max_concurrent=5)
    assert result.values() == list(range(20))
    assert most == 2
