"""max_per_second: how often items start."""

import asyncio
import math
from decimal import Decimal
from typing import Any

import pytest

from pyasynclife import Backoff, BatchStatus, Retry, bounded_gather
from support.coroutines import echo
from support.loops import in_virtual_time

BOTH_WAYS = True


class Starts:
    """Items that take some time, and when each was started."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.seconds = seconds
        self.times: list[float] = []

    async def __call__(self, item: Any) -> Any:
        self.times.append(self.loop.time() - self.began)
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return item

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


@pytest.mark.parametrize("seconds", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("rate", [4, 0.5, Decimal("2.5"), 1000])
def test_starts_are_evenly_spaced(rate: Any, seconds: float) -> None:
    async def main() -> None:
        starts = Starts(seconds)
        result = await bounded_gather(starts, range(20), max_per_second=rate)
        assert result.ok
        assert starts.times[0] == 0
        assert starts.gaps == pytest.approx([1 / float(rate)] * 19, rel=1e-3)

    in_virtual_time(main())


def test_the_limit_counts_as_well() -> None:
    async def main() -> None:
        starts = Starts(1.0)
        await bounded_gather(starts, range(6), max_concurrent=2, max_per_second=10)
        assert starts.times == pytest.approx([0, 0.1, 1, 1.1, 2, 2.1])

    in_virtual_time(main())


@pytest.mark.parametrize("idle", [0.004, 0.1, 60.0])
def test_there_is_no_burst_after_idle_time(idle: float) -> None:
    async def main() -> None:
        starts = Starts()
        async with bounded_gather(starts, [0], max_per_second=1000) as batch:
            await asyncio.sleep(idle)
            for i in range(5):
                batch.add(i)
            await asyncio.sleep(1)
        assert starts.gaps[0] == pytest.approx(idle)
        assert starts.gaps[1:] == pytest.approx([0.001] * 4, rel=1e-3)

    in_virtual_time(main())


def test_there_is_no_burst_when_slots_become_free() -> None:
    async def main() -> None:
        starts = Starts(1.0)
        await bounded_gather(starts, range(9), max_concurrent=3, max_per_second=3)
        assert min(starts.gaps) >= 1 / 3 - 1e-6

    in_virtual_time(main())


def test_a_loop_that_stood_still_starts_no_burst() -> None:
    async def main() -> None:
        starts = Starts()
        loop: Any = asyncio.get_running_loop()
        batch = bounded_gather(starts, range(20), max_per_second=10)
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.55)
        jump = loop.time() + 5.0
        loop.time, time = lambda: max(time(), jump), loop.time
        await waiting
        del loop.time
        assert min(starts.gaps) >= 0.1 - 1e-6

    in_virtual_time(main())


def test_a_timer_that_is_late_does_not_lower_the_rate() -> None:
    """As a loop's that counts milliseconds: 0.25 ms between two starts."""

    async def main() -> None:
        starts = Starts()
        loop: Any = asyncio.get_running_loop()
        call_at = loop.call_at

        def late(when: float, *args: Any, **options: Any) -> Any:
            return call_at(math.ceil(when * 1000) / 1000, *args, **options)

        loop.call_at = late
        result = await bounded_gather(starts, range(400), max_per_second=4000)
        del loop.call_at
        assert result.duration == pytest.approx(0.1, abs=0.003)

    in_virtual_time(main())


def test_waiting_for_the_rate_counts_for_no_timeout() -> None:
    async def main() -> None:
        starts = Starts(0.5)
        result = await bounded_gather(starts, range(5), max_per_second=1, timeout=0.75)
        assert result.ok
        assert result.duration == pytest.approx(4.5)

    in_virtual_time(main())


def test_the_budget_counts() -> None:
    async def main() -> None:
        starts = Starts()
        result = await bounded_gather(starts, range(5), max_per_second=1, budget=2.5)
        assert result.status is BatchStatus.TIMED_OUT
        assert len(result.successes()) == 3
        result.failures()

    in_virtual_time(main())


def test_attempts_are_starts() -> None:
    async def main() -> None:
        starts = Starts()

        async def fn(item: int) -> None:
            await starts(item)
            raise ValueError(item)

        retry = Retry(3, backoff=Backoff(0))
        result = await bounded_gather(fn, range(4), max_per_second=10, retry=retry)
        assert {r.attempts for r in result} == {3}
        assert starts.gaps == pytest.approx([0.1] * 11)

    in_virtual_time(main())


def test_one_timer_serves_the_batch() -> None:
    """Each start arms it for the next one, and none is left behind."""

    async def main() -> None:
        starts = Starts(0.5)
        loop: Any = asyncio.get_running_loop()
        batch = bounded_gather(starts, range(9), max_per_second=10)
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.25)
        # Of its timers the loop holds this one, and those of the three items.
        assert sum(not timer.cancelled() for timer in loop._scheduled) <= 4
        await waiting
        assert not [timer for timer in loop._scheduled if not timer.cancelled()]

    in_virtual_time(main())


def test_a_paused_batch_starts_nothing_and_goes_on_evenly() -> None:
    async def main() -> None:
        starts = Starts()
        batch = bounded_gather(starts, range(6), max_per_second=10)
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.25)
        batch.pause()
        await asyncio.sleep(1)
        batch.resume()
        await waiting
        assert starts.times == pytest.approx([0, 0.1, 0.2, 1.25, 1.35, 1.45])

    in_virtual_time(main())


def test_a_stopped_batch_waits_for_no_start() -> None:
    async def main() -> None:
        batch = bounded_gather(Starts(), range(6), max_per_second=0.01)
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(1)
        batch.cancel()
        result = await waiting
        assert result.duration == pytest.approx(1)
        assert result.status is BatchStatus.CANCELLED

    in_virtual_time(main())


async def test_none_is_no_limit() -> None:
    assert (await bounded_gather(echo, range(100), max_per_second=None)).ok


@pytest.mark.parametrize(
    ("rate", "error", "match"),
    [
        (0, ValueError, "max_per_second must be more than 0, got 0: pass None"),
        (-1.0, ValueError, r"max_per_second must be 0 or more, got -1\.0"),
        (math.nan, ValueError, "max_per_second must be .*, got nan"),
        (math.inf, ValueError, "must be finite, got inf: pass None for no limit"),
        ("5", TypeError, "max_per_second must be a number, got str '5'"),
        (True, TypeError, "max_per_second must be a number, got bool True"),
    ],
)
def test_bad_rates_are_refused_at_the_call(
    rate: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        bounded_gather(echo, [1], max_per_second=rate)


@pytest.mark.parametrize("how", ["pause", "limit"])
def test_an_item_that_was_held_is_not_followed_at_once(how: str) -> None:
    async def main() -> None:
        starts = Starts(10)
        batch = bounded_gather(starts, range(4), max_per_second=1)
        async with batch:
            running = asyncio.ensure_future(batch.collect())
            await asyncio.sleep(1)  # the next start is due in this iteration
            held, allowed = batch.max_concurrent, 1
            for _ in range(2):
                if how == "limit":
                    batch.max_concurrent = allowed
                elif allowed == 1:
                    batch.pause()
                else:
                    batch.resume()
                await asyncio.sleep(2.5)
                allowed = held
            await running
        assert min(starts.gaps) > 1 - 1e-3

    in_virtual_time(main())
