"""TaskResult by itself."""

import asyncio
import copy
import gc
import pickle
import sys
from typing import Any

import pytest

from pyasynclife import TaskResult, TaskState, bounded_gather


def test_the_four_fields_of_the_articles_come_first() -> None:
    result = TaskResult("a", True, 1)
    assert (result.task_id, result.success, result.data, result.error) == (
        "a",
        True,
        1,
        None,
    )
    match result:
        case TaskResult(task_id, success, data, error):
            assert (task_id, success, data, error) == ("a", True, 1, None)
        case _:
            pytest.fail("no match")
    assert TaskResult.__match_args__ == ("task_id", "success", "data", "error")


def test_a_result_by_keyword_has_a_state() -> None:
    error = ValueError("no price")
    failed = TaskResult(task_id="a", success=False, error=error)
    assert failed.state is TaskState.FAILED
    assert failed.error is error
    assert TaskResult("a", True).state is TaskState.DONE
    cancelled = TaskResult("a", False, None, asyncio.CancelledError())
    assert cancelled.state is TaskState.CANCELLED


@pytest.mark.parametrize("task_id", [None, 1, "", b"a"])
def test_an_id_is_a_non_empty_str(task_id: Any) -> None:
    with pytest.raises(TypeError, match="non-empty str"):
        TaskResult(task_id, True)


def test_an_error_is_an_exception() -> None:
    with pytest.raises(TypeError, match="must be an exception or None, got 'no'"):
        TaskResult("a", False, None, "no")


def test_a_str_subclass_is_taken_as_an_exact_str() -> None:
    class Name(str):
        __slots__ = ()

    assert type(TaskResult(Name("a"), True).task_id) is str


def test_equality_is_of_the_four_fields() -> None:
    error = ValueError()
    assert TaskResult("a", True, [1]) == TaskResult("a", True, [1])
    assert TaskResult("a", True, 1) != TaskResult("b", True, 1)
    assert TaskResult("a", True, 1) != TaskResult("a", True, 2)
    assert TaskResult("a", False, 1) != TaskResult("a", True, 1)
    assert TaskResult("a", False, None, error) == TaskResult("a", False, None, error)
    assert TaskResult("a", False, None, error) != TaskResult(
        "a", False, None, ValueError()
    )
    assert TaskResult("a", True, 1) != ("a", True, 1, None)
    with pytest.raises(TypeError):
        TaskResult("a", True) < TaskResult("b", True)  # noqa: B015


def test_an_error_of_equality_propagates() -> None:
    class Hostile:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None

    with pytest.raises(RuntimeError, match="no"):
        assert TaskResult("a", True, Hostile()) == TaskResult("a", True, Hostile())


def test_a_result_is_unhashable_and_read_only() -> None:
    result = TaskResult("a", True)
    with pytest.raises(TypeError, match="unhashable"):
        hash(result)
    for name in ("task_id", "data", "state", "extra"):
        with pytest.raises(AttributeError):
            setattr(result, name, 1)
    with pytest.raises(TypeError):
        TaskResult.task_id = 1
    with pytest.raises(TypeError):
        type("Sub", (TaskResult,), {})


def test_unwrap_gives_the_data_or_raises_the_error() -> None:
    assert TaskResult("a", True, 3).unwrap() == 3
    error = ValueError("no price")
    with pytest.raises(ValueError, match="no price") as caught:
        TaskResult("a", False, None, error).unwrap()
    assert caught.value is error
    with pytest.raises(RuntimeError, match="'a' failed and gave no error"):
        TaskResult("a", False).unwrap()


def test_as_dict_has_every_field() -> None:
    assert TaskResult("a", True, 3).as_dict() == {
        "task_id": "a",
        "success": True,
        "data": 3,
        "error": None,
        "index": 0,
        "item": None,
        "state": TaskState.DONE,
        "timed_out": False,
        "duration": 0.0,
        "attempts": 1,
    }


async def test_a_result_is_pickled_with_its_error() -> None:
    async def fn(x: str) -> list[Any]:
        if x == "bad":
            raise KeyError("k")
        if x == "slow":
            await asyncio.sleep(10)
        return [x]

    batch = await bounded_gather(fn, ["good", "bad", "slow"], timeout=0.01)
    for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1):  # 2 renames TimeoutError
        again = pickle.loads(pickle.dumps(list(batch), protocol))
        for old, new in zip(batch, again, strict=True):
            before, after = old.as_dict(), new.as_dict()
            errors = before.pop("error"), after.pop("error")
            assert before == after
            assert repr(errors[0]) == repr(errors[1])
    assert copy.deepcopy(batch[0]) == batch[0]
    assert copy.copy(batch[1]) == batch[1]


def test_unpickling_refuses_invalid_parts() -> None:
    for parts in [
        (1, None, None, 0, None, 1, False, 0.0, 1),
        ("a", None, "error", 0, None, 1, False, 0.0, 1),
        ("a", None, None, 0, None, 9, False, 0.0, 1),
        ("a", None, None, 0, None, 1, False, 0.0, -1),
    ]:
        with pytest.raises(ValueError, match="not the parts"):
            TaskResult._restore(*parts)


def test_a_result_is_subscriptable() -> None:
    assert TaskResult[int].__origin__ is TaskResult


def test_repr_shows_the_outcome() -> None:
    assert repr(TaskResult("a", True, 1)) == "TaskResult('a', success=True, data=1)"
    assert (
        repr(TaskResult("a", False, None, ValueError("x")))
        == "TaskResult('a', success=False, error=ValueError('x'))"
    )
    data = []
    result = TaskResult("a", True, data)
    data.append(result)
    assert repr(result) == "TaskResult('a', success=True, data=[TaskResult(...)])"


async def test_results_that_cannot_be_in_a_cycle_are_not_tracked() -> None:
    async def fn(x: int) -> int:
        return x

    flat, pair, nested = await bounded_gather(fn, [1, (2, 3), [4]])
    assert not gc.is_tracked(flat)
    assert gc.is_tracked(nested)
    assert pair.data == (2, 3)
    assert sys.getsizeof(flat) <= 80


async def test_a_cycle_through_a_result_is_collected() -> None:
    class Probe:
        alive = 0

        def __init__(self) -> None:
            Probe.alive += 1

        def __del__(self) -> None:
            Probe.alive -= 1

    async def fn(x: int) -> dict[str, Any]:
        return {}

    (result,) = await bounded_gather(fn, [1])
    result.data["self"] = result
    result.data["probe"] = Probe()
    del result
    gc.collect()
    assert Probe.alive == 0


def test_deeply_nested_results_are_freed() -> None:
    result = None
    for _ in range(200_000):
        result = TaskResult("a", True, result)
    del result
