"""What standard input and output are."""

import os
from typing import Any


def is_terminal(file: Any) -> bool:
    """Return whether a file, or None, is open and a terminal."""
    return file is not None and not file.closed and bool(file.isatty())


def is_dumb() -> bool:
    """Return whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
