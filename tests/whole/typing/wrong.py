"""Mistakes that type checkers must report; tests/whole/test_typing.py runs them.

A comment "E: code" stands on each line for which mypy reports an error of that code,
and pyright any error. A comment "P: reason" stands where only pyright reports one.
"""

from pyasynclife import (
    BatchProgress,
    Job,
    RegistryStats,
    TaskExit,
    TaskPool,
    TaskRegistry,
    TaskResult,
    bounded_gather,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    process_batch_with_deadline,
)


async def fetch(symbol: str) -> int:
    return len(symbol)


async def two(symbol: str, retries: int) -> int:
    return retries


def plain(symbol: str) -> int:
    return len(symbol)


def note(result: TaskResult[bytes]) -> None:
    print(result)


async def functions() -> None:
    bounded_gather(fetch, [1, 2, 3])  # E: arg-type
    bounded_gather(two, ["a"])  # E: arg-type
    bounded_gather(plain, ["a"])  # E: arg-type
    bounded_gather(fetch, bounded_gather(fetch, ["a"]))  # E: arg-type
    bounded_gather(fetch("a"), ["a"])  # E: call-overload
    bounded_gather([fetch("a")])  # E: call-overload
    bounded_gather(fetch, ["a"], on_result=note)  # E: arg-type
    bounded_gather(fetch, ["a"], max_errrors=3)  # E: call-overload
    bounded_gather(fetch, ["a"], timeout="1")  # E: call-overload
    bounded_gather(fetch, ["a"], 5)  # E: call-overload


async def helpers() -> None:
    await gather_with_error_handling(fetch, [1])  # E: arg-type
    await gather_with_error_handling(fetch, ["a"], limit=3)  # E: call-overload
    await gather_with_timeout_and_budget(fetch, [1])  # E: arg-type
    await gather_with_timeout_and_budget(fetch, ["a"], limit=3)  # E: call-overload
    await process_batch_with_deadline(fetch, [1])  # E: arg-type
    await process_batch_with_deadline(fetch, ["a"], max_errrors=3)  # E: call-overload
    await process_batch_with_deadline(fetch, ["a"], budget=3)  # E: call-overload


async def results() -> None:
    for result in await bounded_gather(fetch, ["a"]):
        match result:
            case TaskResult(_, True, data):
                text: str = data  # E: assignment
                print(text)


async def a_condition_without_await(registry: TaskRegistry) -> int:
    if registry.cancel("a"):  # P: mypy only has to go on after this line
        pass
    return "not an int"  # E: return-value


class Stats(RegistryStats):  # E: misc
    pass


class Progress(BatchProgress):  # E: misc
    pass


class Exit(TaskExit):  # E: misc
    pass


class Result(TaskResult[int]):  # E: misc
    pass


async def jobs() -> None:
    batch = bounded_gather(fetch, ["a"])
    text: str = await batch.add("b")  # E: assignment
    batch.add("b").cancel(5)  # E: arg-type
    print(text, Job(), batch.add("b").value)  # E: attr-defined


async def pools() -> None:
    async with TaskPool(5) as pool:
        pool.submit(fetch("a"))  # E: call-overload
        pool.submit(plain, "a")  # E: arg-type
        text: str = await pool.submit(fetch, "a")  # E: arg-type
        await pool.put(fetch, "a", task_id=5)  # E: call-overload
        print(text)
    TaskPool(limit=5)  # E: call-arg
