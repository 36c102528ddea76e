"""Random programs in virtual time: which ones, and how one is run.

There are PYASYNCLIFE_PROGRAMS programs, from the seed PYASYNCLIFE_SEED on.
"""

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pyasynclife.testing import VirtualTimeLoop

PROGRAMS = int(os.environ.get("PYASYNCLIFE_PROGRAMS", "600"))
SEED = int(os.environ.get("PYASYNCLIFE_SEED", "0"))
PARTS = 10
"""The programs are divided into so many tests."""
GRID = 1 / 8
"""Seconds of which every delay is a multiple: much happens at the same moment."""
CALM = 40
"""Iterations of the loop in which what may start does."""
SOON = 1e-3
"""Seconds within which what is due happens."""


class Program(Protocol):
    """A program that a seed has made."""

    def main(self) -> Coroutine[Any, Any, None]:
        """Run, and check what must hold."""


P = TypeVar("P", bound=Program)


def run(make: Callable[[int], P], seed: int) -> P:
    """Run the program of a seed, which is noted on its failure."""
    program = make(seed)
    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(program.main())
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    return program


def run_part(make: Callable[[int], Program], part: int) -> None:
    """Run the programs of one part."""
    for seed in range(SEED + part, SEED + PROGRAMS, PARTS):
        run(make, seed)


class RandomProgram:
    """What random programs have in common; each is about one object.

    Attributes:
        random: What is random.
        seen: How often a program did each thing.
        broken: What did not hold where an exception would not be seen.
        errors: The contexts passed to the loop's exception handler.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.broken: list[str] = []
        self.errors: list[dict[str, Any]] = []

    async def main(self) -> None:
        raise NotImplementedError

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def must(self, holds: bool, what: str) -> None:
        """Note what does not hold; an exception might be retried."""
        if not holds:
            self.broken.append(what)

    def note_errors(self) -> None:
        """Note the errors of the running loop."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.errors.append(context))


class MeddlingProgram(RandomProgram):
    """One that does something to its object at any time, also when that calls it.

    Attributes:
        events: How often anything began, ended or was done.
        meddles: How often a callable that the object calls does something to it.
    """

    meddles: float

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.events = 0

    def act(self) -> None:
        """Do something to the object."""
        raise NotImplementedError

    def meddle(self) -> None:
        if self.random.random() < self.meddles:
            self.act()

    def prepare_loop(self) -> None:
        """Note the errors of the running loop, which may begin tasks eagerly."""
        self.note_errors()
        if sys.version_info >= (3, 12) and self.random.random() < 0.3:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)

    async def is_calm(self) -> bool:
        """Tell whether nothing happens any more, once what may start has."""
        for _ in range(CALM):
            await asyncio.sleep(0)
        events = self.events
        for _ in range(CALM):
            await asyncio.sleep(0)
        return events == self.events


class ItemsProgram(MeddlingProgram):
    """One about a batch or pool.

    Attributes:
        last_start: When an item began.
        last_act: When something was done to the batch or pool.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.last_start = self.last_act = -1e9

    def on(self, error: Exception) -> bool:
        self.meddle()
        return True

    def backoff(self, attempt: int, error: Exception) -> float:
        self.meddle()
        return self.random.choice([0, 1, 3]) * GRID


def seen_by(make: Callable[[int], RandomProgram], programs: int) -> Counter[str]:
    """Run so many programs; how often they did each thing, in all."""
    seen: Counter[str] = Counter()
    for seed in range(programs):
        seen += run(make, seed).seen
    return seen
