"""Programs that handle signals, and the signals' handlers of this process.

A program prints "ready" and is then sent signals by the test; a user sees what it
prints and how it ends, and nothing on stderr.
"""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager
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


def finish(child: Child) -> subprocess.CompletedProcess[str]:
    """Wait for a program's end; it must not have written to stderr."""
    done = child.finish()
    assert done.stderr == ""
    return done


def actions() -> list[Any]:
    """What this process does at the signals that a coordinator handles."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [signal.getsignal(signum) for signum in signals]
