"""examples/feed_server.py: the feed of the other examples."""

import pytest

from support.children import run_child
from support.example_programs import EXAMPLES, LIMIT, PATH

TCP = "HOST:PORT"
WEBSOCKET = "ws://HOST:PORT"


@pytest.mark.parametrize(
    ("name", "address", "form"),
    [
        ("market_data_pipeline", "localhost", TCP),
        ("market_data_service", "9000", TCP),
        ("run_application", "localhost:", TCP),
        ("structured_shutdown", ":9000", TCP),
        ("depth_pipeline", "localhost:9000", WEBSOCKET),
        ("depth_pipeline", "ws://localhost", WEBSOCKET),
    ],
)
def test_an_address_that_is_none_is_refused(name: str, address: str, form: str) -> None:
    if name == "depth_pipeline":
        pytest.importorskip("websockets")
    command = [str(EXAMPLES / f"{name}.py"), "--feed", address]
    done = run_child(command, timeout=LIMIT, env=PATH)
    assert done.stderr == f"--feed must be {form}, not {address!r}\n"
    assert done.returncode == 1
