"""The protocol of the feed and its clients: symbols, paths and frames."""

import random
from typing import TypedDict

SNAPSHOT_PATH = "/snapshot/"
FEED_PATH = "/feed/"


class Snapshot(TypedDict):
    """The answer to a snapshot request, as JSON."""

    symbol: str
    price: float


class Update(TypedDict):
    """One update, as JSON, in a WebSocket frame of its own."""

    symbol: str
    seq: int  # starts at 0 in each connection
    price: float
    stamp: float  # time.monotonic() of the server: all processes here share it


def symbol_names(count: int) -> list[str]:
    """Name the symbols: SYM0000, SYM0001, ..."""
    return [f"SYM{number:04d}" for number in range(count)]


class Quote:
    """The price of one symbol, on a random walk."""

    __slots__ = ("price", "symbol")

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol.encode()
        self.price = round(random.uniform(10.0, 500.0), 2)

    def frames(self, first: int, count: int, stamp: float) -> bytes:
        """Make `count` complete text frames, numbered from `first`, ready to send.

        The server generates load, so the frames are built by hand: one library call per
        frame would cost more than the rest of the server.
        """
        step = 0.01 if random.random() * self.price < 100.0 else -0.01
        out = []
        for seq in range(first, first + count):
            self.price += step
            body = b'{"symbol":"%b","seq":%d,"price":%.2f,"stamp":%.6f}' % (
                self.symbol,
                seq,
                self.price,
                stamp,
            )
            out.append(b"\x81%c%b" % (len(body), body))  # final, text, unmasked
        return b"".join(out)
