"""A tree of Debian's testing suite, for the Pythons that this machine does not have.

mmdebstrap makes it once, under .matrix/tree; a process enters it by chroot. Both take
root. If mmdebstrap is missing, apt-get installs it, but only if the caller allows it.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".matrix"
TREE = WORK / "tree"
HOME = Path("/root")

VERSIONS = ["3.14", "3.15", "3.15d"]
PACKAGES = [
    "ca-certificates",
    "gcc",
    "libc6-dev",
    "make",
    "python3.14-dev",
    "python3.14-venv",
    "python3.15-dev",
    "python3.15-venv",
    "python3.15-dbg",
    "libpython3.14-testsuite",
    "libpython3.15-testsuite",
]
# Mounts that end with the process; without the right to mount it goes on bare.
CHROOT = """
mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"
exec chroot "$@"
"""
PIP_CONFIGURATION = [
    Path("/etc/pip.conf"),
    Path.home() / ".config/pip/pip.conf",
    Path.home() / ".pip/pip.conf",
]
NETWORK = [Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt")]


class Unavailable(Exception):
    """Why an interpreter cannot be had."""


def prepare(may_install: bool) -> None:
    """Make the tree if it is missing, and bring its configuration up to date.

    may_install: apt-get may install mmdebstrap on this machine. Raises Unavailable.
    """
    if not TREE.exists():
        if os.geteuid() != 0:
            raise Unavailable("Debian's tree needs root")
        with (WORK / "tree.log").open("w") as log:
            find_mmdebstrap(may_install, log)
            make_tree(log)
    copy_configuration()


def find_mmdebstrap(may_install: bool, log: TextIO) -> None:
    """Have mmdebstrap on PATH, or raise Unavailable."""
    if shutil.which("mmdebstrap") is None and not may_install:
        raise Unavailable(
            "mmdebstrap is missing; run with --install to let it apt-install it"
        )
    if shutil.which("mmdebstrap") is None and shutil.which("apt-get"):
        succeeds(["apt-get", "update"], log)
        succeeds(["apt-get", "install", "--yes", "mmdebstrap"], log)
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("Debian's tree needs mmdebstrap")


def make_tree(log: TextIO) -> None:
    """Make the tree, or raise Unavailable; one that is not finished does not count."""
    print("making the tree of Debian's testing suite: log in .matrix/tree.log")
    unfinished = WORK / "tree.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        "mmdebstrap",
        "--variant=apt",
        "--mode=root",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        '--aptopt=APT::Install-Recommends "false"',
        f"--include={','.join(PACKAGES)}",
        "forky",
        str(unfinished),
    ]
    if not succeeds(command, log):
        raise Unavailable("mmdebstrap failed: see .matrix/tree.log")
    unfinished.rename(TREE)


def succeeds(command: Sequence[str], log: TextIO) -> bool:
    """Run a command with its output in the log; return whether it succeeded."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode == 0


def copy_configuration() -> None:
    """Let pip in the tree reach whatever pip on this machine reaches."""
    for path in filter(Path.exists, [*NETWORK, *PIP_CONFIGURATION]):
        inside = path
        if path.is_relative_to(Path.home()):
            inside = HOME / path.relative_to(Path.home())
        target = on_host(inside)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def on_host(path: Path) -> Path:
    """Return where a path of the tree is on this machine."""
    return TREE / path.relative_to("/")


def enter(directory: Path, command: Sequence[str | Path]) -> list[str | Path]:
    """Return the command that runs a command in a directory of the tree."""
    where: list[str | Path] = ["env", "-C", directory, f"HOME={HOME}"]
    mounts = ["unshare", "--mount", "sh", "-c", CHROOT, "sh"]
    return [*mounts, TREE, *where, *command]
