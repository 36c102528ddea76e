"""Programs that handle signals, and the signals' handlers of this process.

A program prints "ready" and is then sent signals by the test; a user sees what it
prints and how it ends, and nothing on stderr.
"""

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from support.children import Child

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

PREAMBLE = """
import asyncio, functools, gc, os, signal, sys, threading, time
from pyasynclife import SignalCoordinator, SignalSetupError

def new_loop():
    if os.environ["LOOP"] == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop()

def run(coro):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coro)

def kill(signum):
    os.kill(os.getpid(), signum)

def actions():
    return [signal.getsignal(s) for s in (1, 2, 15)]

async def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
"""

Run = Callable[[str], subprocess.CompletedProcess[str]]
"""The fixture `run`: run a program to its end; it must not write to stderr."""
Start = Callable[[str], AbstractContextManager[Child]]
"""The fixture `start`: start a program and do not wait."""


def program(source: str) -> list[str]:
    """The arguments after `python` for a program that has the preamble's names."""
    return ["-c", PREAMBLE + textwrap.dedent(source)]


PRESS = 0.5
"""Seconds after which a signal is another press of Ctrl-C; 0.3 would just do."""


def press(child: Child, signum: int = signal.SIGINT) -> None:
    """Send a signal, and wait until the next one is another press for the child."""
    child.send_signal(signum)
    status = Path(f"/proc/{child.pid}/status")
    while child.process.poll() is None and signum in _pending(status.read_text()):
        time.sleep(0.01)  # a stalled child would take both for one
    time.sleep(PRESS)


def _pending(status: str) -> set[int]:
    """The signals that are still to be delivered to a process."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    mask = int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
    return {bit + 1 for bit in range(64) if mask >> bit & 1}


def finish(child: Child) -> subprocess.CompletedProcess[str]:
    """Wait for a program's end; it must not have written to stderr."""
    done = child.finish()
    assert done.stderr == ""
    return done


def actions() -> list[Any]:
    """What this process does at the signals that a coordinator handles."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [signal.getsignal(signum) for signum in signals]
