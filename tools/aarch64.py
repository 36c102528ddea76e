"""Run tests on an emulated aarch64, with Debian's Python 3.14.

python tools/aarch64.py [--install] [arguments for pytest]

Without arguments the smoke test runs, then tests of the batch, the group and the
registry. mmdebstrap unpacks the interpreter below .matrix/aarch64, which takes root;
ziglang compiles the core for aarch64 here; qemu runs one process after the other. An
emulator keeps the order of memory accesses of this machine, so races stay unseen. With
--install, apt-get installs qemu-user-static and mmdebstrap if they are missing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from archives import NotFit
from debian_tree import ROOT, WORK
from pythons import NOT_COPIED
from release_places import RELEASE, install_zig, prepare_tools, run

HERE = WORK / "aarch64"
TREE = HERE / "tree"
PYTHON = TREE / "usr/bin/python3.14"
EMULATOR = "qemu-aarch64-static"
PACKAGES = "libc6,python3.14,libpython3.14-dev"
TESTS = [
    "tests/batch/test_timeouts.py",
    "tests/group/test_group.py",
    "tests/registry/test_heartbeat.py",
    "tests/registry/test_shutdown.py",
]

# For a process of the tree that starts others: the kernel need not know the emulator.
LAUNCHER = """#!/bin/sh
exec {emulator} -L {tree} -0 "$0" {tree}/usr/bin/python3.14.real "$@"
"""


def prepare_emulator(may_install: bool) -> str:
    """Return the path of the emulator; raise NotFit if it is missing."""
    missing = [name for name in (EMULATOR, "mmdebstrap") if not shutil.which(name)]
    if missing and may_install:
        run("apt-get", "update")
        run("apt-get", "install", "--yes", "qemu-user-static", "mmdebstrap")
    elif missing:
        raise NotFit(
            f"{', '.join(missing)} not found; --install lets apt-get install it"
        )
    return shutil.which(EMULATOR) or EMULATOR


def prepare_tree(emulator: str) -> None:
    """Unpack Debian's packages, without their scripts, and make Python a launcher."""
    if not TREE.exists():
        unfinished = HERE / "tree.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        options = ["--arch=arm64", "--variant=extract", "--mode=root"]
        options += ["--skip=check/qemu", f"--include={PACKAGES}"]
        options += ['--aptopt=Acquire::Check-Valid-Until "false"']
        options += ['--aptopt=APT::Install-Recommends "false"']
        run("mmdebstrap", *options, "forky", unfinished)
        unfinished.rename(TREE)
    if not (TREE / "lib").exists():
        (TREE / "lib").symlink_to("usr/lib")
    real = PYTHON.with_name("python3.14.real")
    if not real.exists():
        PYTHON.rename(real)
    PYTHON.write_text(LAUNCHER.format(emulator=emulator, tree=TREE))
    PYTHON.chmod(0o755)


def prepare_source() -> Path:
    """Copy the checkout, compile its core for aarch64, and return where it is."""
    source = HERE / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT, source, ignore=NOT_COPIED)
    headers = HERE / "include/aarch64-linux-gnu"
    headers.mkdir(parents=True, exist_ok=True)
    if not (headers / "python3.14").is_symlink():
        debian = TREE / "usr/include/aarch64-linux-gnu/python3.14"
        (headers / "python3.14").symlink_to(debian)
    zig = install_zig() / "ziglang/zig"
    flags = ["-shared", "-fPIC", "-std=c11", "-fvisibility=hidden", "-O3", "-DNDEBUG"]
    flags += ["-fwrapv", "-g0", f"-I{source}/csrc", f"-I{TREE}/usr/include/python3.14"]
    core = source / "pyasynclife/_core.cpython-314-aarch64-linux-gnu.so"
    run(
        zig,
        *("cc", "-target", "aarch64-linux-gnu.2.17", *flags, f"-I{headers.parent}"),
        *source.glob("csrc/**/*.c"),
        *("-o", core),
        switches={
            "ZIG_GLOBAL_CACHE_DIR": f"{HERE}/cache",
            "ZIG_LOCAL_CACHE_DIR": f"{HERE}/cache",
        },
    )
    return source


def main() -> int:
    """Run the tests that the command line names; return the status."""
    arguments = [word for word in sys.argv[1:] if word != "--install"]
    try:
        HERE.mkdir(parents=True, exist_ok=True)
        RELEASE.mkdir(parents=True, exist_ok=True)
        prepare_tree(prepare_emulator("--install" in sys.argv))
        prepare_tools()
        source = prepare_source()
        pip = ["-m", "pip", "install", "--quiet", "--upgrade", "--only-binary", ":all:"]
        pip += ["--python-version", "3.14", "--target", str(HERE / "packages")]
        python = RELEASE / "tools/bin/python"
        run(python, *pip, "pytest>=9", "pytest-asyncio>=1.4")
    except NotFit as why:
        print(f"FAILED: {why}")
        return 1
    environment = {**os.environ, "PYTHONPATH": f"{source}:{HERE / 'packages'}"}
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    pytest += ["-o", "faulthandler_timeout=1800"]
    programs = [[*pytest, *arguments]] if arguments else []
    for program in programs or [["tools/smoke.py"], [*pytest, *TESTS]]:
        command = [str(PYTHON), *program]
        done = subprocess.run(command, cwd=source, env=environment, check=False)
        if done.returncode != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
