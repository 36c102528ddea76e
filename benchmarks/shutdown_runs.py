"""The scenarios of benchmarks.shutdown_peers, and one run of one contender."""

import http.client
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import shutdown_programs
from benchmarks.machine import ROOT
from benchmarks.shutdown_programs import MANY_TASKS, TASKS

STARTS = 30.0  # seconds; generous, for a busy machine
SLACK = 1.0  # a process that ends so long after its deadline has kept it
SETTLES = 0.7  # seconds until a server has started, and a callback blocks the loop
KILLED_AFTER = 4.0  # seconds after the deadline
SERVERS = ("uvicorn", "uvicorn with pyasynclife")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is sent to the service, and what it must not lose.

    about: the line of the table.  presses: the signals, each with its second.
    cleanups: how many must run to their end.  culprit: the marks of the lines, in
    shutdown_programs.py, at which it hangs; the last is the innermost.
    request: the seconds that an open request takes.  times: how often it is run, for
    an outcome that depends on chance.
    """

    about: str
    presses: Sequence[tuple[float, int]] = ((0.0, signal.SIGTERM),)
    cleanups: int = 0
    culprit: Sequence[str] = ()
    request: float | None = None
    times: int = 1


SCENARIOS = {
    "tasks": Scenario(f"SIGTERM; {TASKS} tasks need 0.1 s to clean up", cleanups=TASKS),
    "storm": Scenario(
        "1,000 SIGHUPs and a SIGTERM while the loop is blocked",
        presses=(),
        cleanups=1,
    ),
    "double": Scenario(
        "SIGINT twice within 50 ms, as from a terminal and a parent process; cleanup "
        "needs 0.5 s",
        presses=((0.0, signal.SIGINT), (0.05, signal.SIGINT)),
        cleanups=1,
        times=8,
    ),
    "thrice": Scenario(
        "Ctrl-C every 0.6 s, up to three times; cleanup hangs",
        presses=tuple((0.6 * n, signal.SIGINT) for n in range(3)),
    ),
    "swallow": Scenario(
        "a task swallows its cancellation", culprit=("follow_feed", "# swallow")
    ),
    "interrupt": Scenario(
        "the same, and the signal is SIGINT",
        presses=((0.0, signal.SIGINT),),
        culprit=("follow_feed", "# swallow"),
    ),
    "executor": Scenario(
        "a thread of the executor does not end",
        culprit=("write_archive", "# executor"),
    ),
    "busy": Scenario(
        "a callback runs `while True: pass`", culprit=("never_return", "# busy")
    ),
    "gil": Scenario(
        "C code does not return, and holds the GIL",
        culprit=("hold_the_gil", "# gil"),
    ),
    "generator": Scenario(
        "an asynchronous generator is left suspended; its cleanup needs 0.1 s",
        cleanups=1,
    ),
    "many": Scenario(
        f"the cleanup of {MANY_TASKS:,} tasks hangs",
        culprit=("wait_and_clean_up", "# cleanup"),
    ),
    "request": Scenario(
        f"an HTTP request takes 0.5 s more; {TASKS} tasks need 0.1 s to clean up",
        cleanups=TASKS,
        request=SETTLES + 0.5,
    ),
    "endless": Scenario(
        f"an HTTP request never ends; {TASKS} tasks need 0.1 s to clean up",
        cleanups=TASKS,
        request=60.0,
    ),
}


@dataclass(frozen=True, slots=True)
class Run:
    """The outcome of one run."""

    contender: str
    scenario: str
    seconds: float  # from the first signal to the end
    status: int  # negative: the signal that ended it
    killed: bool  # by us, after the deadline
    cleaned: int
    presses: int  # how many signals were sent before it ended
    answered: bool
    losses: list[str] = field(default_factory=list)

    @property
    def end(self) -> str:
        """How the process has ended, in words."""
        if self.killed:
            return f"killed after {self.seconds:.1f} s"
        by = f"status {self.status}"
        if self.status < 0:
            by = signal.Signals(-self.status).name
        press = f"press {self.presses}, " if self.scenario == "thrice" else ""
        return f"{press}{self.seconds:.1f} s, {by}"

    def __str__(self) -> str:
        return f"{', '.join(self.losses) or 'nothing'} ({self.end})"


def applies(contender: str, scenario: str) -> bool:
    """Tell whether a scenario makes sense: only a server has requests."""
    return SCENARIOS[scenario].request is None or contender in SERVERS


def run(contender: str, scenario: str, deadline: float) -> Run:
    """Run one contender in one scenario."""
    command = [sys.executable, "-m", "benchmarks.shutdown_programs"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("ab") as written:
            child = subprocess.Popen(
                [*command, contender, scenario, str(deadline)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
            )
        with child:
            try:
                return _watch(child, output, contender, scenario, deadline)
            finally:
                child.kill()


def _wait_for(child: subprocess.Popen[bytes], output: Path, line: str) -> str:
    """Wait until a line has been printed; return it."""
    end = time.monotonic() + STARTS
    while True:
        ended = child.poll() is not None
        text = output.read_text(errors="replace")
        found = re.search(rf"^{line}$", text, re.MULTILINE)
        if found:
            return found[0]
        if ended or time.monotonic() > end:
            raise RuntimeError(f"no {line!r} from the service: {text[-2000:]}")
        time.sleep(0.01)


def _watch(
    child: subprocess.Popen[bytes],
    output: Path,
    contender: str,
    scenario: str,
    deadline: float,
) -> Run:
    """Send the signals of a scenario, and see how the service ends."""
    plan = SCENARIOS[scenario]
    answers: list[bytes] = []
    if plan.request is not None:
        port = int(_wait_for(child, output, r"port \d+").split()[1])
        client = threading.Thread(target=_get, args=(port, plan.request, answers))
        client.start()
        _wait_for(child, output, "received")
    _wait_for(child, output, "ready")
    if plan.presses:
        time.sleep(SETTLES)
    begin = time.monotonic()
    sent = 0
    for second, signum in plan.presses:
        if _ends_by(child, begin + second):
            break
        child.send_signal(signum)
        sent += 1
    killed = not _ends_by(child, begin + deadline + KILLED_AFTER)
    if killed:
        child.kill()
    status = child.wait()
    seconds = time.monotonic() - begin
    if plan.request is not None:
        client.join(STARTS)
    text = output.read_text(errors="replace")
    outcome = Run(
        contender, scenario, seconds, status, killed,
        len(re.findall("^cleaned$", text, re.MULTILINE)), sent, bool(answers),
    )  # fmt: skip
    outcome.losses.extend(_losses(outcome, plan, text, deadline))
    return outcome


def _ends_by(child: subprocess.Popen[bytes], end: float) -> bool:
    try:
        child.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _get(port: int, seconds: float, answers: list[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STARTS)
    try:
        connection.request("GET", f"/{seconds}")
        response = connection.getresponse()
        if response.status == 200:
            answers.append(response.read())
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def _losses(outcome: Run, plan: Scenario, text: str, deadline: float) -> list[str]:
    """Return what was lost, in the words of the page."""
    losses = []
    if plan.request is not None and plan.request < deadline and not outcome.answered:
        losses.append("the answer")
    if outcome.cleaned < plan.cleanups:
        done = f"{outcome.cleaned} of {plan.cleanups}" if plan.cleanups > 1 else ""
        losses.append(f"cleanup ({done} done)" if done else "cleanup")
    if outcome.killed or outcome.seconds > deadline + SLACK:
        losses.append("the deadline")
    if len(plan.presses) > 2 and outcome.seconds > plan.presses[-1][0] + SLACK:
        losses.append("Ctrl-C")
    if plan.culprit:
        losses.extend(_unnamed(plan.culprit, text))
    return losses


def _unnamed(culprit: Sequence[str], text: str) -> list[str]:
    """Return what the output does not say about the code that hangs."""
    function, mark = culprit
    source = Path(shutdown_programs.__file__).read_text().splitlines()
    (line,) = [n for n, code in enumerate(source, 1) if code.endswith(mark)]
    name = re.escape(Path(shutdown_programs.__file__).name)
    # A loop stands at its first line or in its body.
    if re.search(rf"{name}\W+(line )?({line}|{line + 1})\b", text):
        return []
    return ["the line"] if function in text else ["the name"]
