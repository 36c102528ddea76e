"""The capture turned on and off, and programs that are played with it and without.

A program runs in a process of its own and gets `capture` on the command line: 0 for the
plain path, 1 for the capture. It must print the same with both.
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


# What nest_asyncio does, once.
NESTED = """
from asyncio import events, tasks

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


# A future whose loop is asked for call_soon is where a signal may come.
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


def play(program: str, capture: int | str, head: str = HEAD) -> str:
    lines = [head, NESTED, SIGNAL, textwrap.dedent(program), "print(log)"]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", "\n".join(lines), str(capture)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return f"{done.stdout}{done.stderr if done.returncode else ''}"


PROGRAMS = {
    # HIGH. burst_put_back() puts what call_soon() has answered into the loop's queue;
    # uvloop takes that for its Handle, unlooked at: a crash, and what was left is lost.
    "a wrapper of call_soon answers anything": """
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
    # MEDIUM. A mock in the place of uvloop's module is taken for a type.
    "uvloop is mocked": """
        from unittest.mock import MagicMock
        sys.modules["uvloop"] = sys.modules["uvloop.loop"] = MagicMock()
        async def main():
            async with TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0, "slept"))
            log.append(task.result())
        asyncio.run(main())
    """,
    # HIGH. burst_watch() walks the list that `_callbacks` answers, up to 3.13.0 the
    # Future's own, while remove_done_callback() shortens it: lost, doubled, freed.
    "callbacks, the first of which is taken off": """
        async def main():
            async with TaskGroup() as group:
                task = group.create_task(asyncio.sleep(0))
                calls = [lambda _, i=i: log.append(i) for i in range(6)]
                for call in calls:
                    task.add_done_callback(call)
                task.remove_done_callback(calls[0])
        asyncio.run(main())
    """,
    # HIGH. al_group_spawn() lends on_done to al_capture_start(), which runs Python
    # before it takes a reference; the group's end drops it.
    "the group ends while a child is made": """
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
    # HIGH. burst_notify() takes every failure of call_soon() for one of memory.
    "KeyboardInterrupt in the call_soon of a notice": """
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
    # HIGH. capture_wake() likewise, and hands over what is scheduled already; the group
    # tells the loop's handler of what is to end the loop's run.
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
        loop.set_exception_handler(lambda *_: log.append("told"))
        loop.run_until_complete(main())
    """,
    # HIGH where loops are nested. The rest of a burst that runs is in no queue.
    "a loop that is run inside a child": """
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
    "loops that are run inside one another": """
        async def child(i, turns):
            log.append(i)
            if i in (1, 3):
                log.append(nested(tasks_[i + 3]))
            for _ in range(turns):
                await asyncio.sleep(0)
                log.append(-i)
            return i

        async def main():
            async with TaskGroup() as group:
                global tasks_
                tasks_ = [group.create_task(child(i, i % 3)) for i in range(9)]
                for task in tasks_:
                    task.add_done_callback(lambda t: log.append(t in group._tasks))
            # How long the outer loop's turn is depends on how many handles it had.
            log.sort(key=repr)
        asyncio.run(main())
    """,
    "an exit out of a loop that is run inside a child": """
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
    # HIGH. The exit is told to the loop's handler, in the plain way too.
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
        loop.set_exception_handler(lambda *_: log.append("told"))
        loop.run_until_complete(main())
    """,
    # MEDIUM. remove_done_callback() that raises has taken the first one off.
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
            log.sort()  # two of them are in another order
        asyncio.run(main())
    """,
    # LOW. `behind` is right again by accident once the rest was put back in front.
    "the turn of a notice after an exit": """
        class Loop(asyncio.SelectorEventLoop):
            turns = 0
            def _run_once(self):
                self.turns += 1
                super()._run_once()

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
        loop = Loop()
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(main())
        while not task.done():
            try:
                loop.run_until_complete(task)
            except SystemExit:
                log.append(loop.turns)
    """,
}
