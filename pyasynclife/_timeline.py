"""TaskRegistry.record: what became of each task, as a file of Chrome trace events.

The file is a JSON array of objects, which chrome://tracing and Perfetto open. A row in
them, a "thread" of the format, is a task, and is written when the task has ended, so
that nothing is kept of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from pyasynclife._arguments import cut, short
from pyasynclife._core import TaskMetadata
from pyasynclife._monitor.answers import process
from pyasynclife._sealed import refuse_pickling
from pyasynclife._states import TaskHealth

if TYPE_CHECKING:
    from pyasynclife._registry import TaskRegistry

_CHUNK = 1 << 16  # bytes that are collected before they are written
_BEGIN, _BETWEEN, _END = b"[\n", b",\n", b"\n]\n"
_ID, _TEXT = 120, 1000  # characters that are shown
_COLOURS = {"done": "good", "failed": "terrible", "cancelled": "grey"}  # Chrome's names


class EndHook:
    """The ``on_finish`` of a registry that can be recorded."""

    __slots__ = ("on_finish", "recording")

    def __init__(self, on_finish: Callable[[TaskMetadata], object] | None) -> None:
        self.on_finish = on_finish  # the user's
        self.recording: Recording | None = None

    def __call__(self, meta: TaskMetadata) -> object:
        """Record an end, and pass it on."""
        if self.recording is not None:
            self.recording.note_end(meta)
        return None if self.on_finish is None else self.on_finish(meta)


class Recording:
    """The block of `TaskRegistry.record`."""

    __slots__ = (
        "_file",
        "_loop",
        "_registry",
        "_row_of",
        "_rows",
        "_stale_since",
        "_started",
        "path",
    )

    def __init__(self, registry: TaskRegistry, path: str) -> None:
        self.path = path
        self._registry = registry
        self._file: _JSONArray | None = None
        self._rows = 0
        # Live tasks only: the rows that have been given, and since when one is stale.
        self._row_of: dict[TaskMetadata, int] = {}
        self._stale_since: dict[TaskMetadata, float] = {}

    def __repr__(self) -> str:
        """Return the type and the path."""
        return f"<{type(self).__name__} {self.path!r}>"

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    async def __aenter__(self) -> Self:
        """Begin the file; see `TaskRegistry.record`."""
        self._registry._bind("TaskRegistry.record()")
        hook = self._registry._end_hook()
        if hook.recording is not None:
            raise RuntimeError(f"{self._registry!r} has {hook.recording!r} already")
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._file = _JSONArray(self.path)
        try:
            self._file.add([_named("process_name", 0, process()["program"])])
            self._file.flush()
        except BaseException:
            self._file.close()
            raise
        hook.recording = self
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Write the tasks that are alive, and end the file."""
        self._registry._end_hook().recording = None
        self._attempt(self._finish)

    # ------------------------------------------------------ called by the registry

    def note_end(self, meta: TaskMetadata) -> None:
        """Write a task that has ended."""
        self._attempt(self._write, meta)

    def note_check(self, newly_stale: Iterable[TaskMetadata]) -> None:
        """Note what the monitor has found, and write what was collected."""
        self._attempt(self._check, newly_stale)

    # --------------------------------------------------------------------- events

    def _attempt(self, do: Callable[..., None], *args: Any) -> None:
        """Write something. If that fails, report the error and stop recording."""
        if self._file is None:
            return
        try:
            do(*args)
        except Exception as error:
            self._close()
            about = {
                "message": f"recording to {short(self.path)} has stopped",
                "exception": error,
            }
            self._loop.call_exception_handler(about)

    def _close(self) -> None:
        file, self._file = self._file, None
        self._row_of.clear()
        self._stale_since.clear()
        if file is not None:
            file.close()

    def _finish(self) -> None:
        for meta in self._registry.get_status().result().values():
            if meta.finished_at is None:
                self._write(meta)
        assert self._file is not None
        self._file.flush()
        self._close()

    def _check(self, newly_stale: Iterable[TaskMetadata]) -> None:
        assert self._file is not None
        now = self._now()
        for meta in list(self._stale_since):
            if meta.health != TaskHealth.STALE:
                # The last heartbeat, or between two runs the end of the first.
                until = now if meta.task is None else now - meta.silence
                self._file.add([self._stale_period(meta, until)])
        for meta in newly_stale:
            self._stale_since[meta] = now - (meta.silence - meta.stale_after)
            if meta not in self._row_of:
                self._row_of[meta] = self._new_row()
        self._file.flush()

    def _write(self, meta: TaskMetadata) -> None:
        """Write the row of a task, up to its end or until now."""
        assert self._file is not None
        now = self._now()
        events = []
        if meta in self._stale_since:
            events.append(self._stale_period(meta, now))
        row = self._row_of.pop(meta, None) or self._new_row()
        args = {
            "id": meta.task_id,
            "heartbeats": meta.heartbeats,
            "restarts": meta.restarts,
            "age": meta.age,  # also of a task that is older than the file
            "error": meta.error_text and cut(meta.error_text, _TEXT),
            "cancel_reason": meta.cancel_reason and cut(meta.cancel_reason, _TEXT),
        }
        event = _event(str(meta.state), row, now - meta.age, now)
        event["args"] = {key: value for key, value in args.items() if value is not None}
        if meta.state in _COLOURS:
            event["cname"] = _COLOURS[meta.state]
        events += [_named("thread_name", row, cut(meta.task_id, _ID)), event]
        self._file.add(events)

    def _stale_period(self, meta: TaskMetadata, until: float) -> dict[str, Any]:
        since = self._stale_since.pop(meta)
        event = _event("stale", self._row_of[meta], since, max(since, until))
        return event | {"cname": "bad"}

    def _now(self) -> float:
        """Return the seconds since the block was entered."""
        return self._loop.time() - self._started

    def _new_row(self) -> int:
        self._rows += 1
        return self._rows


def _event(name: str, row: int, begin: float, end: float) -> dict[str, Any]:
    """Make a "complete" event, in whole microseconds; the file begins at 0."""
    since, until = (round(max(seconds, 0.0) * 1e6) for seconds in (begin, end))
    return {
        "name": name,
        "cat": "task",
        "ph": "X",
        "pid": 0,
        "tid": row,
        "ts": since,
        "dur": until - since,
    }


def _named(what: str, row: int, name: str) -> dict[str, Any]:
    """Make a "metadata" event, which names a row or the process."""
    return {"name": what, "ph": "M", "pid": 0, "tid": row, "args": {"name": name}}


class _JSONArray:
    """A file that is an array of objects in JSON, complete after each write."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115
        self._size = 0  # of what is written, without the end of the array
        self._waiting = bytearray()

    def add(self, members: Iterable[dict[str, Any]]) -> None:
        """Add members; they are written when there are many, or by flush()."""
        data = bytearray()
        for member in members:
            is_first = not (self._size or self._waiting or data)
            data += _BEGIN if is_first else _BETWEEN
            data += json.dumps(member, separators=(",", ":")).encode()
        self._waiting += data
        if len(self._waiting) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting; if that fails, the file is as it was."""
        if not self._waiting:
            return
        try:
            self._write_at_end(self._waiting + _END)
        except BaseException:
            self._waiting.clear()
            self._file.truncate(self._size)
            if self._size:
                self._write_at_end(_END)
            raise
        self._size += len(self._waiting)
        self._waiting.clear()

    def close(self) -> None:
        """Close the file; what is waiting is dropped."""
        self._file.close()

    def _write_at_end(self, data: bytes | bytearray) -> None:
        self._file.seek(self._size)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
