"""contrib.logging: the id of the task that logs, in every record."""

import asyncio
import contextvars
import json
import logging
import logging.config
import logging.handlers
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry, _core, bounded_gather
from pyasynclife.contrib.logging import TaskIdFilter
from support.coroutines import fail

Records = list[logging.LogRecord]


class Kept(logging.Handler):
    """A handler that keeps its records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: Records = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def ids(self) -> list[tuple[str, Any]]:
        """The messages, with the task_id of each."""
        return [(r.getMessage(), getattr(r, "task_id", ...)) for r in self.records]


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of its own, without handlers."""
    log = logging.getLogger("tests.task_id")
    log.propagate = False
    yield log
    log.handlers.clear()
    log.filters.clear()


@pytest.fixture
def kept(log: logging.Logger) -> Kept:
    """A handler of that logger, with the filter."""
    handler = Kept()
    handler.addFilter(TaskIdFilter())
    log.addHandler(handler)
    return handler


async def run_as(task_id: str, fn: Callable[[], Any]) -> None:
    registry = TaskRegistry()
    await registry.register(fn(), task_id)
    await registry.wait(60)


async def test_a_registered_task_and_what_it_starts_log_its_id(
    log: logging.Logger, kept: Kept
) -> None:
    async def write(what: object) -> None:
        log.warning("%s", what)
        await asyncio.sleep(0)
        log.warning("%s", what)

    async def feed() -> None:
        await write("task")
        async with TaskGroup() as group:
            group.create_task(write("child"))
        await bounded_gather(write, ["item"])
        await bounded_gather(write, ["item with a task"], task_per_item=True)
        await asyncio.create_task(write("plain task"))
        await asyncio.to_thread(log.warning, "thread")
        done = asyncio.Event()
        asyncio.get_running_loop().call_soon(lambda: (log.warning("call"), done.set()))
        await done.wait()

    await run_as("feed", feed)
    log.warning("outside")
    *inside, outside = kept.ids()
    assert dict(inside) == dict.fromkeys(
        ["task", "child", "item", "item with a task", "plain task", "thread", "call"],
        "feed",
    )
    assert len(inside) == 12
    assert outside == ("outside", "-")


async def test_a_job_logs_the_id_of_the_task_that_made_the_batch(
    log: logging.Logger, kept: Kept
) -> None:
    async def work(number: int) -> None:
        log.warning("job %d", number)

    async def service() -> None:
        async with bounded_gather(work, ()) as batch:
            await batch.add(1)
            await batch.add(2)

    await run_as("service", service)
    assert kept.ids() == [("job 1", "service"), ("job 2", "service")]


async def test_a_registered_item_logs_its_own_id(
    log: logging.Logger, kept: Kept
) -> None:
    registry = TaskRegistry()

    async def fetch(symbol: str) -> None:
        log.warning("fetched")

    async def job() -> None:
        await bounded_gather(
            fetch, ["BTC"], task_per_item=True, registry=registry, key=str
        )
        log.warning("gathered")

    await run_as("job", job)
    assert kept.ids() == [("fetched", "BTC"), ("gathered", "job")]


async def test_code_that_runs_on_after_its_task_logs_the_id_of_that(
    log: logging.Logger, kept: Kept
) -> None:
    children: list[asyncio.Task[None]] = []
    ended = asyncio.Event()

    async def child() -> None:
        await ended.wait()
        log.warning("child")

    async def parent() -> None:
        children.append(asyncio.create_task(child()))

    await run_as("parent", parent)
    ended.set()
    await children[0]
    assert kept.ids() == [("child", "parent")]


async def test_a_tracked_task_and_an_executors_thread_log_the_default(
    log: logging.Logger, kept: Kept
) -> None:
    async def write() -> None:
        log.warning("tracked")

    async def work() -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, log.warning, "executor")

    registry = TaskRegistry()
    registry.track(asyncio.create_task(write()), "tracked")
    await registry.wait(60)
    await run_as("work", work)
    assert kept.ids() == [("tracked", "-"), ("executor", "-")]


async def test_a_record_that_has_an_id_keeps_it(
    log: logging.Logger, kept: Kept
) -> None:
    async def feed() -> None:
        log.warning("own", extra={"task_id": "other"})
        log.warning("none", extra={"task_id": None})

    await run_as("feed", feed)
    assert kept.ids() == [("own", "other"), ("none", None)]


async def test_the_records_of_the_package_have_the_id_of_the_task_they_are_about() -> (
    None
):
    handler = Kept()
    handler.addFilter(TaskIdFilter())
    logger = logging.getLogger("pyasynclife")
    logger.addHandler(handler)
    try:
        await run_as("bad", lambda: fail("x"))
    finally:
        logger.removeHandler(handler)
    [record] = handler.records
    assert (record.levelno, getattr(record, "task_id", None)) == (logging.ERROR, "bad")


@pytest.mark.parametrize("default", ["-", "", "none", None])
def test_a_record_of_no_task_has_the_default(default: str | None) -> None:
    record = logging.makeLogRecord({})
    assert TaskIdFilter(default).filter(record) is True
    assert record.task_id == default  # type: ignore[attr-defined]


@pytest.mark.parametrize("default", [1, b"-", ["-"]])
def test_a_default_of_another_type_is_refused(default: Any) -> None:
    with pytest.raises(TypeError, match=r"default must be a str or None, got \w+ "):
        TaskIdFilter(default)


class Hostile:
    @property
    def task_id(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [None, "feed", Hostile()])
def test_a_context_variable_set_by_hand_is_no_id(value: Any) -> None:
    context = contextvars.copy_context()
    context.run(_core.owner.set, value)
    record = logging.makeLogRecord({})
    assert context.run(TaskIdFilter().filter, record)
    assert record.task_id == "-"  # type: ignore[attr-defined]


async def test_a_filter_of_a_logger_works_for_that_logger(log: logging.Logger) -> None:
    log.addFilter(TaskIdFilter())
    handler = Kept()
    log.addHandler(handler)

    async def feed() -> None:
        log.warning("mine")
        log.getChild("below").warning("below")

    await run_as("feed", feed)
    assert handler.ids() == [("mine", "feed"), ("below", ...)]


async def test_dictconfig_takes_it(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {
                "task": {
                    "()": "pyasynclife.contrib.logging.TaskIdFilter",
                    "default": "main",
                }
            },
            "formatters": {"plain": {"format": "[%(task_id)s] %(message)s"}},
            "handlers": {
                "out": {
                    "class": "logging.StreamHandler",
                    "stream": "ext://sys.stdout",
                    "filters": ["task"],
                    "formatter": "plain",
                }
            },
            "loggers": {log.name: {"handlers": ["out"], "propagate": False}},
        }
    )

    async def feed() -> None:
        log.warning("hello")

    await run_as("feed", feed)
    log.warning("bye")
    assert capsys.readouterr().out == "[feed] hello\n[main] bye\n"


async def test_a_queue_handler_passes_the_id_to_the_thread_of_the_listener(
    log: logging.Logger,
) -> None:
    records: queue.Queue[Any] = queue.Queue()
    handler = logging.handlers.QueueHandler(records)
    handler.addFilter(TaskIdFilter())
    log.addHandler(handler)
    target = Kept()
    target.addFilter(TaskIdFilter("too late"))
    listener = logging.handlers.QueueListener(records, target)
    listener.start()

    async def feed() -> None:
        log.warning("hello")

    await run_as("feed", feed)
    listener.stop()
    assert target.ids() == [("hello", "feed")]
    assert json.dumps(target.records[0].task_id) == '"feed"'  # type: ignore[attr-defined]
