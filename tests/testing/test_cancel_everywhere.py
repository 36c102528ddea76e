"""The package's coroutines, cancelled at each iteration: a sample of the points.

`make cancel-everywhere` runs all points.
"""

import asyncio
import inspect
import re
import sys

import pytest

import pyasynclife.console
from pyasynclife.testing import cancel_everywhere
from support import (
    cancel_scenarios,
    cancel_scenarios_articles,
    cancel_scenarios_contrib,
    cancel_scenarios_live,
)
from support.cancel_scenarios import OURS, SHAPES, Case, group_case
from support.cancel_scenarios_stock import STOCK
from support.children import PATH, ROOT, run_child
from support.loops import SEED

TOOL = str(ROOT / "tools" / "cancel_everywhere.py")


@pytest.mark.parametrize("seed", [SEED])
def test_a_sample_with_and_without_the_capture_has_no_violation(seed: str) -> None:
    sample = [TOOL, "--sample", "400", "--seed", seed]
    child = run_child(sample, timeout=300, env=PATH)
    print(child.stdout)
    assert (child.returncode, child.stderr) == (0, "")
    figures = re.findall(r"(\d+) points, (\d+) violations", child.stdout)
    assert len(figures) == 2
    assert all(int(points) > 200 for points, _ in figures)


def test_a_violation_is_printed_and_fails_the_run() -> None:
    code = f"""
        import runpy, sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        import asyncio
        from support import cancel_scenarios
        from support import cancel_scenarios_articles, cancel_scenarios_contrib
        from support import cancel_scenarios_live

        async def swallows():
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                pass

        cancel_scenarios.OURS[:] = [cancel_scenarios.Case("swallows", swallows)]
        sys.argv[1:] = []
        runpy.run_path({TOOL!r}, run_name="__main__")
    """
    child = run_child(code, env=PATH | {"PYASYNCLIFE_PLAIN": "1"})
    assert child.returncode == 1, child.stderr
    assert "swallowed, cancelled at turn 2" in child.stdout
    assert "without the capture: 1 scenarios" in child.stdout


def public_coroutines() -> set[str]:
    found = set()
    for module in (pyasynclife, pyasynclife.console):
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.iscoroutinefunction(thing):
                found.add(name)
            elif inspect.isclass(thing):
                found |= {
                    f"{name}.{method}"
                    for method, function in inspect.getmembers(thing, callable)
                    if inspect.iscoroutinefunction(function) and method[0] != "_"
                }
    return found


def test_every_public_coroutine_is_in_a_scenario() -> None:
    modules = (
        cancel_scenarios,
        cancel_scenarios_articles,
        cancel_scenarios_contrib,
        cancel_scenarios_live,
    )
    text = "".join(map(inspect.getsource, modules))
    used = {name for name in public_coroutines() if f"{name.split('.')[-1]}(" in text}
    missing = public_coroutines() - used
    assert not missing, (
        f"write scenarios in tests/support/cancel_scenarios*.py for {missing}"
    )
    assert {"Batch.collect", "Tracked.collect", "TaskRegistry.shutdown"} <= used
    blocks = (
        "TaskGroup()",
        "TaskRegistry()",
        "SignalCoordinator(",
        "lifespan(",
        "notify(",
        "watch, LoopWatch()",
    )
    for made in blocks:
        assert f"async with {made}" in text


def test_no_two_scenarios_have_the_same_name() -> None:
    names = [case.name for case in OURS]
    assert len(set(names)) == len(names) > 400


@pytest.mark.parametrize("case", STOCK["gather"][:1], ids=lambda case: case.name)
def test_asyncios_own_gather_is_found_wrong(case: Case) -> None:
    assert "task left" in str(cancel_everywhere(case.scenario))


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="fixed in 3.13")
def test_asyncios_own_group_is_found_wrong_by_our_scenarios() -> None:
    (function,) = (one for one in SHAPES if one.__name__ == "a_child_that_fails")
    theirs = cancel_everywhere(group_case(function, asyncio.TaskGroup, "").scenario)
    ours = cancel_everywhere(group_case(function, pyasynclife.TaskGroup, "").scenario)
    assert not theirs.ok
    assert ours.ok, ours
