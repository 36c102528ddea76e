"""Notify systemd of the state of a service of type ``notify``.

Nothing but the standard library is needed.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from pyasynclife._arguments import counted, short
from pyasynclife._log import logger
from pyasynclife._registry import TaskRegistry
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife._waiting import absorbing_after
from pyasynclife.contrib._serving import check_arguments

__all__ = ["notify"]

_WHILE_STOPPING = 1.0  # seconds between two messages
_MOST = 10.0  # seconds by which one message extends the time to stop
_SPARE = 2.0  # seconds after the deadline for the process to end
_RETRY = 0.1  # seconds until a message is sent again that systemd had no room for


@asynccontextmanager
async def notify(
    coordinator: SignalCoordinator, registry: TaskRegistry | None = None
) -> AsyncIterator[None]:
    """Notify systemd that the service is ready, alive and stopping.

    - ``READY=1`` when the block is entered: enter it when the service is set up.
    - ``WATCHDOG=1`` at half of systemd's ``WatchdogSec=``, by a timer of the loop. If
      the loop is blocked for longer, systemd ends the service.
    - ``STOPPING=1`` at the first signal or request for a shutdown, or at the end of the
      block.
    - ``EXTEND_TIMEOUT_USEC=`` each second from then on, until the coordinator's
      deadline, so that ``TimeoutStopSec=`` may be shorter than ``shutdown_timeout``.

    The last two and the watchdog go on after the block until the coordinator's shutdown
    is over, so the blocks may be nested in any order.

    Args:
        coordinator: The coordinator that shuts the service down.
        registry: The number of its live tasks is shown by ``systemctl status`` during
            the shutdown.

    Raises:
        TypeError: An argument is of another type.
        RuntimeError: The coordinator belongs to another loop.

    Without the variable ``NOTIFY_SOCKET``, which systemd sets, the block has no effect.
    An error of the socket is logged once, at WARNING, and has no other effect.
    Cancellation passes through the block unchanged.
    """
    check_arguments(coordinator, registry)
    coordinator._bind("notify()")
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        yield
        return
    service = _Service(address, coordinator, registry)
    service.start()
    watching = asyncio.create_task(
        service.wait_for_shutdown(), name="pyasynclife systemd"
    )

    async def leave(*exc: object) -> None:
        service.leave()
        watching.cancel()
        with absorbing_after(*exc):
            if not watching.done():
                await asyncio.wait([watching])

    async with AsyncExitStack() as stack:
        stack.push_async_exit(leave)
        yield


class _Service:
    """The messages of one block. Nothing here waits for systemd."""

    def __init__(
        self,
        address: str,
        coordinator: SignalCoordinator,
        registry: TaskRegistry | None,
    ) -> None:
        # "@" stands for the zero byte of an abstract socket
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._coordinator = coordinator
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._failed = False
        self._stopping = False
        self._end: float | None = None  # loop time when the messages end
        self._watchdog = self._watchdog_seconds()

    def start(self) -> None:
        self._send("READY=1", keep=True)
        if self._watchdog is not None:
            self._feed(self._watchdog / 2)

    async def wait_for_shutdown(self) -> None:
        await self._coordinator.shutdown_event.wait()
        self._stop()

    def leave(self) -> None:
        """End the block: the messages end with the shutdown, or by its deadline."""
        deadline = self._coordinator.deadline
        if deadline is None:
            deadline = self._loop.time() + self._coordinator._options.shutdown_timeout
        self._end = deadline + _SPARE
        self._stop()

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1", keep=True)
            self._extend()

    def _is_over(self) -> bool:
        """Tell whether the block and the shutdown have ended."""
        return self._end is not None and (
            self._loop.time() > self._end or self._coordinator.phase == "stopped"
        )

    def _feed(self, interval: float) -> None:
        if not self._is_over():
            self._send("WATCHDOG=1")
            self._loop.call_later(interval, self._feed, interval)

    def _extend(self) -> None:
        """Extend the time to stop, but not beyond the deadline."""
        deadline = self._coordinator.deadline or self._end
        if self._is_over() or deadline is None:
            return
        left = min(deadline + _SPARE - self._loop.time(), _MOST)
        if left <= 0:
            return
        message = f"EXTEND_TIMEOUT_USEC={int(left * 1e6)}"
        if self._registry is not None:
            tasks = counted(len(self._registry), "task")
            message += f"\nSTATUS=shutting down: {tasks} left"
        self._send(message)
        self._loop.call_later(_WHILE_STOPPING, self._extend)

    def _watchdog_seconds(self) -> float | None:
        """Return the time after which systemd ends a silent service, or None."""
        text = os.environ.get("WATCHDOG_USEC")
        pid = os.environ.get("WATCHDOG_PID")
        if not text or (pid and pid != str(os.getpid())):
            return None
        if not text.isdecimal() or int(text) == 0:
            logger.warning("the watchdog is off: WATCHDOG_USEC is %s", short(text))
            return None
        return int(text) / 1e6

    def _send(self, message: str, keep: bool = False) -> None:
        """Send a message; if there is no room, a message to keep is sent later."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(self._address)
                sock.send(message.encode())
        except BlockingIOError:
            if keep:
                self._loop.call_later(_RETRY, self._send, message, keep)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the address
            if not self._failed:
                self._failed = True
                logger.warning(
                    "systemd cannot be notified at NOTIFY_SOCKET=%s: %s",
                    short(os.environ.get("NOTIFY_SOCKET")),
                    error,
                )
