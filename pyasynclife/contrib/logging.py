"""The id of the registered task in every log record.

Nothing but the standard library is needed.
"""

from __future__ import annotations

import logging

from pyasynclife._arguments import short
from pyasynclife._core import Owner, owner

__all__ = ["TaskIdFilter"]


class TaskIdFilter(logging.Filter):
    """Set ``record.task_id`` to the id of the registered task that logs.

    Args:
        default: The ``task_id`` of a record that no registered task has logged; None
            suits a formatter that writes JSON.

    Raises:
        TypeError: ``default`` is neither a str nor None.

    The id is found in the context, so records of children, items, jobs, callbacks and
    threads of `asyncio.to_thread` have the id of the task that has started them, even
    if that task has ended. A record that has a ``task_id`` keeps it: those of this
    package, and those logged with ``extra={"task_id": ...}``.

    Add it to handlers: a filter of a logger sees no record of the loggers below it. The
    record must be filtered where it is logged, so with a queue add it to the
    QueueHandler, not to the handlers of the QueueListener. It drops no record::

        handler.addFilter(TaskIdFilter())
        handler.setFormatter(logging.Formatter("%(task_id)s %(message)s"))
    """

    def __init__(self, default: str | None = "-") -> None:
        if default is not None and not isinstance(default, str):
            raise TypeError(f"default must be a str or None, got {short(default)}")
        super().__init__()
        self._default = default

    def __repr__(self) -> str:
        """Return the type and the default."""
        return f"{type(self).__name__}(default={self._default!r})"

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the record's ``task_id``, unless it has one; return True."""
        if "task_id" not in record.__dict__:
            found = owner.get(None)
            # a program may have set the variable by hand
            if type(found) is Owner:
                record.task_id = found.task_id
            else:
                record.task_id = self._default
        return True
