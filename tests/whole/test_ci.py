"""What .ci/run does with its steps, each of them replaced by a stub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.children import ROOT

SCRIPT = ROOT / ".ci/run"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="an sdist has no .ci")

MAKE = """\
#!/bin/bash
echo "RERUN a test in make $1"
echo "output of make $1, $PYTEST_ADDOPTS"
[[ " $BROKEN " != *" $1 "* ]]
"""


def run_ci(folder: Path, broken: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script in `folder`; the targets of make named in `broken` fail."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in {"make": MAKE, "apt-get": "#!/bin/bash\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "python3").symlink_to(sys.executable)
    (folder / ".ci").mkdir()
    shutil.copy(SCRIPT, folder / ".ci/run")
    return subprocess.run(
        ["bash", folder / ".ci/run"],
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "BROKEN": broken},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ci_passes_where_each_step_passes(tmp_path: Path) -> None:
    run = run_ci(tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert ", 0 failed" in run.stdout
    beside = sorted(run.stdout.rpartition("\n\n")[2].splitlines()[-3:-1])
    assert beside == ["RERUN a test in make matrix", "RERUN a test in make sanitize"]
    for target in ("test", "matrix", "sanitize", "lint", "docs", "instructions"):
        assert f"output of make {target}, --reruns 1" in run.stdout


@pytest.mark.parametrize("target", ["test", "matrix", "sanitize", "lint", "hosts"])
def test_ci_fails_where_one_step_fails(target: str, tmp_path: Path) -> None:
    run = run_ci(tmp_path, broken=target)
    assert (run.returncode, run.stderr) == (1, "")
    assert f"{target:12} FAILED" in run.stdout
    assert ", 1 failed" in run.stdout
