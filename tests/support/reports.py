"""What a ShutdownReport lists."""

from pyasynclife import ShutdownReport, TaskExit

LISTS = ("finished", "cancelled", "failed", "swallowed", "stuck")


def exits(report: ShutdownReport) -> dict[str, list[TaskExit]]:
    """The lists of a report that are not empty, by their names."""
    every = {name: getattr(report, name) for name in LISTS}
    return {name: ends for name, ends in every.items() if ends}
