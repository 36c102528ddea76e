"""The client half: ask a process over its socket."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from pyasynclife._monitor.socket_file import with_path

TIMEOUT = 5.0  # seconds for each line of an answer

_FOREIGN = "what answers there is not TaskRegistry.serve()"


class MonitorError(Exception):
    """The process does not answer, or refuses; the message says why."""


class Connection:
    """A connection to `TaskRegistry.serve`.

    Args:
        path: The path of the socket.

    Raises:
        MonitorError: Nobody serves there.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            why = _why(error, path)
            raise MonitorError(f"cannot connect to {path}: {why}") from None
        self._lines: BinaryIO = self._socket.makefile("rb")

    def ask(self, **request: Any) -> Iterator[dict[str, Any]]:
        """Send a request; return an iterator over the lines of the answer, unending.

        Raises:
            MonitorError: The process has ended, is silent for 5 s, or refuses.
        """
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while line := self._lines.readline():
                answer = _parse(line)
                if "error" in answer:
                    raise MonitorError(f"the process refuses: {answer['error']}")
                yield answer
        except TimeoutError:
            raise MonitorError(
                f"the process has not answered for {TIMEOUT:g} s: its loop is blocked, "
                "or another program serves there"
            ) from None
        except OSError as error:
            raise MonitorError(f"the connection broke: {error}") from None
        raise MonitorError("the process has ended, or does not serve any more")

    def top(self, sort: str, text: str, rows: int) -> dict[str, Any]:
        """Return what a live view shows."""
        return next(self.ask(ask="top", sort=sort, filter=text, rows=rows))

    def tasks(self, stale: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the counts and the tasks."""
        tasks: list[dict[str, Any]] = []
        for answer in self.ask(ask="tasks", stale=stale):
            tasks += answer.get("tasks", ())
            if "stats" in answer:
                return answer["stats"], tasks
        raise AssertionError("ask() does not end")

    def cancel(self, task_id: str) -> bool:
        """Cancel a task; return whether it was alive."""
        answer = next(self.ask(ask="cancel", id=task_id))
        if "cancelled" not in answer:
            raise MonitorError(_FOREIGN)
        return bool(answer["cancelled"])

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()


def _why(error: OSError, path: str) -> str:
    """Return why nobody could connect to a path."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return str(with_path(error, path).strerror)
    if not stat.S_ISSOCK(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a socket"
        return f"it is {what}: pass the path that TaskRegistry.serve() was given"
    if error.errno == errno.ECONNREFUSED:
        return "nobody serves there any more: the process that did has ended"
    if error.errno == errno.EPROTOTYPE:
        return "it is the socket of another program"
    return str(with_path(error, path).strerror)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise MonitorError(_FOREIGN)
    return answer
