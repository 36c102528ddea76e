"""examples/fastapi_service.py: jobs behind requests, and their end by a signal."""

import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from support.children import PATH, ROOT, Child, run_child
from support.example_programs import LOOPS, finish, number_in, start, wait_until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")


class Client:
    """Waits for the service, and sends it requests."""

    def __init__(self, child: Child) -> None:
        self.child = child
        wait_until(child, lambda: "Uvicorn running" in child.stderr)
        port = number_in(child.stderr, r"running on http://127.0.0.1:(\d+)")
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, work: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if work is None else json.dumps(work).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def begin(self, **work: Any) -> str:
        status, answer = self.ask("/process", work)
        assert status == 202
        return str(answer["job"])

    def wait_for(self, job: str, state: str) -> Any:
        wait_until(self.child, lambda: self.ask(f"/jobs/{job}")[1]["state"] == state)
        return self.ask(f"/jobs/{job}")[1]


def ends_of(text: str) -> dict[str, str]:
    """How each job ended, as the log has it."""
    return dict(re.findall(r"INFO (job_\d+): (.*)", text))


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """The service on each loop."""
    with ExitStack() as stack:
        children = [
            stack.enter_context(start("fastapi_service", "--port=0", *loop))
            for loop in LOOPS
        ]
        yield [Client(child) for child in children]


def test_a_signal_lets_running_jobs_end_and_cancels_the_waiting_ones(
    clients: list[Client],
) -> None:
    for client in clients:
        answer = client.wait_for(client.begin(steps=1), "done")
        assert answer["result"] == "1 steps done"
        answer = client.wait_for(client.begin(fail=True), "failed")
        assert answer["error_text"] == "RuntimeError: step 0 has failed"
        assert client.ask("/process", {"steps": 0})[0] == 422
        assert client.ask("/jobs/nobody")[0] == 404
    running = [client.begin(steps=60) for client in clients for _ in range(10)]
    waiting = [client.begin(steps=1) for client in clients for _ in range(3)]
    for client, signum in zip(clients, (signal.SIGTERM, signal.SIGINT), strict=False):
        client.child.send_signal(signum)
    for client in clients:
        done = finish(client.child)
        ends = ends_of(done.stderr)
        assert [ends[job] for job in running] == ["done"] * len(running)
        assert [ends[job] for job in waiting] == ["never started"] * len(waiting)
        assert "deadline met" in done.stderr


def test_jobs_have_a_limit_and_a_second_ctrl_c_cancels_them() -> None:
    with start("fastapi_service", "--port=0") as child:
        client = Client(child)
        running = [client.begin(steps=100_000) for _ in range(10)]
        for _ in range(100):
            client.begin()
        status, answer = client.ask("/process", {})
        assert status == 503
        assert "100" in answer  # so many wait
        child.send_signal(signal.SIGTERM)
        wait_until(child, lambda: "SIGTERM" in child.stderr)
        time.sleep(0.5)  # a press within 0.3 s has no effect
        child.send_signal(signal.SIGINT)
        done = finish(child)
    assert {ends_of(done.stderr)[job] for job in running} == {"cancelled"}
    assert "deadline met" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_can_be_tested_with_a_test_client() -> None:
    pytest.importorskip("httpx")
    done = run_child(
        f"""
        import sys, time
        sys.path.insert(0, {str(ROOT / "examples")!r})
        from fastapi.testclient import TestClient
        from fastapi_service import app, coordinator
        for _ in range(2):  # the application begins afresh
            with TestClient(app) as client:
                job = client.post("/process", json={{"steps": 1}}).json()["job"]
                while client.get("/jobs/" + job).json()["state"] != "done":
                    time.sleep(0.01)
                print(client.get("/readyz").status_code)
                coordinator.request_shutdown()
                print(client.get("/readyz").status_code)
                print(client.post("/process", json={{}}).status_code)
        """,
        timeout=60,
        env=PATH,
    )
    assert done.stdout.split() == ["200", "503", "503"] * 2, done.stderr
