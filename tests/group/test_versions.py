"""The traps of groups: ours avoids each, asyncio's own has those in the table.

The table is tested for both groups on the releases it was made on, and against the
table in docs/how-to/task-group.md.
"""

import asyncio
import json
import sys
import textwrap
from dataclasses import dataclass

import pytest

from pyasynclife import TaskGroup
from support import group_scenarios as g
from support.children import ROOT, run_child

MADE_ON = {(3, 11, 7), (3, 12, 1), (3, 13, 0), (3, 14, 8), (3, 15, 0)}
HERE = sys.version_info[:3]
MINOR = f"3.{sys.version_info.minor}"
EAGER = "3.12 3.13 3.14 3.15"  # where Tasks can start eagerly
ALL = f"3.11 {EAGER}"


@dataclass(frozen=True)
class Trap:
    """A scenario, the versions whose own group fails it, and those that can run it."""

    scenario: g.Scenario
    asyncio_fails: str = ""
    on: str = ALL
    issue: str = ""


TRAPS = [
    Trap(g.nested_groups_that_fail_in_one_iteration, "3.11 3.12", issue="116720"),
    Trap(
        g.an_outer_cancellation_in_the_iteration_of_a_failure,
        "3.11 3.12",
        issue="116720",
    ),
    Trap(g.cancelled_at_every_iteration_of_nested_groups),
    Trap(g.cancelled_at_every_iteration_of_failing_nested_groups, "3.11 3.12"),
    Trap(g.a_failure_under_a_timeout_that_has_expired),
    Trap(g.a_group_that_failed_at_its_end_leaves_no_cancel_count, "3.11 3.12"),
    Trap(
        g.a_group_that_failed_eagerly_leaves_no_cancel_count,
        "3.12",
        EAGER,
        "133747, 117407",
    ),
    Trap(g.a_subclass_of_cancelled_error_is_a_cancellation, "3.11 3.12", ALL, "113848"),
    Trap(g.a_keyboard_interrupt_does_not_bury_errors, ALL, ALL, "135736"),
    Trap(g.a_system_exit_does_not_bury_errors, ALL, ALL, "135736"),
    Trap(g.a_lone_generator_exit_propagates_bare, "3.11 3.12 3.13 3.14"),
    # eager children
    Trap(g.an_eager_child_starts_a_sibling_that_fails, "3.12 3.13", EAGER, "128550"),
    Trap(
        g.an_eager_child_that_fails_leaves_the_body_alone, "3.12 3.13", EAGER, "128588"
    ),
    Trap(g.an_eager_child_runs_in_its_own_task, "", EAGER),
    Trap(g.eager_start_is_a_keyword, "3.12 3.13", EAGER),
    Trap(g.an_eager_start_in_a_context_entered_already, EAGER, EAGER, "157301"),
    # cancel(), which asyncio's group has from 3.15 on
    Trap(g.cancel_ends_a_group_without_an_error, "3.11 3.12 3.13 3.14"),
    Trap(g.cancel_before_entering, "3.11 3.12 3.13 3.14"),
    Trap(g.a_cancel_not_delivered_is_absorbed, "3.11 3.12 3.13 3.14", ALL, "117407"),
    Trap(
        g.an_eager_child_that_cancels_its_group_is_cancelled,
        "3.12 3.13 3.14",
        EAGER,
        "155418",
    ),
    Trap(
        g.an_outer_cancellation_survives_cancel_at_the_end,
        "3.11 3.12 3.13 3.14",
        issue="155433",
    ),
    Trap(g.an_outer_cancellation_survives_cancel_in_the_body, ALL, ALL, "155433"),
    # refused coroutines
    Trap(g.a_coroutine_refused_after_the_end_is_closed, "3.11 3.12", ALL, "115957"),
    Trap(g.a_coroutine_refused_before_the_start_is_closed, "3.11 3.12", ALL, "115957"),
    Trap(
        g.a_coroutine_refused_while_shutting_down_is_closed, "3.11 3.12", ALL, "115957"
    ),
    Trap(g.a_child_that_starts_tasks_while_it_is_cancelled, "3.11 3.12", ALL, "115957"),
    Trap(
        g.a_coroutine_that_fails_to_close_is_refused_by_its_own_error,
        "3.11 3.12",
        ALL,
        "115957",
    ),
    Trap(g.a_coroutine_awaited_already_is_an_error),
    # reference cycles
    Trap(g.the_error_of_a_child_is_freed, "3.11 3.12 3.13", issue="124958"),
    Trap(g.the_error_of_the_body_is_freed, "3.11 3.12 3.13", issue="124958"),
    Trap(g.a_base_error_is_freed, "3.11 3.12 3.13", issue="124958"),
    Trap(g.the_outer_cancellation_is_freed, "3.11 3.12 3.13", issue="124958"),
    Trap(g.the_failed_child_is_freed, issue="98543, 128552"),
    # children
    Trap(g.a_child_that_raises_cancelled_error_is_one_child_cancelled),
    Trap(g.a_child_that_cancels_itself_and_returns),
    Trap(g.a_child_that_swallows_its_cancellation_is_waited_for, issue="76362"),
    Trap(g.a_child_may_uncancel_itself),
    Trap(g.a_child_without_a_reference_is_kept, issue="91887"),
    Trap(g.each_child_has_a_context_of_its_own),
]
TRIED_HERE = [
    pytest.param(trap, id=trap.scenario.__name__)
    for trap in TRAPS
    if MINOR in trap.on.split()
]


