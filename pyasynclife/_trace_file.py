"""A file of Chrome trace events, which Perfetto opens.

The file is a JSON array of objects. Each has the ``pid`` of the process and a ``tid``,
the number of a row.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from typing import Any

from pyasynclife._arguments import cut

_CHUNK = 1 << 16  # bytes that are collected before they are written
_BEGIN, _BETWEEN, _END = b"[\n", b",\n", b"\n]\n"
_TEXT = 1000  # characters that are shown

Event = dict[str, Any]


def bar(name: str, row: int, begin: float, end: float, **args: Any) -> Event:
    """Make a "complete" event, from two times in seconds."""
    since = _microseconds(begin)
    times = {"ts": since, "dur": max(0, _microseconds(end) - since)}
    return _event("X", name, row, args) | {"cat": "task"} | times


def mark(name: str, row: int, at: float, **args: Any) -> Event:
    """Make an "instant" event, which is shown in its row."""
    at_place = {"cat": "task", "s": "t", "ts": _microseconds(at)}
    return _event("i", name, row, args) | at_place


def title(what: str, row: int, name: str) -> Event:
    """Make a "metadata" event, which names a row or the process."""
    return _event("M", what, row, {"name": name})


def _event(kind: str, name: str, row: int, args: dict[str, Any]) -> Event:
    shown = {
        key: cut(value, _TEXT) if type(value) is str and key != "id" else value
        for key, value in args.items()
        if value is not None
    }
    event = {"name": name, "ph": kind, "pid": os.getpid(), "tid": row}
    return event | {"args": shown} if shown else event


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _open(path: str, flags: int) -> int:
    """Open a file, and make it empty unless another process or recording writes it."""
    # A FIFO that nobody reads is an error at once.
    file = os.open(path, flags & ~os.O_TRUNC | os.O_NONBLOCK, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = "another recording writes it"
            raise BlockingIOError(errno.EWOULDBLOCK, why, path) from None
        except OSError:
            pass  # this file system has no locks
        if os.lseek(file, 0, os.SEEK_END):
            os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file


class TraceFile:
    """A file that is an array of objects in JSON, complete after each write.

    Raises:
        OSError: The file cannot be opened, or another TraceFile has it open.
    """

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb", buffering=0, opener=_open)  # noqa: SIM115
        self._size = 0  # of what is written, without the end of the array
        self._waiting = bytearray()

    def add(self, *events: Event) -> None:
        """Add events; they are written when there are many, or by flush()."""
        data = bytearray()
        for event in events:
            is_first = not (self._size or self._waiting or data)
            data += _BEGIN if is_first else _BETWEEN
            data += json.dumps(event, separators=(",", ":")).encode()
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
        with suppress(OSError):  # a child that was forked would keep the lock
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def _write_at_end(self, data: bytes | bytearray) -> None:
        self._file.seek(self._size)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
