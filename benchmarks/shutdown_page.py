"""The page docs/explanation/shutdown-compared.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.shutdown_runs import KILLED_AFTER, SCENARIOS, SLACK, Run

NAME = "shutdown-compared.md"

HEAD = """# Shutdown, compared

A service that is stopped badly loses work: a `finally` block that flushes a buffer does
not run, a request is dropped, or the process hangs until it is killed, and the log does
not show why. This page shows what the same service loses in the same situations under
`asyncio.run`, aiorun, uvicorn and pyasynclife.

Written by `make bench-shutdown`. Each run is a child process with real signals, on the
standard loop. `benchmarks/shutdown_programs.py` is the service, and
`benchmarks/shutdown_runs.py` has the scenarios. The signal is SIGTERM if nothing else
is said.

- `asyncio.run` runs the service as it is. *with handlers* adds the usual lines:
  `loop.add_signal_handler(signum, main_task.cancel)` for SIGTERM and SIGINT.
- aiorun has `timeout_task_shutdown=` set to the deadline.
- uvicorn has `timeout_graceful_shutdown=` (`--timeout-graceful-shutdown`) set to a
  third of the deadline. The lifespan starts the tasks, and at its end cancels them and
  waits for another third of the deadline, with `asyncio.wait()`.
- [`pyasynclife.run`](../how-to/run.md) has `shutdown_timeout=` set to the deadline.
- *uvicorn with pyasynclife* has the same uvicorn, and the
  [lifespan](../how-to/servers.md) of a `SignalCoordinator` with `kill_after=` set to
  the deadline.
"""

LEGEND = f"""
A cell says what was lost, and then how the process ended: after how many seconds, and
with which status or by which signal.

- *cleanup*: a `finally` block did not run to its end.
- *the deadline*: the process still ran {SLACK:g} s after its deadline. It was killed
  {KILLED_AFTER:g} s after its deadline.
- *Ctrl-C*: the process did not end at the third press.
- *the name*: the output does not name the code that hangs. *the line*: the output names
  the task, but not the line where it hangs.
- *the answer*: the client received no answer.
"""

TAIL = """
## What each does well

- `asyncio.run` runs the cleanup of tasks and of asynchronous generators when `main` is
  cancelled. The second Ctrl-C ends it; with `pyasynclife.run` it is the third. By
  itself it does not handle SIGTERM, which ends the process at once. It waits for tasks
  without a limit, and for threads of the executor for 300 s (on 3.11 without a limit).
- aiorun handles SIGTERM and SIGINT with `signal.signal`, so a [full
  self-pipe](lost-signals.md) loses neither. It cancels all tasks but those that
  `shutdown_waits_for()` protects, closes asynchronous generators, limits the time for
  tasks, and logs the frame of each task that did not end: that is the line, unless the
  task waits in a function that it awaits. It waits for threads without a limit, and
  ignores signals meanwhile.
- uvicorn finishes its requests, limits their time, and loses no signal. It raises the
  signal again at its end, so after SIGTERM nothing that is left holds the process up.
  After SIGINT this raises KeyboardInterrupt, and `asyncio` waits for the tasks that are
  left.
- pyasynclife keeps the deadline in each of these scenarios, and names what did not end
  unless uvicorn ends the process first.

## Where pyasynclife is no better

- A single SIGTERM loses nothing of tasks that end when they are cancelled, under any
  of the others that handles SIGTERM. Nor does it lose a request under uvicorn.
- uvicorn ends the process by the signal before `asyncio.run` closes asynchronous
  generators, and before the threads of executors are joined. A `SignalCoordinator` in
  its lifespan does not change that: the generator's cleanup is lost, and nothing names
  the thread.
- uvicorn takes two SIGINTs within 50 ms for two presses, and skips the end of its
  lifespan. `asyncio.run` then cancels all tasks, in no particular order. If it cancels
  a task of the registry before the lifespan, the block of the registry cancels the task
  once more, as `asyncio.TaskGroup` does with its children, and the task's cleanup ends.
  The hand-written lifespan cancels nothing then.
"""


def write_page(folder: Path, where: Mapping[str, str], runs: Sequence[Run]) -> None:
    """Write the page into a folder.

    where: the facts at its head.  runs: the runs, of any contenders and scenarios.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = [f"- {name}: {fact}" for name, fact in where.items()]
    parts = [HEAD, *facts, LEGEND, *_table(runs), TAIL.rstrip()]
    (folder / NAME).write_text("\n".join(parts) + "\n")


def _table(runs: Sequence[Run]) -> list[str]:
    contenders = list(dict.fromkeys(run.contender for run in runs))
    cells: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        cells.setdefault((run.scenario, run.contender), []).append(run)
    lines = [f"| | {' | '.join(contenders)} |", "| --- |" + " --- |" * len(contenders)]
    for name, scenario in SCENARIOS.items():
        row = [_cell(cells.get((name, contender), [])) for contender in contenders]
        if any(row):
            lines.append(f"| {scenario.about} | {' | '.join(row)} |")
    return lines


def _cell(runs: Sequence[Run]) -> str:
    """Return the outcome of the worst run, and how many were as bad."""
    if not runs:
        return ""
    worst = max(runs, key=lambda run: len(run.losses))
    if not worst.losses:
        return f"nothing; {worst.end}"
    often = sum(len(run.losses) == len(worst.losses) for run in runs)
    share = f" in {often} of {len(runs)} runs" if often < len(runs) else ""
    return f"**{', '.join(worst.losses)}**{share}; {worst.end}"
