"""Run the test suite on every CPython that can be had.

python tools/matrix.py [--only 3.13,3.15d] [--tested 3.11] [arguments for pytest]

3.11 to 3.15 are looked for on this machine, under pyenv and on PATH. Of those that
are not there, Debian's testing suite has 3.14, 3.15 and the debug build of 3.15: they
run by chroot in a tree that is made on demand, which takes root and mmdebstrap. Each
interpreter has a copy of the sources, a venv and a log of its own under .matrix/.
What cannot be had is named at the end; only a suite that fails makes this fail.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".matrix"
TREE = WORK / "tree"
HOME = Path("/root")

# The slow ones first; the first of the tree makes it while another runs on the host.
VERSIONS = ["3.15d", "3.11", "3.13", "3.12", "3.15", "3.14"]
IN_TREE = ["3.14", "3.15", "3.15d"]
TREE_PACKAGES = [
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
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".matrix", "build", "dist", "*.so", "*.egg-info", "__pycache__"
)
TIMEOUT = 1800.0
# For the debug build. multidict's own C crashes there, without us, too.
DEBUG = {
    "PYASYNCLIFE_DEBUG": "1",
    "PYASYNCLIFE_FAULTS": "1",
    "MULTIDICT_NO_EXTENSIONS": "1",
}
# What goes through the capture, run once more without it.
PLAIN_WAY = [
    "tests/group/test_group.py",
    "tests/group/test_create_task.py",
    "tests/group/test_cancel.py",
    "tests/group/test_errors.py",
    "tests/group/test_capture.py",
    "tests/group/test_capture_unseen.py",
    "tests/registry/test_registry.py",
    "tests/registry/test_misuse.py",
]
_tree_lock = threading.Lock()


class Unavailable(Exception):
    """Why an interpreter cannot be had."""


@dataclass
class Outcome:
    version: str
    ran: str = "not run"
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    failed: bool = False
    note: str = ""


def capture(*command: str | Path) -> str:
    """The output of a command, "" if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def find_on_host(version: str) -> str | None:
    name = f"python{version}"
    versions = Path(capture("pyenv", "root") or Path.home() / ".pyenv") / "versions"
    candidates = sorted(
        (path / "bin" / name for path in versions.glob(f"{version}.*")),
        key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])],
        reverse=True,
    )
    for python in [*map(str, candidates), shutil.which(name)]:
        if python and capture(python, "-c", "import ensurepip, venv; print('can')"):
            return python
    return None


