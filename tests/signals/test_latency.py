"""From a signal to the event: at most one loop iteration more than asyncio takes.

Each program does the same with an `asyncio.Event` that `loop.add_signal_handler` sets,
and with a coordinator. It prints how many loop iterations pass from the signal until
the task that waits for the event continues.
"""

from support.children import run_child
from support.signals import Run, needs_posix, program

pytestmark = needs_posix

WAITERS = """
async def with_asyncio(count):
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, event.set)
    try:
        return await count(event.wait())
    finally:
        loop.remove_signal_handler(signal.SIGTERM)

async def with_coordinator(count):
    async with SignalCoordinator() as coordinator:
        for _ in range(10):     # setup_handlers() schedules calls of its own
            await asyncio.sleep(0)
        return await count(coordinator.wait_for_shutdown())
"""

# The loop has nothing to do: it is inside select(), without a timeout.
IDLE = """
import selectors

class Selector(selectors.DefaultSelector):
    calls, idle = 0, None

    def select(self, timeout=None):
        self.calls += 1
        if timeout is None and self.idle is not None:
            self.idle.set()
        return super().select(timeout)

async def main(body):
    async def count(wait):
        selector.idle, before = threading.Event(), []
        def send():
            assert selector.idle.wait(20)
            before.append(selector.calls)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        sender = threading.Thread(target=send)
        sender.start()
        await wait
        after = selector.calls
        sender.join()
        return after - before[0]

    return await body(count)

for body in (with_asyncio, with_coordinator):
    selector = Selector()
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selector)
    ) as runner:
        print(runner.run(main(body)))
"""

# A callback in each iteration counts them; uvloop shows no other way.
BUSY = """
async def main(body):
    async def count(wait):
        loop, ticks, running = asyncio.get_running_loop(), 0, True
        def tick():
            nonlocal ticks
            ticks += 1
            if ticks == 10:
                kill(signal.SIGTERM)
            if running:
                loop.call_soon(tick)
        loop.call_soon(tick)
        await wait
        running = False
        return ticks - 10

    return await body(count)

print(run(main(with_asyncio)))
print(run(main(with_coordinator)))
"""


def test_an_idle_loop_sets_the_event_as_soon_as_asyncio_does() -> None:
    done = run_child(program(WAITERS + IDLE), env={"LOOP": "asyncio"})
    assert done.stderr == ""
    theirs, ours = map(int, done.stdout.split())
    assert 0 <= ours <= theirs + 1


def test_a_busy_loop_sets_the_event_as_soon_as_asyncio_does(run: Run) -> None:
    done = run(WAITERS + BUSY)
    theirs, ours = map(int, done.stdout.split())
    assert 0 <= ours <= theirs + 1


def test_the_count_sees_an_iteration_that_is_added() -> None:
    """The programs above can fail."""
    late = (
        WAITERS.replace("event.wait()", "late(event)")
        + """
async def late(event):
    await event.wait()
    for _ in range(5):
        await asyncio.sleep(0)
"""
    )
    counts = []
    for source in (WAITERS + IDLE, late + IDLE):
        done = run_child(program(source), env={"LOOP": "asyncio"})
        counts.append(int(done.stdout.split()[0]))
    assert counts[1] == counts[0] + 5
