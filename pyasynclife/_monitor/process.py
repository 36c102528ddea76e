"""Look into a process by its PID: CPython 3.14 and newer let one run code in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pyasynclife._monitor.client import Connection, MonitorError
from pyasynclife._monitor.server import serve

WAIT = 5.0  # seconds for the process to run our code

# What the process runs. It must raise nothing, whatever the process is; if the client
# waits no longer, its directory is gone.
_SCRIPT = """\
try:
    from pyasynclife._monitor.process import serve_this_process
    serve_this_process({path!r})
except Exception as error:
    try:
        with open({path!r} + ".error", "w") as file:
            file.write(type(error).__name__ + ": " + str(error))
    except OSError:
        pass
"""


def connect(target: str) -> Connection:
    """Connect to a socket, or to the process of a PID.

    Raises:
        MonitorError: Nobody serves there, there is no such process, or it cannot be
            looked into.
    """
    if target.isdecimal() and not os.path.exists(target):
        return _connect_to_process(int(target))
    return Connection(target)


def _connect_to_process(pid: int) -> Connection:
    remote_exec: Any = getattr(sys, "remote_exec", None)
    if remote_exec is None:
        raise MonitorError(
            "a PID needs CPython 3.14 or newer on both sides: let the process "
            "serve a socket, as TaskRegistry.serve() and `run --monitor` do"
        )
    with tempfile.TemporaryDirectory(prefix="pyasynclife-") as directory:
        path = os.path.join(directory, "monitor.sock")
        script = Path(directory, "script.py")
        script.write_text(_SCRIPT.format(path=path))
        try:
            remote_exec(pid, str(script))
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            raise MonitorError(f"cannot look into process {pid}: {error}") from None
        return _await_socket(pid, path)


def _await_socket(pid: int, path: str) -> Connection:
    failure = Path(f"{path}.error")
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if failure.exists() and (text := failure.read_text()):
            raise MonitorError(f"process {pid}: {text}")
        if os.path.exists(path):
            try:
                return Connection(path)
            except MonitorError:
                pass  # it is about to listen
        time.sleep(0.02)
    raise MonitorError(
        f"process {pid} has run no Python code for {WAIT:g} s: its loop is idle, or C "
        "code holds it; let it serve a socket, or try again"
    )


def serve_this_process(path: str) -> None:
    """Serve the registries of this process until the client has left.

    Those of one loop are served: of that which has the most tasks. Called in the main
    thread, between any two instructions, so it only leaves a call with the loop.

    Raises:
        RuntimeError: There is no registry with a running loop.
    """
    from pyasynclife._registry import TaskRegistry

    loops: dict[asyncio.AbstractEventLoop, list[TaskRegistry]] = {}
    for found in gc.get_objects():
        if issubclass(type(found), TaskRegistry):
            loop = found._loop
            if loop is not None and loop.is_running():
                loops.setdefault(loop, []).append(found)
    if not loops:
        raise RuntimeError("it has no TaskRegistry whose loop runs")
    loop = max(loops, key=lambda each: sum(map(len, loops[each])))
    loop.call_soon_threadsafe(_begin, loop, loops[loop], path)


def _begin(loop: asyncio.AbstractEventLoop, registries: list[Any], path: str) -> None:
    serving = loop.create_task(
        serve(registries, path, until_left=True), name="pyasynclife serve"
    )

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            with contextlib.suppress(OSError):  # the client waits no longer
                Path(f"{path}.error").write_text(f"{type(error).__name__}: {error}")

    serving.add_done_callback(ended)
