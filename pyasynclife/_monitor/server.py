"""The server half: requests and answers are JSON, one object a line."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from pyasynclife._log import logger
from pyasynclife._monitor.answers import Answers, RequestError
from pyasynclife._monitor.socket_file import SocketFile, peer_is_same_user

if TYPE_CHECKING:
    from pyasynclife._registry import TaskRegistry

CLIENTS = 16  # at a time; more are refused
LINE = 65_536  # bytes of a request
PATIENCE = 60.0  # seconds for a client to ask, or to read an answer


async def serve(
    registries: list[TaskRegistry],
    path: str,
    *,
    ready: Callable[[], object] = lambda: None,
    until_left: bool = False,
) -> None:
    """Answer on a Unix socket until cancelled.

    Args:
        registries: Whose tasks are shown.
        path: The path of the socket.
        ready: Called once clients can connect.
        until_left: Whether to return once the first client, and all others, have left.
    """
    with SocketFile(path) as file:
        server = _Server(Answers(registries))
        listener = await asyncio.start_unix_server(
            server.accept, sock=file.socket.dup(), limit=LINE, start_serving=False
        )
        try:
            await listener.start_serving()
            ready()
            await (server.left.wait() if until_left else asyncio.Event().wait())
        finally:
            listener.close()
            await server.close()


class _Server:
    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.clients: set[asyncio.Task[None]] = set()
        self.left = asyncio.Event()  # the last client has left
        self.closed = False

    def accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve a client in a task of its own, or refuse it."""
        if self.closed:  # the loop had accepted it before
            writer.transport.abort()
            return
        peer: Any = writer.get_extra_info("socket")
        refusal = None
        if not _is_same_user(peer):
            refusal = "only the user of this process may ask"
        elif len(self.clients) >= CLIENTS:
            refusal = f"{CLIENTS} clients are connected already"
        if refusal is not None:
            writer.write(_line({"error": refusal}))
            writer.close()
            return
        client = self.attend(reader, writer)
        task = asyncio.get_running_loop().create_task(client, name="pyasynclife serve")
        self.clients.add(task)
        task.add_done_callback(functools.partial(self.forget, writer))

    def forget(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        """Note that a client has left, or was let go before its task began."""
        if not writer.is_closing():
            writer.transport.abort()
        self.clients.discard(task)
        if not self.clients:
            self.left.set()

    async def attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer a client's requests until it leaves, or takes too long."""
        try:
            while line := await _within(reader.readline()):
                async for answer in self.answer(line):
                    writer.write(_line(answer))
                    await _within(writer.drain())
                await asyncio.sleep(0)  # neither of these waits need let others run
        except ValueError:  # of readline()
            writer.write(_line({"error": f"a request has at most {LINE} bytes"}))
            writer.close()
        except (OSError, TimeoutError):
            pass  # it has left, or does not read
        except Exception:
            logger.exception("answering a client of serve() failed")

    async def answer(self, line: bytes) -> AsyncIterator[dict[str, Any]]:
        """Make the lines of the answer to a request."""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            yield {"error": "a request is a JSON object on one line"}
            return
        try:
            async for part in self.answers.to(request):
                yield part
        except RequestError as error:
            yield {"error": str(error)}

    async def close(self) -> None:
        """Let every client go, and those that are being accepted."""
        self.closed = True
        clients = list(self.clients)
        for task in clients:
            task.cancel()
        if clients:
            await asyncio.wait(clients)


async def _within(what: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await what


def _is_same_user(peer: Any) -> bool:
    # uvloop's and asyncio's stand-ins have getsockopt() as well.
    try:
        return peer_is_same_user(peer)
    except OSError:
        return False


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"
