"""TaskRegistry.record: what becomes of each task, as a file of Chrome trace events.

A row of the file is a task. What is known of it is written when it has ended, so
nothing is kept of it. Of a task that lives, a row is kept once something of it has been
written: an earlier run, or a period in which it was stale.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from pyasynclife._arguments import cut, short
from pyasynclife._core import TaskMetadata
from pyasynclife._monitor.answers import process
from pyasynclife._sealed import refuse_pickling
from pyasynclife._states import TaskHealth
from pyasynclife._trace_file import TraceFile, bar, mark, title
from pyasynclife._waiting import absorbing_after

if TYPE_CHECKING:
    from pyasynclife._registry import TaskRegistry

_ID = 120  # characters of an id that name a row
_SLICE = 200  # tasks that are written in one iteration of the loop


class _Row:
    """The row of a live task of which something has been written."""

    __slots__ = ("began", "number", "reason")

    def __init__(self, number: int, began: float | None) -> None:
        self.number = number
        self.began = began  # loop time of the present run; None between two runs
        self.reason = ""  # why the next run begins


class Recording:
    """The block of `TaskRegistry.record`."""

    __slots__ = (
        "_count",
        "_file",
        "_loop",
        "_registry",
        "_rows",
        "_stale_since",
        "path",
    )

    def __init__(self, registry: TaskRegistry, path: str) -> None:
        self.path = path
        self._registry = registry
        self._file: TraceFile | None = None
        self._count = 0  # of rows
        # Live tasks only.
        self._rows: dict[TaskMetadata, _Row] = {}
        self._stale_since: dict[TaskMetadata, float] = {}

    def __repr__(self) -> str:
        """Return the type and the path."""
        return f"<{type(self).__name__} {self.path!r}>"

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    async def __aenter__(self) -> Self:
        """Begin the file; see `TaskRegistry.record`."""
        registry = self._registry
        registry._bind("TaskRegistry.record()")
        if registry._recording is not None:
            raise RuntimeError(f"{registry!r} has {registry._recording!r} already")
        self._loop = asyncio.get_running_loop()
        self._file = TraceFile(self.path)
        try:
            self._file.add(title("process_name", 0, process()["program"]))
            self._begin()
            self._file.flush()
        except BaseException:
            self._close()
            raise
        registry._record_to(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Write the tasks that are alive, and end the file."""
        with absorbing_after(*exc):
            await self._leave()

    async def _leave(self) -> None:
        self._registry._record_to(None)
        alive = iter(self._alive())
        try:
            while some := list(itertools.islice(alive, _SLICE)):
                self._attempt(self._write_each, some)
                await asyncio.sleep(0)
        finally:
            self._attempt(self._finish, alive)  # if it is cancelled, all at once

    # ------------------------------------------------------ called by the registry

    def note_end(self, meta: TaskMetadata) -> None:
        """Write a task that has ended."""
        self._attempt(self._write, meta)

    def note_stale(self, newly_stale: Iterable[TaskMetadata]) -> None:
        """Note what the monitor has found."""
        self._attempt(self._note_stale, newly_stale)

    async def note_check(self) -> None:
        """Write which tasks are stale no longer, and what was collected."""
        stale, since = TaskHealth.STALE, self._stale_since
        awake = iter([meta for meta in since if meta.health != stale])
        while some := list(itertools.islice(awake, _SLICE)):
            self._attempt(self._write_awake, some)
            await asyncio.sleep(0)
        self._attempt(self._flush)

    # ------------------------------------- called by the supervisor of a task

    def note_run_end(
        self, meta: TaskMetadata, how: str, error: BaseException | None
    ) -> None:
        """Write a run that another one follows; ``how`` it ended."""
        self._attempt(self._write_run, meta, how, error)

    def note_restart(self, meta: TaskMetadata) -> None:
        """Mark where another run begins."""
        self._attempt(self._write_restart, meta)

    # --------------------------------------------------------------------- events

    def _attempt(self, do: Callable[..., None], *args: Any) -> None:
        """Write something. If that fails, report the error and stop recording."""
        if self._file is None:
            return
        try:
            do(*args)
        except Exception as error:
            with contextlib.suppress(OSError):  # the same
                self._close()
            about = {
                "message": f"recording to {short(self.path)} has stopped",
                "exception": error,
            }
            self._loop.call_exception_handler(about)

    def _close(self) -> None:
        file, self._file = self._file, None
        self._rows.clear()
        self._stale_since.clear()
        if file is not None:
            file.close()

    def _add(self, *events: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.add(*events)

    def _alive(self) -> list[TaskMetadata]:
        every = self._registry.get_status().result().values()
        return [meta for meta in every if meta.finished_at is None]

    def _begin(self) -> None:
        """Take over the tasks that are alive."""
        now = self._loop.time()
        for meta in self._alive():
            rests = meta.task is None
            if meta.restarts or rests:
                # When its runs began and ended is not known any more.
                row = self._row(meta)
                assert row.began is not None
                args = {"restarts": meta.restarts, "error": meta.error_text}
                self._add(bar("earlier runs", row.number, row.began, now, **args))
                row.began = None if rests else now
                row.reason = meta.error_text or ""
        stale = self._registry.get_stale_tasks().result()
        self._note_stale(map(self._registry.__getitem__, stale))

    def _write_each(self, metas: Iterable[TaskMetadata]) -> None:
        for meta in metas:
            self._write(meta)

    def _finish(self, rest: Iterable[TaskMetadata]) -> None:
        self._write_each(rest)
        self._flush()
        self._close()

    def _write_awake(self, metas: Iterable[TaskMetadata]) -> None:
        for meta in metas:  # they have sent a heartbeat
            self._write_stale(meta, self._loop.time() - meta.silence)

    def _flush(self) -> None:
        assert self._file is not None
        self._file.flush()

    def _note_stale(self, metas: Iterable[TaskMetadata]) -> None:
        now = self._loop.time()
        for meta in metas:
            since = now - (meta.silence - meta.stale_after)
            self._stale_since.setdefault(meta, since)

    def _write_stale(self, meta: TaskMetadata, until: float) -> None:
        since = self._stale_since.pop(meta, None)
        if since is not None:
            number = self._row(meta).number
            self._add(bar("stale", number, since, max(since, until)))

    def _write_run(
        self, meta: TaskMetadata, how: str, error: BaseException | None
    ) -> None:
        now = self._loop.time()
        row = self._row(meta)
        text = None if error is None else meta.error_text
        if row.began is not None:
            args = {"run": meta.restarts + 1, "error": text}
            self._add(bar(how, row.number, row.began, now, **args))
        self._write_stale(meta, now)
        row.began = None
        row.reason = text or f"the run before was {how}"

    def _write_restart(self, meta: TaskMetadata) -> None:
        row = self._row(meta)
        row.began = self._loop.time()
        name = f"restart {meta.restarts + 1}"
        self._add(mark(name, row.number, row.began, reason=row.reason))

    def _write(self, meta: TaskMetadata) -> None:
        """Write what is left of a task, up to its end or until now."""
        now = self._loop.time()
        row = self._row(meta)
        args = {
            "id": meta.task_id,
            "heartbeats": meta.heartbeats,
            "restarts": meta.restarts,
            "age": meta.age,
            "error": meta.error_text,
            "cancel_reason": meta.cancel_reason,
        }
        state = str(meta.state)
        if row.began is not None:
            self._add(bar(state, row.number, row.began, now, **args))
        else:  # between two runs
            self._add(mark(state, row.number, now, **args))
        self._write_stale(meta, now)
        del self._rows[meta]

    def _row(self, meta: TaskMetadata) -> _Row:
        """Return the row of a task; a new one begins with the task."""
        row = self._rows.get(meta)
        if row is None:
            self._count += 1
            row = _Row(self._count, self._loop.time() - meta.age)
            self._rows[meta] = row
            self._add(title("thread_name", row.number, cut(meta.task_id, _ID)))
        return row
