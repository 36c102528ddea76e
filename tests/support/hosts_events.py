"""What the applications of the host tests share: options, and a log of events."""

import json
import logging
import os
import time
from typing import Any

from pyasynclife import SignalCoordinator, TaskRegistry

WITH_US = os.environ["HOSTS_WITH_US"] == "1"
"""Whether the application has a coordinator, or is the same one without."""


def note(event: str) -> None:
    """Append an event to the log: one write, for several processes share the file."""
    line = json.dumps([event, os.getpid(), time.monotonic()])
    with open(os.environ["HOSTS_EVENTS"], "a") as log:
        log.write(f"{line}\n")


class _Reports(logging.Handler):
    """Note the report that is logged at the end."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("shutdown of"):
            note(f"report {'ok' if record.levelno == logging.INFO else 'not ok'}")


def make() -> tuple[SignalCoordinator, TaskRegistry]:
    """Make the coordinator, with the options of the test, and the registry."""
    logger = logging.getLogger("pyasynclife")
    logger.setLevel(logging.INFO)
    logger.addHandler(_Reports())
    logger.propagate = False
    options: dict[str, Any] = json.loads(os.environ["HOSTS_OPTIONS"])
    registry = TaskRegistry()
    coordinator = SignalCoordinator(
        10.0,
        registry=registry,
        on_signal=lambda signum, count: note(f"signal {coordinator.phase}"),
        **options,
    )
    return coordinator, registry