def make_tree() -> None:
    """Make the tree of Debian's testing suite, once."""
    if TREE.exists():
        return
    if os.geteuid() != 0:
        raise Unavailable("Debian's tree needs root")
    if shutil.which("mmdebstrap") is None and shutil.which("apt-get"):
        capture("apt-get", "update")
        capture("apt-get", "install", "--yes", "mmdebstrap")
    if shutil.which("mmdebstrap") is None:
        raise Unavailable("Debian's tree needs mmdebstrap")
    print("making the tree of Debian's testing suite: log in .matrix/tree.log")
    unfinished = WORK / "tree.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    with (WORK / "tree.log").open("w") as log:
        made = subprocess.run(
            [
                "mmdebstrap",
                "--variant=apt",
                "--mode=root",
                '--aptopt=Acquire::Check-Valid-Until "false"',
                '--aptopt=APT::Install-Recommends "false"',
                f"--include={','.join(TREE_PACKAGES)}",
                "forky",
                unfinished,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if made.returncode != 0:
        raise Unavailable("mmdebstrap failed: see .matrix/tree.log")
    unfinished.rename(TREE)


def furnish_tree() -> None:
    """Let pip in the tree reach what pip on the host reaches."""
    pip_conf = [
        Path("/etc/pip.conf"),
        Path.home() / ".config/pip/pip.conf",
        Path.home() / ".pip/pip.conf",
    ]
    for path in [
        Path("/etc/resolv.conf"),
        Path("/etc/ssl/certs/ca-certificates.crt"),
        *pip_conf,
    ]:
        if path.exists():
            inside = path
            if path.is_relative_to(Path.home()):
                inside = HOME / path.relative_to(Path.home())
            target = TREE / inside.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


@dataclass
class Place:
    """Where an interpreter runs: `path` as the host sees it, `inside` as it does."""

    version: str
    python: str
    path: Path
    inside: Path
    in_tree: bool

    def run(self, *arguments: str | Path, switches: Mapping[str, str] = {}) -> int:
        """Run the venv's Python, or before there is one, the interpreter."""
        venv = self.inside / "venv/bin/python"
        exists = (self.path / "venv/bin/python").is_symlink()
        command: list[str | Path] = [venv if exists else self.python, *arguments]
        environment: Mapping[str, str] = os.environ | switches
        directory = self.path / "src"
        if self.in_tree:
            where: list[str | Path] = ["env", "-C", self.inside / "src", "HOME=/root"]
            mounts = ["unshare", "--mount", "sh", "-c", CHROOT, "sh"]
            command = [*mounts, TREE, *where, *command]
        if self.version.endswith("d"):
            environment = environment | DEBUG
        with self.log.open("a") as log:
            print("$", command[-len(arguments) - 1], *arguments, file=log, flush=True)
            return subprocess.run(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
            ).returncode

    @property
    def log(self) -> Path:
        return WORK / f"{self.version}.log"


def find_place(version: str) -> Place:
    python = find_on_host(version)
    if python is not None:
        path = WORK / version
        return Place(version, python, path, path, in_tree=False)
    if version not in IN_TREE:
        raise Unavailable("not found under pyenv or on PATH")
    with _tree_lock:
        make_tree()
        furnish_tree()
    inside = Path("/matrix") / version
    path = TREE / inside.relative_to("/")
    return Place(version, f"/usr/bin/python{version}", path, inside, in_tree=True)


def install(place: Place) -> str:
    """Build and install into the place's venv; returns what was left out."""
    shutil.rmtree(place.path / "src", ignore_errors=True)
    shutil.copytree(ROOT, place.path / "src", ignore=NOT_COPIED)
    place.log.unlink(missing_ok=True)
    if not (place.path / "venv/bin/pip").exists():
        shutil.rmtree(place.path / "venv", ignore_errors=True)
        if place.run("-m", "venv", place.inside / "venv") != 0:
            raise RuntimeError("venv failed")
    pip = ["-m", "pip", "install", "-qq", "--editable"]
    if place.run(*pip, ".[test]") == 0:
        return ""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = [need for need in extras["demo"] + extras["test"] if "[" not in need]
    wanted = [need for need in wanted if not need.startswith("uvloop")]
    if place.run(*pip, ".", *wanted) != 0:
        raise RuntimeError("the build failed")
    return "without uvloop: pip could not install it"


def read_counts(log: str) -> dict[str, int]:
    """The counts of pytest's last line."""
    for line in reversed(log.splitlines()):
        found = re.findall(r"(\d+) (passed|failed|skipped|error|deselected)", line)
        if found and re.search(r" in [\d.:]+", line):
            return {name: int(count) for count, name in found}
    return {}


def hunt_leaks(place: Place, outcome: Outcome) -> None:
    """CPython's own hunt for references and blocks, where its suite is there."""
    if place.run("-c", "import test.libregrtest") != 0:
        outcome.note += " regrtest -R: not run, no test suite"
        return
    module: list[str | Path] = [
        "--testdir",
        place.inside / "src/tests/regrtest",
        "test_pyasynclife",
    ]
    leaked = place.run("-m", "test", "-R", "3:3", *module) != 0
    outcome.note += f" regrtest -R 3:3: {'LEAKED' if leaked else 'no leak'}"
    outcome.failed |= leaked


def run_suite(version: str, arguments: Sequence[str], tested: str | None) -> Outcome:
    outcome = Outcome(version)
    began = time.monotonic()
    try:
        place = find_place(version)
        code = "import sys; print(*sys.version.split()[:1])"
        outcome.ran = "suite"
        outcome.note = install(place)
        place.run("-c", code)
        outcome.ran = place.log.read_text().splitlines()[-1]
        suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        if version == tested:
            outcome.note += " without the capture alone"
        else:
            outcome.failed = place.run(*suite) != 0
            outcome.counts = read_counts(place.log.read_text())
        if not arguments and not outcome.failed:
            off = {"PYASYNCLIFE_PLAIN": "1"}
            if place.run(*suite, *PLAIN_WAY, switches=off) != 0:
                outcome.failed = True
                outcome.note = "FAILED without the capture"
            outcome.counts = outcome.counts or read_counts(place.log.read_text())
        if version.endswith("d") and not arguments:
            hunt_leaks(place, outcome)
    except Unavailable as why:
        outcome.note = str(why)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        outcome.failed = True
        outcome.note = str(error)
    outcome.seconds = time.monotonic() - began
    verdict = "FAILED" if outcome.failed else "passed" if outcome.counts else "not run"
    print(f"{version}: {verdict} {outcome.note} ({outcome.seconds:.0f} s)", flush=True)
    return outcome


def show(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.failed and (log := WORK / f"{outcome.version}.log").exists():
            print(f"\n---- {log.relative_to(ROOT)}, its end")
            print(*log.read_text().splitlines()[-80:], sep="\n")
    print(f"\n{'':6} {'ran':12} {'passed':>7} {'failed':>7} {'skipped':>7} {'s':>5}")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.version):
        counts = outcome.counts
        bad = counts.get("failed", 0) + counts.get("error", 0)
        note = outcome.note or ("FAILED" if outcome.failed else "")
        print(
            f"{outcome.version:6} {outcome.ran:12} {counts.get('passed', 0):7} "
            f"{bad:7} {counts.get('skipped', 0):7} {outcome.seconds:5.0f}  {note}"
        )


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="versions, with commas between", default="")
    parser.add_argument("--tested", help="a version whose suite has just passed")
    options, arguments = parser.parse_known_args()
    wanted = options.only.split(",") if options.only else VERSIONS
    if unknown := set(wanted) - set(VERSIONS):
        parser.error(f"no such version: {', '.join(unknown)}; there are {VERSIONS}")
    WORK.mkdir(exist_ok=True)
    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = list(
            pool.map(lambda v: run_suite(v, arguments, options.tested), wanted)
        )
    show(outcomes)
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
