"""TaskRegistry.serve(): who is answered, and what becomes of the socket's file."""

import asyncio
import errno
import json
import os
import socket
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pyasynclife import LoopWatch, SignalCoordinator, TaskPool, TaskRegistry
from pyasynclife._monitor import answers, server
from support.children import start_child
from support.coroutines import echo, forever
from support.loops import Iterations, settle
from support.registries import a_registry

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.fixture
def path() -> Iterator[Path]:
    # A socket's path has at most 107 bytes: not under pytest's tmp_path.
    with tempfile.TemporaryDirectory(prefix="pal-") as directory:
        yield Path(directory, "monitor.sock")


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@asynccontextmanager
async def serving(registry: TaskRegistry, path: Path) -> AsyncIterator[None]:
    task = asyncio.ensure_future(registry.serve(path))
    try:
        deadline = time.monotonic() + 10
        while not is_served(path) and not task.done():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


class Client:
    """A client that asks line by line."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: Any) -> dict[str, Any]:
        return await self.send(json.dumps(request).encode())

    async def send(self, line: bytes) -> dict[str, Any]:
        self.writer.write(line + b"\n")
        return await self.read()

    async def read(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            await asyncio.wait_for(self.reader.readline(), 20)
        )
        return answer

    async def gone(self) -> bool:
        """Whether the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 20) == b""


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(path, limit=2**26)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


# ------------------------------------------------------------ the file


