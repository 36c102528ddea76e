"""hypercorn's API with the FastAPI application."""

import asyncio
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

from support.hosts_fastapi import app

config = Config()
config.bind = [f"127.0.0.1:{sys.argv[1]}"]
if sys.argv[2] == "uvloop":
    import uvloop

    factory = uvloop.new_event_loop
else:
    factory = asyncio.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(serve(app, config))  # type: ignore[arg-type]
