"""Start and stop the feed server's process."""

import asyncio
import subprocess
import sys
from types import TracebackType
from typing import Self

BEAT = 0.05  # seconds between two messages to the server
STOP_TIMEOUT = 1.0  # seconds for the server to end by itself


class FeedProcess:
    """Runs the feed server in a child process for the duration of a `with` block."""

    def __init__(
        self, symbols: int, rate: float, seconds: float, *, uvloop: bool = False
    ) -> None:
        self.command = [
            *(sys.executable, "-m", "pyasynclife._demo.server"),
            *("--symbols", str(symbols)),
            *("--rate", str(rate)),
            *("--seconds", str(seconds)),
            *(["--uvloop"] if uvloop else []),
        ]
        self.rate = rate  # may be set at any time
        self.url = ""

    def __enter__(self) -> Self:
        """Start the server and wait for its port."""
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # the terminal's Ctrl-C reaches only the client
        )
        try:
            assert self.process.stdout is not None
            port = self.process.stdout.readline().strip()
            if not port:
                raise RuntimeError(f"the feed server exited with {self.process.wait()}")
        except BaseException:
            self.stop()
            raise
        self.url = f"ws://127.0.0.1:{port}"
        return self

    async def keep_feeding(self) -> None:
        """Keep sending the rate to the server, which pauses if it gets none."""
        assert self.process.stdin is not None
        while True:
            try:
                self.process.stdin.write(f"{self.rate}\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                raise RuntimeError("the feed server has ended") from None
            await asyncio.sleep(BEAT)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    def stop(self) -> None:
        """Close the server's stdin, which ends it; kill it if that takes too long."""
        try:
            self.process.communicate(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
