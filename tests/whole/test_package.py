"""The package as a whole: how it is built, imported and unloaded."""

import ast
import asyncio
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import requires, version
from types import ModuleType
from typing import Any

import pytest

import pyasynclife
from pyasynclife import _core, testing
from support.children import ROOT, run_child

OTHERS = [
    importlib.import_module(f"pyasynclife.{name}")
    for name, needed in (
        ("console", "rich"),
        ("contrib.aiohttp", "aiohttp"),
        ("contrib.asgi", "json"),
        ("contrib.logging", "json"),
        ("contrib.opentelemetry", "opentelemetry"),
        ("contrib.prometheus", "prometheus_client"),
        ("contrib.systemd", "json"),
    )
    if importlib.util.find_spec(needed) is not None
]
PUBLIC = [pyasynclife, testing, *OTHERS]

SUBINTERPRETER = """
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters

    interpreter = interpreters.create()
    failure = interpreters.run_string(interpreter, '''
    try:
        import {module}
        print("imported")
    except ImportError as error:
        print("refused", error)
    ''')
    interpreters.destroy(interpreter)
    print("failed" if failure else "ended")
"""


def fresh_import(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in list(sys.modules):
        if name.partition(".")[0] == "pyasynclife":
            monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("pyasynclife")


def test_the_installed_version_is_that_of_the_package() -> None:
    assert version("pyasynclife") == pyasynclife.__version__


def test_nothing_is_needed_at_run_time() -> None:
    assert [
        need for need in requires("pyasynclife") or [] if "extra ==" not in need
    ] == []


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_each_public_name_exists(module: ModuleType) -> None:
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not there")
def test_the_extension_exports_one_symbol() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(_core.__file__)],
        capture_output=True,
        text=True,
        check=True,
    )
    symbols = [line.split()[-1] for line in listing.stdout.splitlines()]
    # the sanitizers add symbols
    assert [name for name in symbols if "asan" not in name] == ["PyInit__core"]


def test_importing_twice_gives_a_second_whole_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = fresh_import(monkeypatch)
    third = fresh_import(monkeypatch)
    assert second is not third
    for name in pyasynclife.__all__:
        assert hasattr(third, name)
    assert third.Ready is not second.Ready


def test_a_subinterpreter_imports_it_or_is_refused_with_importerror() -> None:
    # 3.12.1 aborts at exit if another interpreter has imported asyncio
    if run_child(SUBINTERPRETER.format(module="asyncio")).returncode != 0:
        pytest.skip("asyncio alone breaks this interpreter")
    child = run_child(SUBINTERPRETER.format(module="pyasynclife"))
    first, last = child.stdout.splitlines()
    assert first.split()[0] in ("imported", "refused")
    assert (last, child.stderr, child.returncode) == ("ended", "", 0)


@pytest.mark.parametrize("code", ["import pyasynclife", "import pyasynclife._core"])
def test_the_interpreter_exits_without_output(code: str) -> None:
    child = run_child(["-X", "dev", "-W", "error", "-c", code])
    assert (child.stdout, child.stderr, child.returncode) == ("", "", 0)


def test_importing_starts_nothing() -> None:
    code = """
        import signal, sys, threading
        before = [signal.getsignal(n) for n in signal.valid_signals()]
        import pyasynclife
        print(before == [signal.getsignal(n) for n in signal.valid_signals()])
        print(threading.active_count())
        others = {"uvloop", "rich", "pytest", "pyasynclife.testing"}
        print(sorted(others & set(sys.modules)))
    """
    assert run_child(code).stdout.split() == ["True", "1", "[]"]


OWN_DOCSTRINGS = (
    classmethod,
    property,
    staticmethod,
    types.FunctionType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
)


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_name_has_a_docstring(module: ModuleType) -> None:
    assert module.__doc__
    for name in module.__all__:
        found = getattr(module, name)
        assert vars(found).get("__doc__") or inspect.isroutine(found), name
        assert found.__doc__, name


def undocumented(cls: type) -> Iterator[str]:
    """The public members with neither a docstring nor a line in the class's.

    Only a function, a property or a descriptor has a docstring of its own. That of any
    other object, such as the member of an enumeration, is its type's.
    """
    for base in cls.__mro__:
        if not base.__module__.startswith("pyasynclife"):
            continue
        _, _, attributes = (base.__doc__ or "").partition("Attributes:")
        for name, member in vars(base).items():
            own = isinstance(member, OWN_DOCSTRINGS) and member.__doc__
            if not (name.startswith("_") or own) and not re.search(
                rf"^\s+{name}: ", attributes, re.MULTILINE
            ):
                yield f"{base.__name__}.{name}"


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_every_public_member_has_a_docstring_of_its_own(module: ModuleType) -> None:
    for name in module.__all__:
        if isinstance(cls := getattr(module, name), type):
            assert list(undocumented(cls)) == []


def test_each_module_that_the_core_imports_is_imported_in_python_too() -> None:
    """What freezes a program (PyInstaller) reads the imports of Python files alone."""
    header = (ROOT / "csrc/base/state.h").read_text()
    table = header[header.index("#define AL_IMPORTS") : header.index("AL_NAMES")]
    wanted = set(re.findall(r'X\(\w+,\s*"([\w.]+)"', table))
    found: set[str] = set()
    for file in (ROOT / "pyasynclife").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    assert len(wanted) > 10
    assert sorted(wanted - found) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: pyasynclife.bounded_gather(asyncio.sleep, [0]),
        pyasynclife.TaskPool,
        pyasynclife.TaskRegistry,
        pyasynclife.SignalCoordinator,
        lambda: pyasynclife.SignalCoordinator(registry=pyasynclife.TaskRegistry()),
    ],
)
async def test_a_block_may_be_left_by_hand_without_arguments(
    make: Callable[[], Any],
) -> None:
    block = make()
    await block.__aenter__()
    await block.__aexit__()
    if isinstance(block, pyasynclife.SignalCoordinator):
        block.__enter__()
        block.__exit__()
