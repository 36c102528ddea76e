"""Random programs in virtual time: which ones, and how one is run.

There are PYASYNCLIFE_PROGRAMS programs, from the seed PYASYNCLIFE_SEED on.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from pyasynclife.testing import VirtualTimeLoop

PROGRAMS = int(os.environ.get("PYASYNCLIFE_PROGRAMS", "600"))
SEED = int(os.environ.get("PYASYNCLIFE_SEED", "0"))
PARTS = 10
"""The programs are divided into so many tests."""


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
