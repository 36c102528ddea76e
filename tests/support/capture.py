"""The capture turned on and off, and programs to play with it and without it.

A program runs in a process of its own. Its first argument is 1 for the capture and 0
for the plain path; it must print the same for both.
"""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from pyasynclife import _core


@contextmanager
def capture(allowed: bool) -> Iterator[None]:
    was = _core.allow_capture(allowed)
    try:
        yield
    finally:
        _core.allow_capture(was)


HEAD = """
import asyncio, signal, sys, warnings
from pyasynclife import TaskGroup, _core
warnings.simplefilter("ignore")
_core.allow_capture(sys.argv[1] == "1")
log = []
"""
CAPTURED = HEAD.replace('sys.argv[1] == "1"', "True")
"""For a program that uses its argument for something else."""


# Runs the loop inside a running task, as nest_asyncio does.
NESTED = """
import heapq
from asyncio import events, tasks

class NestingLoop(asyncio.SelectorEventLoop):
    "A loop that can be run from inside its callbacks, as nest_asyncio makes it."

    def _run_once(self):
        self._process_events(self._selector.select(0 if self._ready else 0.001))
        while self._scheduled and self._scheduled[0]._when <= self.time():
            self._ready.append(heapq.heappop(self._scheduled))
        for _ in range(len(self._ready)):
            if self._ready:
                handle = self._ready.popleft()
                if not handle._cancelled:
                    handle._run()

    def run_inside(self, task):
        current = asyncio.current_task()
        if current is not None:
            tasks._leave_task(self, current)
        while not task.done():
            self._run_once()
        if current is not None:
            tasks._enter_task(self, current)

def nested(task):
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    tasks._leave_task(loop, current)
    events._set_running_loop(None)
    thread, loop._thread_id = loop._thread_id, None
    stop = loop.call_later(5, loop.stop)
    try:
        return loop.run_until_complete(task)
    finally:
        stop.cancel()
        loop._thread_id = thread
        events._set_running_loop(loop)
        tasks._enter_task(loop, current)
"""


# Raises SIGINT when the Python code of the loop's call_soon() is called, or returns.
SIGNAL = """
import asyncio.base_events
fired = False
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt_next(event):
    def profile(frame, what, arg):
        global fired
        code = asyncio.base_events.BaseEventLoop.call_soon.__code__
        if not fired and frame.f_code is code and what == event:
            fired = True
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)
    sys.setprofile(profile)
"""


def play(program: str, argument: int | str, head: str = HEAD) -> str:
    """What the program prints; its stderr too if it fails."""
    lines = [head, NESTED, SIGNAL, textwrap.dedent(program), "print(log)"]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", "\n".join(lines), str(argument)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return f"{done.stdout}{done.stderr if done.returncode else ''}"


