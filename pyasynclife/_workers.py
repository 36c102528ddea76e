"""The old names of _core_support, until the core uses the new ones."""

from pyasynclife._core_support import (
    hold_abandoned as keep,
    read_source as read,
    run_item,
    run_worker as work,
)
