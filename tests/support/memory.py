"""What the collector finds after many repeats."""

import gc
from collections.abc import Awaitable, Callable


async def objects_left_by(rounds: Callable[[int], Awaitable[object]]) -> int:
    """By how many objects a hundred rounds grow what is there after twenty."""
    await rounds(20)
    gc.collect()
    before = len(gc.get_objects())
    await rounds(100)
    gc.collect()
    return len(gc.get_objects()) - before
