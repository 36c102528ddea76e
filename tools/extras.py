"""Check that pip can resolve each extra of pyproject.toml on this Python.

python tools/extras.py [names of extras]

Installs nothing: pip looks for the packages, and says which it would install.
"""

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(names: Sequence[str]) -> int:
    """Resolve the extras, or those that are named; return the status."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    failed = False
    for extra in names or sorted(project["optional-dependencies"]):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
        ]
        done = subprocess.run(
            [*pip, "--quiet", "--report", "-", f"{ROOT}[{extra}]"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        failed |= done.returncode != 0
        packages = done.stdout.count('"download_info"') - 1  # without ours
        print(
            f"{extra:14}", f"{packages} packages" if not done.returncode else "FAILED"
        )
        if done.returncode != 0:
            print(done.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
