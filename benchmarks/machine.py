"""The machine, the Python and the commit that figures were measured with."""

import os
import platform
import subprocess
import sys
import sysconfig
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit of the checkout, with "-dirty" if it has local changes."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _python() -> str:
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    build = "optimised" if "--enable-optimizations" in options else "plain"
    # Debian's own Pythons are built with PGO and LTO, but not by that option.
    if sys.base_prefix == "/usr" and Path("/etc/debian_version").exists():
        build = "optimised, Debian"
    return f"{platform.python_implementation()} {platform.python_version()} ({build})"


def describe() -> dict[str, str]:
    """Return the facts that a table has above it, and the JSON beside its rows."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": _python(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
    }
