"""Runs hostile cases, each in a child process of its own.

PYTHONPATH=tests python -m support.hostile LOOP [CASE ...] prints a line of JSON for
each case: its name, its exit status and its output. One parent imports everything once
and forks for each case, so a hundred cases take seconds; each child ends as a Python
process ends.
"""

import asyncio
import faulthandler
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

CASES: dict[str, Callable[[], Any]] = {}
SECONDS = 600.0 if os.environ.get("PYASYNCLIFE_SLOW") else 60.0
AT_ONCE = 2


def case(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Make a case of a function, which may be async."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in CASES, name
        CASES[name] = function
        return function

    return add


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return factory
    return asyncio.SelectorEventLoop


def run(function: Callable[[], Any], loop: str) -> None:
    """Run a case in the child; it then returns to the end of the program."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    warnings.simplefilter("error")
    logging.getLogger("pyasynclife").addHandler(logging.NullHandler())
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:

        async def main() -> None:
            made = function()
            if isinstance(made, Coroutine):
                await made

        runner.run(main())
    faulthandler.cancel_dump_traceback_later()


def fork(name: str, loop: str) -> tuple[int, int] | None:
    """The child's id and its output file; None in the child, after the case."""
    output, path = tempfile.mkstemp()
    os.unlink(path)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child, output
    os.dup2(output, 1)
    os.dup2(output, 2)
    run(CASES[name], loop)
    return None


def main(loop: str, names: list[str]) -> None:
    running: dict[int, tuple[str, int]] = {}
    waiting = list(reversed(names or CASES))
    while waiting or running:
        if waiting and len(running) < AT_ONCE:
            name = waiting.pop()
            if (forked := fork(name, loop)) is None:
                return
            running[forked[0]] = name, forked[1]
            continue
        child, status = os.wait()
        name, output = running.pop(child)
        text = os.pread(output, 100_000, 0).decode(errors="replace")
        os.close(output)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps([name, code, text]), flush=True)


if __name__ == "__main__":
    sys.modules["support.hostile"] = sys.modules["__main__"]
    import support.hostile_cases  # noqa: F401

    main(sys.argv[1], sys.argv[2:])
