"""CPython's own tests of TaskGroup, run with ours in place of asyncio's.

They are the tests of the running version, and on older versions those of 3.15 too:
ours behaves as 3.15's everywhere. Each runs in debug mode, which selects the plain
path, and without it, which goes through the capture. `make matrix` finds 3.15's tree;
elsewhere PYASYNCLIFE_CPYTHON_315 names a folder that contains 3.15's `test` package.
"""

import asyncio
import importlib.util
import inspect
import sys
import unittest
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pyasynclife
from support.differential import NEWEST

FILE = "test/test_asyncio/test_taskgroups.py"
OWN = Path(unittest.__file__).parent.parent
RUNNING = sys.version_info[:2]

ASYNCIO_CLOSES = "coro.close()" in inspect.getsource(asyncio.taskgroups)

EAGER = "TestEagerTaskTaskGroup"

# Version of the tests, test, where it fails, why: each is meant to fail there.
REFUSED = "reuses a coroutine that the group refused: ours closes it, as 3.13's does"
KEPT = "the frame of the loop's create_task keeps an eager task (gh-128552)"
LOOP_KEEPS = RUNNING >= (3, 12) and "del task\n" not in inspect.getsource(
    asyncio.BaseEventLoop.create_task
)
NAMED = "this version's loop names an eager task after its first step"
DIFFERENCES: list[tuple[str, str, bool, str]] = [
    ("own", "test_taskgroup_finished", not ASYNCIO_CLOSES, REFUSED),
    ("own", "test_taskgroup_not_entered", not ASYNCIO_CLOSES, REFUSED),
    ("own", "test_taskgroup_without_parent_task", not ASYNCIO_CLOSES, REFUSED),
    (
        "own",
        "test_taskgroup_no_create_task_after_failure",
        not ASYNCIO_CLOSES,
        REFUSED,
    ),
    ("3.15", f"{EAGER}.test_name", RUNNING < (3, 14), NAMED),
    ("3.15", f"{EAGER}.test_exception_refcycles_parent_task", LOOP_KEEPS, KEPT),
    ("3.15", f"{EAGER}.test_exception_refcycles_parent_task_wr", LOOP_KEEPS, KEPT),
]


# ------------------------------------------------------------------ the shim


def load(label: str, path: Path) -> ModuleType | None:
    """The test module, given what it expects of asyncio."""
    spec = importlib.util.spec_from_file_location(f"cpython_{label}", path)
    if not path.exists() or spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        give_event_loop(patch)
        spec.loader.exec_module(module)
    if RUNNING < (3, 14):  # coroutines show their locals to gc from 3.14 on
        vars(module)["no_other_refs"] = list
    return module


def give_event_loop(patch: pytest.MonkeyPatch) -> None:
    if RUNNING < (3, 13):
        patch.setattr(asyncio, "EventLoop", asyncio.SelectorEventLoop, raising=False)


class WithLoopFactory:
    """IsolatedAsyncioTestCase has `loop_factory` from 3.13 on, and is in debug mode."""

    loop_type: Any = None

    debug = True

    def _setupAsyncioRunner(self) -> None:
        factory = getattr(self, "loop_factory", None)
        if self.loop_type is not None:
            assert factory is None or isinstance(factory, type)
            factory = self.loop_type
        runner = asyncio.Runner(debug=self.debug, loop_factory=factory)
        self._asyncioRunner = runner


# ------------------------------------------------------------------ the tests


def cases(label: str, tree: Path) -> list[tuple[str, str, type]]:
    try:
        module = load(label, tree / FILE)
    except ImportError:  # a distribution may omit the test package
        return []
    found = []
    for name, kind in sorted(vars(module).items() if module else ()):
        if isinstance(kind, type) and issubclass(kind, unittest.TestCase):
            if "Eager" in name and not hasattr(asyncio, "eager_task_factory"):
                continue
            kind = type(name, (WithLoopFactory, kind), {})
            for test in unittest.TestLoader().getTestCaseNames(kind):
                found.append((label, f"{name}.{test}", kind))
    return found


CASES = cases("own", OWN)
if RUNNING < (3, 15):
    CASES += cases("3.15", NEWEST)


def difference(label: str, test: str) -> str | None:
    for version, named, differs, reason in DIFFERENCES:
        if differs and version == label and named in (test, test.split(".")[1]):
            return reason
    return None


def test_the_tests_of_the_running_version_are_there() -> None:
    if not any(label == "own" for label, *_ in CASES):
        pytest.skip(f"this interpreter has no {FILE}")
    if RUNNING < (3, 15) and not any(label == "3.15" for label, *_ in CASES):
        pytest.skip(f"not run: 3.15's {FILE}: no {NEWEST}")


def modes(test: str, kind: type) -> list[str]:
    source = inspect.getsource(getattr(kind, test.split(".")[1]))
    own_loop = "Eager" in test or "get_event_loop" in source
    return ["debug", "capture"] if own_loop else ["debug", "capture", "uvloop"]


@pytest.mark.parametrize(
    ("label", "test", "kind", "mode"),
    [
        pytest.param(label, test, kind, mode, id=f"{label}-{test}-{mode}")
        for label, test, kind in CASES
        for mode in modes(test, kind)
    ],
)
def test_a_test_of_cpython_passes(
    label: str,
    test: str,
    kind: Any,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
    loop_errors: list[object],
) -> None:
    give_event_loop(monkeypatch)
    monkeypatch.setattr(kind, "debug", mode == "debug")
    if mode == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        monkeypatch.setattr(kind, "loop_type", uvloop.Loop)
    monkeypatch.setattr(asyncio, "TaskGroup", pyasynclife.TaskGroup)
    monkeypatch.setattr(asyncio.taskgroups, "TaskGroup", pyasynclife.TaskGroup)
    result = unittest.TestResult()
    kind(test.split(".")[1]).run(result)
    failures = "\n".join(text for _, text in result.errors + result.failures)
    reason = difference(label, test)
    if reason is not None:
        assert failures, f"listed as a difference, and passes: {reason}"
        return
    assert not failures, failures
    if result.skipped:
        pytest.skip(result.skipped[0][1])
