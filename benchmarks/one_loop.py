"""Measure all rows on one loop: `python -m benchmarks` starts this for each loop.

Writes each row to stdout as a line of JSON as soon as it is measured.
"""

import asyncio
import json
import sys
from collections.abc import Callable

from benchmarks import (
    gather_rows,
    group_rows,
    http_rows,
    peers_rows,
    pool_rows,
    registry_rows,
    shutdown_rows,
)
from benchmarks.figures import Settings

# Each has a function rows(settings). The order is that of the tables.
MODULES = (
    gather_rows,
    group_rows,
    registry_rows,
    shutdown_rows,
    pool_rows,
    peers_rows,
    http_rows,
)


async def measure(settings: Settings) -> None:
    for module in MODULES:
        async for row in module.rows(settings):
            print(json.dumps(row.as_dict()), flush=True)


def main(arguments: list[str]) -> None:
    settings = Settings(**json.loads(arguments[0]))
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if settings.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(settings))


if __name__ == "__main__":
    main(sys.argv[1:])
