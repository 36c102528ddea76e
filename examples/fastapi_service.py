"""A FastAPI service with background jobs: a limit, a state for each, and a drain.

    python examples/fastapi_service.py [--port 8000] [--uvloop]
    uvicorn --app-dir examples fastapi_service:app

Needs fastapi and uvicorn. Then, from another terminal:

    curl localhost:8000/process --json '{"steps": 50}'
    curl localhost:8000/jobs/job_0

and open http://localhost:8000/tasks in a browser, which shows the jobs as they run. A
job that sends no heartbeat for five seconds is shown as stale; one that takes more than
a minute is ended.

SIGTERM (or Ctrl-C): `/readyz` answers 503, uvicorn answers the open requests, the jobs
that wait are cancelled, and those that run have ten seconds. The report is logged.

From "asyncio in Production: The Pitfalls Tutorials Never Cover", sections "Background
Tasks in FastAPI" and "Clean Shutdown in FastAPI".

What was wrong: each request started a task, without a limit; nobody saw how it ended;
and the lifespan waited for all of them without a deadline, until Kubernetes killed the
process. Here jobs have a limit, a state, and a deadline.
"""

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

from pyasynclife import (
    ClosedError,
    Job,
    PoolFullError,
    SignalCoordinator,
    TaskPool,
    TaskRegistry,
    TaskState,
    run,
)
from pyasynclife.contrib.asgi import lifespan as coordinated
from pyasynclife.contrib.asgi import probes

logger = logging.getLogger("service")
registry = TaskRegistry(1.0, stale_threshold=5.0)
coordinator = SignalCoordinator(20.0, drain=10.0, registry=registry, required=False)


class Work(BaseModel):
    """What a job has to do."""

    steps: int = Field(default=10, ge=1, le=100_000)
    fail: bool = False


async def long_running_task(work: Work) -> str:
    """Do a job, step by step."""
    for step in range(work.steps):
        await asyncio.sleep(0.1)
        registry.heartbeat()
        if work.fail:
            raise RuntimeError(f"step {step} has failed")
    return f"{work.steps} steps done"


def log_end(job: Job[str]) -> None:
    """Log how a job ended, also one that a shutdown cancelled while it waited."""
    how = "never started" if job.state is TaskState.PENDING else job.state
    logger.info("%s: %s", job.task_id, how)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serve with a pool of jobs, which the shutdown ends before anything else."""
    async with TaskPool(10, max_pending=100, timeout=60.0, registry=registry) as pool:
        app.state.pool = pool
        coordinator.attach(pool, order=-1)
        async with coordinated(coordinator, registry)(app):
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/process", status_code=202)
async def process(work: Work) -> dict[str, str]:
    """Start a job, now or when one of the ten slots is free."""
    pool: TaskPool = app.state.pool
    try:
        job = pool.submit(long_running_task, work)
    except (PoolFullError, ClosedError) as error:
        raise HTTPException(503, str(error), {"Retry-After": "5"}) from None
    job.add_done_callback(log_end)
    return {"job": job.task_id}


@app.get("/jobs/{job}")
async def get_job(job: str) -> dict[str, Any]:
    """Return the state of a job that runs or is one of the last 1,000 that ended."""
    meta = registry.get(job)
    if meta is None:
        raise HTTPException(404, "this job waits, or there is none")
    return meta.as_dict(json=True)


@app.delete("/jobs/{job}")
async def cancel_job(job: str) -> dict[str, bool]:
    """Cancel a job that runs."""
    return {"cancelled": await registry.cancel(job, "by request")}


app.mount("/", probes(coordinator, registry))  # after all other routes


def main() -> None:
    """Serve until Ctrl-C or SIGTERM.

    The coordinator of the lifespan ends the jobs. `run` ends the process, in time even
    if a thread hangs, and with status 0: uvicorn by itself ends it by the signal.
    """
    parser = argparse.ArgumentParser(description="A service with background jobs.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    new_loop = asyncio.new_event_loop
    if options.uvloop:
        from uvloop import new_event_loop as new_loop
    config = uvicorn.Config(app, port=options.port, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    run(server.serve, shutdown_timeout=30.0, drain=25.0, loop_factory=new_loop)


if __name__ == "__main__":
    main()
