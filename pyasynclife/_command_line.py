"""What the commands of `python -m pyasynclife` share."""

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")

INTERRUPTED = 128 + signal.SIGINT  # what a shell reports for a process ended by it
UNREAD = 128 + signal.SIGPIPE


def add_command(
    commands: Any, name: str, call: Callable[..., int], **texts: str
) -> argparse.ArgumentParser:
    """Add a command, whose texts keep their lines, to the parser and return its own."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts
    )
    command.set_defaults(call=call)
    return command


def ends_quietly(command: Callable[P, int]) -> Callable[P, int]:
    """Let a command end quietly at Ctrl-C, and when nobody reads its output.

    It has undone its work by then, since the exception has left it.
    """

    @wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> int:
        status = UNREAD
        try:
            status = command(*args, **kwargs)
            if sys.stdout is not None:  # `>&-`
                sys.stdout.flush()
        except* BrokenPipeError:  # `| head`; it may be in a group
            status = UNREAD
            _discard_stdout()
        except* KeyboardInterrupt:
            status = INTERRUPTED
        return status

    return call


def _discard_stdout() -> None:
    """Let the interpreter's flush at its exit succeed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers between two bounds, for argparse."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"must be from {low} to {high}, not {value}"
            )
        return value

    parse.__name__ = "whole number"
    return parse


def seconds(text: str) -> float:
    """Parse a positive number of seconds, for argparse."""
    value = float(text)
    if not (value > 0.0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, not {text}")
    return value
