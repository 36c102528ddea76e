"""Marks for tests that need a version, a package or the capture."""

import importlib.util
import os
import sys

import pytest

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
SANITIZED = "asan" in os.environ.get("LD_PRELOAD", "")
"""Whether the address sanitizer is loaded, which keeps freed memory for long."""
PLAIN = os.environ.get("PYASYNCLIFE_PLAIN", "0") not in ("", "0")

needs_uvloop = pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed")
needs_eager = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with 3.12"
)
needs_capture = pytest.mark.skipif(PLAIN, reason="the capture is turned off")
