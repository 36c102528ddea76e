"""Tracers that patch asyncio, and trio's loop, see what they see with asyncio's group.

They need further packages, the extra "tracers": `make recipes` installs them. Each
program runs in a process of its own, since these packages change asyncio for good.
"""

import importlib.util
import re

import pytest

from support.children import ROOT, run_child


def play(package: str, program: str) -> list[str]:
    try:  # importing the package would already patch asyncio
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{package} is not installed")
    done = run_child(program, timeout=60.0)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# What ddtrace-run does. It replaces the code of create_task, and that of Handle._run
# where something listens for switches of the context.
DDTRACE = """
import os
os.environ.update(
    DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
    DD_REMOTE_CONFIGURATION_ENABLED="false",
    DD_TRACE_ENABLED="true")
import asyncio, ddtrace
from ddtrace.internal import core
from pyasynclife import TaskGroup, TaskRegistry, bounded_gather

made, where = [], [None]
core.on("asyncio.create_task", lambda data: made.append(1))
core.on("python.context.switch", lambda: where.__setitem__(0, "outside"))
ddtrace.patch(asyncio=True)
from ddtrace.trace import tracer

async def child(n):
    log.append(where[0])
    where[0] = f"child {n}"

async def group(Group):
    async with Group() as group:
        for n in range(3):
            group.create_task(child(n))

async def register():
    registry = TaskRegistry()
    for n in range(3):
        registry.register(child(n))
    await registry.wait()

async def items():
    await bounded_gather(child, range(3), task_per_item=True)

async def main(what, *args):
    made.clear()
    log.clear()
    with tracer.trace("request"):
        await what(*args)
    print(len(made), log)

log = []
asyncio.run(main(group, asyncio.TaskGroup))
asyncio.run(main(group, TaskGroup))
asyncio.run(main(register))
asyncio.run(main(items))
"""


def test_ddtrace_sees_each_task_and_each_switch() -> None:
    lines = play("ddtrace", DDTRACE)
    assert lines == ["3 ['outside', 'outside', 'outside']"] * 4


OPENTELEMETRY = """
import asyncio, os
os.environ["OTEL_PYTHON_ASYNCIO_COROUTINE_NAMES_TO_TRACE"] = "child"
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
from pyasynclife import TaskGroup

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
{instrument}

async def child():
    await asyncio.sleep(0)

async def main(Group):
    spans.clear()
    async with Group() as group:
        for n in range(3):
            group.create_task(child(), name=str(n))
    print([span.name for span in spans.get_finished_spans()])

asyncio.run(main(asyncio.TaskGroup))
asyncio.run(main(TaskGroup))
"""


def test_opentelemetry_sees_each_child_by_the_lines_of_the_page() -> None:
    page = (ROOT / "docs/how-to/task-group.md").read_text()
    lines = re.search(r"```py\n([^`]*AsyncioInstrumentor.*?)```", page, re.DOTALL)
    assert lines is not None
    program = OPENTELEMETRY.replace("{instrument}", lines[1])
    assert (
        play("opentelemetry.instrumentation.asyncio", program)
        == [str(["asyncio coro-child"] * 3)] * 2
    )


TRIO = """
import asyncio, trio, trio_asyncio
from pyasynclife import TaskGroup, TaskRegistry, bounded_gather

async def child(n=1):
    await asyncio.sleep(0)
    return n

async def group(Group):
    async with Group() as group:
        task = group.create_task(child())
    return task.result()

async def register():
    async with TaskRegistry() as registry:
        task, _ = await registry.register(child())
        await registry.heartbeat()
        return await task

async def gather(**options):
    return sum((await bounded_gather(child, [1], timeout=5, **options)).values())

async def main(what, *args):
    async with trio_asyncio.open_loop():
        return await trio_asyncio.aio_as_trio(what)(*args)

print(trio.run(main, group, asyncio.TaskGroup))
print(trio.run(main, group, TaskGroup))
print(trio.run(main, register))
print(trio.run(main, gather))
print(trio.run(main, lambda: gather(task_per_item=True)))
"""


def test_everything_works_on_trio_asyncio() -> None:
    assert play("trio_asyncio", TRIO) == ["1"] * 5
