"""Find the CPythons on which the suite runs, and install the package for each.

Looks for 3.11 to 3.15 on this machine, under pyenv and on PATH. Some of the missing
ones come from tools/debian_tree.py. Each interpreter has its own copy of the sources,
venv and log under .matrix/.
"""

import os
import re
import shutil
import subprocess
import threading
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import debian_tree
from debian_tree import ROOT, WORK, Unavailable

# The slow ones first. The tree is made for the first while another runs on the host.
VERSIONS = ["3.15d", "3.11", "3.13", "3.12", "3.15", "3.14"]
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".matrix", "build", "dist", "*.so", "*.egg-info", "__pycache__"
)
TIMEOUT = 3900.0
# For the debug build, on which multidict's own C code crashes even without ours.
DEBUG = {
    "PYASYNCLIFE_DEBUG": "1",
    "PYASYNCLIFE_FAULTS": "1",
    "MULTIDICT_NO_EXTENSIONS": "1",
}
_tree_lock = threading.Lock()


def capture(*command: str | Path) -> str:
    """Return the output of a command; "" if it fails or is not installed."""
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


@dataclass
class Place:
    """Where an interpreter runs: `path` on the host, `inside` as it sees it itself."""

    version: str
    python: str
    path: Path
    inside: Path
    in_tree: bool
    folder: str = ""  # of the log

    def run(
        self,
        *arguments: str | Path,
        switches: Mapping[str, str] = {},
        log: Path | None = None,
    ) -> int:
        """Run the venv's Python, or the interpreter until there is a venv.

        log: The file to append to, if not the place's own.
        """
        venv = self.inside / "venv/bin/python"
        exists = (self.path / "venv/bin/python").is_symlink()
        command: list[str | Path] = [venv if exists else self.python, *arguments]
        environment = {**os.environ, **switches}
        directory = self.path / "src"
        if self.in_tree:
            command = debian_tree.enter(self.inside / "src", command)
        if self.version.endswith("d"):
            environment |= DEBUG
        with (log or self.log).open("a") as output:
            name = command[-len(arguments) - 1]
            print("$", name, *arguments, file=output, flush=True)
            return subprocess.run(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                check=False,
            ).returncode

    @property
    def log(self) -> Path:
        """The log of this place's commands."""
        return WORK / self.folder / f"{self.version}.log"

    @property
    def waiting_log(self) -> Path:
        """The log of the tests that run beside the others."""
        return WORK / self.folder / f"{self.version}-waiting.log"


def find_place(version: str, may_install: bool, folder: str = "") -> Place:
    """Return the place of a version, or raise Unavailable.

    may_install: apt-get may install mmdebstrap on this machine, if that is needed.
    folder: for a place of its own, beside that of the suite.
    """
    python = find_on_host(version)
    if python is not None:
        path = WORK / folder / version
        return Place(version, python, path, path, False, folder)
    if version not in debian_tree.VERSIONS:
        raise Unavailable("not found under pyenv or on PATH")
    with _tree_lock:
        debian_tree.prepare(may_install)
    inside = Path("/matrix") / folder / version
    path = debian_tree.on_host(inside)
    python = f"/usr/bin/python{version}"
    return Place(version, python, path, inside, True, folder)


def install(place: Place) -> str:
    """Build and install into the place's venv; return a note on what was left out."""
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
