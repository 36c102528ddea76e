"""Process a million rows in constant memory; stop at any time, and go on later.

    python examples/process_large_dataset.py [--rows 1000000] [--uvloop]

The rows come from a generator, as from a file or a database cursor, and each result is
handled when it is there, in the order of the rows: neither all rows nor all results are
ever in memory. With rich installed (pip install 'pyasynclife[console]') a bar shows the
progress. A row that cannot be processed is counted, and the rest goes on.

Ctrl-C or SIGTERM lets the rows finish that have begun, and saves a checkpoint. The same
command goes on from there. A process that is killed loses at most 20,000 rows.

From the article that opens with "The Problem Nobody Warns You About", section "Failure
Mode 1: Tasks Ignore Cancellation".

What was wrong: all rows and results were in memory, a cancellation lost the results,
and the loop waited for 100 rows at a time, however long those took. Here memory is
O(limit), what is done is kept, and the loop waits for 10 ms and a row at most.
"""

import argparse
import asyncio
import dataclasses
import functools
import json
import os
import resource
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pyasynclife import (
    Batch,
    BatchStatus,
    LoopWatch,
    SignalCoordinator,
    TaskResult,
    bounded_gather,
    run,
)

if TYPE_CHECKING:
    from pyasynclife.console import Tracked

SAVE_EVERY = 20_000


@dataclasses.dataclass
class Checkpoint:
    """What has been done: of the first `rows` rows, all of them."""

    rows: int = 0
    failed: int = 0
    checksum: int = 0  # of all results so far, in their order

    def add(self, result: TaskResult[int]) -> None:
        self.rows += 1
        if result.success:
            self.checksum = zlib.crc32(b"%d" % result.unwrap(), self.checksum)
        else:
            self.failed += 1

    def save(self, path: Path) -> None:
        """Replace the file at once: if we are killed, it is the old or the new one."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(new, path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


def read_rows(first: int, end: int) -> Iterator[str]:
    """Yield the rows from the first one on. A few are long, and a few are bad."""
    for number in range(first, end):
        orders = 2_000 if number % 1_000 == 0 else 1
        row = json.dumps({"id": number, "orders": [[number % 97, 3]] * orders})
        yield row[:20] if number % 9_999 == 9_998 else row


async def process_item(row: str) -> int:
    """Process one row; long work goes to a thread, so that the loop is not blocked."""
    if len(row) > 10_000:
        return await asyncio.to_thread(value_of, row)
    return value_of(row)


def value_of(row: str) -> int:
    return sum(price * size for price, size in json.loads(row)["orders"])


def with_progress(batch: Batch[int], rows: int) -> "Batch[int] | Tracked[int]":
    """Return the batch, with a bar or a line of progress where rich is installed."""
    try:
        from pyasynclife.console import track
    except ImportError:
        return batch
    return track(batch, f"up to row {rows:,}", interval=1.0)


async def process_large_dataset(
    options: argparse.Namespace, coordinator: SignalCoordinator, _: object
) -> None:
    """Process the rows that are left, until the end or a signal."""
    path: Path = options.checkpoint
    checkpoint = Checkpoint.load(path)
    print(f"from row {checkpoint.rows:,} on", flush=True)
    rows = read_rows(checkpoint.rows, options.rows)
    batch = bounded_gather(process_item, rows, max_concurrent=50)
    coordinator.attach(batch)  # a signal stops it: rows that have begun are finished
    try:
        async with LoopWatch() as watch, with_progress(batch, options.rows) as results:
            async for result in results:  # in the order of the rows
                checkpoint.add(result)
                if checkpoint.rows % SAVE_EVERY == 0:
                    checkpoint.save(path)
    finally:
        checkpoint.save(path)

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    lag = watch.lag.quantile(0.99) * 1000
    print(f"{memory} MB at most; the loop was late by {lag:.0f} ms (99 % quantile)")
    print(f"rows: {checkpoint.rows}, failed: {checkpoint.failed}")
    if batch.status is BatchStatus.COMPLETED:
        path.unlink()
        print(f"complete: checksum {checkpoint.checksum:08x}")
    else:
        print(await coordinator.graceful_shutdown())
        print("stopped: run it again to go on")


def main() -> None:
    """Read the options, and process the rows until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    file = Path("process_large_dataset.json")
    parser.add_argument("--checkpoint", type=Path, default=file)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    new_loop = asyncio.new_event_loop
    if options.uvloop:
        from uvloop import new_event_loop as new_loop
    body = functools.partial(process_large_dataset, options)
    run(body, shutdown_timeout=10.0, loop_factory=new_loop)


if __name__ == "__main__":
    main()
