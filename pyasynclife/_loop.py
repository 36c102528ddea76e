"""The old names of _core_support, until the core uses the new ones."""

from pyasynclife._core_support import (
    add_awaited_by,
    cancel_again,
    discard_awaited_by,
    future_callbacks,
    future_exception,
    future_state,
    is_capture_allowed as capture_wanted,
    loop_clock,
    loop_fast_paths as loop_terms,
    raise_exit,
    report_callback_error as tell_of_callback,
    self_test_coroutine as nothing,
    task_waiter,
)
