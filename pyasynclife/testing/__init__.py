"""Tools for tests: virtual time, and cancellation at every iteration of the loop.

``pyasynclife.testing.pytest`` has fixtures for pytest.
"""

from pyasynclife.testing._cancel import cancel_everywhere
from pyasynclife.testing._report import CancelReport, Violation
from pyasynclife.testing._virtual import HangError, VirtualTimeLoop

__all__ = [
    "CancelReport",
    "HangError",
    "Violation",
    "VirtualTimeLoop",
    "cancel_everywhere",
]
