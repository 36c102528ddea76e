"""The articles' helpers for existing tasks: observe, monitor and cancel them.

docs/how-to/helpers.md names the articles, and the bugs that are fixed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pyasynclife._arguments import (
    check_answer,
    check_hook,
    check_optional_seconds,
    check_seconds,
    check_tasks,
    short,
    short_id,
)
from pyasynclife._core import (
    RESULT_CANCELLED,
    RESULT_DONE,
    RESULT_FAILED,
    JoinSet,
    TaskResult,
)
from pyasynclife._log import logger
from pyasynclife._report import ShutdownReport
from pyasynclife._states import TaskState
from pyasynclife._waiting import (
    Deadline,
    cancel_in_slices,
    join_and_report,
    wait_among,
    wake,
)

Observer = Callable[[TaskResult[Any]], object]
Report = Callable[[int, list[TaskResult[Any]]], object]

_SHUTDOWN_TIMEOUT = 30.0  # the default of TaskRegistry and SignalCoordinator


async def cancel_all_tasks(
    tasks: Iterable[asyncio.Task[Any]], *, timeout: float | None = None
) -> ShutdownReport:
    """Cancel tasks all at once, wait for them, and report how each ended.

    Args:
        tasks: Tasks of the running loop. Each is cancelled once; the calling task is
            left out. More than a thousand are cancelled in slices, as by
            `TaskRegistry.shutdown`.
        timeout: Seconds to wait; None: 30; ``math.inf``: no limit.

    Returns:
        The report. Tasks that swallow the cancellation and keep running are listed in
        its ``stuck``.

    Raises:
        TypeError: An item is not a Task. Nothing has been cancelled.
        RuntimeError: A task belongs to another loop. Nothing has been cancelled.

    If the caller is cancelled, the CancelledError propagates at once; the tasks remain
    cancelled.
    """
    loop = asyncio.get_running_loop()
    others = _others(tasks, loop)
    seconds = check_optional_seconds("timeout", timeout, _SHUTDOWN_TIMEOUT)
    join_set = JoinSet()
    for task in others:
        join_set.add(task)
    now = loop.time()
    cancel_in_slices(join_set)
    return await join_and_report(join_set, now, Deadline.after(loop, now, seconds))


async def monitor_tasks(
    tasks: Iterable[asyncio.Task[Any]],
    interval: float = 5.0,
    *,
    report: Report | None = None,
) -> None:
    """Report on tasks every ``interval`` seconds until all have ended.

    Args:
        tasks: Tasks of the running loop; the calling task is left out.
        interval: Seconds between two reports. The final report is made when the last
            task ends.
        report: Called with the number of running tasks and a list with the TaskResult
            of each task that has ended since the last report: its task_id is the
            Task's name, its item the Task. An exception of ``report`` goes to the
            loop's exception handler, and the monitor continues. None: log to the logger
            "pyasynclife", failures at ERROR.

    Raises:
        TypeError: An item is not a Task.
        RuntimeError: A task belongs to another loop.

    Costs O(1) per task. If the caller is cancelled, the monitor removes its callbacks;
    it never cancels a task.
    """
    loop = asyncio.get_running_loop()
    running = {task: index for index, task in enumerate(_others(tasks, loop))}
    seconds = check_seconds("interval", interval, zero=False)
    check_hook("report", report)
    ended: list[TaskResult[Any]] = []
    waiters: list[asyncio.Future[None]] = []

    def note(task: asyncio.Task[Any]) -> None:
        ended.append(_result_of(task, running.pop(task)))
        if not running:
            for waiter in waiters:
                wake(waiter)

    for task in running:
        task.add_done_callback(note)
    try:
        while running:
            await wait_among(waiters, loop.time() + seconds)
            since, ended = ended, []
            try:
                check_answer("report", (report or _log_report)(len(running), since))
            except Exception as error:
                message = f"report={short(report)} of monitor_tasks() failed"
                loop.call_exception_handler({"message": message, "exception": error})
            del since
    finally:
        for task in running:
            task.remove_done_callback(note)


def add_task_observers(
    tasks: Iterable[asyncio.Task[Any]], observer: Observer | None = None
) -> None:
    """Call a function with the TaskResult of each task when it ends.

    Args:
        tasks: Tasks of the running loop. If a task has already ended, the function is
            called in the next loop iteration.
        observer: Called with a TaskResult: its task_id is the Task's name, its item the
            Task. Exceptions of ``observer`` go to the loop's exception handler. None:
            log to the logger "pyasynclife", failures at ERROR.

    Raises:
        TypeError: An item is not a Task. No task is observed.
        RuntimeError: A task belongs to another loop. No task is observed.
    """
    chosen = check_tasks(tasks, asyncio.get_running_loop())
    check_hook("observer", observer)
    for index, task in enumerate(chosen):
        task.add_done_callback(partial(_notify, observer or _log_result, index))


def _notify(observer: Observer, index: int, task: asyncio.Task[Any]) -> None:
    check_answer("observer", observer(_result_of(task, index)))


def _others(
    tasks: Iterable[asyncio.Task[Any]], loop: asyncio.AbstractEventLoop
) -> list[asyncio.Task[Any]]:
    """Return the tasks without duplicates and without the calling task."""
    caller = asyncio.current_task()
    return [task for task in check_tasks(tasks, loop) if task is not caller]


def _result_of(task: asyncio.Task[Any], index: int) -> TaskResult[Any]:
    """Return the result of an ended task, and mark its exception as retrieved."""
    data: Any = None
    error: BaseException | None = None
    if task.cancelled():
        error = asyncio.CancelledError()  # the Task's own is for its waiter
        state = RESULT_CANCELLED
    elif (error := task.exception()) is not None:
        state = RESULT_FAILED
    else:
        data, state = task.result(), RESULT_DONE
    return TaskResult._restore(
        task.get_name(), data, error, index, task, state, False, 0.0, 1
    )


def _log_report(running: int, ended: list[TaskResult[Any]]) -> None:
    failed = sum(one.state is TaskState.FAILED for one in ended)
    logger.info("%d tasks running, %d ended, %d failed", running, len(ended), failed)
    for one in ended:
        if one.state is TaskState.FAILED:
            _log_result(one)


def _log_result(result: TaskResult[Any]) -> None:
    if result.state is TaskState.FAILED:
        name = short_id(result.task_id)
        logger.error("task %s failed", name, exc_info=result.error)
    else:
        logger.info("task %s: %s", short_id(result.task_id), result.state.value)
