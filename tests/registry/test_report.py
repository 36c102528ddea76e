"""A ShutdownReport: its lists are made when they are read; its table groups."""

import asyncio
import gc
import pickle
import weakref
from typing import Any

import pytest

from pyasynclife import ShutdownReport, TaskRegistry, _report, _report_table
from support.coroutines import forever, swallow
from support.loops import settle
from support.tasks import OddTask


async def report_of(*coros: Any, timeout: float = 0) -> ShutdownReport:
    """Shut down tasks, those that do not stop a second time, and return the report."""
    registry = TaskRegistry()
    for number, coro in enumerate(coros):
        registry.register(coro, f"feed_{number}")
    await settle()
    report = await registry.shutdown(timeout)
    registry.cancel_all()
    await registry.wait()
    return report


async def fails(text: str = "in clean-up") -> None:
    try:
        await forever()
    finally:
        raise ValueError(text)


async def test_nothing_is_made_of_the_tasks_until_a_list_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = 0
    real = _report.make_exit

    def make_exit(*fields: Any) -> Any:
        nonlocal made
        made += 1
        return real(*fields)

    monkeypatch.setattr(_report, "make_exit", make_exit)
    report = await report_of(*(forever() for _ in range(50)))
    assert report.ok
    assert "cancelled       50" in str(report)
    assert report.stuck == report.failed == []
    assert made == 0
    exits = report.cancelled
    assert [one.task_id for one in exits] == [f"feed_{number}" for number in range(50)]
    assert report.cancelled is exits
    assert made == 50


async def test_a_report_shows_what_was_when_it_was_made() -> None:
    registry = TaskRegistry()
    for name in "abc":
        registry.register(swallow(times=1), name)
    registry.register(swallow(times=2), "stuck")
    await settle()
    longer = asyncio.create_task(registry.shutdown(60))
    await settle()
    first = await registry.shutdown(0)
    registry.cancel("stuck")
    last = await longer
    assert [one.task_id for one in first.swallowed] == ["a", "b", "c"]
    assert [one.task_id for one in first.stuck] == ["stuck"]
    assert [one.task_id for one in last.swallowed] == ["a", "b", "c", "stuck"]
    assert not first.ok
    assert last.ok


async def test_age_and_silence_are_those_at_the_end_of_the_task() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "feed")
    await settle()
    report = await registry.shutdown()
    meta = registry["feed"]
    (one,) = report.cancelled
    assert (one.name, one.task_id, one.error, one.where) == ("feed", "feed", None, [])
    assert (one.age, one.silence) == (meta.age, meta.silence)


async def test_a_report_keeps_no_task_and_no_result() -> None:
    class Result:
        pass

    async def swallows() -> Result:
        return await swallow(Result())  # type: ignore[no-any-return]

    registry = TaskRegistry(history=0)
    refs = [weakref.ref(registry.register(swallows()).result()[0])]
    await settle()
    report = await registry.shutdown()
    await settle()
    gc.collect()
    assert [ref() for ref in refs] == [None]
    assert not any(isinstance(one, Result) for one in gc.get_objects())
    assert len(report.swallowed) == 1


async def test_equal_reports_are_equal_however_far_they_were_read() -> None:
    report = await report_of(forever(), swallow())
    unread = pickle.loads(pickle.dumps(report))
    assert unread == report
    assert repr(unread) == repr(report)
    assert hasattr(report, "swallowed")


async def test_a_report_has_no_other_attributes_and_is_frozen() -> None:
    report: Any = await report_of(forever())
    with pytest.raises(AttributeError, match="canceled"):
        report.canceled  # noqa: B018
    with pytest.raises(AttributeError):
        report.cancelled = []


@pytest.mark.parametrize("outcome", ["cancelled", "stuck"])
async def test_a_task_that_does_not_tell_its_name_is_reported_all_the_same(
    loop_errors: list[dict[str, Any]], outcome: str
) -> None:
    class Shy(OddTask):
        def get_name(self) -> str:
            raise LookupError("odd")

    registry = TaskRegistry()
    task = Shy(forever() if outcome == "cancelled" else swallow(times=2))
    registry.track(task, "odd")
    await settle()
    (one,) = getattr(await registry.shutdown(0), outcome)
    assert (one.name, one.task_id) == ("<get_name() failed>", "odd")
    (about,) = loop_errors
    assert isinstance(about["exception"], LookupError)
    registry.cancel_all()
    await asyncio.wait([task])


# ---------------------------------------------------------------- the table


async def test_thousands_that_are_stuck_at_one_line_take_some_ten_lines() -> None:
    report = await report_of(*(swallow(times=2) for _ in range(5000)))
    assert len(report.stuck) == 5000
    text = str(report)
    assert len(text.splitlines()) <= 10
    assert "stuck: 5000 x feed_0, feed_1, feed_2, ..., age 0" in text
    assert text.count("in swallow") == 1


async def test_the_largest_group_comes_first() -> None:
    coros = [fails("rare"), *(fails("often") for _ in range(5)), swallow()]
    lines = str(await report_of(*coros)).splitlines()
    assert lines[6].startswith("failed: 5 x feed_1, feed_2, feed_3, ..., age 0.")
    assert lines[6].endswith("ValueError: often")
    assert lines[7].startswith("failed: feed_0, age 0.")
    assert lines[8].startswith("swallowed: feed_6, age 0.")
    assert len(lines) == 9


async def test_a_report_counts_one_in_the_singular() -> None:
    assert str(await report_of(fails("once"))).startswith("shutdown of 1 task in ")
    report = await report_of(*(fails(f"no price for {n}") for n in range(21)))
    assert str(report).startswith("shutdown of 21 tasks in ")
    assert str(report).endswith("failed: and 1 more, in 1 smaller group")


async def test_many_different_ends_are_cut_short_and_still_in_the_lists() -> None:
    coros = [fails(f"no price for {number}") for number in range(100)]
    report = await report_of(*coros, fails("often"), fails("often"))
    lines = str(report).splitlines()
    assert "2 x feed_100, feed_101, age" in lines[6]
    assert lines[-1] == "failed: and 81 more, in 81 smaller groups"
    assert len(lines) == 6 + 20 + 1
    assert len(report.failed) == 102


async def test_ages_of_a_group_are_shown_from_the_least_to_the_greatest() -> None:
    make = _report.make_exit
    exits = [make(f"t{age}", None, age, 0.5, None, []) for age in (3.0, 9.0, 6.0)]
    (line,) = _report_table.describe("swallowed", exits)
    assert line == "swallowed: 3 x t3.0, t9.0, t6.0, age 3.0 to 9.0 s, silent 0.5 s"
