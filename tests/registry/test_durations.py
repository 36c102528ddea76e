"""RegistryStats.durations: how long the finished tasks had lived, and Histogram."""

import asyncio
import itertools
import math
import sys
from typing import Any

import pytest

from pyasynclife import Histogram, TaskRegistry
from support.coroutines import echo, forever
from support.loops import ManualClockLoop, in_virtual_time, settle


def counted(*seconds: float) -> Histogram:
    """The durations of tasks that live so long."""

    async def main() -> Histogram:
        registry = TaskRegistry()
        for each in seconds:
            registry.register(asyncio.sleep(each))
        await registry.wait()
        return registry.stats().durations

    result = in_virtual_time(main())
    assert isinstance(result, Histogram)
    return result


def test_the_bounds_are_26_and_double_from_100_microseconds() -> None:
    bounds = counted().bounds
    assert len(bounds) == 26
    assert bounds[0] == 0.0001
    assert all(high == 2 * low for low, high in itertools.pairwise(bounds))


def test_each_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    histogram = counted(0.0, 0.3, 0.3, 40.0, 5000.0)
    assert histogram.count == sum(histogram.counts) == 5
    assert histogram.sum == pytest.approx(5040.6)
    assert len(histogram.counts) == 27
    filled = [index for index, count in enumerate(histogram.counts) if count]
    assert [histogram.counts[index] for index in filled] == [1, 2, 1, 1]
    assert filled == [0, 12, 19, 26]
    assert histogram.bounds[11] < 0.3 <= histogram.bounds[12]
    assert histogram.bounds[18] < 40.0 <= histogram.bounds[19]


def test_a_quantile_is_the_upper_bound_of_its_bucket() -> None:
    histogram = counted(*[0.3] * 93, *[40.0] * 6, 5000.0)
    assert histogram.quantile(0) == histogram.bounds[12]
    assert histogram.quantile(q=0.5) == histogram.bounds[12]
    assert histogram.quantile(0.93) == histogram.bounds[12]
    assert histogram.quantile(0.931) == histogram.bounds[19]
    assert histogram.quantile(0.99) == histogram.bounds[19]
    assert histogram.quantile(1) == math.inf


def test_an_empty_one_has_no_quantile() -> None:
    histogram = counted()
    assert (histogram.count, histogram.sum) == (0, 0.0)
    assert math.isnan(histogram.quantile(0.5))


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan, math.inf])
def test_a_quantile_out_of_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="q must be from 0 to 1, got "):
        counted().quantile(q)


@pytest.mark.parametrize("q", ["0.5", None, True, [0.5]])
def test_a_quantile_that_is_no_number_is_refused(q: Any) -> None:
    with pytest.raises(TypeError, match="q must be a number, got "):
        counted().quantile(q)


def test_it_is_made_and_changed_by_nobody_else() -> None:
    made: Any = Histogram
    with pytest.raises(TypeError, match="Histogram"):
        made()
    with pytest.raises(TypeError):
        type("Own", (made,), {})
    histogram: Any = counted(1.0)
    for name in ("count", "sum", "bounds", "counts"):
        with pytest.raises(AttributeError):
            setattr(histogram, name, 0)


def test_equal_counts_and_sums_are_equal() -> None:
    assert counted(1.0) == counted(1.0)
    assert hash(counted(1.0)) == hash(counted(1.0))
    assert counted(1.0) != counted(1.1)
    assert counted(1.0) != counted(1.0, 1.0)
    assert counted(1.0) != 1
    assert repr(counted(1.0, 2.0)) == "<Histogram count=2 sum=3.0>"


@pytest.mark.parametrize("parts", [(), (1.0,), (1.0, (1,)), (1.0, (-1,) * 27), (1, [])])
def test_parts_that_are_none_of_a_histogram_are_refused(parts: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        Histogram._restore(*parts)


async def test_a_snapshot_does_not_change() -> None:
    registry = TaskRegistry()
    before = registry.stats().durations
    registry.register(echo(1))
    await registry.wait()
    assert before.count == 0
    assert registry.stats().durations.count == 1


async def test_only_tasks_that_have_ended_count_however_they_ended() -> None:
    async def fail() -> None:
        raise ValueError("no price")

    registry = TaskRegistry(history=0)
    for coro in (echo(1), forever(), forever()):
        registry.register(coro)
    registry.register(fail())
    registry.cancel("task_1")
    await settle(4)
    stats = registry.stats()
    assert stats.alive == 1
    assert stats.durations.count == stats.done + stats.failed + stats.cancelled == 3
    await registry.shutdown()
    assert registry.stats().durations.count == 4


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    loop = ManualClockLoop()
    registry = TaskRegistry()

    async def work() -> None:
        registry.register(echo(1))
        loop.now -= 50.0
        await registry.wait()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work())
    durations = registry.stats().durations
    assert (durations.count, durations.sum, durations.counts[0]) == (1, 0.0, 1)


def test_a_snapshot_is_small() -> None:
    assert sys.getsizeof(counted(1.0)) < 300
