"""A LoopWatch and its native half, used as nobody should."""

import asyncio
import threading
import time
from typing import Any

from pyasynclife import BlockedLoop, LoopWatch
from support.hostile import case
from support.hostile_cases.common import core, refuses, works
from support.watching import hold


@case("a pulse whose thread has ended")
async def pulse_of_a_thread_that_ended() -> None:
    made: list[Any] = []
    thread = threading.Thread(
        target=lambda: made.append(core.LoopPulse(1e-9, 1e-9, -1.0, None))
    )
    thread.start()
    thread.join()
    for _ in range(20):
        time.sleep(0.001)
        assert made[0].wait()[4] == []
    await works()


@case("a pulse that is made wrongly, closed twice, and waited for by many")
async def pulse_misused() -> None:
    for args in ((), (1.0,), (1.0, 1.0, 1.0, 5), ("1", 1.0, 1.0, None)):
        refuses(core.LoopPulse, *args)
    refuses(core.LoopPulse, 1.0, 1.0, 1.0, before=None)
    pulse = core.LoopPulse(3600.0, 3600.0, 1.0, None)
    looks: list[Any] = []
    many = [
        threading.Thread(target=lambda: looks.append(pulse.wait())) for _ in range(5)
    ]
    for thread in many:
        thread.start()
    pulse.close()
    pulse.close()
    await asyncio.to_thread(lambda: [thread.join() for thread in many])
    assert looks == [None] * 5
    await works()


@case("a pulse with times that are none")
async def pulse_with_odd_times() -> None:
    for number in (float("nan"), float("inf"), -1.0, 0.0):
        pulse = core.LoopPulse(number, number, number, None)
        pulse.beat(True)
        pulse.beat("no")
        assert pulse.lag.count == 1
        pulse.close()
        assert pulse.wait() is None
    await works()


@case("on_block that leaves the block, blocks, and enters again")
async def on_block_leaves() -> None:
    seen: list[BlockedLoop] = []

    def leave(blocked: BlockedLoop) -> None:
        seen.append(blocked)
        for step in (watch.__aexit__(), watch.__aenter__()):
            try:
                step.send(None)
            except StopIteration:
                pass

    watch = LoopWatch(0.1, on_block=leave)
    async with watch:
        for _ in range(3):
            hold(watch)
            await asyncio.sleep(0.05)
    assert seen
    await works()


@case("__aexit__ without __aenter__, and a watch made by __new__")
async def left_without_entering() -> None:
    await LoopWatch().__aexit__()
    try:
        await LoopWatch.__new__(LoopWatch).__aenter__()
    except AttributeError:
        pass
    await works()


@case("a watch in a loop that is closed while it is blocked")
async def closed_while_blocked() -> None:
    def run() -> None:
        loop = asyncio.new_event_loop()
        watch = LoopWatch(0.05)
        loop.run_until_complete(watch.__aenter__())

        async def block() -> None:
            hold(watch)

        loop.run_until_complete(block())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    await works()
