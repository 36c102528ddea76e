"""The lines of a ShutdownReport's table on the tasks that went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyasynclife._arguments import counted, cut

if TYPE_CHECKING:
    from pyasynclife._report import TaskExit

_TEXT = 200  # at most so many characters of an id and of an error are shown
_NAMES = 3  # of so many tasks of a group the ids are shown
_GROUPS = 20  # of each outcome


def describe(outcome: str, exits: list[TaskExit]) -> Iterator[str]:
    """Yield the lines of the tasks of one outcome; equal ends are one group."""
    groups: dict[Any, list[TaskExit]] = {}
    for one in exits:
        groups.setdefault((_error_of(one), tuple(one.where)), []).append(one)
    largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (error, where), group in largest_first[:_GROUPS]:
        words = [_names_of(group), *_times_of(group), *([error] if error else [])]
        yield f"{outcome}: {', '.join(words)}"
        for line in where:
            yield f"    {line}"
    rest = largest_first[_GROUPS:]
    if rest:
        tasks = sum(len(group) for _, group in rest)
        yield f"{outcome}: and {tasks} more, in {counted(len(rest), 'smaller group')}"


def _names_of(group: list[TaskExit]) -> str:
    some = [cut(one.task_id or one.name, _TEXT) for one in group[:_NAMES]]
    if len(group) > _NAMES:
        some.append("...")
    return f"{len(group)} x {', '.join(some)}" if len(group) > 1 else some[0]


def _times_of(group: list[TaskExit]) -> Iterator[str]:
    for what, of in (("age", "age"), ("silent", "silence")):
        seconds = [getattr(one, of) for one in group if getattr(one, of) is not None]
        if seconds:
            least, most = f"{min(seconds):.1f}", f"{max(seconds):.1f}"
            yield f"{what} {least if least == most else f'{least} to {most}'} s"


def _error_of(one: TaskExit) -> str:
    if one.error is None:
        return ""
    return f"{type(one.error).__name__}: {cut(_text_of(one.error), _TEXT)}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<str() failed>"
