"""The programs that a page names print what the page says that they print."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.children import PATH
from support.pages import Session, sessions, skip_unless_installed

SESSIONS, UNUSED = sessions()
TRACEBACK = re.compile(r"(Traceback \(most recent call last\):\n)(?:  .*\n)+", re.M)
PLUGINS = "-p no:cacheprovider -p no:ddtrace -W ignore::pytest.PytestDeprecationWarning"


def normalised(output: str) -> str:
    """Without what differs from run to run: times, folders, lines of the library."""
    output = TRACEBACK.sub(r"\1", output)
    output = re.sub(r"/\S+/(?=\w+\.py:)", "", output)
    output = re.sub(r"\.py:\d+ in", ".py:N in", output)
    return re.sub(r"\b\d+\.\d+(e-\d+)?", "N", output).strip()


def play(session: Session, folder: Path) -> str:
    """What the session prints in this folder."""
    for name, text in session.files.items():
        (folder / name).write_text(text)
    printed = folder / "output"
    before = normalised(session.output.partition("^C\n")[0])
    env = os.environ | PATH | {"PYTEST_ADDOPTS": PLUGINS, "COLUMNS": "80"}
    with printed.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-u", *session.command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
        )
        try:
            if "^C\n" in session.output:
                deadline = time.monotonic() + 30
                while not normalised(printed.read_text()).startswith(before):
                    if time.monotonic() > deadline or child.poll() is not None:
                        return normalised(printed.read_text())
                    time.sleep(0.01)
                child.send_signal(signal.SIGINT)
            child.wait(60)
        finally:
            child.kill()
            child.wait()
    return normalised(printed.read_text())


@pytest.mark.parametrize(
    "session",
    [
        pytest.param(session, id=f"{session.page}-{'-'.join(session.command)}-{number}")
        for number, session in enumerate(SESSIONS)
    ],
)
def test_a_session_prints_what_the_page_shows(session: Session, tmp_path: Path) -> None:
    own = tuple(name.removesuffix(".py") for name in session.files)
    for text in session.files.values():
        skip_unless_installed(text, own)
    wanted = normalised(session.output.replace("^C\n", ""))
    for attempt in range(3):  # a machine that stalls makes healthy tasks stale
        folder = tmp_path / str(attempt)
        folder.mkdir()
        got = play(session, folder)
        if got == wanted:
            break
    assert got == wanted


def test_each_named_program_is_run_by_a_session() -> None:
    assert SESSIONS
    assert UNUSED == []
