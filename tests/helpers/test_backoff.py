"""`Backoff`: the delays between attempts."""

from decimal import Decimal
from typing import Any

import pytest

from pyasynclife._backoff import Backoff

# No loop has a part in these tests.
pytestmark = pytest.mark.standard_loop_only


def test_delays_grow_by_the_factor_up_to_the_greatest() -> None:
    backoff = Backoff(jitter=0)
    delays = [backoff._after(n) for n in (1, 2, 3, 10, 100_000)]
    assert delays == [0.1, 0.2, 0.4, 30.0, 30.0]
    assert Backoff(Decimal("0.5"), 1, 1, 0)._after(7) == 0.5
    assert Backoff(0)._after(100_000) == 0.0


def test_jitter_takes_a_random_part_of_the_delay() -> None:
    delays = {Backoff(8.0, 1.0, 8.0, 0.25)._after(1) for _ in range(1000)}
    assert len(delays) > 100
    assert all(6.0 <= delay <= 8.0 for delay in delays)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": -1}, "delay must be 0 or more seconds, got -1"),
        ({"delay": True}, "delay must be a number of seconds, got bool True"),
        ({"max_delay": float("nan")}, "max_delay must be 0 or more seconds, got nan"),
        ({"factor": 0.5}, "factor must be 1 or more, got 0.5"),
        ({"factor": float("inf")}, "factor must be 1 or more, got inf"),
        ({"factor": "2"}, "factor must be a number, got str '2'"),
        ({"jitter": 2}, "jitter must be from 0 to 1, got 2"),
        ({"jitter": -0.1}, "jitter must be from 0 to 1, got -0.1"),
    ],
)
def test_a_value_that_makes_no_delay_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Backoff(**options)
    assert str(caught.value) == message
