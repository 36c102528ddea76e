"""The receiver of the storms that benchmarks.storm sends.

python -m benchmarks.storm_child LOOP CONTENDER

Each line on stdin is a round: the number of SIGHUPs, and who sends them. The loop is
blocked meanwhile. The answer is how many SIGTERMs and SIGHUPs the program has seen.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

from pyasynclife import SignalCoordinator

Storm = Callable[[], None]
Counts = tuple[int, int]

LIMIT = 30.0  # seconds; a signal that has not been seen by then is lost


async def with_coordinator(storm: Storm) -> Counts:
    async with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        storm()
        try:
            await asyncio.wait_for(coordinator.wait_for_shutdown(), LIMIT)
            await asyncio.wait_for(coordinator.wait_for_reload(), LIMIT)
        except TimeoutError:
            return 0, 0
        received = coordinator.received
        return received[signal.SIGTERM], received[signal.SIGHUP]


async def with_add_signal_handler(storm: Storm) -> Counts:
    loop, seen = asyncio.get_running_loop(), Counter[int]()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, seen.update, [signum])
    storm()
    for _ in range(50):  # the loop reads everything that has arrived
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    return seen[signal.SIGTERM], seen[signal.SIGHUP]


CONTENDERS: dict[str, Callable[[Storm], Awaitable[Counts]]] = {
    "SignalCoordinator": with_coordinator,
    "add_signal_handler": with_add_signal_handler,
}


def storm_of(size: int, sender: str) -> Storm:
    """Return what blocks the loop while the storm and then a SIGTERM arrive."""

    def by_itself() -> None:
        for _ in range(size):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    def by_parent() -> None:
        print("blocked", flush=True)
        sys.stdin.readline()

    return by_itself if sender == "itself" else by_parent


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.SelectorEventLoop()


def main(name: str, contender: str) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    for line in sys.stdin:
        size, sender = line.split()

        async def run(size: int = int(size), sender: str = sender) -> Counts:
            return await CONTENDERS[contender](storm_of(size, sender))

        with asyncio.Runner(loop_factory=lambda: new_loop(name)) as runner:
            print(*runner.run(run()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
