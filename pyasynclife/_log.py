"""The logger of the package, named "pyasynclife"."""

from __future__ import annotations

import logging

logger = logging.getLogger("pyasynclife")