async def test_the_file_is_private_and_goes_with_the_server(path: Path) -> None:
    umask = os.umask(0)
    try:
        async with a_registry() as registry:
            async with serving(registry, path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_ISSOCK(path.stat().st_mode)
            assert not path.exists()
    finally:
        os.umask(umask)


async def test_the_file_of_a_dead_process_is_replaced(path: Path) -> None:
    program = f"""
        import os, socket
        socket.socket(socket.AF_UNIX).bind({str(path)!r})
        print("ready")
        os._exit(0)
    """
    with start_child(program) as child:
        child.finish()
    assert path.exists()
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        assert (await c.ask({"ask": "top"}))["matching"] == 0


async def test_a_living_server_is_not_replaced(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path):
        with pytest.raises(OSError, match="a living process serves here") as caught:
            await TaskRegistry().serve(path)
        assert caught.value.filename == str(path)
        async with connected(path) as client:
            assert (await client.ask({"ask": "top"}))["matching"] == 0


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_nothing_else_is_overwritten(kind: str, path: Path) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(FileExistsError, match="left alone"):
        await TaskRegistry().serve(path)
    assert path.is_symlink() or path.exists()
    if kind == "file":
        assert path.read_text() == "precious"


async def test_a_file_that_somebody_else_has_made_meanwhile_stays(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


@pytest.mark.parametrize("name", ["x" * 200, "é" * 100], ids=["x", "é"])
async def test_a_path_that_is_too_long_is_refused_with_the_remedy(
    path: Path, name: str
) -> None:
    longer = path.with_name(name)
    size = len(os.fsencode(longer))
    with pytest.raises(
        OSError, match=rf"at most \d+ bytes, got {size}.*relative"
    ) as got:
        await TaskRegistry().serve(longer)
    assert got.value.errno == errno.ENAMETOOLONG
    assert got.value.filename == str(longer)
    assert list(path.parent.iterdir()) == []


@pytest.mark.standard_loop_only
def test_a_registry_of_another_loop_is_refused(path: Path) -> None:
    registry = TaskRegistry()

    async def use() -> None:
        registry.register(forever())

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(use())
        with pytest.raises(RuntimeError, match="loop"):
            second.run(registry.serve(path))
        first.run(registry.shutdown())
    assert not path.exists()


@pytest.mark.parametrize("kind", ["with a task", "empty"])
@pytest.mark.standard_loop_only
def test_a_registry_of_a_closed_loop_serves_elsewhere_if_it_is_empty(
    path: Path, kind: str
) -> None:
    registry = TaskRegistry()

    async def use() -> None:
        await registry.register(echo(), "ended")
        await registry.wait()
        if kind == "with a task":
            registry.track(sleeper, "left behind")

    async def ask() -> list[str]:
        async with serving(registry, path), connected(path) as client:
            answer = await client.ask({"ask": "tasks"})
            return [task["task_id"] for task in answer["tasks"]]

    loop = asyncio.new_event_loop()
    sleeper = loop.create_task(forever())
    loop.run_until_complete(use())
    if kind == "empty":
        sleeper.cancel()
        loop.run_until_complete(asyncio.wait([sleeper]))
        loop.close()
        assert asyncio.run(ask()) == ["ended"]
        return
    loop.close()
    with pytest.raises(RuntimeError, match="loop"):
        asyncio.run(registry.serve(path))
    assert not path.exists()
    sleeper._log_destroy_pending = False  # type: ignore[attr-defined]


# ------------------------------------------------------------ answers


async def test_tasks_are_listed_alive_and_then_ended(path: Path) -> None:
    async def broken() -> None:
        raise ValueError("no price")

    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        for i in range(450):
            registry.register(forever(), f"feed-{i}")
        registry.register(broken(), "broken")
        await asyncio.sleep(0.01)
        answer, listed = await c.ask({"ask": "tasks"}), []
        while "stats" not in answer:
            listed += answer["tasks"]
            answer = await c.read()
        ids = [task["task_id"] for task in listed]
        assert ids == [f"feed-{i}" for i in range(450)] + ["broken"]
        assert listed[-1]["error_text"] == "ValueError: no price"
        assert answer["stats"]["alive"] == 450


async def test_top_has_the_first_rows_and_groups_equal_places(path: Path) -> None:
    async def other() -> None:
        await asyncio.Event().wait()

    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        for i in range(30):
            registry.register(forever(), f"feed-{i}")
            await asyncio.sleep(0)
        registry.register(other(), "other")
        await asyncio.sleep(0)
        top = await c.ask({"ask": "top", "rows": 3, "sort": "age"})
        assert [row["id"] for row in top["rows"]] == ["feed-0", "feed-1", "feed-2"]
        assert top["matching"] == top["sampled"] == 31
        assert [group["count"] for group in top["groups"]] == [30, 1]
        assert top["groups"][1]["some"] == ["other"]
        assert "other" in top["groups"][1]["where"][0]
        assert top["process"]["pid"] == os.getpid()
        filtered = await c.ask({"ask": "top", "filter": "feed-2"})
        assert filtered["matching"] == 11


async def test_top_has_the_lag_and_the_progress_of_what_is_attached(
    path: Path,
) -> None:
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        top = await c.ask({"ask": "top"})
        assert top["lag"] is None
        assert top["work"] == []
        coordinator = SignalCoordinator(registry=registry)
        async with LoopWatch(60.0), TaskPool(2) as pool:
            coordinator.attach(pool)
            jobs = [pool.submit(asyncio.sleep, delay) for delay in (0, 0, 60)]
            await asyncio.wait([asyncio.ensure_future(until_done(jobs[:2]))])
            top = await c.ask({"ask": "top"})
            pool.cancel()
        assert top["lag"]["blocked"] == 0
        (work,) = top["work"]
        assert (work["kind"], work["limit"], work["total"]) == ("TaskPool", 2, 3)
        assert (work["done"], work["running"]) == (2, 1)


async def test_the_lag_of_top_is_at_most_the_longest_block(path: Path) -> None:
    async with (
        a_registry() as registry,
        serving(registry, path),
        connected(path) as c,
        LoopWatch(0.05) as watch,
    ):
        time.sleep(0.11)
        while not watch.blocked:
            await asyncio.sleep(0.01)
        assert watch.lag.quantile(0.99) > watch.longest
        lag = (await c.ask({"ask": "top"}))["lag"]
        assert lag["p99"] == lag["longest"]


async def until_done(jobs: list[Any]) -> None:
    for job in jobs:
        await job


async def test_of_many_tasks_a_sample_is_grouped(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        for _ in range(2500):
            registry.register(forever())
        await asyncio.sleep(0)
        top = await c.ask({"ask": "top"})
        assert top["matching"] == 2500
        assert top["sampled"] == 834
        (group,) = top["groups"]
        assert 2500 <= group["count"] < 2503


async def test_one_task_can_be_cancelled(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        task, _ = await registry.register(forever(), "feed")
        assert await c.ask({"ask": "cancel", "id": "feed"}) == {"cancelled": True}
        await asyncio.wait([task])
        assert task.cancelled()
        assert await c.ask({"ask": "cancel", "id": "feed"}) == {"cancelled": False}
        assert await c.ask({"ask": "cancel", "id": "none"}) == {"cancelled": False}


async def test_an_answer_about_many_tasks_lets_the_loop_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SLICE", 0.0)  # a fast machine needs few slices
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        for _ in range(20_000):
            registry.register(forever())
        await asyncio.sleep(0)
        for request in ({"ask": "top"}, {"ask": "tasks"}):
            async with Iterations() as iterations:
                answer = await c.ask(request)
                while "stats" not in answer:
                    answer = await c.read()
            assert iterations.count > 20


# ------------------------------------------------------------ bad clients

BAD = [
    (b"", "a JSON object"),
    (b"x", "a JSON object"),
    (b"\xff\xfe", "a JSON object"),
    (b"[" * 60_000, "a JSON object"),
    (b"[]", 'ask for "top"'),
    (b"null", 'ask for "top"'),
    (b"{}", 'ask for "top"'),
    (b'{"ask": ["top"]}', 'ask for "top"'),
    (b'{"ask": "top", "rows": -1}', "rows must be"),
    (b'{"ask": "top", "rows": 1e9}', "rows must be"),
    (b'{"ask": "top", "rows": true}', "rows must be"),
    (b'{"ask": "top", "sort": "name"}', "sort must be one of"),
    (b'{"ask": "top", "sort": []}', "sort must be one of"),
    (b'{"ask": "top", "filter": 1}', "filter must be"),
    (b'{"ask": "cancel"}', "id must be"),
    (b'{"ask": "cancel", "id": ""}', "id must be"),
]


async def test_a_request_that_makes_no_sense_is_answered(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        for line, message in BAD:
            assert message in (await c.send(line))["error"]
        assert "rows" in await c.ask({"ask": "top"})


async def test_many_requests_at_once_let_the_loop_go_on(path: Path) -> None:
    answers = b""
    async with (
        a_registry() as registry,
        serving(registry, path),
        connected(path) as client,
        asyncio.timeout(60),
        Iterations() as iterations,
    ):
        client.writer.write(b"\n" * 500)
        while answers.count(b"\n") < 500:
            answers += await client.reader.read(100_000)
    assert answers.count(b'"error"') == 500
    assert iterations.count >= 500


async def test_a_request_without_an_end_is_refused(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        assert "65536 bytes" in (await c.send(b"x" * 200_000))["error"]
        assert await c.gone()


async def test_more_clients_than_are_served_are_told(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path):
        clients = [connected(path) for _ in range(server.CLIENTS)]
        entered = [await client.__aenter__() for client in clients]
        for client in entered:
            await client.ask({"ask": "top"})
        async with connected(path) as one_more:
            assert "16 clients" in (await one_more.read())["error"]
            assert await one_more.gone()
        for context in clients:
            await context.__aexit__(None, None, None)
        while attended():
            await asyncio.sleep(0.005)
        async with connected(path) as later:
            assert "rows" in await later.ask({"ask": "top"})


def attended() -> int:
    """How many clients are served in this loop."""
    return sum("_Server.attend" in repr(task) for task in asyncio.all_tasks())


async def test_a_client_that_does_not_read_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    async with a_registry() as registry, serving(registry, path):
        for _ in range(5_000):
            registry.register(forever())
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, str(path))
            deaf.send(b'{"ask": "tasks"}\n')
            await asyncio.sleep(0.2)
            deadline = time.monotonic() + 20
            while attended():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [b"", b'{"ask": "top"'])
async def test_a_client_that_does_not_ask_is_dropped(
    path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        c.writer.write(sent)
        assert await c.gone()


async def test_a_request_that_ends_with_the_connection_is_refused(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path), connected(path) as c:
        c.writer.write(b'{"ask": "to')
        c.writer.write_eof()
        assert "a JSON object" in (await c.read())["error"]
        assert await c.gone()


async def test_what_was_asked_while_the_loop_was_blocked_is_answered_later(
    path: Path,
) -> None:
    async with a_registry() as registry, serving(registry, path):
        registry.register(forever(), "feed")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(str(path))
            client.sendall(b'{"ask": "tasks"}\n')
            with pytest.raises(TimeoutError):
                client.recv(1)  # this blocks the loop
            client.settimeout(20)
            answer = await asyncio.to_thread(client.recv, 100_000)
        assert json.loads(answer.splitlines()[0])["tasks"][0]["task_id"] == "feed"


async def test_a_client_that_leaves_in_the_middle_disturbs_nobody(path: Path) -> None:
    async with a_registry() as registry, serving(registry, path):
        for _ in range(3000):
            registry.register(forever())
        for _ in range(5):
            async with connected(path) as hasty:
                hasty.writer.write(b'{"ask": "tasks"}\n' * 3)
                await asyncio.sleep(0.005)
        async with connected(path) as c:
            assert "rows" in await c.ask({"ask": "top"})


async def test_only_the_same_user_is_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_registry() as registry, serving(registry, path):
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
        async with connected(path) as stranger:
            assert "only the user" in (await stranger.read())["error"]
            assert await stranger.gone()


async def test_clients_are_let_go_with_the_server(path: Path) -> None:
    async with a_registry() as registry:
        async with serving(registry, path):
            reader, writer = await asyncio.open_unix_connection(path)
            await Client(reader, writer).ask({"ask": "top"})
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("iterations", range(1, 7))
async def test_nothing_listens_once_it_was_cancelled(
    path: Path, iterations: int
) -> None:
    link = path.with_name("link")  # leads to the listening socket, if there is one
    async with a_registry() as registry:
        task = asyncio.ensure_future(registry.serve(path))
        await settle(iterations)
        os.link(path, link)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await settle()
        assert not is_served(link)


# Not after one: asyncio itself loses what it has accepted before connection_made().
@pytest.mark.parametrize("iterations", [0, 2, 3, 4, 5])
async def test_a_client_that_is_being_accepted_is_let_go_with_the_server(
    path: Path, iterations: int
) -> None:
    async with a_registry() as registry:
        async with serving(registry, path):
            await settle(9)
            before = asyncio.all_tasks()
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(path))
            await settle(iterations)
        with client:
            await settle(9)
            assert asyncio.all_tasks() <= before
            client.settimeout(20)
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                pass