PROGRAMS = {
    # What call_soon() returns must not go into the loop's queue unchecked: uvloop takes
    # every object there for one of its handles, and crashes.
    "a wrapper of call_soon returns anything": """
        makers = [asyncio.SelectorEventLoop]
        try:
            import uvloop
            makers.append(uvloop.new_event_loop)
        except ImportError:
            pass

        async def say(what):
            log.append(what)

        async def wrap(loop, answer):
            soon = loop.call_soon
            def traced(*args, **keywords):
                soon(*args, **keywords)
                return answer
            loop.call_soon = traced

        async def unwrap(loop, group):
            del loop.call_soon
            for coro in (fail(), say("x"), say("y")):
                group.create_task(coro)

        async def fail():
            raise KeyboardInterrupt

        async def main(loop, answer):
            async with TaskGroup() as group:
                group.create_task(wrap(loop, answer))
                group.create_task(unwrap(loop, group))
                group.create_task(say("z"))

        for make in makers:
            for answer in (None, (1, 2), bytes(400)):
                loop = make()
                task = loop.create_task(main(loop, answer))
                for _ in range(4):
                    try:
                        loop.run_until_complete(asyncio.wait_for(
                            asyncio.shield(task), 5))
                    except BaseException as error:
                        log.append(type(error).__name__)
                    if task.done():
                        break
                loop.close()
                log.append("closed")
    """,
    # A mock in place of uvloop's module has no type of loop.
    "uvloop is mocked": """
        from unittest.mock import MagicMock
        sys.modules["uvloop"] = sys.modules["uvloop.loop"] = MagicMock()
        async def main():
            async with TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0, "slept"))
            log.append(task.result())
        asyncio.run(main())
    """,
    # Up to 3.13.0 `_callbacks` is the Future's own list, and remove_done_callback()
    # shortens it: a walk through the list must not go on over its end.
    "callbacks, the first of which is removed": """
        async def main():
            async with TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0))
                calls = [lambda _, i=i: log.append(i) for i in range(6)]
                for call in calls:
                    task.add_done_callback(call)
                task.remove_done_callback(calls[0])
        asyncio.run(main())
    """,
    # The name's __str__() runs before the Task is made. It ends the group, which drops
    # its reference to the callback of its children.
    "the group ends while it creates a child": """
        class Name:
            def __str__(self):
                end = group.__aexit__(None, None, None).__await__()
                try:
                    next(end)
                except StopIteration:
                    log.append("left")
                lists.extend([].append for _ in range(1000))
                return "name"

        async def main():
            global group, lists
            lists = []
            group = TaskGroup()
            await group.__aenter__()
            await group.create_task(asyncio.sleep(0), name=Name())
            for _ in range(3):
                await asyncio.sleep(0)
            log.append([x for method in lists for x in method.__self__])
        asyncio.run(main())
    """,
    # Where call_soon() raises a signal's exception, it has scheduled its call.
    "KeyboardInterrupt in the call_soon of a notification": """
        async def child(i):
            log.append(i)
            if i == 0:
                interrupt_next("return")

        async def main():
            async with TaskGroup() as group:
                for i in range(4):
                    group.create_task(child(i))
        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            log.append("interrupted")
        log.append(fired)
    """,
    # The wake-up is scheduled: it must not be scheduled again. The interrupt must end
    # the loop's run: the group must not report it to the loop's exception handler.
    "KeyboardInterrupt in the call_soon of a wake-up": """
        async def child():
            for i in range(2):
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    log.append(("cancelled", i))

        async def main():
            group = TaskGroup()
            await group.__aenter__()
            task = group.create_task(child())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            interrupt_next(event)
            try:
                group.cancel()
            except KeyboardInterrupt:
                log.append("interrupted")
            for _ in range(5):
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    pass
            log.append((fired, task.done()))
        event = "return"
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: log.append("reported"))
        loop.run_until_complete(main())
    """,
    # A loop that a child runs must find the rest of the calls that are being made.
    "a loop run inside a child": """
        async def sibling():
            return "ran"

        async def main():
            async def outer():
                log.append(nested(other))
            async with TaskGroup() as group:
                group.create_task(outer())
                other = group.create_task(sibling())
        asyncio.run(main())
    """,
    "loops run inside one another": """
        async def child(i, iterations):
            log.append(i)
            if i in (1, 3):
                log.append(nested(tasks_[i + 3]))
            for _ in range(iterations):
                await asyncio.sleep(0)
                log.append(-i)
            return i

        async def main():
            async with TaskGroup() as group:
                global tasks_
                tasks_ = [group.create_task(child(i, i % 3)) for i in range(9)]
                for task in tasks_:
                    task.add_done_callback(lambda t: log.append(t in group._tasks))
            # The length of the outer loop's iteration depends on its handles.
            log.sort(key=repr)
        asyncio.run(main())
    """,
    "an interrupt of a loop run inside a child": """
        async def child(i):
            log.append(i)
            if i == 1:
                try:
                    nested(tasks_[5])
                except KeyboardInterrupt:
                    log.append("interrupted")
            if i == 3:
                raise KeyboardInterrupt

        async def main():
            group = TaskGroup()
            await group.__aenter__()
            global tasks_
            tasks_ = [group.create_task(child(i)) for i in range(7)]
            await asyncio.sleep(1)
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(main())
        for _ in range(2):
            try:
                loop.run_until_complete(asyncio.sleep(0.01))
            except KeyboardInterrupt:
                log.append("at the top")
    """,
    # The interrupt propagates from cancel_all() after all of them are cancelled.
    "KeyboardInterrupt in the call_soon of one of many wake-ups": """
        from pyasynclife import TaskRegistry

        async def child(i):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                log.append(i)

        async def main():
            registry = TaskRegistry()
            for i in range(4):
                await registry.register(child(i))
            await asyncio.sleep(0)
            interrupt_next("return")
            try:
                registry.cancel_all()
            except KeyboardInterrupt:
                log.append("interrupted")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.append((fired, len(registry)))
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: log.append("reported"))
        loop.run_until_complete(main())
    """,
    # Where remove_done_callback() raises, it has removed the first callback before.
    "a done callback whose == raises": """
        class Call:
            def __init__(self, i):
                self.i = i
            def __eq__(self, other):
                raise ValueError
            def __call__(self, task):
                log.append(self.i)

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            async with TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0))
                task.add_done_callback(Call(1))
                task.add_done_callback(Call(2))
        asyncio.run(main())
    """,
    "one callback twice, and between them one whose == raises": """
        class Call:
            def __init__(self, i, error=None):
                self.i, self.error = i, error
            def __eq__(self, other):
                if self.error:
                    raise self.error
                return self is other
            def __call__(self, task):
                log.append(self.i)

        async def main():
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            async with TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0))
                first, odd = Call(1), Call(2, ValueError)
                for call in (first, odd, first, Call(3)):
                    task.add_done_callback(call)
            log.sort()  # the order of two of them differs
        asyncio.run(main())
    """,
    # An exit puts the rest of the calls back; the group is notified of a failure in
    # the same iteration as without the capture.
    "the iteration of a notification after an exit": """
        from pyasynclife.testing import VirtualTimeLoop

        async def child(i):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                if i == 1:
                    raise SystemExit
                raise

        async def fails():
            await asyncio.sleep(0)
            raise ValueError

        async def main():
            async with TaskGroup() as group:
                for i in range(4):
                    group.create_task(child(i))
                group.create_task(fails())
        loop = VirtualTimeLoop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(main())
        while not task.done():
            try:
                loop.run_until_complete(task)
            except SystemExit:
                log.append(loop.turns)
    """,
}
