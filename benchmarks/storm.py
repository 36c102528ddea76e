"""Send SIGTERM behind a storm of SIGHUPs to a process whose loop is blocked.

python -m benchmarks.storm [--rounds 309] [--loop asyncio|uvloop|both] [--only NAME]

Most storms have 1,000 SIGHUPs, every 34th has 10,000. In every other round the process
sends them to itself, so that each is delivered; in the rest, its parent sends them. The
same is done with `loop.add_signal_handler` alone, for comparison, in fewer rounds. The
exit status is 1 if SignalCoordinator has lost a SIGTERM or a whole storm.
"""

import argparse
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import IO

from benchmarks.machine import ROOT, describe

OURS = "SignalCoordinator"
THEIRS = "add_signal_handler"
CONTENDERS = (THEIRS, OURS)
SIZE, LARGE, LARGE_EVERY = 1_000, 10_000, 34
LIMIT = 90.0  # seconds for a round; a process that is silent for so long hangs
ROUNDS = 309
ROUNDS_OF_THEIRS = 34


@dataclass
class Score:
    """What a process has seen."""

    rounds: int = 0
    terms: int = 0  # rounds in which SIGTERM was seen, once
    storms: int = 0  # rounds in which a SIGHUP was seen
    silent: bool = False

    def __str__(self) -> str:
        text = (
            f"{self.terms} of {self.rounds} SIGTERM, "
            f"{self.storms} of {self.rounds} storms"
        )
        return text + (f"; no answer in round {self.rounds}" if self.silent else "")


class Silent(Exception):
    """The process has not answered, or has ended."""


def read_line(output: IO[bytes]) -> str:
    """Return the next line; the process writes one at a time, and then waits."""
    deadline = time.monotonic() + LIMIT
    line = b""
    while not line.endswith(b"\n"):
        left = max(0.0, deadline - time.monotonic())
        piece = b""
        if select.select([output], [], [], left)[0]:
            piece = os.read(output.fileno(), 4096)
        if not piece:
            raise Silent
        line += piece
    return line.decode().strip()


def play_round(child: subprocess.Popen[bytes], number: int) -> tuple[int, int]:
    """Send one storm; return the SIGTERMs and SIGHUPs that were seen."""
    assert child.stdin is not None
    assert child.stdout is not None
    size = LARGE if number % LARGE_EVERY == 0 else SIZE
    sender = "itself" if number % 2 else "parent"
    child.stdin.write(f"{size} {sender}\n".encode())
    if sender == "parent":
        if read_line(child.stdout) != "blocked":
            raise Silent
        for _ in range(size):
            child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        child.stdin.write(b"go\n")
    terms, hups = map(int, read_line(child.stdout).split())
    return terms, hups


def play(loop: str, contender: str, rounds: int) -> Score:
    """Run all rounds of a contender on a loop, in one process."""
    score = Score()
    # The pipe that is full makes asyncio's C handler write to stderr, each time.
    stderr = subprocess.DEVNULL if contender == THEIRS else None
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.storm_child", loop, contender],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
    )
    with child:
        try:
            for number in range(1, rounds + 1):
                score.rounds = number
                terms, hups = play_round(child, number)
                score.terms += terms == 1
                score.storms += hups > 0
        except (Silent, BrokenPipeError):
            score.silent = True
        finally:
            child.kill()
    return score


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.storm", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "both"], default="both")
    parser.add_argument(
        "--only", choices=CONTENDERS, metavar="NAME", help=f"one of {CONTENDERS}"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    loops = ["asyncio", "uvloop"] if options.loop == "both" else [options.loop]
    if importlib.util.find_spec("uvloop") is None:
        if options.loop == "uvloop":
            parser.error("uvloop is not installed: pip install uvloop")
        loops = ["asyncio"]
    where = describe()
    print(where["python"], where["commit"], where["date"], sep=", ")
    lost = False
    for loop in loops:
        for contender in [options.only] if options.only else CONTENDERS:
            theirs = contender == THEIRS
            rounds = min(options.rounds, ROUNDS_OF_THEIRS) if theirs else options.rounds
            score = play(loop, contender, rounds)
            print(f"{loop}, {contender}: {score}", flush=True)
            if not theirs:
                lost |= min(score.terms, score.storms) < rounds
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
