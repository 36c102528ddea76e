"""Fixtures for pytest.

Installing pyasynclife does not activate them. To use them, write
``pytest_plugins = ["pyasynclife.testing.pytest"]`` in the topmost ``conftest.py``, or
``-p pyasynclife.testing.pytest`` in ``addopts``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyasynclife import testing
from pyasynclife._await_chain import dump_tasks
from pyasynclife.testing import CancelReport, VirtualTimeLoop


@pytest.fixture
def cancel_everywhere() -> Callable[..., CancelReport]:
    """Return `cancel_everywhere`; it fails the test with its report."""

    def run(scenario: Any, **options: Any) -> CancelReport:
        report = testing.cancel_everywhere(scenario, **options)
        if not report.ok:
            pytest.fail(str(report), pytrace=False)
        return report

    return run


@pytest.fixture
def virtual_time_loop() -> Iterator[VirtualTimeLoop]:
    """Yield a `VirtualTimeLoop`; the test fails if it leaves a task in it."""
    loop = VirtualTimeLoop()
    try:
        yield loop
        left = asyncio.all_tasks(loop)
        where = dump_tasks(left)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=3600.0))
            pytest.fail(f"tasks left: {where}", pytrace=False)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
