"""For tests: virtual time, and scenarios cancelled at every iteration of their loop.

For pytest there are fixtures in ``pyasynclife.testing.pytest``.
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
