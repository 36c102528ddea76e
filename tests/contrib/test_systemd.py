"""contrib.systemd: messages on a real Unix datagram socket."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry
from pyasynclife.contrib.systemd import notify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is on Linux")


class Manager:
    """The end of the socket that systemd has."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def read(self) -> list[str]:
        """The messages that have arrived since the last call."""
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(4096).decode())
        return messages

    async def read_until(self, wanted: str) -> list[str]:
        """The messages up to one that starts so."""
        deadline = time.monotonic() + 10
        messages: list[str] = []
        while not any(one.startswith(wanted) for one in messages):
            assert time.monotonic() < deadline, f"no {wanted}: {messages}"
            await asyncio.sleep(0.005)
            messages += self.read()
        return messages


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder:  # a path has 108 bytes at most
        if request.param == "path":
            name = str(Path(folder) / "notify")
            manager = Manager(name)
        else:
            name = f"@pyasynclife/{os.getpid()}"
            manager = Manager(f"\0{name[1:]}")
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        with manager.socket:
            yield manager


def kinds(messages: list[str]) -> list[str]:
    """The names of the variables, each once, in their order."""
    return list(dict.fromkeys(message.partition("=")[0] for message in messages))


async def test_ready_at_the_start_and_stopping_at_the_first_request(
    manager: Manager,
) -> None:
    async with SignalCoordinator(5.0) as coordinator, notify(coordinator):
        assert manager.read() == ["READY=1"]
        await asyncio.sleep(0)
        assert manager.read() == []
        coordinator.request_shutdown()
        messages = await manager.read_until("EXTEND")
        assert kinds(messages) == ["STOPPING", "EXTEND_TIMEOUT_USEC"]
    assert manager.read() == []


async def test_the_end_of_the_block_is_the_beginning_of_the_stop(
    manager: Manager,
) -> None:
    async with SignalCoordinator(5.0) as coordinator:
        async with notify(coordinator):
            pass
        assert kinds(manager.read()) == ["READY", "STOPPING", "EXTEND_TIMEOUT_USEC"]


async def test_time_is_extended_up_to_the_deadline_and_the_tasks_left_are_shown(
    manager: Manager,
) -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(4.0, registry=registry)
    async with coordinator, notify(coordinator, registry):
        await registry.register(asyncio.sleep(3600), "feed")
        coordinator.request_shutdown()
        (*_, message) = await manager.read_until("EXTEND")
    extended, status = message.split("\n")
    assert 3_000_000 < int(extended.partition("=")[2]) <= 6_000_000  # 2 s to spare
    assert status == "STATUS=shutting down: 1 task left"


async def test_one_message_extends_the_time_by_ten_seconds_at_most(
    manager: Manager,
) -> None:
    async with SignalCoordinator(3600.0) as coordinator, notify(coordinator):
        coordinator.request_shutdown()
        assert "EXTEND_TIMEOUT_USEC=10000000" in await manager.read_until("EXTEND")


async def test_the_watchdog_is_fed_twice_as_often_as_systemd_asks(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    began = time.monotonic()
    async with SignalCoordinator(5.0) as coordinator, notify(coordinator):
        assert manager.read() == ["READY=1", "WATCHDOG=1"]
        for _ in range(3):
            await manager.read_until("WATCHDOG")
        assert time.monotonic() - began > 0.12
        time.sleep(0.3)
        assert manager.read() == []
        fed = await manager.read_until("WATCHDOG")
        assert set(fed) == {"WATCHDOG=1"}
        assert len(fed) < 4  # not once for each time that was missed


async def test_the_watchdog_is_fed_until_the_coordinator_has_shut_down(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    fed = False

    async def slow() -> None:
        nonlocal fed
        try:
            await asyncio.sleep(3600)
        finally:
            manager.read()
            await manager.read_until("WATCHDOG")
            fed = True

    registry = TaskRegistry()
    coordinator = SignalCoordinator(5.0, registry=registry)
    async with coordinator, notify(coordinator):  # its block ends before the shutdown
        await registry.register(slow())
        await asyncio.sleep(0)
        coordinator.request_shutdown()
    assert fed
    manager.read()
    await asyncio.sleep(0.1)
    assert manager.read() == []


@pytest.mark.parametrize(
    ("usec", "pid"), [(None, None), ("100000", "1"), ("soon", None), ("0", None)]
)
async def test_the_watchdog_is_not_fed_unless_it_is_meant(
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    usec: str | None,
    pid: str | None,
) -> None:
    for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
        if value is not None:
            monkeypatch.setenv(name, value)
    async with SignalCoordinator(5.0) as coordinator, notify(coordinator):
        assert manager.read() == ["READY=1"]


@pytest.mark.parametrize(
    "address", ["/nowhere/notify", "vsock:2:1234", "relative", "@" + "x" * 200]
)
async def test_an_error_of_the_socket_is_logged_once_and_ends_nothing(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    async with SignalCoordinator(5.0) as coordinator, notify(coordinator):
        await asyncio.sleep(0.05)
        coordinator.request_shutdown()
    (record,) = [r for r in caplog.records if "systemd" in r.getMessage()]
    assert record.levelno == logging.WARNING
    assert address[:20] in record.getMessage()


async def test_ready_is_sent_later_if_systemd_has_no_room_for_it(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(address)
        with pytest.raises(BlockingIOError):
            while True:
                sender.send(b"FULL=1")
    async with SignalCoordinator(5.0) as coordinator, notify(coordinator):
        await manager.read_until("READY")
    assert caplog.messages == []


async def test_without_systemd_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    coordinator = SignalCoordinator(5.0)
    async with notify(coordinator):
        assert len(asyncio.all_tasks()) == 1
    with pytest.raises(TypeError, match="coordinator must be a SignalCoordinator, got"):
        async with notify(None):  # type: ignore[arg-type]
            pass


async def test_a_cancellation_passes_through_the_block(manager: Manager) -> None:
    coordinator = SignalCoordinator(5.0)

    async def serve() -> None:
        async with coordinator, notify(coordinator):
            await asyncio.sleep(3600)

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError, match="enough"):
        await task
    assert kinds(manager.read())[:2] == ["READY", "STOPPING"]


async def test_an_exception_passes_through_the_block(manager: Manager) -> None:
    coordinator = SignalCoordinator(5.0)
    with pytest.raises(OSError, match="no database"):
        async with coordinator, notify(coordinator):
            raise OSError("no database")
    assert "STOPPING=1" in manager.read()
