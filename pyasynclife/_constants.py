"""The numbers of the native core's enums, as csrc/ counts them."""

from __future__ import annotations

from typing import Final

# BatchCore.use(), BatchCore.mode: who takes the results of a batch.
MODE_OPEN: Final = 1  # an `async with` block, which may still await or iterate
MODE_COLLECT: Final = 2  # an await
MODE_STREAM: Final = 3  # an iteration
MODE_BLOCK: Final = 4  # an `async with` block that did neither

# BatchCore.stopping: why a batch was stopped.
STOP_NONE: Final = 0
STOP_BUDGET: Final = 1
STOP_ERRORS: Final = 2
STOP_CANCEL: Final = 3
STOP_FATAL: Final = 4

# TaskResult._restore(): the state of a result.
RESULT_PENDING: Final = 0
RESULT_DONE: Final = 1
RESULT_FAILED: Final = 2
RESULT_CANCELLED: Final = 3