def test_every_scenario_is_in_the_table() -> None:
    assert [*g.SCENARIOS.values()] == sorted(
        (trap.scenario for trap in TRAPS), key=[*g.SCENARIOS.values()].index
    )


@pytest.mark.parametrize("trap", TRIED_HERE)
async def test_our_group_passes(trap: Trap) -> None:
    task = asyncio.create_task(trap.scenario(TaskGroup))
    await asyncio.wait([task], timeout=15)
    assert task.done()
    task.result()


# One child, which forks for each scenario; in virtual time a hang takes no time.
ASYNCIO = f"""
    import asyncio, faulthandler, json, os, sys, tempfile
    sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
    from support import group_scenarios
    from pyasynclife.testing import VirtualTimeLoop

    def run(scenario):
        faulthandler.dump_traceback_later(15, exit=True)
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(asyncio.wait_for(scenario(asyncio.TaskGroup), 6))
        faulthandler.cancel_dump_traceback_later()

    for name in sys.argv[1:]:
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if not child:
                os.dup2(output.fileno(), 2)
                run(group_scenarios.SCENARIOS[name])
                break
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            print(json.dumps([name, status, output.read().decode()]), flush=True)
"""


@pytest.fixture(scope="module")
def asyncios_results() -> dict[str, tuple[int, str]]:
    """The exit status and the stderr of each scenario with asyncio's own group."""
    names = [trap.scenario.__name__ for trap in TRAPS if MINOR in trap.on.split()]
    child = run_child(["-c", textwrap.dedent(ASYNCIO), *names], timeout=120)
    assert (child.returncode, child.stderr) == (0, "")
    lines = map(json.loads, child.stdout.splitlines())
    return {name: (status, stderr) for name, status, stderr in lines}


@pytest.mark.skipif(HERE not in MADE_ON, reason="the table was made on other releases")
@pytest.mark.parametrize("trap", TRIED_HERE)
def test_asyncios_group_fails_where_the_table_says(
    trap: Trap, asyncios_results: dict[str, tuple[int, str]]
) -> None:
    status, stderr = asyncios_results[trap.scenario.__name__]
    assert (status != 0) == (MINOR in trap.asyncio_fails.split()), stderr


DOCS = ROOT / "docs" / "how-to" / "task-group.md"
# The beginning of a row, and the scenarios that test it.
ROWS: dict[str, list[g.Scenario]] = {
    "groups nested in each other fail in one iteration:": [
        g.nested_groups_that_fail_in_one_iteration
    ],
    "a cancellation from outside comes while a": [
        g.an_outer_cancellation_in_the_iteration_of_a_failure,
        g.cancelled_at_every_iteration_of_failing_nested_groups,
    ],
    "a subclass of `CancelledError` is a": [
        g.a_subclass_of_cancelled_error_is_a_cancellation
    ],
    "a coroutine that the group refuses is closed": [
        g.a_coroutine_refused_after_the_end_is_closed,
        g.a_coroutine_refused_before_the_start_is_closed,
        g.a_coroutine_refused_while_shutting_down_is_closed,
    ],
    "what the group raised is freed without the": [
        g.the_error_of_a_child_is_freed,
        g.the_error_of_the_body_is_freed,
        g.a_base_error_is_freed,
        g.the_outer_cancellation_is_freed,
    ],
    "a failed group leaves no cancel count behind": [
        g.a_group_that_failed_at_its_end_leaves_no_cancel_count
    ],
    "the same, where an eager child has failed": [
        g.a_group_that_failed_eagerly_leaves_no_cancel_count
    ],
    "an eager child may start a sibling that fails;": [
        g.an_eager_child_starts_a_sibling_that_fails
    ],
    "an eager child that fails does not cancel the": [
        g.an_eager_child_that_fails_leaves_the_body_alone
    ],
    "`create_task(..., eager_start=True)`": [g.eager_start_is_a_keyword],
    "`cancel()`, before entering too": [
        g.cancel_ends_a_group_without_an_error,
        g.cancel_before_entering,
    ],
    "a lone `GeneratorExit` of the body leaves bare": [
        g.a_lone_generator_exit_propagates_bare
    ],
    "a cancellation from outside while `cancel()`": [
        g.an_outer_cancellation_survives_cancel_in_the_body
    ],
    "errors that a `KeyboardInterrupt` or": [
        g.a_keyboard_interrupt_does_not_bury_errors,
        g.a_system_exit_does_not_bury_errors,
    ],
    "an eager start in a context that is entered": [
        g.an_eager_start_in_a_context_entered_already
    ],
}


def test_the_docs_have_the_same_table() -> None:
    lines = [line.strip("| ").split(" | ") for line in DOCS.read_text().splitlines()]
    versions = ALL.split()
    first = next(n for n, line in enumerate(lines) if line[1:] == versions)
    rows = {}
    for row, *cells in lines[first + 2 :]:
        if not cells:
            break
        rows[row] = cells
    assert len(rows) == len(ROWS)
    traps = {trap.scenario: trap for trap in TRAPS}
    for (row, cells), (start, scenarios) in zip(
        rows.items(), ROWS.items(), strict=True
    ):
        assert row.startswith(start)
        for trap in (traps[each] for each in scenarios):
            fails, on = trap.asyncio_fails.split(), trap.on.split()
            wanted = [
                "-" if v not in on else "no" if v in fails else "yes" for v in versions
            ]
            assert cells == wanted, (row, trap.scenario.__name__)
